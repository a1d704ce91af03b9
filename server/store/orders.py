"""What operators do: cancel and retry a task, pause the queue; and notices that are of no one task."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec

from server.model import ENDED, AuditEntry, EventKind, NotificationTask, Status, may_move
from server.store import sql
from server.store.batch import Batch
from server.store.engine import Op
from server.store.rows import change_of, task_of

replace = msgspec.structs.replace


class Refusal(msgspec.Struct, frozen=True):
    """The task is in a state that does not allow it, or unknown (`task` None)."""

    task: NotificationTask | None


@dataclass(eq=False)
class Cancel(Op):
    """Stop a task that has not ended. Gives the task, or Refusal."""

    task_id: str
    now_ms: int
    audit: AuditEntry | None = None

    @staticmethod
    def may(status: Status) -> bool:
        """Can such a task be stopped?"""
        return may_move(status, Status.CANCELLED)

    @classmethod
    async def apply(cls, batch: Batch, ops: list[Cancel]) -> list[Any]:
        return [await op._move(batch) for op in ops]

    async def _move(self, batch: Batch) -> Any:
        task = await _locked(batch, self.task_id)
        if task is None or not self.may(task.status):
            return Refusal(task)
        after = replace(
            task, status=Status.CANCELLED, ended_ms=self.now_ms, due_ms=0, lease_ms=None, fence=task.fence + 1
        )
        await batch.audit(self.audit)
        return await _changed(batch, task, after, EventKind.CANCELLED, self.now_ms)


@dataclass(eq=False)
class Retry(Op):
    """Send an ended task again, to those not reached, as a new run; not before it was planned for. Gives the task, or
    Refusal.

    Where it was cancelled less than `wire_ms` ago, another node's last calls for it may still be out: whom they reach
    must be known first.
    """

    task_id: str
    now_ms: int
    wire_ms: int = 0
    audit: AuditEntry | None = None

    @staticmethod
    def may(status: Status) -> bool:
        """Can such a task be sent again? (One in hand goes back to `pending` too, but by the queue alone.)"""
        return status in ENDED and may_move(status, Status.PENDING)

    @classmethod
    async def apply(cls, batch: Batch, ops: list[Retry]) -> list[Any]:
        return [await op._move(batch) for op in ops]

    async def _move(self, batch: Batch) -> Any:
        task = await _locked(batch, self.task_id)
        if task is None or not self.may(task.status):
            return Refusal(task)
        late = task.expires_ms is not None and task.expires_ms <= self.now_ms
        called = task.status is Status.CANCELLED and task.started_ms is not None
        back_ms = (task.ended_ms or 0) + self.wire_ms if called else 0
        due_ms = max(task.planned_ms or 0, back_ms)
        due_ms = due_ms if due_ms > self.now_ms else 0
        after = replace(
            task, status=Status.PENDING, run=task.run + 1, attempts=0, failed=0, crashes=0, failure=None, ended_ms=None,
            place_ms=due_ms or self.now_ms, due_ms=due_ms, fence=task.fence + 1, node=None,
        )  # fmt: skip
        if late:
            return Refusal(task)
        await batch.audit(self.audit)
        return await _changed(batch, task, after, EventKind.RETRY_SCHEDULED, self.now_ms)


async def _locked(batch: Batch, task_id: str) -> NotificationTask | None:
    rows = await batch.tx.all(sql.LOCK_TASK, task_id)
    return task_of(rows[0]) if rows else None


async def _changed(
    batch: Batch, before: NotificationTask, after: NotificationTask, kind: EventKind, now_ms: int
) -> NotificationTask:
    await batch.tx.many(sql.SAVE_TASK, [change_of(after)])
    batch.event(kind, now_ms, after)
    batch.moved(after, before.status, after.status, now_ms)
    return after


@dataclass(eq=False)
class Pause(Op):
    """Have workers stop (or go on) taking tasks. Gives whether that changed anything."""

    paused: bool
    now_ms: int
    by: str
    audit: AuditEntry | None = None

    @classmethod
    async def apply(cls, batch: Batch, ops: list[Pause]) -> list[Any]:
        results: list[Any] = []
        for op in ops:
            word = "1" if op.paused else "0"
            changed = (await batch.tx.all(sql.GET_META, "paused"))[0][0] != word
            if changed:
                await batch.tx.all(sql.SET_META, "paused", word)
                batch.notice(EventKind.PAUSED if op.paused else EventKind.RESUMED, op.now_ms, by=op.by)
            await batch.audit(op.audit)
            results.append(changed)
        return results


@dataclass(eq=False)
class Notice(Op):
    """Write an event that is of no one task (`alert.*`)."""

    kind: EventKind
    now_ms: int
    words: dict[str, Any]

    @classmethod
    async def apply(cls, batch: Batch, ops: list[Notice]) -> list[Any]:
        for op in ops:
            batch.notice(op.kind, op.now_ms, **op.words)
        return [None] * len(ops)
