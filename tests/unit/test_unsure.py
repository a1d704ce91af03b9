"""Claims that nobody confirmed: which of them a node takes up, and when."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from msgspec.structs import replace

from server.model import NotificationTask, Priority, Status
from server.store.reads import Chunk
from server.unsure import Unsure
from tests.api.http_kit import TurnedClock

TASK = NotificationTask(
    id="t", type="infra", status=Status.PROCESSING, priority=Priority.NORMALE, titre="t", message="m", total=1,
    created_ms=1, place_ms=1, fence=1,
)  # fmt: skip
FIRST = Chunk(0, [], {})


class Node:
    """A node's claims, of which the store says that it has those of `kept`: (id, fence)."""

    def __init__(self, *kept: tuple[str, int]) -> None:
        self.kept = set(kept)
        self.asked: list[list[tuple[str, int]]] = []
        self.begun: list[int] = []  # fences
        self.let_go: list[str] = []
        self.clock = TurnedClock()
        self.claims = Unsure(self.clock, 30, self._renew, self._begin, self.let_go.append)

    async def _renew(self, held: list[tuple[str, int]]) -> set[str]:
        self.asked.append(held)
        return {task_id for task_id, _ in self.kept.intersection(held)}

    def _begin(self, task: NotificationTask, first: Chunk, begun: float) -> None:
        self.begun.append(task.fence)


def in_hand(fence: int) -> dict[str, Any]:
    return {"t": SimpleNamespace(task=replace(TASK, fence=fence))}


async def test_of_two_claims_of_one_task_the_newer_is_taken_up() -> None:
    node = Node(("t", 3))
    node.claims.add(TASK, FIRST, node.clock.monotonic())
    node.claims.add(replace(TASK, fence=3), FIRST, node.clock.monotonic())

    await node.claims.make_sure({})
    await node.claims.make_sure({})

    assert node.begun == [3]


async def test_a_claim_that_was_made_again_is_asked_for_no_more_once_that_is_done() -> None:
    """Else what the node left in hand, as its dispatch failed, would be begun again with those it has reached."""
    node = Node(("t", 1))
    node.claims.add(TASK, FIRST, node.clock.monotonic())

    await node.claims.make_sure(in_hand(1))
    await node.claims.make_sure({})

    assert node.asked == [] and node.begun == []


async def test_a_claim_waits_for_an_earlier_hand_at_its_task() -> None:
    node = Node(("t", 3))
    node.claims.add(replace(TASK, fence=3), FIRST, node.clock.monotonic())

    await node.claims.make_sure(in_hand(1))
    assert node.begun == []
    await node.claims.make_sure({})

    assert node.begun == [3]


async def test_what_was_not_written_is_asked_for_until_its_lease_would_have_ended() -> None:
    node = Node()
    node.claims.add(TASK, FIRST, node.clock.monotonic())

    for _ in range(40):
        await node.claims.make_sure({})
        node.clock.turn(1)

    assert node.asked == [[("t", 1)]] * 30
    assert node.begun == []
