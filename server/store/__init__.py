"""The store: the truth, on disk. Every change is an operation that commits together with whatever else waits.

`open_store(url)` gives a Store over SQLite or PostgreSQL; nothing above knows which. What it promises: when an
awaited change returns, it is on stable storage, with its event; `on_commit` is called with every committed event,
once, in order. It knows nothing of workers, channels or sockets.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any, TypeVar
from urllib.parse import urlsplit

from server.model import ApiKey, AuditEntry, Event, NotificationTask, Session
from server.store import batch, desk, hooks, reads, sql
from server.store.engine import Engine, Op, StoreRefused, StoreUnavailable, Tx, within
from server.store.postgres import PostgresEngine
from server.store.rows import audit_of, key_of, session_of
from server.store.sqlite import SqliteEngine
from server.store.writes import Idempotency, Replayed

__all__ = ["Store", "StoreRefused", "StoreUnavailable", "open_store"]

T = TypeVar("T")
log = logging.getLogger("tocsin.store")
ANSWER_S = 4.5
"""How long a caller waits for storage, at the most, before it is told no."""
LOOK_S = 0.25
"""How often it is looked whether somebody has waited for so long."""


class Store:
    """The operations of an engine, awaited; and the committed events, handed on."""

    def __init__(self, engine: Engine):
        self._engine = engine
        self.on_commit: list[Callable[[list[Event]], None]] = []
        self.on_measured: list[Callable[[int, float], None]] = []
        """Called after every commit with its operations and the seconds since the first of them was handed over."""
        self._asked: deque[Op] = deque()  # oldest first; those answered leave once they stand in front
        self._look: asyncio.TimerHandle | None = None

    async def open(self) -> None:
        """Connect. Raises StoreRefused where the database must not be used, StoreUnavailable where it cannot be."""
        await self._engine.open(batch.apply, self._committed, self._failed)

    async def refuse_half_copy(self) -> None:
        """Raise StoreRefused for a store into which `migrate` has not finished copying: half of it is no queue."""
        if await self._read(lambda tx: tx.all(sql.GET_META, "copy")):
            raise StoreRefused("store.url: the copy into this store is not finished; run `run.py migrate` again")

    async def close(self) -> None:
        """Commit what waits, then disconnect."""
        await self._engine.close()

    @property
    def dialect(self) -> str:
        """`sqlite` or `postgres`."""
        return self._engine.dialect

    @property
    def shared(self) -> bool:
        """May other nodes work on the same store?"""
        return self._engine.dialect == "postgres"

    async def apply(self, op: Op) -> Any:
        """Have `op` committed; what it gives.

        Raises StoreUnavailable: then it was not written, or, where no answer came in time, may have been; whoever
        tries again must be able to bear that it was.
        """
        return await self.submit(op)

    def submit(self, op: Op) -> asyncio.Future[Any]:
        """The same for whoever does not wait: what `apply` would give or raise is the future's. Raises it too."""
        loop = asyncio.get_running_loop()
        op.done = loop.create_future()
        op.since = perf_counter()
        self._engine.submit(op)
        self._asked.append(op)
        if self._look is None:
            self._look = loop.call_later(LOOK_S, self._overdue, loop)
        return op.done

    def _overdue(self, loop: asyncio.AbstractEventLoop) -> None:
        """Tell no to those whom storage has kept waiting too long: one timer for all costs less than one for each."""
        asked, long_ago = self._asked, perf_counter() - ANSWER_S + LOOK_S
        while asked and (asked[0].done.done() or asked[0].since <= long_ago):
            op = asked.popleft()
            if not op.done.done():
                said = f"no answer from storage within {ANSWER_S:g} s"
                op.done.set_exception(StoreUnavailable(said, perhaps=True))
        self._look = loop.call_later(LOOK_S, self._overdue, loop) if asked else None

    def _committed(self, results: list[tuple[Op, Any]], events: list[Event]) -> None:
        if results:  # none where another node's events are told
            for measured in self.on_measured:
                measured(len(results), perf_counter() - results[0][0].since)
        for op, result in results:
            if not op.done.done():
                op.done.set_result(result)
            elif op.late:
                _told(op.late, result)
        asked = self._asked
        while asked and asked[0].done.done():
            asked.popleft()
        if events:
            for told in self.on_commit:
                _told(told, events)

    def _failed(self, ops: list[Op], error: BaseException, results: Sequence[Any] = ()) -> None:
        for op in ops:
            if not op.done.done():
                op.done.set_exception(error)
        for op, result in zip(ops, results, strict=False):
            if op.unsure:
                _told(op.unsure, result)

    # --- reading ---------------------------------------------------------------------------------

    async def task(self, task_id: str) -> NotificationTask | None:
        """One task."""
        return await self._read(lambda tx: reads.task(tx, task_id))

    async def page(self, only: reads.TaskFilter, limit: int, before: str | None = None) -> reads.Page:
        """Tasks, newest first; see `reads.page`."""
        return await self._read(lambda tx: reads.page(tx, self.dialect, only, limit, before))

    async def chunk(self, task_id: str, n: int) -> reads.Chunk | None:
        """The first chunk of recipients that begins at or after ordinal `n`."""
        return await self._read(lambda tx: reads.chunk(tx, task_id, n))

    async def chunk_holding(self, task_id: str, n: int) -> reads.Chunk | None:
        """The chunk of recipients with ordinal `n` in it."""
        return await self._read(lambda tx: reads.chunk_holding(tx, task_id, n))

    async def figures(self, now_ms: int) -> reads.Figures:
        """What the counters say now."""
        return await self._read(lambda tx: reads.figures(tx, now_ms))

    async def next_due_ms(self) -> int | None:
        """When the next planned or backing-off task is due (epoch ms); None if none is."""
        rows = await self._read(lambda tx: tx.all(sql.NEXT_DUE))
        return rows[0][0] if rows else None

    async def events_after(self, seq: int, limit: int) -> list[Event]:
        """Committed events behind `seq`, in order."""
        return await self._read(lambda tx: reads.events_after(tx, seq, limit))

    async def events_of(self, task_id: str, after: int, limit: int) -> list[Event]:
        """A task's own events behind `after`, in order."""
        return await self._read(lambda tx: reads.events_of(tx, task_id, after, limit))

    async def bounds(self) -> tuple[int, int]:
        """(oldest kept seq, newest seq); oldest is newest + 1 while none is kept."""
        return await self._read(reads.bounds)

    async def hooks_of(self, task_id: str) -> list[hooks.Hook]:
        """A task's completion webhooks, one per run that ended."""
        return await self._read(lambda tx: hooks.hooks_of(tx, task_id))

    async def hooks_waiting(self, most: int) -> int:
        """How many completion webhooks are still to be delivered; counted as far as `most`."""
        return await self._read(lambda tx: hooks.hooks_waiting(tx, most))

    async def alerts(self) -> list[dict[str, Any]]:
        """The alerts that stand."""
        return await self._read(hooks.alerts)

    async def ended_since(self, minute: int) -> list[tuple[int, str, int]]:
        """(epoch minute, "completed" or "failed", tasks) for every minute behind `minute`."""
        return await self._read(lambda tx: hooks.ended_since(tx, minute))

    async def answered(self, idem: Idempotency) -> Replayed | None:
        """What was answered when this Idempotency-Key was used before, None if it was not."""
        rows = await self._read(lambda tx: tx.all(sql.GET_IDEMPOTENCY, idem.key_id, idem.key, idem.not_since_ms))
        return Replayed(answer=rows[0][1], same=rows[0][0] == idem.hash) if rows else None

    async def snapshot(self, work: Callable[[Tx], Coroutine[Any, Any, T]]) -> T:
        """Run `work` over one consistent snapshot, however long it takes: for tools, not for what people wait for."""
        return await self._engine.read(work)

    async def _read(self, work: Callable[[Tx], Coroutine[Any, Any, T]]) -> T:
        return await within(ANSWER_S, self._engine.read(work))

    # --- keys, sessions, sign-in links, audit ----------------------------------------------------

    async def keys(self) -> list[ApiKey]:
        """All keys, revoked ones too, oldest first."""
        return [key_of(row) for row in await self._read(lambda tx: tx.all(sql.KEYS))]

    async def add_key(self, key: ApiKey, audit: AuditEntry | None = None) -> None:
        """Store a new key, and who made it."""
        await self.apply(desk.AddKey(key, audit))

    async def add_first_key(self, key: ApiKey) -> bool:
        """Store `key` if the store has none at all; whether it did: of nodes that start at once, one does."""
        added: bool = await self.apply(desk.AddFirstKey(key))
        return added

    async def revoke_key(self, key_id: str, at_ms: int, audit: AuditEntry | None = None) -> ApiKey | None:
        """Revoke a key, and store who did; the key, None if unknown."""
        revoked: ApiKey | None = await self.apply(desk.RevokeKey(key_id, at_ms, audit))
        return revoked

    async def touch_keys(self, used: dict[str, int]) -> None:
        """Note when keys were last used (epoch ms by id)."""
        await self.apply(desk.TouchKeys(used))

    async def add_session(self, session: Session) -> None:
        """Store a browser's session."""
        await self.apply(desk.add_session(session))

    async def session(self, session_id: str) -> Session | None:
        """A session by its hash."""
        rows = await self._read(lambda tx: tx.all(sql.GET_SESSION, session_id))
        return session_of(rows[0]) if rows else None

    async def end_session(self, session_id: str) -> None:
        """Sign a browser out."""
        await self.apply(desk.Run(sql.END_SESSION, (session_id,)))

    async def purge_sessions(self, now_ms: int) -> None:
        """Forget sessions that have run out."""
        await self.apply(desk.Run(sql.PURGE_SESSIONS, (now_ms,)))

    async def add_once(self, digest: str, key_id: str, expires_ms: int) -> None:
        """Store a one-time sign-in link by its token's hash."""
        await self.apply(desk.Run(sql.ADD_ONCE, (digest, key_id, expires_ms)))

    async def use_once(self, digest: str, now_ms: int) -> str | None:
        """Use up a one-time sign-in link; the id of its key, None if there is none such (any more) at any node."""
        rows = await self.apply(desk.Run(sql.USE_ONCE, (digest, now_ms)))
        return rows[0][0] if rows else None

    async def add_audit(self, entry: AuditEntry) -> None:
        """Write down who did what."""
        await self.apply(desk.add_audit(entry))

    async def audit_page(self, limit: int, before: int | None = None) -> list[AuditEntry]:
        """The audit log, newest first, older than entry `before`."""
        bound = before if before is not None else 2**62
        return [audit_of(row) for row in await self._read(lambda tx: tx.all(sql.AUDIT_PAGE, bound, limit))]


def _told(listener: Callable[[T], None], what: T) -> None:
    """Tell one listener; a defect of its must not keep the others from being told."""
    try:
        listener(what)
    except Exception:
        log.exception("a listener of the store failed")


def open_store(url: str, base_dir: Path, *, serve: bool = True) -> Store:
    """A Store for `store.url`, not yet connected; relative paths are relative to `base_dir`.

    `serve=False` is for a command beside a running server. Raises StoreRefused for a URL it does not know.
    """
    scheme, _, rest = url.partition(":")
    if scheme == "sqlite" and rest:
        return Store(SqliteEngine(base_dir / rest.removeprefix("//"), serve=serve))
    try:
        named = urlsplit(url).scheme or "plain"
    except ValueError:  # as of a password with a bracket in it
        raise StoreRefused(
            "store.url: expected postgresql://USER:SECRET@HOST/DATABASE, brackets and the like written as %5B"
        ) from None
    if scheme in ("postgresql", "postgres"):
        return Store(PostgresEngine(url))
    raise StoreRefused(f"store.url: expected sqlite:PATH or postgresql://…, got a {named} URL")
