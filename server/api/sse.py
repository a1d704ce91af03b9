"""The event stream as Server-Sent Events (`GET /api/events`): the same frames, for `curl -N` and EventSource."""

from __future__ import annotations

from typing import Any, cast

import msgspec
from aiohttp import web

from server.api.fanout import Hub
from server.api.frames import StreamQuery, Wire
from server.api.subscriber import Subscriber
from server.http.auth import KEY, SESSION
from server.http.front import FRONT
from server.http.problems import BadQuery
from server.i18n import lang

RETRY_MS = 2000
"""When a client is to come back after it lost the connection, unless a shutdown says otherwise."""


async def serve(request: web.Request, hub: Hub, query: StreamQuery) -> web.StreamResponse:
    """One SSE subscriber, from its request to its end."""
    since = last_event_id(request, query)
    key, session = request[KEY], request.get(SESSION)
    with hub.admitted(key.id):
        await hub.turns.take()
        answer = web.StreamResponse(
            headers={
                "Content-Type": "text/event-stream; charset=utf-8",
                "Cache-Control": "no-store",
                "X-Accel-Buffering": "no",  # or nginx would hold frames back
            }
        )
        answer.force_close()
        writer = await answer.prepare(request)
        begin = hub.log.head if since is None else since  # lost before the first event: go on here
        await answer.write(b"retry: %d\nid: %d\ndata: %b\n\n" % (RETRY_MS, begin, hub.hello()))
        transport = request.transport
        if writer is None or transport is None or transport.is_closing():
            return answer
        wire: Wire = "chunked" if getattr(writer, "chunked", False) else "plain"
        sub = Subscriber(
            cast(Any, transport), writer.drain, wire, key_id=key.id, session_id=session.id if session else None,
            lang=lang(request),
        )  # fmt: skip
        hub.add(sub, query.plan(), since, query.stats)
        try:
            if request.app[FRONT].keyring.lives(key, session):
                await sub.finished()
            else:
                hub.end(sub, 1008)
        finally:
            await hub.remove(sub)
    return answer


def last_event_id(request: web.Request, query: StreamQuery) -> int | None:
    """Where to begin: behind `Last-Event-ID`, which a client sends when it comes back, else behind `since`."""
    said = request.headers.get("Last-Event-ID", "").strip()
    if not said:
        return query.since
    try:
        if not (said.isascii() and said.isdigit()):
            raise msgspec.ValidationError
        return msgspec.convert({"since": said}, StreamQuery, strict=False).since
    except msgspec.ValidationError:
        raise BadQuery.at("Last-Event-ID", "field.cursor") from None
