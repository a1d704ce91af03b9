"""What handlers find in the application: one key per part, all of them here."""

from __future__ import annotations

from aiohttp import web

from server.clock import Clock
from server.config import Settings
from server.queue import QueueManager
from server.stats import Stats
from server.store import Store
from server.workers import WorkerPool

SETTINGS = web.AppKey("settings", Settings)
CLOCK = web.AppKey("clock", Clock)
STORE = web.AppKey("store", Store)
POOL = web.AppKey("pool", WorkerPool)
QUEUE = web.AppKey("queue", QueueManager)
STATS = web.AppKey("stats", Stats)
