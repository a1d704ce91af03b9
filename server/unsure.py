"""Claims that storage did not confirm: its connection broke at the commit, and nobody says whether that was written.

What was is this node's until its lease ends, and nobody else would take it up before. So the node asks, by renewing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Container

from server.clock import Clock
from server.model import NotificationTask
from server.store.reads import Chunk

MOST = 1_000
"""As many are remembered; of older ones the leases run out."""


class Unsure:
    """The claims of one node that may have been written."""

    def __init__(
        self, clock: Clock, lease_s: float, renew: Callable[[list[tuple[str, int]]], Awaitable[set[str]]],
        begin: Callable[[NotificationTask, Chunk, float], None],
    ):  # fmt: skip
        """`renew` asks which (id, fence) are the node's, `begin` takes up a task with its first chunk, held since."""
        self._clock = clock
        self._lease_s = lease_s
        self._renew = renew
        self._begin = begin
        self._claims: deque[tuple[NotificationTask, Chunk, float]] = deque(maxlen=MOST)

    def add(self, task: NotificationTask, first: Chunk, begun: float) -> None:
        """`task` was claimed at `begun` (monotonic), if that was written."""
        self._claims.append((task, first, begun + self._lease_s))

    async def make_sure(self, hands: Container[str]) -> None:
        """Take up those that are the node's and not in `hands` (ids). Raises StoreUnavailable.

        The others are asked for again until their leases would have ended: at a database that was frozen, the
        transaction may still be under way.
        """
        now = self._clock.monotonic()
        asked = [claim for claim in self._claims if claim[0].id not in hands and now < claim[2]]
        if not asked:
            self._claims.clear()
            return
        kept = await self._renew([(task.id, task.fence) for task, *_ in asked])
        for task, first, _ in asked:
            if task.id in kept and task.id not in hands:
                self._begin(task, first, now)
        self._claims = deque((claim for claim in self._claims if claim[0].id not in kept), MOST)
