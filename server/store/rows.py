"""Rows to the model's types and back: the one place that knows the order of columns (`sql.TASK` …)."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

import msgspec

from server.model import (
    DAY_MS,
    ApiKey,
    AuditEntry,
    Event,
    Failure,
    NotificationTask,
    Outcome,
    Person,
    Priority,
    Role,
    Session,
    Status,
    Word,
)
from server.store.engine import Row
from server.views import task_detail

_failures = msgspec.json.Decoder(Failure)
_chunks = msgspec.json.Decoder(list[Person])
_json = msgspec.json.Encoder()
_statuses = {status.value: status for status in Status}
_priorities = {priority.value: priority for priority in Priority}


def task_of(row: Row) -> NotificationTask:
    """A row of `sql.TASK`."""
    failure = row[24]
    return NotificationTask(
        id=row[0],
        type=row[1],
        status=_statuses[row[2]],
        priority=_priorities[row[3]],
        titre=row[4],
        message=row[5],
        total=row[6],
        skipped=row[7],
        doublons=row[8],
        sent=row[9],
        failed=row[10],
        attempts=row[11],
        run=row[12],
        created_ms=row[13],
        started_ms=row[14],
        ended_ms=row[15],
        place_ms=row[16],
        due_ms=row[17],
        planned_ms=row[18],
        expires_ms=row[19],
        lease_ms=row[20],
        fence=row[21],
        crashes=row[22],
        node=row[23],
        failure=_failures.decode(failure) if failure else None,
        webhook_url=row[25],
        key_id=row[26],
    )


def failure_cell(failure: Failure | None) -> str | None:
    """A Failure as it is stored."""
    return _json.encode(failure).decode() if failure else None


def row_of(task: NotificationTask) -> Row:
    """`task` as a row of `sql.TASK`."""
    return (
        task.id, task.type, task.status.value, int(task.priority), task.titre, task.message, task.total, task.skipped,
        task.doublons, task.sent, task.failed, task.attempts, task.run, task.created_ms, task.started_ms,
        task.ended_ms, task.place_ms, task.due_ms, task.planned_ms, task.expires_ms, task.lease_ms, task.fence,
        task.crashes, task.node, failure_cell(task.failure), task.webhook_url, task.key_id,
    )  # fmt: skip


def change_of(task: NotificationTask) -> Row:
    """What `sql.SAVE_TASK` writes of `task`."""
    return (
        task.id, task.status.value, task.sent, task.failed, task.attempts, task.run, task.ended_ms, task.place_ms,
        task.due_ms, task.lease_ms, task.fence, task.crashes, task.node, failure_cell(task.failure),
    )  # fmt: skip


def outcome_row(task_id: str, o: Outcome) -> Row:
    """`sql.ADD_OUTCOME`'s arguments."""
    return (
        task_id, o.n, o.run, o.attempt, o.round, o.channel, o.word.value, o.reason, o.code, o.detail, o.reference,
        o.at_ms, o.took_ms,
    )  # fmt: skip


def outcome_of(row: Row) -> Outcome:
    """A row of `sql.OUTCOME`."""
    return Outcome(
        n=row[0], run=row[1], attempt=row[2], round=row[3], channel=row[4], word=Word(row[5]), reason=row[6],
        code=row[7], detail=row[8], reference=row[9], at_ms=row[10], took_ms=row[11],
    )  # fmt: skip


def event_of(row: Row) -> Event:
    """A row of `sql.EVENT`."""
    return Event(*row)


def recipients_of(cell: bytes) -> list[Person]:
    """A chunk's recipients."""
    return _chunks.decode(cell)


def chunk_cell(recipients: list[Person]) -> bytes:
    """Recipients as a chunk stores them."""
    return _json.encode(recipients)


def key_of(row: Row) -> ApiKey:
    """A row of `sql.KEY`."""
    return ApiKey(
        id=row[0], name=row[1], role=Role(row[2]), hash=row[3], created_ms=row[4], used_ms=row[5], revoked_ms=row[6]
    )


def key_row(key: ApiKey) -> Row:
    """`key` as a row of `sql.KEY`."""
    return (key.id, key.name, int(key.role), key.hash, key.created_ms, key.used_ms, key.revoked_ms)


def session_of(row: Row) -> Session:
    """A row of `sql.SESSION`."""
    return Session(id=row[0], key_id=row[1], created_ms=row[2], expires_ms=row[3])


def audit_of(row: Row) -> AuditEntry:
    """A row of `sql.AUDIT`."""
    detail: dict[str, Any] = msgspec.json.decode(row[6])
    return AuditEntry(
        at_ms=row[0],
        key_id=row[1],
        key_name=row[2],
        action=row[3],
        target=row[4],
        address=row[5],
        detail=detail,
        id=row[7],
    )


def audit_row(entry: AuditEntry) -> Row:
    """`sql.ADD_AUDIT`'s arguments."""
    return (
        entry.at_ms, entry.key_id, entry.key_name, entry.action, entry.target, entry.address,
        _json.encode(entry.detail).decode(),
    )  # fmt: skip


def hook_row(task: NotificationTask, at_ms: int) -> Row:
    """`sql.ADD_HOOK`'s arguments for a task that has just ended; a run ends once, so its number makes the id stable."""
    url = task.webhook_url or ""
    try:
        host = urlsplit(url).hostname or ""
    except ValueError:
        host = ""
    body = _json.encode({"success": True, "task": task_detail(task)})
    return (f"msg_{task.id}_{task.run}", task.id, host, url, body, at_ms, at_ms + DAY_MS)
