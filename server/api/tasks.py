"""Looking at tasks, one or many, and what an operator may do to one."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Annotated, Any
from urllib.parse import urlsplit

from aiohttp import web
from msgspec import Meta, Struct
from msgspec.structs import replace

from server.api.context import QUEUE, STATS, STORE
from server.http.auth import KEY
from server.http.front import FRONT
from server.http.problems import TaskHasEnded, TaskNotEnded, UnknownTask
from server.http.routes import Routes
from server.i18n import lang, reason_text
from server.model import (
    NO_CONTROLS,
    Delivery,
    Role,
    Standing,
    Status,
    Word,
    iso,
    iso_or_none,
    mask,
    parse_priority,
    to_ms,
)
from server.store.hooks import Hook
from server.store.reads import TaskFilter
from server.views import TaskDetail, TaskView, task_detail, task_view

routes = Routes()

ID = r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\Z"
_is_id = re.compile(ID).match
TaskId = Annotated[str, Meta(pattern=f"^{ID}")]
When = Annotated[datetime, Meta(tz=True)]
PriorityWord = Annotated[str, Meta(pattern=r"^(?ai:critique|haute|normale|[123])\Z")]
TypeNames = Annotated[list[Annotated[str, Meta(max_length=64, pattern=NO_CONTROLS)]], Meta(max_length=100)]
Search = Annotated[str, Meta(max_length=200, pattern=r"^[^\x00]*\Z")]


class TaskQuery(Struct, frozen=True, forbid_unknown_fields=True):
    """The query of the task list."""

    status: list[Status] = []
    type: TypeNames = []
    priority: list[PriorityWord] = []
    q: Search = ""
    since: When | None = None
    until: When | None = None
    limit: Annotated[int, Meta(ge=1, le=500)] = 50
    cursor: TaskId | None = None


class TaskPage(Struct, frozen=True):
    """Some tasks, newest first. A page may be short and still have a `next_cursor`: it looked as far as it may.

    `seq` is the log's last number when it was read: follow the stream with `since=seq`, and nothing is missed.
    """

    success: bool
    tasks: list[TaskView]
    next_cursor: str | None
    seq: int


class OneTask(Struct, frozen=True):
    """One task."""

    success: bool
    task: TaskDetail


class DeliveryQuery(Struct, frozen=True, forbid_unknown_fields=True):
    """The query of a task's deliveries."""

    status: list[Standing] = []
    q: Search = ""
    limit: Annotated[int, Meta(ge=1, le=500)] = 100
    cursor: Annotated[str, Meta(pattern=r"^[0-9]{1,9}\Z")] | None = None


class DeliveryView(Struct, frozen=True):
    """A recipient and where it stands."""

    id: str
    nom: str
    channel: str
    address: str
    status: Standing
    attempts: int
    error: str | None
    sent_at_iso: str | None
    reference: str | None = None
    detail: str | None = None


class DeliveryPage(Struct, frozen=True):
    """Some deliveries, in the order of the recipients."""

    success: bool
    deliveries: list[DeliveryView]
    next_cursor: str | None


class EventQuery(Struct, frozen=True, forbid_unknown_fields=True):
    """The query of a task's timeline."""

    limit: Annotated[int, Meta(ge=1, le=500)] = 100
    cursor: Annotated[str, Meta(pattern=r"^[0-9]{1,18}\Z")] | None = None


class WebhookView(Struct, frozen=True):
    """A completion webhook and where it stands: `waiting`, `delivered`, `stopped` (410) or `gave_up` (after a day)."""

    id: str
    url: str
    status: str
    attempts: int
    last_status: int | None
    last_error: str | None
    last_attempt_at_iso: str | None
    next_attempt_at_iso: str | None


class WebhookList(Struct, frozen=True):
    """A task's completion webhooks, one per run that ended."""

    success: bool
    webhooks: list[WebhookView]


class StatsAnswer(Struct, frozen=True):
    """The queue's statistics."""

    success: bool
    stats: dict[str, Any]


def filter_of(query: TaskQuery) -> TaskFilter:
    """A query as the store's filter."""
    return TaskFilter(
        status=tuple(dict.fromkeys(query.status)),
        type=tuple(dict.fromkeys(query.type)),
        priority=tuple(dict.fromkeys(parse_priority(word) for word in query.priority)),
        q=query.q.strip(),
        since_ms=to_ms(query.since) if query.since else None,
        until_ms=to_ms(query.until) if query.until else None,
    )


def task_id(request: web.Request) -> str:
    """The id in the path. Raises UnknownTask for what cannot be one."""
    given = request.match_info["id"]
    if not _is_id(given):
        raise UnknownTask()
    return given


@routes.get(
    "/api/queue/tasks", needs=Role.VIEWER, query=TaskQuery, gives=TaskPage, summary="List tasks", tags=("queue",)
)
async def tasks(request: web.Request, query: TaskQuery) -> TaskPage:
    """Tasks that match every given filter, newest first; stable while new ones come."""
    page = await request.app[QUEUE].page(filter_of(query), query.limit, query.cursor)
    language = lang(request)
    return TaskPage(True, [task_view(task, language) for task in page.tasks], page.cursor, page.seq)


@routes.get(
    "/api/queue/tasks/{id}",
    needs=Role.VIEWER,
    gives=OneTask,
    summary="One task",
    tags=("queue",),
    problems=(UnknownTask,),
)
async def task(request: web.Request) -> OneTask:
    """Status, progress and result of a task, with what its sender wrote."""
    found = task_detail(await request.app[QUEUE].task(task_id(request)), lang(request))
    if found.webhook_url and request[KEY].role < Role.OPERATOR:  # its path may hold a secret
        target = urlsplit(found.webhook_url)
        found = replace(found, webhook_url=f"{target.scheme}://{target.hostname}/…")
    return OneTask(True, found)


@routes.get(
    "/api/queue/tasks/{id}/deliveries", needs=Role.VIEWER, query=DeliveryQuery, gives=DeliveryPage,
    summary="A task's recipients and where each stands", tags=("queue",), problems=(UnknownTask,),
)  # fmt: skip
async def deliveries(request: web.Request, query: DeliveryQuery) -> DeliveryPage:
    """One row per recipient; addresses are masked for viewers."""
    queue = request.app[QUEUE]
    found = await queue.task(task_id(request))
    after = int(query.cursor) if query.cursor is not None else -1
    rows, following = await queue.deliveries(
        found, frozenset(query.status), query.q.strip().lower(), query.limit, after
    )
    masked, language = request[KEY].role < Role.OPERATOR, lang(request)
    return DeliveryPage(
        True,
        [delivery_view(row, language, masked=masked) for row in rows],
        None if following is None else str(following),
    )


def delivery_view(row: Delivery, language: str, *, masked: bool) -> DeliveryView:
    """A delivery as clients are shown it."""
    person, last = row.recipient, row.last
    address = (person.telephone if row.channel == "sms" else person.email) or person.email or person.telephone or ""
    sent = row.standing is Standing.SENT and last is not None
    error = None
    if last is not None and last.word is not Word.SENT:
        error = reason_text(last.reason, language) + (f" ({last.code})" if last.code else "")
    return DeliveryView(
        id=person.id,
        nom=person.nom,
        channel=row.channel,
        address=mask(address) if masked and address else address,
        status=row.standing,
        attempts=row.attempts,
        error=error,
        sent_at_iso=iso(last.at_ms + last.took_ms) if sent and last else None,
        reference=(last.reference or None) if last else None,
        detail=(last.detail or None) if last and not masked else None,
    )


@routes.get(
    "/api/queue/tasks/{id}/events", needs=Role.VIEWER, query=EventQuery, summary="A task's timeline", tags=("queue",),
    problems=(UnknownTask,),
)  # fmt: skip
async def events(request: web.Request, query: EventQuery) -> web.Response:
    """The task's own events out of the log, oldest first, as far back as events are kept."""
    found = await request.app[QUEUE].task(task_id(request))
    after = int(query.cursor) if query.cursor is not None else 0
    lines = await request.app[STORE].events_of(found.id, after, query.limit + 1)
    cursor = f'"{lines[query.limit - 1].seq}"'.encode() if len(lines) > query.limit else b"null"
    body = b'{"success":true,"events":[%b],"next_cursor":%b}' % (
        b",".join(line.body for line in lines[: query.limit]),
        cursor,
    )
    return web.Response(body=body, headers={"Content-Type": "application/json; charset=utf-8"})


@routes.get(
    "/api/queue/tasks/{id}/webhooks", needs=Role.VIEWER, gives=WebhookList, summary="A task's completion webhooks",
    tags=("queue",), problems=(UnknownTask,),
)  # fmt: skip
async def webhooks(request: web.Request) -> WebhookList:
    """One per run that ended, with what came of posting it; a viewer sees of the address the host alone."""
    found = await request.app[QUEUE].task(task_id(request))
    rows = await request.app[STORE].hooks_of(found.id)
    masked, language = request[KEY].role < Role.OPERATOR, lang(request)
    return WebhookList(True, [webhook_view(row, language, masked=masked) for row in rows])


def webhook_view(row: Hook, language: str, *, masked: bool) -> WebhookView:
    """A completion webhook as clients are shown it."""
    error = reason_text(row.last_error, language) if row.last_error else None
    return WebhookView(
        id=row.id,
        url=row.host if masked else row.url,
        status=row.state,
        attempts=row.attempts,
        last_status=row.last_status,
        last_error=error,
        last_attempt_at_iso=iso_or_none(row.last_ms),
        next_attempt_at_iso=iso(row.due_ms) if row.state == "waiting" else None,
    )


@routes.post(
    "/api/queue/tasks/{id}/cancel", needs=Role.OPERATOR, gives=OneTask, summary="Cancel a task", tags=("queue",),
    problems=(UnknownTask, TaskHasEnded),
)  # fmt: skip
async def cancel(request: web.Request) -> OneTask:
    """Send to nobody more; `progress.sent` says how many were already reached."""
    task = task_id(request)
    entry = request.app[FRONT].entry(request, "cancel", task)
    return OneTask(True, task_detail(await request.app[QUEUE].cancel(task, entry), lang(request)))


@routes.post(
    "/api/queue/tasks/{id}/retry", needs=Role.OPERATOR, gives=OneTask, summary="Retry a task", tags=("queue",),
    problems=(UnknownTask, TaskNotEnded),
)  # fmt: skip
async def retry(request: web.Request) -> OneTask:
    """Send a failed or cancelled task again, to the recipients not yet reached and to nobody else."""
    task = task_id(request)
    entry = request.app[FRONT].entry(request, "retry", task)
    return OneTask(True, task_detail(await request.app[QUEUE].retry(task, entry), lang(request)))


@routes.get("/api/queue/stats", needs=Role.VIEWER, gives=StatsAnswer, summary="Statistics", tags=("queue",))
async def stats(request: web.Request) -> StatsAnswer:
    """Counters, the last 15 minutes, and what is in hand."""
    return StatsAnswer(True, await request.app[STATS].now())
