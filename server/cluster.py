"""This node among the others: it says that it lives, knows who else does, and shares the channels' rates with them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from server.channels import Channels
from server.clock import Clock, SystemClock
from server.model import iso
from server.stats import Stats
from server.store import Store, StoreUnavailable
from server.store.cluster import Beat, Leave, Node
from server.version import VERSION
from server.workers import WorkerPool

log = logging.getLogger("tocsin.cluster")

EVERY_S = 5.0
ASTRAY_MS = 250
"""By how much a node's clock may differ from the database's before it is put right."""
ALONE_S = 30.0
"""Where no other node can share the store, nobody waits for the beat."""


class Cluster:
    """Beats every few seconds. A channel's rate holds for all nodes together: each delivering one takes its part."""

    def __init__(
        self, store: Store, pool: WorkerPool, channels: Channels, stats: Stats, clock: Clock, told: Callable[[], int]
    ):
        self._store = store
        self._pool = pool
        self._channels = channels
        self._stats = stats
        self._clock = clock
        self._told = told
        self._started_ms = clock.now_ms()
        self._loop: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Join, then keep beating."""
        await self.beat()
        self._loop = asyncio.create_task(self._run(), name="cluster")

    async def close(self) -> None:
        """Leave."""
        if self._loop:
            self._loop.cancel()
            await asyncio.gather(self._loop, return_exceptions=True)
        try:
            await self._store.apply(Leave(self._pool.node))
        except StoreUnavailable as error:
            log.warning("could not leave, the others will notice: %s", error)

    async def _run(self) -> None:
        while True:
            await self._clock.sleep(EVERY_S if self._store.shared else ALONE_S)
            try:
                await self.beat()
            except StoreUnavailable as error:
                log.warning("storage says no: %s", error)
            except Exception:  # a defect must not make this node look dead
                log.exception("the heartbeat failed")

    def _follow(self, clock: SystemClock, before_ms: int, shared_ms: int) -> None:
        """Go by the database's clock, as all nodes do: one plans or puts off what another then does.

        What the answer's own time cannot tell from a difference, and less than `ASTRAY_MS`, is left alone.
        """
        now_ms = clock.now_ms()
        ahead_ms = shared_ms - (before_ms + now_ms) // 2
        if abs(ahead_ms) > ASTRAY_MS + (now_ms - before_ms) // 2:
            clock.ahead_ms += ahead_ms
            log.warning("this machine's clock is off by %.1f s; going by the database's", -clock.ahead_ms / 1000)

    async def beat(self) -> None:
        """Say that this node lives; take in who else does."""
        pool = self._pool
        me = Node(
            pool.node, VERSION, self._started_ms, self._clock.now_ms(), pool.workers + pool.express_workers,
            len(pool.hands), self._told(),
        )  # fmt: skip
        before_ms = self._clock.now_ms()
        living, last, shared_ms = await self._store.apply(Beat(me))
        if self._store.shared and isinstance(self._clock, SystemClock):
            self._follow(self._clock, before_ms, shared_ms)
        self._stats.nodes[:] = [
            {
                "name": node.name,
                "version": node.version,
                "started_at_iso": iso(node.started_ms),
                "heartbeat_at_iso": iso(node.beat_ms),
                "workers": node.workers,
                "in_hand": node.in_hand,
                "lag": max(last - node.told, 0),
            }
            for node in living
        ]
        delivering = max(sum(node.workers > 0 for node in living), 1)
        for channel in self._channels.values():
            channel.gate.share = 1 / delivering
