"""What administrators do to the queue as a whole: clean up, pause, retry and cancel many."""

from __future__ import annotations

from typing import Annotated, Literal

from aiohttp import web
from msgspec import Meta, Struct

from server.api.context import QUEUE
from server.api.tasks import PriorityWord, Search, TypeNames, When
from server.http.auth import KEY
from server.http.front import FRONT, audit
from server.http.problems import EmptyFilter
from server.http.routes import Routes
from server.i18n import lang, removed_text, text
from server.model import ENDED, NO_CONTROLS, Role, Status, parse_priority, to_ms
from server.queue import BulkResult
from server.store.reads import TaskFilter

routes = Routes()

AUDITED_IDS = 100
"""Of the tasks that a filter names, so many stand in the audit log."""


class ClearBody(Struct, frozen=True, forbid_unknown_fields=True):
    """Which ended tasks to remove."""

    hours: Annotated[float, Meta(ge=0, le=1_000_000)] = 24
    status: list[Literal["completed", "failed", "cancelled"]] = []


class Cleared(Struct, frozen=True):
    """How many tasks were removed."""

    success: bool
    message: str
    removed: int


class PauseAnswer(Struct, frozen=True):
    """Whether workers take tasks now."""

    success: bool
    message: str
    paused: bool


class BulkBody(Struct, frozen=True, forbid_unknown_fields=True):
    """Which tasks: every given part must hold."""

    status: list[Status] = []
    type: TypeNames = []
    priority: list[PriorityWord] = []
    task_ids: Annotated[list[Annotated[str, Meta(max_length=36, pattern=NO_CONTROLS)]], Meta(max_length=10_000)] = []
    q: Search = ""
    since: When | None = None
    until: When | None = None
    dry_run: bool = False


@routes.post(
    "/admin/api/queue/clear",
    needs=Role.ADMIN,
    takes=ClearBody,
    empty_body=True,
    gives=Cleared,
    summary="Remove ended tasks",
    tags=("admin",),
    example={"hours": 24},
)
async def clear(request: web.Request, body: ClearBody) -> Cleared:
    """Remove tasks that ended at least `hours` ago; never one that is pending or processing."""
    statuses = tuple(Status(word) for word in dict.fromkeys(body.status)) or tuple(ENDED)
    removed = await request.app[QUEUE].clear(body.hours, statuses)
    await audit(request, "clear", detail={"hours": body.hours, "status": sorted(statuses), "removed": removed})
    return Cleared(True, removed_text(removed, lang(request)), removed)


@routes.post(
    "/admin/api/queue/pause",
    needs=Role.ADMIN,
    gives=PauseAnswer,
    summary="Pause the workers",
    tags=("admin",),
)
async def pause(request: web.Request) -> PauseAnswer:
    """Workers take no more tasks; what is in hand goes on, and sending is still accepted."""
    await request.app[QUEUE].pause(request[KEY], request.app[FRONT].entry(request, "pause"), paused=True)
    return PauseAnswer(True, text("queue.paused", lang(request)), True)


@routes.post(
    "/admin/api/queue/resume",
    needs=Role.ADMIN,
    gives=PauseAnswer,
    summary="Resume the workers",
    tags=("admin",),
)
async def resume(request: web.Request) -> PauseAnswer:
    """Workers take tasks again."""
    await request.app[QUEUE].pause(request[KEY], request.app[FRONT].entry(request, "resume"), paused=False)
    return PauseAnswer(True, text("queue.resumed", lang(request)), False)


@routes.post(
    "/admin/api/queue/retry",
    needs=Role.ADMIN,
    takes=BulkBody,
    gives=BulkResult,
    summary="Retry many tasks",
    tags=("admin",),
    problems=(EmptyFilter,),
    example={"status": ["failed"], "dry_run": True},
)
async def retry(request: web.Request, body: BulkBody) -> BulkResult:
    """Retry every task that matches, to those not reached; `dry_run` counts them."""
    return await _bulk(request, "retry", body)


@routes.post(
    "/admin/api/queue/cancel",
    needs=Role.ADMIN,
    takes=BulkBody,
    gives=BulkResult,
    summary="Cancel many tasks",
    tags=("admin",),
    problems=(EmptyFilter,),
    example={"type": ["meteo"], "dry_run": True},
)
async def cancel(request: web.Request, body: BulkBody) -> BulkResult:
    """Cancel every task that matches; `dry_run` counts them."""
    return await _bulk(request, "cancel", body)


async def _bulk(request: web.Request, action: str, body: BulkBody) -> BulkResult:
    only = TaskFilter(
        status=tuple(dict.fromkeys(body.status)),
        type=tuple(dict.fromkeys(body.type)),
        priority=tuple(dict.fromkeys(parse_priority(word) for word in body.priority)),
        q=body.q.strip(),
        since_ms=to_ms(body.since) if body.since else None,
        until_ms=to_ms(body.until) if body.until else None,
        task_ids=tuple(dict.fromkeys(body.task_ids)),
    )
    result = await request.app[QUEUE].bulk(action, only, dry_run=body.dry_run)
    if not body.dry_run:
        filters = {
            name: value
            for name, value in (
                ("status", sorted(body.status)),
                ("type", body.type),
                ("priority", [priority.name for priority in only.priority]),
                ("task_ids", list(only.task_ids[:AUDITED_IDS])),
                ("q", body.q),
                ("since", body.since and body.since.isoformat()),
                ("until", body.until and body.until.isoformat()),
            )
            if value
        }
        await audit(request, action, detail={"many": result.count, "done": result.done} | filters)
    return result
