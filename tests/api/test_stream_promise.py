"""The promise: every event that the filter matches, in order, without a gap or a repeat, whoever else reads."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientWebSocketResponse
from hypothesis import given, settings
from hypothesis import strategies as st

from server.api.live import FEW, FRAME_BYTES
from server.api.subscriber import LIMIT
from server.log import Filter
from tests.api.stream_kit import Desk, close_code, desk, frame, read_to, seqs, settle

FILTERS = [
    ("", Filter()),
    ("", Filter()),
    ("type=meteo", Filter(type=frozenset({"meteo"}))),
    ("task_id=task-3&task_id=task-4", Filter(task_id=frozenset({"task-3", "task-4"}))),
    ("status=failed&status=completed", Filter(status=frozenset({"failed", "completed"}))),
    ("priority=CRITIQUE&type=infra", Filter(type=frozenset({"infra"}), priority=frozenset({1}))),
]


class Follower:
    """A client as the README tells to write one: goes on behind the last `to`, and checks what it sees."""

    def __init__(self, kit: Desk, draw: random.Random, gate: Callable[[], Awaitable[None]]) -> None:
        self.kit, self.draw, self.gate = kit, draw, gate
        self.query, self.only = draw.choice(FILTERS)
        self.start = self.since = kit.log.head
        self.seen: list[int] = []
        self.gone: set[int] = set()
        self.joins = 0

    async def follow(self, until: Callable[[], int | None]) -> None:
        """Read, pause and come back until the log's end, which `until` tells once it is known, is reached."""
        while (end := until()) is None or self.since < end:
            ws = await self.kit.open(f"since={self.since}&{self.query}")
            self.joins += 1
            await self._read(ws, self.draw.randrange(1, 60), until)
            if self.draw.random() < 0.3:
                ws._response.connection.transport.abort()  # type: ignore[union-attr]
            await ws.close()
            await self.gate()

    async def _read(self, ws: ClientWebSocketResponse, frames: int, until: Callable[[], int | None]) -> None:
        for _ in range(frames):
            if self.draw.random() < 0.2:
                await self.gate()
            if self.since == until():
                return
            found = await frame(ws)
            if found["kind"] == "gap":
                self.gone.update(range(found["from"], found["to"] + 1))
            elif found["kind"] == "events":
                assert found["from"] == self.since + 1 or self.gone
                new = seqs([found])
                assert all(found["from"] <= seq <= found["to"] for seq in new)
                assert new == sorted(set(new))
                self.seen += new
            self.since = found.get("to", self.since)

    def check(self, everything: list[Any]) -> None:
        """Exactly the filtered log."""
        assert self.seen == [
            each.seq
            for each in everything
            if each.seq > self.start and each.seq not in self.gone and self.only.passes(each)
        ]


async def many(
    kit: Desk, seed: int, followers: int, commits: int, *, most: int = 40, trims: bool = False
) -> list[Follower]:
    """Followers join, pause, leave and resume while the log is written; all must have seen all of theirs."""
    draw = random.Random(seed)
    ended: list[int] = []
    everything = list(kit.shelf.events)

    async def gate() -> None:
        for _ in range(draw.randrange(30)):
            await asyncio.sleep(0)

    def until() -> int | None:
        return ended[0] if ended else None

    crowd: list[Follower] = []
    async with asyncio.TaskGroup() as group:
        for n in range(commits):
            if len(crowd) < followers and n % max(1, commits // (2 * followers)) == 0:
                crowd.append(Follower(kit, random.Random(draw.random()), gate))
                group.create_task(crowd[-1].follow(until))
            everything += kit.commit(draw.choice((1, 1, 2, most // 2, most)))
            if trims and draw.random() < 0.05:
                kit.shelf.trim(max(kit.shelf.cut + 1, kit.log.head - draw.randrange(200)))
                kit.log.trimmed(kit.shelf.cut + 1)
            await gate()
        for task_id in ("task-3", "task-4"):  # the last event is for everyone
            everything += kit.commit(1, task_id=task_id, type="meteo", status="failed")
        everything += kit.commit(1, task_id="task-3", type="infra", status="failed", priority=1)
        ended.append(kit.log.head)
        while not all(each.since >= ended[0] for each in crowd):
            await settle(50)
            kit.clock.turn(21)  # heartbeats bring to the end those whose filter lets the last event not through
    for each in crowd:
        each.check(everything)
    return crowd


@pytest.mark.parametrize("rests", [False, True])
@settings(max_examples=6)
@given(seed=st.integers(0, 2**32))
def test_followers_see_their_log_whatever_the_others_do(tmp_path_factory, rests, seed):
    async def story() -> None:
        async with desk(tmp_path_factory.mktemp("desk"), ring=64, events=10, rests=rests) as kit:
            await many(kit, seed, followers=2 * FEW if rests else 8, commits=60)

    asyncio.run(story())


async def test_200_followers_join_leave_and_resume_while_20_000_events_pass(tmp_path: Path):
    async with desk(tmp_path, ring=2048) as kit:
        crowd = await many(kit, 3, followers=200, commits=500, most=140)
        assert kit.log.head > 18_000
        assert len(crowd) == 200
        assert sum(each.joins for each in crowd) > 300  # a hundred came back, at least


@pytest.mark.parametrize("rests", [False, True])
async def test_where_retention_passes_them_followers_are_told_and_then_see_all(tmp_path: Path, rests: bool):
    async with desk(tmp_path, ring=16, rests=rests) as kit:
        await many(kit, 5, followers=20, commits=400, trims=True)


@pytest.mark.parametrize("rests", [False, True])
async def test_a_slow_one_delays_nobody_and_takes_no_memory(tmp_path: Path, rests: bool):
    async with desk(tmp_path, ring=64, rests=rests) as kit:
        for _ in range(FEW if rests else 0):  # so many are not told at once any more
            await kit.open("task_id=none")
        slow, quick = await kit.open(), await kit.open()
        await frame(slow), await frame(quick)
        slow._response.connection.transport.pause_reading()  # type: ignore[union-attr]
        for _ in range(150):
            kit.commit(20, titre="x" * 3000)
            assert seqs(await read_to(quick, kit.log.head))[-1] == kit.log.head
        behind = [sub for sub in kit.hub.subscribers if sub.serving]
        assert len(behind) == 1
        assert behind[0].buffered() <= LIMIT + 2 * FRAME_BYTES
        slow._response.connection.transport.resume_reading()  # type: ignore[union-attr]
        assert seqs(await read_to(slow, kit.log.head)) == list(range(1, kit.log.head + 1))
        kit.commit()
        assert seqs([await frame(slow)]) == [kit.log.head]
        await kit.until(lambda: not any(sub.serving for sub in kit.hub.subscribers))


async def test_all_who_come_back_at_once_share_what_is_read_and_built(tmp_path: Path):
    async with desk(tmp_path, ring=64, events=3000) as kit:
        crowd = [await kit.open("since=0") for _ in range(50)]
        found = await asyncio.gather(*(read_to(ws, 3000) for ws in crowd))
        assert all(seqs(each) == list(range(1, 3001)) for each in found)
        assert kit.shelf.reads < 50  # 12 pages, not 600


async def test_storage_that_fails_for_a_while_costs_a_follower_nothing(tmp_path: Path):
    from server.store.engine import StoreUnavailable

    async with desk(tmp_path, ring=16, events=600) as kit:
        read, failing = kit.shelf.events_after, [True]

        async def events_after(seq: int, limit: int) -> list[Any]:
            if failing[0]:
                raise StoreUnavailable("no")
            return await read(seq, limit)

        kit.shelf.events_after = events_after  # type: ignore[method-assign]
        ws = await kit.open("since=0")
        await frame(ws)
        await settle()
        failing[0] = False
        kit.clock.turn(1)
        assert seqs(await read_to(ws, 600)) == list(range(1, 601))


async def test_a_follower_whose_catch_up_fails_is_closed_rather_than_left_in_silence(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    async with desk(tmp_path, ring=16, events=600) as kit:
        read = kit.shelf.events_after

        async def events_after(seq: int, limit: int) -> list[Any]:
            raise ValueError("a line that cannot be read")

        kit.shelf.events_after = events_after  # type: ignore[method-assign]
        ws = await kit.open("since=300")
        assert await close_code(ws) == 1011
        assert "catch-up failed" in caplog.text
        kit.shelf.events_after = read  # type: ignore[method-assign]
        assert seqs(await read_to(await kit.open("since=300"), 600)) == list(range(301, 601))
