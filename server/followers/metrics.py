"""Metrics: what this node counts as it goes, and what is read when Prometheus asks.

Counting is an addition in the event loop, without locks. A scrape takes a snapshot there and has it written out in a
thread. Names begin with `tocsin_` and end with their unit; labels have few values: never an id, an address or a path.
"""

from __future__ import annotations

import asyncio
import logging
import platform
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from aiohttp import web
from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from server.channels import Channel, Channels
from server.clock import Clock
from server.followers.webhooks import Webhooks
from server.model import Event, Priority, Status
from server.store import Store, StoreUnavailable
from server.version import VERSION
from server.workers import WorkerPool

log = logging.getLogger("tocsin.loop")

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
LOOK_S = 0.25
"""The watchdog looks so often whether the event loop is on time."""
LATE_S = 0.25
"""Later than this, it says so."""
QUIET_S = 10.0
WAITING_MOST = 100_000
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
OUTCOMES = {"Sent": "sent", "RetryLater": "retry_later", "Refused": "refused"}
BREAKER_STATES = ("closed", "half_open", "open")


class Histogram:
    """Observations in buckets; for one thread."""

    def __init__(self, bounds: Sequence[float]):
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def add(self, value: float) -> None:
        """Count one observation."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def onto(self, family: HistogramMetricFamily, labels: Sequence[str]) -> None:
        """Write what stands now into `family`."""
        buckets: list[tuple[str, float]] = []
        total = 0
        for bound, n in zip([*map(float, self._bounds), float("inf")], self._counts, strict=True):
            total += n
            buckets.append(("+Inf" if bound == float("inf") else str(bound), total))
        family.add_metric(labels, buckets, self._sum)


class _Snapshot(Collector):
    def __init__(self, families: list[Metric]):
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


class Metrics:
    """Counts, and puts a scrape together."""

    def __init__(
        self, store: Store, channels: Channels, pool: WorkerPool, webhooks: Webhooks, clock: Clock,
        alerts: Sequence[object], subscribers: Callable[[], tuple[int, int, int]],
    ):  # fmt: skip
        """`subscribers` gives how many read along, how far the slowest is behind, and how many were cut off."""
        self._subscribers = subscribers
        self._store = store
        self._channels = channels
        self._pool = pool
        self._webhooks = webhooks
        self._clock = clock
        self._alerts = alerts
        self._events: Counter[str] = Counter()
        self._commit = Histogram(SECONDS)
        self._batch = Histogram(SIZES)
        self._lag = Histogram(SECONDS)
        self._delivery = {name: Histogram(SECONDS) for name in channels}
        self._outcomes: Counter[tuple[str, str, str]] = Counter()
        self._requests: Counter[tuple[str, str, int]] = Counter()
        self._routes: dict[str, Histogram] = {}
        self._watch: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Count from here on."""
        self._store.on_commit.append(self._committed)
        self._store.on_measured.append(self._measured)
        for channel in self._channels.values():
            channel.on_outcome.append(self._outcome)
        self._watch = asyncio.create_task(self._watchdog(), name="watchdog")

    async def close(self) -> None:
        """Stop."""
        self._store.on_commit.remove(self._committed)
        self._store.on_measured.remove(self._measured)
        for channel in self._channels.values():
            channel.on_outcome.remove(self._outcome)
        if self._watch:
            self._watch.cancel()
            await asyncio.gather(self._watch, return_exceptions=True)

    # --- counting ------------------------------------------------------------------------------------

    def request(self, request: web.Request, route: str, status: int, took_s: float) -> None:
        """An answer went out (`Front.observers`)."""
        method = request.method if request.method in METHODS else "other"
        self._requests[method, route, status] += 1
        histogram = self._routes.get(route)
        if histogram is None:
            histogram = self._routes[route] = Histogram(SECONDS)
        histogram.add(took_s)

    def _committed(self, events: list[Event]) -> None:
        self._events.update(event.kind for event in events)

    def _measured(self, operations: int, took_s: float) -> None:
        self._commit.add(took_s)
        self._batch.add(operations)

    def _outcome(self, channel: Channel, outcome: object, took_s: float) -> None:
        word = OUTCOMES[type(outcome).__name__]
        self._outcomes[channel.name, word, getattr(outcome, "reason", "")] += 1
        self._delivery[channel.name].add(took_s)

    async def _watchdog(self) -> None:
        """Measure how late the event loop is."""
        said = float("-inf")
        while True:
            begun = self._clock.monotonic()
            await self._clock.sleep(LOOK_S)
            now = self._clock.monotonic()
            late_s = max(now - begun - LOOK_S, 0.0)
            self._lag.add(late_s)
            if late_s > LATE_S and now - said >= QUIET_S:
                said = now
                log.warning("the event loop was held up for %.0f ms", late_s * 1000)

    # --- a scrape --------------------------------------------------------------------------------------

    async def scrape(self, accept: str) -> tuple[bytes, str]:
        """Everything, in the format that `accept` prefers, with its content type; without its store, the rest."""
        families = [*self._here(), *await self._stored()]
        return await asyncio.to_thread(_write, families, accept)

    async def _stored(self) -> list[Metric]:
        up = GaugeMetricFamily("tocsin_store_up", "1 if the store answers.")
        now_ms = self._clock.now_ms()
        try:
            figures = await self._store.figures(now_ms)
            waiting = await self._store.hooks_waiting(WAITING_MOST)
        except StoreUnavailable:
            up.add_metric([], 0)
            return [up]
        up.add_metric([], 1)
        by: Counter[tuple[str, str]] = Counter(
            {(priority.name, status.value): 0 for priority in Priority for status in Status}
        )
        for (_, priority, status), n in figures.tally.items():
            by[Priority(priority).name, status] += n
        tasks = GaugeMetricFamily("tocsin_tasks", "Tasks stored now.", labels=["priority", "status"])
        for labels, n in by.items():
            tasks.add_metric(labels, n)
        oldest = figures.oldest_pending_ms
        age_s = 0.0 if oldest is None else max(now_ms - oldest, 0) / 1000
        return [
            up,
            tasks,
            _gauge("tocsin_oldest_pending_seconds", "Age of the oldest task that could be taken; 0 if none.", age_s),
            _gauge("tocsin_queue_paused", "1 while workers take no task.", int(figures.paused)),
            _gauge("tocsin_log_seq", "Number of the newest event.", figures.seq),
            _gauge("tocsin_webhooks_waiting", f"Completion webhooks to be delivered, up to {WAITING_MOST}.", waiting),
            _counter("tocsin_tasks_enqueued", "Tasks ever accepted.", figures.total_enqueued),
            _counter("tocsin_tasks_completed", "Tasks that ever ended completed.", figures.total_processed),
            _counter("tocsin_tasks_failed", "Tasks that ever ended failed.", figures.total_failed),
        ]

    def _here(self) -> list[Metric]:
        pool = self._pool
        readers, behind, cut_off = self._subscribers()
        hands = [hand.express for hand in pool.at_work]
        workers = GaugeMetricFamily("tocsin_workers", "Workers of this node.", labels=["lane"])
        busy = GaugeMetricFamily("tocsin_workers_busy", "Workers with a task in hand.", labels=["lane"])
        for lane, size, n in (
            ("normal", pool.workers, hands.count(False)),
            ("express", pool.express_workers, hands.count(True)),
        ):
            workers.add_metric([lane], size)
            busy.add_metric([lane], n)
        events = CounterMetricFamily("tocsin_events", "Events committed, by kind.", labels=["event"])
        for kind, n in sorted(self._events.items()):
            events.add_metric([kind], n)
        build = InfoMetricFamily("tocsin_build", "What is running.")
        build.add_metric([], {"version": VERSION, "node": pool.node, "python": platform.python_version()})
        return [
            build, workers, busy, events, *self._channel_families(), *self._request_families(),
            _histogram("tocsin_store_commit_seconds", "From a change's hand-over to its commit.", self._commit),
            _histogram("tocsin_store_commit_operations", "Changes in one commit.", self._batch),
            _histogram("tocsin_event_loop_lag_seconds", "How late the event loop was.", self._lag),
            _gauge("tocsin_subscribers", "Streams that read along.", readers),
            _gauge("tocsin_subscriber_lag_events", "How far the slowest is behind.", behind),
            _counter("tocsin_subscribers_cut_off", "Streams closed because nothing was read from them.", cut_off),
            _gauge("tocsin_webhooks_in_flight", "Completion webhooks being posted.", self._webhooks.on_wire),
            _gauge("tocsin_alerts", "Alerts that stand.", len(self._alerts)),
        ]  # fmt: skip

    def _channel_families(self) -> list[Metric]:
        breaker = GaugeMetricFamily("tocsin_channel_breaker", "1 at the breaker's state.", labels=["channel", "state"])
        flying = GaugeMetricFamily("tocsin_channel_in_flight", "Calls on the wire.", labels=["channel"])
        waiting = GaugeMetricFamily("tocsin_channel_waiting", "Calls that wait for a slot.", labels=["channel"])
        latency = HistogramMetricFamily("tocsin_delivery_seconds", "How long a call took.", labels=["channel"])
        for name, channel in self._channels.items():
            for state in BREAKER_STATES:
                breaker.add_metric([name, state], int(channel.breaker.state == state))
            flying.add_metric([name], channel.gate.in_flight)
            waiting.add_metric([name], channel.gate.waiting)
            self._delivery[name].onto(latency, [name])
        outcomes = CounterMetricFamily(
            "tocsin_deliveries", "Calls, by what they came to.", labels=["channel", "outcome", "reason"]
        )
        for labels, n in sorted(self._outcomes.items()):
            outcomes.add_metric(labels, n)
        return [breaker, flying, waiting, latency, outcomes]

    def _request_families(self) -> list[Metric]:
        requests = CounterMetricFamily("tocsin_http_requests", "Answers.", labels=["method", "route", "status"])
        for (method, route, status), n in sorted(self._requests.items()):
            requests.add_metric([method, route, str(status)], n)
        latency = HistogramMetricFamily("tocsin_http_request_seconds", "Time to the answer.", labels=["route"])
        for route, histogram in sorted(self._routes.items()):
            histogram.onto(latency, [route])
        return [requests, latency]


def _gauge(name: str, meaning: str, value: float) -> Metric:
    return GaugeMetricFamily(name, meaning, value=value)


def _counter(name: str, meaning: str, value: float) -> Metric:
    return CounterMetricFamily(name, meaning, value=value)


def _histogram(name: str, meaning: str, histogram: Histogram) -> Metric:
    family = HistogramMetricFamily(name, meaning, labels=[])
    histogram.onto(family, [])
    return family


def _write(families: list[Metric], accept: str) -> tuple[bytes, str]:
    registry = CollectorRegistry()
    registry.register(_Snapshot(families))
    ProcessCollector(namespace="tocsin", registry=registry)
    encode, content_type = choose_encoder(accept)
    return encode(registry), content_type
