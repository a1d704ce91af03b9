"""Claims that storage did not confirm: its connection broke at the commit, and nobody says whether that was written.

What was is this node's until its lease ends, and nobody else would take it up before. So the node asks, by renewing.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from server.clock import Clock
from server.dispatch import Hand
from server.model import NotificationTask
from server.store.reads import Chunk

MOST = 1_000
"""As many are remembered; of older ones the leases run out."""


class Unsure:
    """The claims of one node that may have been written."""

    def __init__(
        self, clock: Clock, lease_s: float, renew: Callable[[list[tuple[str, int]]], Awaitable[set[str]]],
        begin: Callable[[NotificationTask, Chunk, float], None], let_go: Callable[[str], None],
    ):  # fmt: skip
        """`renew` asks which (id, fence) are the node's, `begin` takes up a task with its first chunk, held since;
        `let_go` says of a task, if it was cancelled, that no call begins for it."""
        self._clock = clock
        self._lease_s = lease_s
        self._renew = renew
        self._begin = begin
        self._let_go = let_go
        self._claims: dict[str, tuple[NotificationTask, Chunk, float]] = {}  # of each task the newest

    def add(self, task: NotificationTask, first: Chunk, begun: float) -> None:
        """`task` was claimed at `begun` (monotonic), if that was written."""
        self._claims.pop(task.id, None)
        self._claims[task.id] = (task, first, begun + self._lease_s)
        if len(self._claims) > MOST:
            del self._claims[next(iter(self._claims))]

    async def make_sure(self, hands: Mapping[str, Hand]) -> None:
        """Take up those that are the node's and not in `hands` (by task). Raises StoreUnavailable.

        The others are asked for again until their leases would have ended: at a database that was frozen, the
        transaction may still be under way. One that is in hand by the same claim, as the first try was not written,
        or by a later one, is known.
        """
        now = self._clock.monotonic()
        for task, _, until in list(self._claims.values()):
            hand = hands.get(task.id)
            if now >= until or (hand and hand.task.fence >= task.fence):
                del self._claims[task.id]
        asked = [claim for claim in self._claims.values() if claim[0].id not in hands]
        if not asked:
            return
        kept = await self._renew([(task.id, task.fence) for task, *_ in asked])
        for claim in asked:
            task, first, _ = claim
            if task.id in kept and self._claims.get(task.id) is claim:
                del self._claims[task.id]
            if task.id in hands:
                continue
            if task.id in kept:
                self._begin(task, first, now)
            else:
                self._let_go(task.id)
