"""The statistics that people and programs look at: the store's counters beside what this node has in hand."""

from __future__ import annotations

from typing import Any

from server.channels import Channels
from server.clock import Clock
from server.model import Priority, Status, iso
from server.store import Store
from server.store.reads import Figures
from server.workers import WorkerPool


class Stats:
    """Puts `GET /api/queue/stats` together. Costs the same whatever is stored."""

    def __init__(self, store: Store, pool: WorkerPool, channels: Channels, clock: Clock):
        self._store = store
        self._pool = pool
        self._channels = channels
        self._clock = clock
        self.alerts: list[dict[str, Any]] = []  # those raised now, kept by followers/alerts.py
        self.nodes: list[dict[str, Any]] = []  # the cluster's, kept by its heartbeat

    async def now(self) -> dict[str, Any]:
        """The guide's `stats`, with what the contract adds."""
        now_ms = self._clock.now_ms()
        figures = await self._store.figures(now_ms)
        return self._guide(figures) | self._more(figures, now_ms)

    def _guide(self, figures: Figures) -> dict[str, Any]:
        by_status = {status.value: 0 for status in Status}
        for (_, _, status), n in figures.tally.items():
            by_status[status] += n
        return {
            "total_enqueued": figures.total_enqueued,
            "total_processed": figures.total_processed,
            "total_failed": figures.total_failed,
            "current_queue_size": by_status["pending"] + by_status["processing"],
            "tasks_by_status": by_status,
            "total_tasks": sum(by_status.values()),
            "workers": self._pool.workers,
            "running": not figures.paused and (self._pool.running or self._others_deliver()),
        }

    def _others_deliver(self) -> bool:
        return any(node["workers"] and node["name"] != self._pool.node for node in self.nodes)

    def _more(self, figures: Figures, now_ms: int) -> dict[str, Any]:
        by_type: dict[str, dict[str, int]] = {}
        by_priority: dict[str, dict[str, int]] = {}
        for (kind, priority, status), n in figures.tally.items():
            for table, name in ((by_type, kind), (by_priority, Priority(priority).name)):
                row = table.setdefault(name, {status.value: 0 for status in Status})
                row[status] += n
        oldest = figures.oldest_pending_ms
        return {
            "paused": figures.paused,
            "oldest_pending_s": None if oldest is None else max(now_ms - oldest, 0) / 1000,
            "express_workers": self._pool.express_workers,
            "tasks_by_type": by_type,
            "tasks_by_priority": by_priority,
            "minutes": [
                {
                    "at": iso(minute.minute * 60_000),
                    "enqueued": minute.enqueued,
                    "completed": minute.completed,
                    "failed": minute.failed,
                    "sent": minute.sent,
                    "latency_p50_ms": minute.latency_p50_ms,
                    "latency_p95_ms": minute.latency_p95_ms,
                }
                for minute in figures.minutes
            ],
            "in_hand": [
                {
                    "worker": hand.worker,
                    "express": hand.express,
                    "task_id": hand.task.id,
                    "type": hand.task.type,
                    "titre": hand.task.titre,
                    "since": iso(hand.since_ms),
                }
                for hand in sorted(self._pool.at_work, key=lambda hand: (hand.express, hand.worker))
            ],
            "channels": [
                {
                    "name": channel.name,
                    "breaker": channel.breaker.state,
                    "rate_per_second": channel.gate.rate_per_second,
                    "in_flight": channel.gate.in_flight,
                    "waiting": channel.gate.waiting,
                }
                for channel in self._channels.values()
            ],
            "nodes": self.nodes,
            "alerts": self.alerts,
            "seq": figures.seq,
        }
