"""Retention: what is past its time is removed, in slices small enough that nobody waits long behind one.

Ended tasks after `queue.retention_hours`, events after `events.retention_hours`, sessions and sign-in links once they
have run out, audit entries never.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from server.clock import Clock
from server.model import DAY_MS, ENDED
from server.settings import Settings
from server.store import Store, StoreUnavailable
from server.store.cluster import TakeDuty
from server.store.desk import EmptyTrash, Purge, Remove

log = logging.getLogger("tocsin.retention")

EVERY_S = 60.0
REST_S = 0.02
"""Between two slices, so that what people wait for comes first."""
HOUR_MS = 3_600_000
DUTY_MS = 150_000
"""A node that does not renew the duty for so long leaves it to the others."""


class Retention:
    """Removes what is old, once a minute; `trimmed` is told the oldest event that is left."""

    def __init__(self, store: Store, settings: Settings, clock: Clock, node: str, trimmed: Callable[[int], None]):
        self._store = store
        self._settings = settings
        self._clock = clock
        self._node = node
        self._trimmed = trimmed
        self._loop: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin."""
        self._loop = asyncio.create_task(self._run(), name="retention")

    async def close(self) -> None:
        """Stop."""
        if self._loop:
            self._loop.cancel()
            await asyncio.gather(self._loop, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            try:
                await self.once()
            except StoreUnavailable as error:
                log.warning("storage says no: %s", error)
            except Exception:  # a defect must not end it for good
                log.exception("retention failed")
            await self._clock.sleep(EVERY_S)

    async def once(self) -> None:
        """One pass over everything that may be old, if this node holds the duty."""
        if await self._store.apply(TakeDuty("retention", self._node, self._clock.now_ms(), DUTY_MS)):
            await self._remove()
        oldest, _ = await self._store.bounds()
        self._trimmed(oldest)

    async def _remove(self) -> None:
        now_ms = self._clock.now_ms()
        hours = self._settings.queue.retention_hours
        if hours:
            for status in ENDED:
                while await self._store.apply(Remove(status, now_ms - int(hours * HOUR_MS), now_ms, limit=50)):
                    await self._clock.sleep(REST_S)
        while await self._store.apply(EmptyTrash()):
            await self._clock.sleep(REST_S)
        kept = self._settings.events.retention_hours
        purge = Purge(
            events_ms=now_ms - int(kept * HOUR_MS) if kept else None,
            minutes=now_ms // 60_000 - 24 * 60,
            idempotency_ms=now_ms - DAY_MS,
            sessions_ms=now_ms,
        )
        while await self._store.apply(purge):
            await self._clock.sleep(REST_S)
