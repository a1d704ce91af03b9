"""What a task in hand comes to: outcomes recorded, and the task ended or given back.

Every write names the fence of whoever has the task in hand; one that names an old fence changes nothing, except that
a late `sent` is still recorded, since it is true.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import msgspec

from server.model import (
    ENDED,
    EventKind,
    Failure,
    NotificationTask,
    Outcome,
    Status,
    Word,
)
from server.store import sql
from server.store.batch import Batch, reach_bucket
from server.store.engine import Op, Row
from server.store.rows import change_of, failure_cell, outcome_row, task_of

replace = msgspec.structs.replace


class End(msgspec.Struct, frozen=True):
    """The task is over: completed if everybody was reached, else failed for `failure`."""

    failure: Failure


class Again(msgspec.Struct, frozen=True):
    """The task goes back to the queue, not before `due_ms` (epoch; 0: at once)."""

    due_ms: int = 0
    called: bool = True  # False: nobody was called in this round, which then does not count
    keeps_place: bool = False  # among those that wait; else it queues up again behind them


ENDS = {
    Status.COMPLETED: EventKind.COMPLETED,
    Status.FAILED: EventKind.FAILED,
    Status.PENDING: EventKind.RETRY_SCHEDULED,
}


def _reached(batch: Batch, task: NotificationTask, at_ms: int) -> None:
    """Count how long it took to reach somebody, who was at `at_ms`."""
    batch.minute(at_ms, f"reach:{reach_bucket(at_ms - max(task.created_ms, task.planned_ms or 0))}")


@dataclass(eq=False)
class Settle(Op):
    """Record outcomes of a task in hand and, with `final`, what becomes of it.

    `failed` is how many recipients are refused or given up so far, None to leave the figure. Gives the task as it is
    afterwards, or None where the fence was old and nothing but late `sent` was recorded. With `final`, once written,
    it gives the task again.
    """

    task_id: str
    fence: int
    now_ms: int
    outcomes: list[Outcome] = field(default_factory=list)
    failed: int | None = None
    final: End | Again | None = None
    tell: bool = False  # make a task.progress event of it
    known: NotificationTask | None = None
    """The task as its holder left it, if nobody else ever held it: then nothing need be read."""
    insisted: bool = False
    """Handed over before: it may have been written, though whoever asked was told no. Then it changes nothing."""
    rank = 0

    @classmethod
    async def apply(cls, batch: Batch, ops: list[Settle]) -> list[Any]:
        done = await cls._unread(batch, [op for op in ops if op.known and not op.insisted])
        await cls._read(batch, [op for op in ops if op not in done], done)
        return [done[op] for op in ops]

    @classmethod
    async def _unread(cls, batch: Batch, ops: list[Settle]) -> dict[Settle, NotificationTask | None]:
        """Settle for holders that know their task; those that hold it no longer are left out."""
        tx = batch.tx
        held = {(row[0], row[1]) for row in await tx.among(sql.HELD, [op.task_id for op in ops])} if ops else set()
        done: dict[Settle, NotificationTask | None] = {}
        on: list[Row] = []
        ends: list[Row] = []
        outcomes: list[Row] = []
        for op in ops:
            if op.known is None or (op.task_id, op.fence) not in held:
                continue
            sent = sum([outcome.word is Word.SENT for outcome in op.outcomes])
            done[op] = task = op._after(replace(op.known, sent=op.known.sent + sent))
            if op.final:
                ends.append(
                    (
                        task.id, task.status.value, task.sent, task.failed, task.crashes, task.attempts, task.ended_ms,
                        task.place_ms, task.due_ms, task.node, failure_cell(task.failure),
                    )
                )  # fmt: skip
            else:
                on.append((task.id, task.sent, task.failed, task.crashes))
            for outcome in op.outcomes:
                outcomes.append(outcome_row(task.id, outcome))
                if outcome.word is Word.SENT:
                    _reached(batch, task, outcome.at_ms + outcome.took_ms)
            op._tell(batch, Status.PROCESSING, task)
        await tx.many(sql.HOLD_ON, on)
        await tx.many(sql.LET_END, ends)
        await tx.many(sql.ADD_FIRST_OUTCOME, outcomes)
        return done

    @classmethod
    async def _read(cls, batch: Batch, ops: list[Settle], done: dict[Settle, NotificationTask | None]) -> None:
        """Settle for all others, into `done`."""
        if not ops:
            return
        tx = batch.tx
        ids = sorted({op.task_id for op in ops})
        tasks = {row[0]: task_of(row) for row in await tx.many(sql.LOCK_TASK, [(task_id,) for task_id in ids])}
        rows: list[Row] = []
        stale: set[int] = set()
        for number, op in enumerate(ops):
            task = tasks.get(op.task_id)
            if task is None or task.fence != op.fence or task.status is not Status.PROCESSING:
                stale.add(number)
            for outcome in op.outcomes:
                if task is not None and (number not in stale or outcome.word is Word.SENT):
                    rows.append(outcome_row(op.task_id, outcome))
        reached: set[str] = set()  # tasks of which somebody was, who was not before
        for task_id, word, again, at_ms in await tx.many(sql.ADD_OUTCOME, rows):  # those that were not recorded before
            if word == "sent":
                _reached(batch, tasks[task_id], at_ms)
            if word == "sent" and not again:
                tasks[task_id] = replace(tasks[task_id], sent=tasks[task_id].sent + 1)
                reached.add(task_id)
        for number, op in enumerate(ops):
            task = tasks.get(op.task_id)
            if task is None or number in stale:
                written = op.insisted and op.final and task and task.fence == op.fence
                done[op] = task if written else None
                if task is not None and task.status in ENDED and op.task_id in reached:
                    tasks[op.task_id] = task = replace(task, failed=task.total - task.skipped - task.sent)
                    batch.event(EventKind.PROGRESS, op.now_ms, task)  # a late `sent` mended an ended task's figures
                continue
            before = task.status
            tasks[op.task_id] = done[op] = task = op._after(task)
            op._tell(batch, before, task)
        await tx.many(sql.SAVE_TASK, [change_of(task) for task in tasks.values()])

    def _tell(self, batch: Batch, before: Status, task: NotificationTask) -> None:
        """Make the event of it, and count the move."""
        if self.final:
            batch.event(ENDS[task.status], self.now_ms, task)
            batch.moved(task, before, task.status, self.now_ms)
        elif self.tell:
            batch.event(EventKind.PROGRESS, self.now_ms, task)

    def _after(self, task: NotificationTask) -> NotificationTask:
        """`task` once this operation is done."""
        failed = task.failed if self.failed is None else self.failed
        crashes = 0 if self.outcomes else task.crashes
        match self.final:
            case None:
                return replace(task, failed=failed, crashes=crashes)
            case Again(due_ms=due_ms, called=called, keeps_place=keeps_place):
                return replace(
                    task, status=Status.PENDING, failed=failed, crashes=crashes, due_ms=due_ms,
                    place_ms=task.place_ms if keeps_place else self.now_ms,
                    lease_ms=None, node=None, attempts=task.attempts if called else task.attempts - 1,
                )  # fmt: skip
            case End(failure=failure):
                left = task.total - task.skipped - task.sent
                done = Status.FAILED if left else Status.COMPLETED
                return replace(
                    task, status=done, failed=left, crashes=crashes, ended_ms=self.now_ms, due_ms=0, lease_ms=None,
                    failure=replace(failure, unreached=left) if left else None,
                )  # fmt: skip
