"""Who may call next on a channel: slots and a smooth rate, the most urgent first; and a breaker that stops calling
a service that is down.

One gate per channel, shared by all tasks of the node. What is CRITIQUE is served before everything else and has a
few slots of its own, so that a service that answers slowly to many does not keep it waiting.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from heapq import heappop, heappush
from itertools import count

from server.clock import Clock
from server.model import Priority

RESERVED = 8
"""One slot in so many is kept for CRITIQUE."""


class Gate:
    """Grants slots by priority, then in the order of asking."""

    def __init__(self, concurrency: int, rate_per_second: float, clock: Clock):
        self.concurrency = concurrency
        self.rate_per_second = rate_per_second
        self.share = 1.0  # this node's part of the rate
        self.in_flight = 0
        self._kept = max(1, concurrency // RESERVED) if concurrency > 1 else 0
        self._clock = clock
        self._next_slot = 0.0  # monotonic seconds: no call begins before
        self._waiting: list[tuple[int, int, asyncio.Future[bool], Callable[[], bool]]] = []
        self._order = count()
        self._timer: asyncio.Task[None] | None = None

    @property
    def waiting(self) -> int:
        """How many ask for a slot."""
        return len(self._waiting)

    def _free(self, priority: int) -> bool:
        return self.in_flight < self.concurrency - (0 if priority == Priority.CRITIQUE else self._kept)

    def _take(self) -> None:
        self.in_flight += 1
        if self.rate_per_second:
            now = self._clock.monotonic()
            self._next_slot = max(self._next_slot, now) + 1 / (self.rate_per_second * self.share)

    def try_enter(self, priority: int) -> bool:
        """Take a slot if one is free for this priority and nobody more urgent waits."""
        if self._waiting or not self._free(priority):
            return False
        if self.rate_per_second and self._clock.monotonic() < self._next_slot:
            return False
        self._take()
        return True

    async def enter(self, priority: int, still: Callable[[], bool] = lambda: True) -> bool:
        """Wait for a slot; True with one, False if `still()` was found untrue meanwhile (`recheck`).

        Cancelled while waiting, it gives the place (or the slot) back.
        """
        granted: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        heappush(self._waiting, (priority, next(self._order), granted, still))
        self._serve()
        try:
            return await granted
        except asyncio.CancelledError:
            if granted.done() and not granted.cancelled() and granted.result():
                self.leave()
            raise

    def recheck(self) -> None:
        """Send away whoever no longer has a reason to wait: it may wait long behind what is more urgent."""
        for _, _, granted, still in self._waiting:
            if not granted.done() and not still():
                granted.set_result(False)

    def leave(self) -> None:
        """Give a slot back."""
        self.in_flight -= 1
        if self._waiting:
            self._serve()

    def _serve(self) -> None:
        """Grant what can be granted now; if only time is missing, have the timer come back."""
        while self._waiting:
            priority, _, granted, _ = self._waiting[0]
            if granted.done():  # cancelled or sent away while it waited
                heappop(self._waiting)
                continue
            if not self._free(priority):
                return
            if self.rate_per_second and self._clock.monotonic() < self._next_slot:
                if self._timer is None or self._timer.done():
                    self._timer = asyncio.create_task(self._tick(), name="gate-timer")
                return
            heappop(self._waiting)
            self._take()
            granted.set_result(True)

    async def _tick(self) -> None:
        """Serve whenever the rate allows another call, as long as only time is missing."""
        while self._waiting and self._free(self._waiting[0][0]):
            await self._clock.sleep(max(self._next_slot - self._clock.monotonic(), 0))
            self._serve()

    async def close(self) -> None:
        """Stop the timer; who still waits is cancelled."""
        for _, _, granted, _ in self._waiting:
            granted.cancel()
        self._waiting.clear()
        if self._timer:
            self._timer.cancel()
            await asyncio.gather(self._timer, return_exceptions=True)


class Breaker:
    """Closed while the service answers; open after `after` transport failures in a row; then one probe at a time.

    Nygard, "Release It!", "Circuit Breaker". While it is open nobody is called and no attempt is used up.
    """

    def __init__(self, clock: Clock, *, after: int = 5, first_s: float = 5.0, most_s: float = 60.0):
        self._clock = clock
        self._after = after
        self._first_s = first_s
        self._most_s = most_s
        self._pause_s = first_s
        self._failures = 0
        self._until = 0.0
        self._probing = False
        self.state = "closed"

    def admits(self) -> bool:
        """May a call begin? In the half-open state one may, as a probe."""
        if self.state == "closed":
            return True
        if self._probing or self._clock.monotonic() < self._until:
            return False
        self.state, self._probing = "half_open", True
        return True

    @property
    def wait_s(self) -> float:
        """Seconds until a probe may begin."""
        return max(self._until - self._clock.monotonic(), 0.5 if self._probing else 0.0)

    def forget(self) -> None:
        """A call was broken off and says nothing of the service."""
        self._probing = False

    def told(self, reached_service: bool) -> bool:
        """A call came back. True if that changed the state for those who look."""
        before = self.state
        self._probing = False
        if reached_service:
            self._failures, self._pause_s, self.state = 0, self._first_s, "closed"
        else:
            self._failures += 1
            if before == "half_open" or (before == "closed" and self._failures >= self._after):
                if before == "half_open":
                    self._pause_s = min(self._pause_s * 2, self._most_s)
                self._until = self._clock.monotonic() + self._pause_s
                self.state = "open"
        return (before == "closed") != (self.state == "closed")
