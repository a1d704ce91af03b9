"""PostgreSQL as the store's engine: any number of nodes over one database.

Operations commit in batches over one connection, their statements pipelined; `seq` grows in commit order because its
counter's row is locked from the tail of each transaction to its commit. `NOTIFY` is a coalesced hint that says only
whose it is, a poll stands under it; what is told to the node is always read from the log, in order, others' events too.
What a pooler between needs is said in `pooler`.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Coroutine, Mapping, Sequence
from functools import lru_cache, partial
from time import perf_counter
from typing import Any, TypeVar
from uuid import uuid4

import asyncpg

from server.model import Event
from server.store import pooler, schema, sql
from server.store.engine import (
    MAX_BATCH,
    MAX_WAITING,
    Apply,
    Committed,
    Failed,
    Op,
    Pace,
    Row,
    StoreRefused,
    StoreUnavailable,
    Tx,
)
from server.store.postgres_sets import LOOK, SETS, TAIL, columns, table_of, tail_arguments, together
from server.store.rows import event_of

T = TypeVar("T")
log = logging.getLogger("tocsin.store")

WORDS = {
    "{for_update}": "FOR UPDATE",
    "{skip_locked}": "FOR UPDATE SKIP LOCKED",
    "{among}": "= ANY($1::text[])",
    "{int}": "::bigint",
    "{text}": "::text",
    "{bytes}": "::bytea",
    "{free}": "pg_try_advisory_xact_lock(hashtextextended($1 || chr(10) || $2, 0))",
}
BUSY_S = 0.05  # some ten commits: see Pace
READERS = 4
TIMEOUT_S = 4.0  # below the 5 s within which a sender must be told that storage says no
POLL_S = 0.5
"""How long an event of another node can go unnoticed where the hint does not come through."""
PAGE = 1_000
FROZEN_MS = 3_000  # below TIMEOUT_S, so that who waits for its locks need not give up
CHANNEL = "tocsin"
BEGIN = f"""BEGIN; SET LOCAL synchronous_commit = on;
SET LOCAL idle_in_transaction_session_timeout = {FROZEN_MS};
SET LOCAL enable_seqscan = off; SET LOCAL enable_hashjoin = off; SET LOCAL enable_mergejoin = off"""
"""Whatever the server's or a pooler's connection is set to: what is acknowledged is on disk; and a node that freezes or
is cut off in the middle of a transaction does not hold its locks, on which all others would wait. Every statement that
writes is served by an index; a plan that is kept must not be one made while its table was still small."""
WHOLE = "; SET LOCAL transaction_timeout = 8000"  # ms: by then whoever waits has been told no
"""PostgreSQL 17 and later: a node frozen between the preparing of a statement and its running is not idle to it."""
MIGRATION_LOCK = 0x546F6373
NO = (
    OSError,
    TimeoutError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # a connection that was cut between two steps of its protocol
    asyncpg.PostgresConnectionError,
    asyncpg.exceptions.OperatorInterventionError,  # shut down, cannot connect now
    asyncpg.InsufficientResourcesError,  # disk full, too many connections
    asyncpg.ReadOnlySQLTransactionError,
    asyncpg.PostgresSystemError,  # I/O error
    asyncpg.InvalidAuthorizationSpecificationError,  # at reconnecting: a secret that was changed
    asyncpg.InvalidCatalogNameError,
    asyncpg.InvalidSQLStatementNameError,  # a pooler that keeps no prepared statements
    asyncpg.DuplicatePreparedStatementError,
    asyncpg.exceptions.LockNotAvailableError,
    asyncpg.QueryCanceledError,
)
AGAIN = (asyncpg.DeadlockDetectedError, asyncpg.SerializationError)


async def _events_after(tx: Tx, after: int) -> list[Row]:
    return await tx.all(sql.EVENTS_AFTER, after, PAGE)


async def _as_it_is(connection: Any) -> None:
    """A reader's connection only ever has read-only transactions: there is nothing to reset between two of them."""


@lru_cache(maxsize=1024)  # filters are put together: there is no end of them
def _dialect(statement: str) -> str:
    for word, meaning in WORDS.items():
        statement = statement.replace(word, meaning)
    return statement


class _Tx:
    """An open transaction on one connection.

    Writes that give nothing back wait until something else is asked, and then go together: on a busy node it is the
    round trips that take the time.
    """

    shared = True

    def __init__(self, connection: Any):
        self._connection = connection
        self._looked: Row | None = None
        self._held_back: dict[str, tuple[str, Sequence[Any]]] = {}  # by table

    async def many(self, statement: str, rows: Sequence[Sequence[Any]]) -> list[Row]:
        if not rows:
            return []
        if at_once := SETS.get(statement):
            return await self._write(at_once, *columns(rows, 0))
        await self.flush()
        if "RETURNING" not in statement and not statement.lstrip().startswith("SELECT"):
            await self._connection.executemany(_dialect(statement), rows)
            return []
        return [tuple(row) for row in await self._connection.fetchmany(_dialect(statement), rows)]

    async def among(self, statement: str, keys: Sequence[str], *args: Any) -> list[Row]:
        return await self._write(_dialect(statement), list(keys), *args)

    async def all(self, statement: str, *args: Any) -> list[Row]:
        if statement is sql.SET_META:
            self._looked = None
        elif statement is sql.STANDING:
            return [(await self._look())[:2]]
        elif statement is sql.TYPES:
            return [tuple(kind) for kind in (await self._look())[2] or ()]
        return await self._fetch(_dialect(statement), *args)

    async def now_ms(self, own_ms: int) -> int:
        return int((await self._look())[3])

    async def tail(
        self,
        events: Sequence[Row],
        tally: Mapping[tuple[str, int, str], int],
        totals: Mapping[str, int],
        minutes: Mapping[tuple[int, str], int],
    ) -> int:
        return int((await self._fetch(TAIL, *tail_arguments(events, tally, totals, minutes)))[0][0])

    async def _write(self, statement: str, *args: Any) -> list[Row]:
        if "RETURNING" in statement or statement.startswith("SELECT"):
            return await self._fetch(statement, *args)
        table = table_of(statement)
        if table in self._held_back:
            await self.flush()
        self._held_back[table] = (statement, args)
        return []

    async def _fetch(self, statement: str, *args: Any) -> list[Row]:
        await self.flush()
        return [tuple(row) for row in await self._connection.fetch(statement, *args)]

    async def flush(self) -> None:
        """Run what was held back."""
        if held := self._held_back:
            self._held_back = {}
            statements = tuple(statement for statement, _ in held.values())
            await self._connection.fetch(together(statements), *(arg for _, args in held.values() for arg in args))

    async def _look(self) -> Row:
        """What LOOK says, asked once per transaction: an instant old at the most, as any look before a commit is."""
        if self._looked is None:
            self._looked = (await self._fetch(_dialect(LOOK)))[0]
        return self._looked


class PostgresEngine:
    """One database, shared by nodes."""

    dialect = "postgres"

    def __init__(self, url: str):
        try:
            self._url, self._options = pooler.own_options(url)
        except ValueError:
            raise StoreRefused("store.url: expected a number for statement_cache_size") from None
        self._own = uuid4().hex  # whose hint it is: what this node wrote it need not read
        self._commit_and_tell = f"SELECT pg_notify('{CHANNEL}', '{self._own}'); COMMIT"
        self._waiting: deque[Op] = deque()
        self._wake = asyncio.Event()
        self._hint = asyncio.Event()
        self._closing = False
        self._told = 0
        self._tasks: list[asyncio.Task[None]] = []
        self._pool: Any = None
        self._writer: Any = None

    async def open(self, apply: Apply, committed: Committed, failed: Failed) -> None:
        self._apply, self._committed, self._failed = apply, committed, failed
        try:
            migrating = await asyncpg.connect(self._url, timeout=TIMEOUT_S, **self._options)  # it takes its time
            try:
                if not self._options:
                    await pooler.check(migrating, self._own)
                await self._migrate(migrating)
            finally:
                await migrating.close(timeout=TIMEOUT_S)
            self._writer = await self._connect()
            self._pool = await asyncpg.create_pool(
                self._url, min_size=1, max_size=READERS, command_timeout=TIMEOUT_S, timeout=TIMEOUT_S,
                reset=_as_it_is, **self._options,
            )  # fmt: skip
            self._told = int(await self._writer.fetchval(sql.LAST_SEQ))
        except (asyncpg.InvalidAuthorizationSpecificationError, asyncpg.InvalidCatalogNameError) as error:
            raise StoreRefused(f"store.url: PostgreSQL says no: {error}") from None
        except (asyncpg.exceptions.ClientConfigurationError, ValueError) as error:
            raise StoreRefused(f"store.url: expected postgresql://USER:SECRET@HOST/DATABASE: {error}") from None
        except (asyncpg.InvalidSQLStatementNameError, asyncpg.DuplicatePreparedStatementError):
            raise StoreRefused(pooler.POOLER) from None
        except NO as error:
            raise StoreUnavailable(f"PostgreSQL is out of reach: {error or type(error).__name__}") from None
        for name, loop in (("commit", self._commit_loop), ("tail", self._tail_loop), ("listen", self._listen_loop)):
            self._tasks.append(asyncio.create_task(loop(), name=f"store-{name}"))

    def submit(self, op: Op) -> None:
        if self._closing:
            raise StoreUnavailable("the store is closed")
        if len(self._waiting) >= MAX_WAITING:
            raise StoreUnavailable("too many changes wait for storage")
        self._waiting.append(op)
        self._wake.set()

    async def read(self, work: Callable[[Tx], Coroutine[Any, Any, T]]) -> T:
        try:
            async with (
                self._pool.acquire(timeout=TIMEOUT_S) as connection,
                connection.transaction(isolation="repeatable_read", readonly=True),
            ):
                return await work(_Tx(connection))
        except NO as error:
            raise StoreUnavailable(str(error) or type(error).__name__) from error

    async def close(self) -> None:
        self._closing = True
        self._wake.set()
        await asyncio.gather(*self._tasks[:1], return_exceptions=True)  # what waits is committed first
        for task in self._tasks[1:]:
            task.cancel()
        await asyncio.gather(*self._tasks[1:], return_exceptions=True)
        for connection in (self._writer, self._pool):
            if connection is not None:
                try:
                    await asyncio.wait_for(connection.close(), TIMEOUT_S)
                except NO:
                    connection.terminate()

    async def _connect(self) -> Any:
        return await asyncpg.connect(self._url, timeout=TIMEOUT_S, command_timeout=TIMEOUT_S, **self._options)

    async def _migrate(self, connection: Any) -> None:
        """Under a lock of the transaction: ten nodes may start at once, one migrates, the others wait for it."""
        async with connection.transaction():
            await connection.execute("SELECT pg_advisory_xact_lock($1)", MIGRATION_LOCK)
            await schema.migrate(_Tx(connection), self.dialect, "the database of store.url")

    # --- committing ------------------------------------------------------------------------------

    async def _commit_loop(self) -> None:
        """Commit whatever waits, report it, again."""
        pace = Pace(BUSY_S)
        while True:
            waits = perf_counter()
            await self._wake.wait()
            self._wake.clear()
            while self._waiting:
                began = perf_counter()
                ops: dict[Op, None] = {}  # in order; one that was told no and handed over again may wait twice
                while self._waiting and len(ops) < MAX_BATCH:
                    op = self._waiting.popleft()
                    if not op.done.done():
                        ops[op] = None
                if ops:
                    await self._commit(list(ops))
                    if rest_s := pace.rest_s(began - waits, perf_counter() - began):
                        await asyncio.sleep(rest_s)
                waits = perf_counter()
            if self._closing:
                return

    async def _commit(self, ops: list[Op], tries: int = 3) -> None:
        unsure: list[Any] = []
        try:
            if self._writer.is_closed():
                self._writer = await self._connect()
                if await self._writer.fetch(sql.SKIP_SEQ, self._told):
                    log.error("the database lacks commits that it had confirmed, as a replica that took over may")
            await self._writer.execute(BEGIN + WHOLE if self._writer.get_server_version() >= (17,) else BEGIN)
            tx = _Tx(self._writer)
            results, events = await self._apply(tx, ops)
            await tx.flush()
            unsure = results  # from here on, a connection that breaks does not tell
            await self._writer.execute(self._commit_and_tell if events else "COMMIT")
        except NO as error:
            said = str(error) or type(error).__name__
            log.error("storage says no: %s", said)
            self._writer.terminate()
            self._failed(ops, StoreUnavailable(said, perhaps=bool(unsure)), unsure)
        except AGAIN as error:
            await self._roll_back()
            if tries:
                await self._commit(ops, tries - 1)
            else:
                self._failed(ops, StoreUnavailable(str(error)))
        except Exception as error:  # noqa: BLE001 - handed to whoever waits for the operation
            await self._roll_back()
            if len(ops) == 1:
                self._failed(ops, error)
                return
            for op in ops:  # one of them is at fault: the others must not share its fate
                await self._commit([op])
        else:
            done = list(zip(ops, results, strict=True))
            if not events or events[0].seq == self._told + 1:  # nothing of another node came between
                self._told = events[-1].seq if events else self._told
                self._tell(done, events)
            else:
                self._tell(done, [])
                self._hint.set()

    def _tell(self, done: list[tuple[Op, Any]], events: list[Event]) -> None:
        """Report a commit, in order; a defect in one who listens must not end the loop that calls here."""
        asyncio.get_running_loop().call_soon(self._committed, done, events)

    async def _roll_back(self) -> None:
        try:
            await self._writer.execute("ROLLBACK")
        except NO:
            self._writer.terminate()

    # --- the log's tail --------------------------------------------------------------------------

    async def _tail_loop(self) -> None:
        """Read on in the log whenever a hint came, and every so often without one."""
        while True:
            try:
                async with asyncio.timeout(POLL_S):
                    await self._hint.wait()
            except TimeoutError:
                pass
            self._hint.clear()
            try:
                await self._read_on()
            except StoreUnavailable as error:
                log.warning("the log cannot be read on: %s", error)
                await asyncio.sleep(POLL_S)
            except Exception:  # a defect must not leave every subscriber in the dark for good
                log.exception("the log cannot be read on")
                await asyncio.sleep(POLL_S)

    async def _read_on(self) -> None:
        while True:
            after = self._told
            rows = await self.read(partial(_events_after, after=after))
            events: list[Event] = [event_of(row) for row in rows if row[0] > self._told]
            if events and events[0].seq == self._told + 1:
                self._told = events[-1].seq
                self._tell([], events)
            elif events:
                # The log was trimmed beyond where this node had read to: what is gone cannot be told any more.
                log.warning("events %d to %d were removed before this node read them", after + 1, events[0].seq - 1)
                self._told = events[-1].seq
                self._tell([], events)
            if len(rows) < PAGE:
                return

    def _hinted(self, connection: Any, pid: int, channel: str, whose: str) -> None:
        if whose != self._own:
            self._hint.set()

    async def _listen_loop(self) -> None:
        """Keep one connection that hears the hint; without it the poll serves."""
        while True:
            connection = None
            try:
                connection = await asyncpg.connect(self._url, timeout=TIMEOUT_S, **self._options)
                await connection.add_listener(CHANNEL, self._hinted)
                self._hint.set()
                while not connection.is_closed():
                    await asyncio.sleep(10)
                    await connection.fetchval("SELECT 1", timeout=TIMEOUT_S)
            except NO as error:
                log.warning("no hint of new events: %s", error or type(error).__name__)
            finally:
                if connection is not None:
                    connection.terminate()
            await asyncio.sleep(1)
