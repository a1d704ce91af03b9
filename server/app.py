"""The composition root: settings → store → log → queue → pool → followers → routes. The only file that knows all.

Resources are contexts in one list: opened in this order, closed in the other. The pool starts last, so it drains
first.
"""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncIterator
from secrets import token_hex

from aiohttp import web

from server import logs
from server.api import asyncapi, docs, health, keys, metrics, notifications, operate, pages, session, stream, tasks
from server.api.context import CLOCK, POOL, QUEUE, SETTINGS, STATS, STORE
from server.channels import Channels
from server.clock import Clock, SystemClock
from server.cluster import Cluster
from server.followers.alerts import Alerts
from server.followers.metrics import Metrics
from server.followers.retention import Retention
from server.followers.webhooks import Webhooks
from server.http import front
from server.http.routes import Routes
from server.log import Log
from server.queue import QueueManager
from server.settings import Settings
from server.stats import Stats
from server.store import Store, open_store
from server.version import VERSION
from server.workers import WorkerPool

IDLE_S = 75
"""Seconds after which a connection is closed that has no request in hand: also one that never ends its head."""

CHANNELS = web.AppKey("channels", Channels)
RETENTION = web.AppKey("retention", Retention)
CLUSTER = web.AppKey("cluster", Cluster)
LOG = web.AppKey("log", Log)
ALERTS = web.AppKey("alerts", Alerts)
WEBHOOKS = web.AppKey("webhooks", Webhooks)


def node_name() -> str:
    """This process among the nodes of a cluster: host, process, and a word of its own, as containers may share both."""
    return f"{socket.gethostname()[:32]}-{os.getpid()}-{token_hex(3)}"


def all_routes() -> Routes:
    """Every endpoint, as served and as documented."""
    routes = Routes()
    modules = (notifications, tasks, operate, keys, session, health, metrics, stream, docs, pages)
    routes.extend(*(module.routes for module in modules))
    return routes


def worker_routes() -> Routes:
    """What a node answers that only delivers: health, readiness, metrics."""
    routes = Routes()
    routes.extend(health.probes, metrics.routes)
    return routes


def build(
    settings: Settings, clock: Clock | None = None, *, node: str | None = None, routes: Routes | None = None
) -> web.Application:
    """The whole server, not yet started, or one with `routes` alone.

    Raises ConfigError for a channel URL that no notifier understands.
    """
    clock = clock or SystemClock()
    app = web.Application(
        client_max_size=settings.limits.body_mib * 1024 * 1024,
        handler_args={
            "auto_decompress": False,  # an encoded body is refused, or skipped: never unpacked
            "keepalive_timeout": IDLE_S,
        },
    )
    store = open_store(settings.store.url, settings.base_dir)
    channels = Channels(settings, clock)
    pool = WorkerPool(store, channels, settings, clock, node or node_name())
    queue = QueueManager(store, pool, channels, settings, clock)
    stats = Stats(store, pool, channels, clock)
    log = Log(store, settings.events.ring, clock)
    hub = stream.Hub(log, clock, settings.events, node=pool.node, version=VERSION, stats_source=stats.now)
    app[SETTINGS], app[CLOCK], app[STORE], app[POOL], app[QUEUE], app[STATS] = (
        settings,
        clock,
        store,
        pool,
        queue,
        stats,
    )
    app[CHANNELS], app[LOG], app[stream.HUB] = channels, log, hub
    app[RETENTION] = Retention(store, settings, clock, pool.node, log.trimmed)
    app[CLUSTER] = Cluster(store, pool, channels, stats, clock, lambda: log.head)
    app[ALERTS] = Alerts(store, channels, settings, clock, stats.alerts)
    app[WEBHOOKS] = webhooks = Webhooks(store, settings, clock)
    queue.check_webhook = webhooks.objection
    app[metrics.METRICS] = counted = Metrics(
        store, channels, pool, webhooks, clock, stats.alerts, lambda: metrics.subscribers(hub)
    )
    pool.on_settled.append(logs.task_settled)
    front.setup(app, settings, clock, store).observers.extend([counted.request, log_errors])
    if routes is None:
        pages.setup(app)
    (routes or all_routes()).register(app)
    app.cleanup_ctx.extend(
        [store_context, front.keyring_context, log_context, channels_context, followers_context, pool_context]
    )
    app.on_shutdown.append(stream.close_streams)
    return app


def log_errors(request: web.Request, route: str, status: int, took_s: float) -> None:
    """An answer went out; one that tells of an error is worth a line."""
    if status >= 400:
        logs.request_answered(front.request_id(request), request.method, route, status, took_s)


async def store_context(app: web.Application) -> AsyncIterator[None]:
    """The database is open."""
    store: Store = app[STORE]
    try:
        await store.open()
        await store.refuse_half_copy()
        yield
    finally:
        await store.close()


async def log_context(app: web.Application) -> AsyncIterator[None]:
    """Committed events reach the log, and through it every subscriber."""
    app[STORE].on_commit.append(app[LOG].append)  # first, or what another node commits meanwhile is told late
    await app[LOG].open()
    yield
    app[STORE].on_commit.remove(app[LOG].append)


async def channels_context(app: web.Application) -> AsyncIterator[None]:
    """Channels connect when they are first used; here they hang up."""
    yield
    await app[CHANNELS].close()


async def followers_context(app: web.Application) -> AsyncIterator[None]:
    """Retention, webhooks, alerts and metrics at work."""
    app[metrics.METRICS].start()
    await app[CLUSTER].start()
    app[RETENTION].start()
    app[WEBHOOKS].start()
    await app[ALERTS].start()
    yield
    await app[ALERTS].close()
    await app[WEBHOOKS].close()
    await app[RETENTION].close()
    await app[CLUSTER].close()
    await app[metrics.METRICS].close()


async def pool_context(app: web.Application) -> AsyncIterator[None]:
    """Workers at work."""
    pool = app[POOL]
    await pool.start()
    yield
    await pool.drain(app[SETTINGS].server.shutdown_grace_s)


__all__ = ["all_routes", "asyncapi", "build"]
