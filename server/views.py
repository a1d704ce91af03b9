"""A task as clients are shown it: what REST answers, events carry and webhooks post, made in one place."""

from __future__ import annotations

from typing import TypeVar

from msgspec import Struct
from msgspec.structs import replace

from server.i18n import failure_text
from server.model import ENDED, Failure, NotificationTask, Priority, Status, iso, iso_or_none


class Progress(Struct, frozen=True):
    """How far a task has come, in recipients."""

    sent: int
    failed: int
    skipped: int
    total: int


class Result(Struct, frozen=True):
    """What came of a task that has ended, in recipients."""

    success: bool
    type: str
    utilisateurs_notifies: int
    utilisateurs_total: int
    non_joints: int
    ignores: int
    doublons: int


class Reason(Struct, frozen=True):
    """Why some were not reached: a word, the other side's own code, and how many."""

    reason: str
    code: str
    count: int


class FailureView(Struct, frozen=True):
    """`error` without a language: `kind` is unreached, expired or crashed; `reasons` the most frequent first."""

    kind: str
    unreached: int
    total: int
    reasons: list[Reason]


class TaskView(Struct, frozen=True, kw_only=True):
    """A task as REST, events and webhooks show it; `message` and `webhook_url` only where one task is asked for."""

    id: str
    type: str
    status: Status
    priority: str
    titre: str
    attempts: int
    run: int
    progress: Progress
    created_at_iso: str
    started_at_iso: str | None
    completed_at_iso: str | None
    next_attempt_at_iso: str | None
    planifiee_a: str | None
    expire_a: str | None
    node: str | None
    error: str | None
    failure: FailureView | None
    result: Result | None


class TaskDetail(TaskView, frozen=True, kw_only=True):
    """A task with all that its sender wrote."""

    message: str
    webhook_url: str | None


T = TypeVar("T", bound=TaskView)
_NAMES = {priority: priority.name for priority in Priority}  # an enum's own `name` is slow to ask for


def _failure(failure: Failure) -> FailureView:
    reasons = [Reason(word, code, n) for word, code, n in failure.reasons]
    return FailureView(failure.kind, failure.unreached, failure.total, reasons)


def _counted(task: NotificationTask) -> Failure | None:
    """Why it failed, with how many are not reached as it stands now: somebody may have been, after it ended."""
    if task.failure is None:
        return None
    wanted = task.total - task.skipped
    return replace(task.failure, unreached=wanted - task.sent, total=wanted)


def _shown(kind: type[T], task: NotificationTask, lang: str, **more: str | None) -> T:
    reached, failed = task.sent, _counted(task)
    result = None
    if task.status in ENDED:
        result = Result(
            success=task.status is Status.COMPLETED,
            type=task.type,
            utilisateurs_notifies=reached,
            utilisateurs_total=task.total,
            non_joints=task.total - task.skipped - reached,
            ignores=task.skipped,
            doublons=task.doublons,
        )
    return kind(
        id=task.id,
        type=task.type,
        status=task.status,
        priority=_NAMES[task.priority],
        titre=task.titre,
        attempts=task.attempts,
        run=task.run,
        progress=Progress(sent=reached, failed=task.failed, skipped=task.skipped, total=task.total),
        created_at_iso=iso(task.created_ms),
        started_at_iso=iso_or_none(task.started_ms),
        completed_at_iso=iso_or_none(task.ended_ms),
        next_attempt_at_iso=iso_or_none(task.due_ms),
        planifiee_a=iso_or_none(task.planned_ms),
        expire_a=iso_or_none(task.expires_ms),
        node=task.node,
        error=failure_text(failed, lang) if failed else None,
        failure=_failure(failed) if failed else None,
        result=result,
        **more,
    )


def task_view(task: NotificationTask, lang: str = "fr") -> TaskView:
    """`task` as lists and events show it, its `error` in `lang`."""
    return _shown(TaskView, task, lang)


def task_detail(task: NotificationTask, lang: str = "fr") -> TaskDetail:
    """`task` as its own page, `GET /api/queue/tasks/{id}` and the completion webhook show it."""
    return _shown(TaskDetail, task, lang, message=task.message, webhook_url=task.webhook_url)
