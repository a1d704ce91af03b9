"""Is it alive, is it ready, and what is it."""

from __future__ import annotations

from typing import Any

from aiohttp import web
from msgspec import Struct

from server.api.context import CLOCK, POOL, STORE
from server.http.problems import Draining, StorageDown
from server.http.routes import Routes
from server.version import VERSION

probes = Routes()
"""Health and readiness: what a node without the rest of the API answers too."""
routes = Routes()


class Health(Struct, frozen=True):
    """The process answers."""

    status: str
    version: str
    node: str


@probes.get("/api/health", needs=None, gives=Health, summary="Is the process alive?", tags=("health",))
async def health(request: web.Request) -> Health:
    """Answers as long as the process does; says nothing of its store."""
    return Health("healthy", VERSION, request.app[POOL].node)


@probes.get(
    "/api/health/ready",
    needs=None,
    gives=Health,
    summary="Can it take requests?",
    tags=("health",),
    problems=(Draining, StorageDown),
)
async def ready(request: web.Request) -> Health:
    """503 while starting, draining or without its store."""
    pool = request.app[POOL]
    if pool.draining:
        raise Draining()
    await request.app[STORE].figures(request.app[CLOCK].now_ms())
    return Health("ready", VERSION, pool.node)


routes.extend(probes)


@routes.get("/", needs=None, summary="What this is", tags=("health",), free_query=True)
async def index(request: web.Request) -> Any:
    """A browser goes to the page; anything else gets service, version and links."""
    if "text/html" in request.headers.get("Accept", ""):
        raise web.HTTPFound("/admin/queue")
    return {
        "service": "tocsin",
        "version": VERSION,
        "links": {
            "page": "/admin/queue",
            "docs": "/api/docs",
            "openapi": "/api/openapi.json",
            "asyncapi": "/api/asyncapi.json",
            "health": "/api/health",
            "ready": "/api/health/ready",
            "events": "/ws/events",
        },
    }
