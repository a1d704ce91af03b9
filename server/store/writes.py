"""What can be done to tasks: each operation is a small value, applied with all others of its kind.

Every write to a task that is in hand names its fence; one that names an old fence changes nothing, except that a
late `sent` is still recorded, since it is true.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

import msgspec

from server.model import (
    MAX_CRASHES,
    AuditEntry,
    EventKind,
    Failure,
    NotificationTask,
    Status,
)
from server.store import sql
from server.store.batch import Batch
from server.store.engine import Op, Row
from server.store.reads import Chunk, first_chunk
from server.store.rows import audit_row, failure_cell, row_of, task_of

replace = msgspec.structs.replace
CHUNK = 256
"""Recipients in one chunk row."""
LOCKED_MS = 50
"""Another node looks at ready tasks for no longer than a commit takes; what it leaves is looked at again then."""
SWEEP = 200
"""Tasks that one sweep promotes, expires or takes over at the most."""
SUSPECT_MS = 12_000
"""What was in hand at two crashes is taken up one by one, so far apart: time for a call to be answered or given up,
and whoever has an outcome is no suspect any more. So the third crash meets the one that makes them, not its
neighbours."""
SUSPECTS_MS = 60_000
"""The last of many suspects waits no longer than this."""


class Full(msgspec.Struct, frozen=True):
    """The queue holds as many unfinished tasks as it may (`queue.max_pending`)."""


class Replayed(msgspec.Struct, frozen=True):
    """This Idempotency-Key was used before; `answer` is what was answered then, `same` whether to the same body."""

    answer: bytes
    same: bool


class InHand(msgspec.Struct, frozen=True):
    """Another node is storing a task with this Idempotency-Key at this moment."""


class Idempotency(msgspec.Struct, frozen=True):
    """A sender's Idempotency-Key with the hash of its request and the answer to give again."""

    key_id: str
    key: str
    hash: str
    answer: bytes
    not_since_ms: int  # a use before this no longer counts


@dataclass(eq=False)
class Taking:
    """A worker of `node` kept free for a task that is being stored, so that it is claimed in the same transaction."""

    node: str
    lease_for_ms: int
    begun_s: float  # monotonic
    express: bool = False


@dataclass(eq=False)
class Enqueue(Op):
    """Store a new task. Gives the task, Full, Replayed, or InHand.

    With `taking` the task is stored as claimed, unless something else is ready: that was there first.
    """

    task: NotificationTask
    chunks: list[tuple[int, bytes]]  # (first ordinal, recipients) as `rows.chunk_cell` makes them
    max_open: int
    idempotency: Idempotency | None = None
    audit: AuditEntry | None = None
    taking: Taking | None = None
    rank = 1

    @classmethod
    async def apply(cls, batch: Batch, ops: list[Enqueue]) -> list[Any]:
        tx = batch.tx
        now_ms = ops[-1].task.created_ms
        ((open_tasks, wait),) = await tx.all(sql.STANDING)
        lease_from = await tx.now_ms(now_ms) if not wait and any(op.taking for op in ops) else None
        results: list[Any] = []
        tasks: list[Row] = []
        chunks: list[Row] = []
        audits: list[Row] = []
        for op in ops:
            task = op.task
            idem = op.idempotency
            full = open_tasks + len(tasks) >= op.max_open
            if idem and (before := await cls._before(batch, idem, task, only_look=full)):
                results.append(before)
                continue
            if full:
                results.append(Full())
                continue
            batch.event(EventKind.ENQUEUED, task.created_ms, task)
            batch.moved(task, None, task.status, task.created_ms)
            if op.taking and lease_from is not None:
                task = replace(
                    task, status=Status.PROCESSING, fence=1, attempts=1, started_ms=task.created_ms,
                    lease_ms=lease_from + op.taking.lease_for_ms, node=op.taking.node,
                )  # fmt: skip
                batch.event(EventKind.STARTED, task.created_ms, task)
                batch.moved(task, Status.PENDING, task.status, task.created_ms)
            elif not task.due_ms:
                lease_from = None  # it waits for a worker: whatever was sent behind it does, too
            tasks.append(row_of(task))
            if op.audit:
                audits.append(audit_row(op.audit))
            chunks += [(task.id, n, cell) for n, cell in op.chunks]
            results.append(task)
        await tx.many(sql.ADD_TASK, tasks)
        await tx.many(sql.ADD_CHUNK, chunks)
        await tx.many(sql.ADD_AUDIT, audits)
        return results

    @staticmethod
    async def _before(
        batch: Batch, idem: Idempotency, task: NotificationTask, *, only_look: bool
    ) -> Replayed | InHand | None:
        """What came of this key before; None (and, unless `only_look`, the key is now this task's)."""
        row = (idem.key_id, idem.key, idem.hash, task.id, idem.answer, task.created_ms, idem.not_since_ms)
        if not only_look and await batch.tx.all(sql.CLAIM_IDEMPOTENCY, *row):
            return None
        rows = await batch.tx.all(sql.GET_IDEMPOTENCY, idem.key_id, idem.key, idem.not_since_ms)
        if rows:
            return Replayed(answer=rows[0][1], same=rows[0][0] == idem.hash)
        return None if only_look else InHand()


class Claimed(msgspec.Struct, frozen=True):
    """What a claim took, each with its first chunk.

    `retry_ms`: look again then; something was held back, by a rate limit or because another node was looking at it.
    """

    tasks: list[NotificationTask]
    chunks: dict[str, Chunk] = {}
    retry_ms: int | None = None
    paused: bool = False


@dataclass(eq=False)
class Claim(Op):
    """Take due tasks, most urgent first: up to `slots` of any priority and `express` more that are CRITIQUE.

    They are `node`'s for `lease_for_ms`, by the store's clock. `rates` are tasks started per minute, by type, "" for
    all together. Gives Claimed; nothing is taken while the queue is paused.
    """

    now_ms: int
    lease_for_ms: int
    node: str
    slots: int
    express: int
    rates: dict[str, int] = field(default_factory=dict)
    rank = 2

    @classmethod
    async def apply(cls, batch: Batch, ops: list[Claim]) -> list[Any]:
        return [await op._take(batch) for op in ops]

    async def _take(self, batch: Batch) -> Claimed:
        tx = batch.tx
        types = await tx.all(sql.TYPES)
        if any(paused == "1" for _, paused in types):
            return Claimed([], paused=True)
        allowed = await self._allowed(batch) if self.rates else {}
        lowest = 3 if self.slots else 1
        asked = [(name, lowest, self.slots + self.express) for name, _ in types]
        ready = sorted(await tx.many(sql.READY, asked))
        slots, express = self.slots, self.express
        picked: list[str] = []
        held = False
        for priority, _, task_id, kind in ready:
            limits = [name for name in ("", kind) if name in allowed]
            if any(allowed[name] <= 0 for name in limits):
                held = True
                continue
            if slots:
                slots -= 1
            elif express and priority == 1:
                express -= 1
            else:
                break
            for name in limits:
                allowed[name] -= 1
            picked.append(task_id)
        lease_ms = await tx.now_ms(self.now_ms) + self.lease_for_ms if picked else 0
        tasks: list[NotificationTask] = []
        chunks: dict[str, Chunk] = {}
        if picked:
            for row in await tx.among(sql.TAKEN, picked):
                before = task_of(row[:-1])
                task = replace(
                    before, status=Status.PROCESSING, fence=before.fence + 1, lease_ms=lease_ms, node=self.node,
                    attempts=before.attempts + 1, started_ms=before.started_ms or self.now_ms,
                )  # fmt: skip
                tasks.append(task)
                chunks[task.id] = await first_chunk(tx, task, row[-1])
            await tx.among(sql.CLAIM, picked, lease_ms, self.node, self.now_ms)
        for task in tasks:
            batch.event(EventKind.STARTED, self.now_ms, task)
            batch.moved(task, Status.PENDING, Status.PROCESSING, self.now_ms)
        if self.rates and tasks:
            second = self.now_ms // 1000
            started: defaultdict[str, int] = defaultdict(int)
            for task in tasks:
                started[task.type] += 1
            await tx.many(sql.ADD_PACE, [(second, kind, n) for kind, n in sorted(started.items())])
        retry_ms = (self.now_ms // 1000 + 1) * 1000 if held else None
        if tx.shared and (slots or express) and allowed.get("", 1) > 0:
            wanted = [(name, 3 if slots else 1) for name, _, _ in asked if allowed.get(name, 1) > 0]
            if await tx.many(sql.LEFT, wanted):
                retry_ms = self.now_ms + LOCKED_MS
        return Claimed(tasks, chunks, retry_ms)

    async def _allowed(self, batch: Batch) -> dict[str, int]:
        """How many more tasks may start in the minute that ends now, by type and ("") in all."""
        tx = batch.tx
        await tx.all(sql.TAKE_SEQ, 0)  # its lock makes claims of several nodes count one after the other
        minute_ago = self.now_ms // 1000 - 60
        await tx.all(sql.PURGE_PACE, minute_ago)
        started = {name: int(n) for name, n in await tx.all(sql.STARTED_SINCE, minute_ago)}
        started[""] = sum(started.values())
        return {name: rate - started.get(name, 0) for name, rate in self.rates.items()}


@dataclass(eq=False)
class Renew(Op):
    """Hold on to `node`'s tasks: (id, fence) pairs, for `lease_for_ms` more. Gives the ids of those that still are."""

    held: list[tuple[str, int]]
    now_ms: int
    lease_for_ms: int
    node: str

    @classmethod
    async def apply(cls, batch: Batch, ops: list[Renew]) -> list[Any]:
        return [await op._renew(batch) for op in ops]

    async def _renew(self, batch: Batch) -> set[str]:
        lease_ms = await batch.tx.now_ms(self.now_ms) + self.lease_for_ms
        held = [(*held, lease_ms, self.node) for held in sorted(self.held)]
        return {row[0] for row in await batch.tx.many(sql.RENEW, held)}


class Swept(msgspec.Struct, frozen=True):
    """When something is next due or expires (epoch ms; None: nothing waits for a time), and how many tasks moved."""

    next_ms: int | None
    moved: int


@dataclass(eq=False)
class Sweep(Op):
    """Let time pass: due tasks join the queue, expired ones fail, those of silent owners are taken back. Gives Swept.

    `held` are the caller's own tasks, never taken back here. `all_silent`: at the start of the only node, whatever
    is in hand is nobody's, whatever its lease says. `patient`: take nothing back now; storage was away, so leases say
    nothing of who lives.
    """

    now_ms: int
    held: frozenset[str] = frozenset()
    all_silent: bool = False
    patient: bool = False

    @classmethod
    async def apply(cls, batch: Batch, ops: list[Sweep]) -> list[Any]:
        return [await op._pass(batch) for op in ops]

    async def _pass(self, batch: Batch) -> Swept:
        tx, now = batch.tx, self.now_ms
        due = await tx.all(sql.PROMOTE, now, SWEEP)
        expired = failure_cell(Failure(kind="expired"))
        late = [task_of(row) for row in await tx.all(sql.EXPIRE, now, SWEEP, expired)]
        for task in late:
            batch.event(EventKind.FAILED, now, task)
            batch.moved(task, Status.PENDING, Status.FAILED, now)
        silent: list[Row] = []
        if not self.patient:
            silent = await tx.all(sql.SILENT, 2**62 if self.all_silent else await tx.now_ms(now), SWEEP)
        crashed = failure_cell(Failure(kind="crashed"))
        back: list[Row] = []
        suspects = [task_id for task_id, crashes in silent if crashes + 2 == MAX_CRASHES and task_id not in self.held]
        apart_ms = min(SUSPECT_MS, SUSPECTS_MS // max(len(suspects), 1))
        for task_id, crashes in silent:
            if task_id in self.held:
                continue
            if crashes + 1 >= MAX_CRASHES:
                back.append((task_id, "failed", crashed, now, 0))
            else:
                behind = suspects.index(task_id) if task_id in suspects else 0
                back.append((task_id, "pending", None, None, now + behind * apart_ms if behind else 0))
        for row in await tx.many(sql.TAKE_OVER, back):
            task = task_of(row)
            batch.event(EventKind.FAILED if task.status is Status.FAILED else EventKind.RETRY_SCHEDULED, now, task)
            batch.moved(task, Status.PROCESSING, task.status, now)
        following = [row[0] for query in (sql.NEXT_DUE, sql.NEXT_EXPIRY) for row in await tx.all(query)]
        return Swept(min(following, default=None), len(due) + len(late) + len(back))
