"""Statistics for those subscribers that asked for them (`stats=1`): computed and encoded once for all.

On change, at most four times a second. A subscriber whose socket is full misses a state and gets the next one.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import msgspec

from server.api.frames import Stats, encode, on_wire
from server.api.subscriber import LIMIT, Subscriber
from server.clock import Clock
from server.model import Event
from server.store.engine import StoreUnavailable

log = logging.getLogger("tocsin.stream")

EVERY_S = 0.25
LOOK_TICKS = 5
"""Some figures move with time alone; so many seconds after the last look they are looked at again."""


class StatsFeed:
    """Those who want statistics, and the newest."""

    def __init__(
        self, source: Callable[[], Awaitable[dict[str, Any] | bytes]], clock: Clock,
        own: Callable[[Coroutine[Any, Any, None], str], asyncio.Task[None]],
        on_append: list[Callable[[list[Event]], None]],
    ) -> None:  # fmt: skip
        """`on_append` are those that the log tells of what is new; this is among them while anybody is here."""
        self._on_append = on_append
        self._source = source
        self._clock = clock
        self._own = own  # runs a task and answers for it
        self._subs: set[Subscriber] = set()
        self._wake = asyncio.Event()
        self._n = 0
        self._payload = b""
        self._loop: asyncio.Task[None] | None = None

    def add(self, sub: Subscriber) -> None:
        """Tell `sub` how things stand, and of every change."""
        if not self._subs:
            self._payload = b""  # nobody has kept it fresh
            self._on_append.append(self._changed)
        self._subs.add(sub)
        sub.stats_seen = 0
        if self._payload:
            self._tell(sub)
        else:
            self._wake.set()
        if self._loop is None or self._loop.done():
            self._loop = self._own(self._run(), "stream stats")

    def remove(self, sub: Subscriber) -> None:
        """It does not want them (any more)."""
        if sub in self._subs:
            self._subs.discard(sub)
            sub.stats_seen = -1
            if not self._subs:
                self._on_append.remove(self._changed)

    def _changed(self, events: list[Event]) -> None:
        """Something happened."""
        self._wake.set()

    def tick(self, ticks: int) -> None:
        """A second has passed."""
        if self._subs and ticks % LOOK_TICKS == 0:
            self._wake.set()
        for sub in self._subs:
            if sub.stats_seen != self._n:
                self._tell(sub)

    def _tell(self, sub: Subscriber) -> None:
        if self._payload and sub.is_open() and sub.buffered() <= LIMIT:
            sub.write(on_wire(sub.wire, self._payload))
            sub.stats_seen = self._n

    async def _run(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            if not self._subs:
                continue
            try:
                stats = await self._source()
                payload = encode(Stats(msgspec.Raw(stats) if isinstance(stats, bytes) else stats))
            except StoreUnavailable as error:
                log.warning("no statistics: %s", error)
                await self._clock.sleep(1)
                self._wake.set()
                continue
            except Exception:
                log.exception("no statistics; they are looked at again at the next change")
                await self._clock.sleep(1)
                continue
            if payload != self._payload:
                self._payload = payload
                self._n += 1
            for n, sub in enumerate(list(self._subs)):
                if sub.stats_seen != self._n:
                    self._tell(sub)
                if n % 100 == 99:
                    await asyncio.sleep(0)
            await self._clock.sleep(EVERY_S)
