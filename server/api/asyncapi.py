"""The document of the event stream (AsyncAPI 3), derived from the frames' types: nothing is written twice."""

from __future__ import annotations

from inspect import cleandoc
from typing import Any

import msgspec

from server.api.frames import (
    TASKS,
    ErrorFrame,
    Events,
    GapFrame,
    Hello,
    Shutdown,
    Stats,
    StreamQuery,
    Subscribe,
)
from server.http.openapi import ecma
from server.version import VERSION

REF = "#/components/schemas/{name}"
FRAMES: dict[str, type[msgspec.Struct]] = {
    "hello": Hello,
    "events": Events,
    "stats": Stats,
    "gap": GapFrame,
    "shutdown": Shutdown,
    "error": ErrorFrame,
}
COMMANDS: dict[str, type[msgspec.Struct]] = {"subscribe": Subscribe}
CLOSES = {
    1001: "the server stops; a `shutdown` frame says when to come back",
    1003: "a binary message",
    1007: "invalid UTF-8",
    1008: "key or session revoked, or more than 100 commands a minute",
    1009: "a command over 4 KiB",
    1011: "a fault of the server's; come back with `since`",
    1013: "nothing was read for `events.stall_s`",
}
ABOUT = """Every event that the filter matches, in `seq` order, without a gap or a repeat. Reconnect with `since` \
(SSE: `Last-Event-ID`) = the `to` of the last frame. A slow reader falls behind and is read to from the store. \
Authentication is by the header `X-API-Key`, or by the session cookie from the server's own pages."""


def asyncapi(host: str = "localhost:5000", *, tls: bool = False) -> dict[str, Any]:
    """The document; `host` is where this server answers, by TLS or not."""
    types = {**FRAMES, **COMMANDS}
    _, schemas = msgspec.json.schema_components([*types.values(), StreamQuery, *TASKS], ref_template=REF)
    schemas["LogEvent"]["properties"]["task"] = {"anyOf": [{"$ref": REF.format(name=kind.__name__)} for kind in TASKS]}
    schemas = _portable(schemas)
    query = schemas.pop("StreamQuery")
    messages = {
        name: {
            "name": name,
            "contentType": "application/json",
            "summary": cleandoc(kind.__doc__ or "").splitlines()[0],
            "payload": {"$ref": REF.format(name=kind.__name__)},
        }
        for name, kind in types.items()
    }
    closes = "\n".join(f"* {code}: {meaning}" for code, meaning in CLOSES.items())
    channels = {
        "websocket": _channel("/ws/events", "WebSocket", f"{ABOUT}\n\nClose codes:\n{closes}", [*FRAMES, *COMMANDS]),
        "sse": _channel("/api/events", "Server-Sent Events", f"{ABOUT}\n\nEach frame is one `data:`.", [*FRAMES]),
    }
    channels["websocket"]["bindings"] = {"ws": {"method": "GET", "query": query}}
    channels["sse"]["bindings"] = {"http": {}}
    return {
        "asyncapi": "3.0.0",
        "info": {"title": "Tocsin", "version": VERSION, "description": ABOUT, "license": {"name": "Apache-2.0"}},
        "defaultContentType": "application/json",
        "servers": {
            "websocket": {"host": host, "protocol": "wss" if tls else "ws", "security": _security()},
            "sse": {"host": host, "protocol": "https" if tls else "http", "security": _security()},
        },
        "channels": channels,
        "operations": {
            "readByWebSocket": _operation("send", "websocket", FRAMES),
            "subscribe": _operation("receive", "websocket", COMMANDS),
            "readBySse": {
                **_operation("send", "sse", FRAMES),
                "bindings": {"http": {"method": "GET", "query": query}},
            },
        },
        "components": {
            "messages": messages,
            "schemas": schemas,
            "securitySchemes": {
                "apiKey": {"type": "httpApiKey", "in": "header", "name": "X-API-Key"},
                "session": {"type": "httpApiKey", "in": "cookie", "name": "tocsin_session"},
            },
        },
    }


_TEXTS = {"pattern": ecma, "description": cleandoc}


def _portable(schema: Any) -> Any:
    """The same schema with patterns that every client's engine can read, and descriptions without indentation."""
    if isinstance(schema, dict):
        return {
            name: _TEXTS[name](value) if name in _TEXTS and isinstance(value, str) else _portable(value)
            for name, value in schema.items()
        }
    return [_portable(item) for item in schema] if isinstance(schema, list) else schema


def _security() -> list[dict[str, str]]:
    return [{"$ref": f"#/components/securitySchemes/{name}"} for name in ("apiKey", "session")]


def _channel(address: str, title: str, description: str, messages: list[str]) -> dict[str, Any]:
    return {
        "address": address,
        "title": title,
        "description": description,
        "servers": [{"$ref": f"#/servers/{'websocket' if title == 'WebSocket' else 'sse'}"}],
        "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in messages},
    }


def _operation(action: str, channel: str, messages: dict[str, type[msgspec.Struct]]) -> dict[str, Any]:
    return {
        "action": action,
        "channel": {"$ref": f"#/channels/{channel}"},
        "messages": [{"$ref": f"#/channels/{channel}/messages/{name}"} for name in messages],
    }
