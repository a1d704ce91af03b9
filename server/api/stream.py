"""The event stream's two doors. One hub serves both; see fanout.py."""

from __future__ import annotations

from aiohttp import web

from server.api import sse, websocket
from server.api.fanout import Hub
from server.api.frames import StreamQuery
from server.http.front import FRONT
from server.http.problems import Draining, ForeignOrigin, StreamsFull, TooManyStreams, UpgradeRequired
from server.http.routes import Routes
from server.model import Role

__all__ = ["HUB", "Hub", "close_streams", "routes"]

HUB = web.AppKey("hub", Hub)
routes = Routes()

PROBLEMS = (ForeignOrigin, TooManyStreams, StreamsFull, Draining)


def _hub(request: web.Request) -> Hub:
    """The hub, told by the keyring of keys that end."""
    hub = request.app[HUB]
    told = request.app[FRONT].keyring.on_revoked
    if hub.revoked not in told:
        told.append(hub.revoked)
    return hub


@routes.get(
    "/ws/events",
    needs=Role.VIEWER,
    query=StreamQuery,
    status=101,
    stream=True,
    summary="Follow the event log (WebSocket)",
    tags=("events",),
    problems=(*PROBLEMS, UpgradeRequired),
    first=websocket.expect_upgrade,
)
async def events_by_websocket(request: web.Request, query: StreamQuery) -> web.StreamResponse:
    """Every event that the filter matches, in order, without a gap or a repeat; `/api/asyncapi.json` has the frames.

    Reconnect with `since` = the last frame's `to`. A client may send `{"action":"subscribe", …same keys…}`.
    """
    return await websocket.serve(request, _hub(request), query)


@routes.get(
    "/api/events",
    needs=Role.VIEWER,
    query=StreamQuery,
    stream=True,
    summary="Follow the event log (Server-Sent Events)",
    tags=("events",),
    problems=PROBLEMS,
    takes_headers={"Last-Event-ID": "the last `id` seen; goes before `since`"},
    media_type="text/event-stream",
)
async def events_by_sse(request: web.Request, query: StreamQuery) -> web.StreamResponse:
    """The frames of `/ws/events` as `data:`, each with its `to` as `id:`. `curl -N` shows them."""
    return await sse.serve(request, _hub(request), query)


async def close_streams(app: web.Application) -> None:
    """Say goodbye to every subscriber, before the server waits for its handlers; to be one of `app.on_shutdown`."""
    await app[HUB].close()
