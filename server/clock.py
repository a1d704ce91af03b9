"""Time and waiting, in one place that a test can turn.

Everything that asks what time it is, or sleeps, is handed a `Clock`; nothing
else in `server` reads the system's clock.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable
from typing import Protocol


class Clock(Protocol):
    """What the server knows of time."""

    def now_ms(self) -> int:
        """Wall-clock time, milliseconds since the epoch."""

    def monotonic(self) -> float:
        """Seconds on a clock that never goes back; for durations and deadlines."""

    def sleep(self, seconds: float) -> Awaitable[None]:
        """Return after `seconds` of this clock's time, counted from the call."""


class SystemClock:
    """The real one; wall-clock time is the machine's plus `ahead_ms`."""

    def __init__(self) -> None:
        self.ahead_ms = 0
        """How far the clock that all nodes go by is ahead of this machine's (`Cluster` keeps it)."""

    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000 + self.ahead_ms

    def monotonic(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


async def sleep_or(clock: Clock, other: Awaitable[object], seconds: float) -> None:
    """Return once `seconds` of `clock` have passed or `other` has come about, whichever comes first."""
    sides = [asyncio.ensure_future(other), asyncio.ensure_future(clock.sleep(seconds))]
    try:
        await asyncio.wait(sides, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for side in sides:
            side.cancel()
        await asyncio.gather(*sides, return_exceptions=True)
