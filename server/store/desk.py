"""Keys, sessions, sign-in links, audit and removal: the operations that are not about one task's way."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from server.model import ApiKey, AuditEntry, Session, Status
from server.store import sql
from server.store.batch import Batch
from server.store.engine import Op
from server.store.rows import audit_row, key_of, key_row, task_of

SLICE = 2_000
"""Rows that one removing transaction deletes at the most, so that nobody waits long behind it."""


@dataclass(eq=False)
class Run(Op):
    """One statement with its arguments; gives its rows."""

    statement: str
    args: tuple[Any, ...]

    @classmethod
    async def apply(cls, batch: Batch, ops: list[Run]) -> list[Any]:
        return [await batch.tx.all(op.statement, *op.args) for op in ops]


def add_session(session: Session) -> Run:
    return Run(sql.ADD_SESSION, (session.id, session.key_id, session.created_ms, session.expires_ms))


def add_audit(entry: AuditEntry) -> Run:
    return Run(sql.ADD_AUDIT, audit_row(entry))


@dataclass(eq=False)
class AddKey(Op):
    """Store a key."""

    key: ApiKey
    audit: AuditEntry | None = None

    @classmethod
    async def apply(cls, batch: Batch, ops: list[AddKey]) -> list[Any]:
        for op in ops:
            await batch.tx.all(sql.ADD_KEY, *key_row(op.key))
            await batch.audit(op.audit)
        return [None] * len(ops)


@dataclass(eq=False)
class AddFirstKey(Op):
    """Store a key if there is none at all, however many nodes start at once. Gives whether it was stored."""

    key: ApiKey

    @classmethod
    async def apply(cls, batch: Batch, ops: list[AddFirstKey]) -> list[Any]:
        await batch.tx.all(sql.TAKE_SEQ, 0)  # its lock has the others wait until what this node adds can be seen
        return [bool(await batch.tx.all(sql.ADD_FIRST_KEY, *key_row(op.key))) for op in ops]


@dataclass(eq=False)
class RevokeKey(Op):
    """Gives the key as it is then, None if unknown."""

    key_id: str
    at_ms: int
    audit: AuditEntry | None = None

    @classmethod
    async def apply(cls, batch: Batch, ops: list[RevokeKey]) -> list[Any]:
        return [await op._revoke(batch) for op in ops]

    async def _revoke(self, batch: Batch) -> ApiKey | None:
        rows = await batch.tx.all(sql.REVOKE_KEY, self.key_id, self.at_ms)
        if not rows:
            return None
        await batch.audit(self.audit)
        return key_of(rows[0])


@dataclass(eq=False)
class TouchKeys(Op):
    """Note when keys were last used."""

    used: dict[str, int]

    @classmethod
    async def apply(cls, batch: Batch, ops: list[TouchKeys]) -> list[Any]:
        for op in ops:
            await batch.tx.many(sql.TOUCH_KEY, sorted(op.used.items()))
        return [None] * len(ops)


@dataclass(eq=False)
class Remove(Op):
    """Remove up to `limit` tasks of `status` that ended by `ended_by_ms`. Gives how many were.

    What hangs on them goes to the trash, emptied slice by slice (`EmptyTrash`): a task of 100 000 recipients must
    not hold up a commit.
    """

    status: Status
    ended_by_ms: int
    now_ms: int
    limit: int = 200

    @classmethod
    async def apply(cls, batch: Batch, ops: list[Remove]) -> list[Any]:
        return [await op._remove(batch) for op in ops]

    async def _remove(self, batch: Batch) -> int:
        tx = batch.tx
        ids = await tx.all(sql.OLD_ENDED, self.ended_by_ms, self.status.value, self.limit)
        gone = [task_of(row) for row in await tx.many(sql.DROP_TASK, ids)]
        await tx.many(sql.ADD_TRASH, [(task.id,) for task in gone])
        for task in gone:
            batch.gone(self.now_ms, task)
            batch.moved(task, task.status, None, self.now_ms)
        return len(gone)


@dataclass(eq=False)
class EmptyTrash(Op):
    """Delete one slice of what removed tasks left behind. Gives whether there was any."""

    @classmethod
    async def apply(cls, batch: Batch, ops: list[EmptyTrash]) -> list[Any]:
        return [await op._slice(batch) for op in ops]

    async def _slice(self, batch: Batch) -> bool:
        tx, left = batch.tx, SLICE
        found = await tx.all(sql.TRASH)
        for (task_id,) in found:
            left -= len(await tx.all(sql.EMPTY_OUTCOMES, task_id, left))
            if left <= 0:
                break
            chunks = len(await tx.all(sql.EMPTY_CHUNKS, task_id, left))
            left -= chunks + 1
            if left <= 0:
                break
            await tx.all(sql.DROP_TRASH, task_id)
        return bool(found)


@dataclass(eq=False)
class Purge(Op):
    """Delete one slice of what is past its time. Gives whether there may be more."""

    events_ms: int | None  # events by then go; None keeps them
    minutes: int  # per-minute figures before that epoch minute
    idempotency_ms: int
    sessions_ms: int  # sessions and sign-in links that had run out by then

    @classmethod
    async def apply(cls, batch: Batch, ops: list[Purge]) -> list[Any]:
        return [await op._slice(batch) for op in ops]

    async def _slice(self, batch: Batch) -> bool:
        tx = batch.tx
        more = False
        if self.events_ms is not None:
            more = len(await tx.all(sql.PURGE_EVENTS, self.events_ms, SLICE)) == SLICE
        await tx.all(sql.PURGE_MINUTES, self.minutes)
        await tx.all(sql.PURGE_SESSIONS, self.sessions_ms)
        await tx.all(sql.PURGE_ONCE, self.sessions_ms)
        return len(await tx.all(sql.PURGE_IDEMPOTENCY, self.idempotency_ms, SLICE)) == SLICE or more
