"""Turns and rests: how work that can wait is kept from holding up what cannot.

When a thousand subscribers come back at once, each has something to do, a handshake or a step of a catch-up, in every
turn of the event loop. Here they queue for it: `AT_ONCE` in a turn, then a rest that is `REST` times as long as they
took, though the event loop has nothing else to do: they keep the store's threads busy too. A single one need not wait.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from time import perf_counter

AT_ONCE = 8
REST = 2.0
"""What queues here gets a third of the event loop's time, at most."""
REST_MOST_S = 0.05
IDLE_S = 0.00005
"""A turn of the event loop that was so short had nothing in it."""


def rest(loop: asyncio.AbstractEventLoop, seconds: float, then: Callable[[], None]) -> None:
    """Call `then` after `seconds`, or as soon as nobody else had anything to do in a turn of the event loop."""
    begun = perf_counter()

    def look(before: float) -> None:
        now = perf_counter()
        if now - before < IDLE_S or now - begun >= seconds:
            then()
        else:
            loop.call_soon(look, now)

    loop.call_soon(look, begun)


def pause(loop: asyncio.AbstractEventLoop, seconds: float, then: Callable[[], None]) -> None:
    """Call `then` after `seconds`, whatever there is to do meanwhile."""
    loop.call_later(seconds, then)


class Turns:
    """One queue, first come, first served."""

    def __init__(self) -> None:
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._left = AT_ONCE  # of this turn
        self._began = 0.0
        self._loop: asyncio.AbstractEventLoop | None = None  # while pieces are at work, or rest from it

    async def take(self) -> None:
        """Return when it is one's turn to do a piece of work."""
        if self._left and not self._waiting:
            self._left -= 1
            if self._loop is None:
                self._watch()
            return
        mine = asyncio.get_running_loop().create_future()
        self._waiting.append(mine)
        await mine

    def _watch(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._began = perf_counter()
        self._loop.call_soon(self._done)

    def _done(self) -> None:
        """The pieces are done; what they wrote leaves at the end of this turn of the event loop."""
        if self._loop:
            self._loop.call_soon(self._rest)

    def _rest(self) -> None:
        if self._loop:
            rest_s = REST * (perf_counter() - self._began)
            pause(self._loop, min(rest_s, REST_MOST_S), self._next)

    def _next(self) -> None:
        self._left = AT_ONCE
        self._loop = None
        while self._left and self._waiting:
            mine = self._waiting.popleft()
            if not mine.done():  # given up meanwhile
                mine.set_result(None)
                self._left -= 1
        if self._left < AT_ONCE:
            self._watch()
