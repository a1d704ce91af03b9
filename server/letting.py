"""Letting go: the word that no call begins here any more for a cancelled task, for whoever cancelled it elsewhere."""

from __future__ import annotations

import asyncio
import logging

from server.store import Store, StoreUnavailable
from server.store.cluster import LetGo

log = logging.getLogger("tocsin.workers")


class Letting:
    """Has the word stored, beside whatever else this node does."""

    def __init__(self, store: Store, node: str):
        self._store = store
        self._node = node
        self._under_way: set[asyncio.Task[None]] = set()

    def go(self, task_id: str) -> None:
        """No call for this task begins here any more; without other nodes nobody waits for this word."""
        if self._store.shared:
            telling = asyncio.create_task(self._tell(task_id), name=f"let-go-{task_id}")
            self._under_way.add(telling)
            telling.add_done_callback(self._under_way.discard)

    async def _tell(self, task_id: str) -> None:
        try:
            await self._store.apply(LetGo(task_id, self._node))
        except StoreUnavailable as error:  # the other side then waits until the lease has run out
            log.warning("task %s: letting go was not stored: %s", task_id, error)

    async def close(self) -> None:
        """Return once all is told."""
        await asyncio.gather(*self._under_way, return_exceptions=True)
