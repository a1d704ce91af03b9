"""Sending: `POST /api/notifications/{type}`, and which types there are."""

from __future__ import annotations

import re
from typing import Any

from aiohttp import web
from msgspec import Struct

from server.api.context import QUEUE, SETTINGS
from server.http.auth import KEY
from server.http.front import FRONT
from server.http.problems import (
    BadIdempotencyKey,
    Draining,
    FieldError,
    IdempotencyConflict,
    IdempotencyInHand,
    QueueFull,
    UnknownType,
)
from server.http.reply import Reply
from server.http.routes import Routes
from server.i18n import lang
from server.model import NewNotification, Role
from server.queue import Accepted

routes = Routes()

_idempotency_key = re.compile(r"[\x20-\x7e]{1,255}\Z").match

EXAMPLE = {
    "titre": "alerte_meteo",
    "message": "Tempête prévue",
    "utilisateurs": [
        {"id": "u1", "nom": "Jean Dupont", "email": "jean.dupont@example.org"},
        {"id": "u2", "nom": "Ana Silva", "telephone": "+33 6 12 34 56 78", "preferences": {"canal_prefere": "sms"}},
    ],
}


class TypeView(Struct, frozen=True):
    """A declared notification type."""

    type: str
    label: str
    priority: str
    endpoint: str
    channels: list[str]


class Types(Struct, frozen=True):
    """Every declared type."""

    success: bool
    types: list[TypeView]


@routes.get(
    "/api/notifications/types",
    needs=Role.VIEWER,
    gives=Types,
    summary="The notification types",
    tags=("notifications",),
)
async def types(request: web.Request) -> Types:
    """The types that config.toml declares, with label, default priority and where to post them."""
    language = lang(request)
    settings = request.app[SETTINGS]
    return Types(
        True,
        [
            TypeView(
                name,
                kind.label_in(language) or name,
                kind.priority.name,
                f"/api/notifications/{name}",
                list(kind.channels or settings.channels),
            )
            for name, kind in settings.types.items()
        ],
    )


def known_type(request: web.Request) -> None:
    """Raise UnknownType before the body is looked at: it is the type that is wrong, not its fields."""
    if request.match_info["type"] not in request.app[SETTINGS].types:
        raise UnknownType()


async def besides(request: web.Request, raw: Any) -> list[FieldError]:
    """What is wrong with those parts of a body that fit their types, where others do not."""
    return await request.app[QUEUE].objections(request.match_info["type"], raw)


@routes.post(
    "/api/notifications/{type}",
    first=known_type,
    besides=besides,
    needs=Role.OPERATOR,
    takes=NewNotification,
    gives=Accepted,
    status=202,
    summary="Send a notification",
    tags=("notifications",),
    problems=(UnknownType, BadIdempotencyKey, IdempotencyConflict, IdempotencyInHand, QueueFull, Draining),
    takes_headers={"Idempotency-Key": "1 to 255 printable characters: the same key and body within 24 h make one task"},
    gives_headers={"Location": "the task", "Idempotent-Replayed": "`true` where an earlier answer is given again"},
    example=EXAMPLE,
)  # fmt: skip
async def send(request: web.Request, new: NewNotification) -> Reply:
    """Queue a notification; it is on stable storage when this is answered, and delivered afterwards."""
    idempotency = request.headers.get("Idempotency-Key")
    if idempotency is not None and not _idempotency_key(idempotency):
        raise BadIdempotencyKey()
    type_name = request.match_info["type"]
    answer = await request.app[QUEUE].enqueue(
        type_name, new, request[KEY], lang(request), idempotency, request.app[FRONT].callers.address(request)
    )
    headers = {"Location": f"/api/queue/tasks/{answer.task_id}"}
    if answer.replayed:
        headers["Idempotent-Replayed"] = "true"
    return Reply(answer.body, 202, headers)
