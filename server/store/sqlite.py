"""SQLite as the store's engine: one writer thread that commits whatever waits, a few readers beside it.

Durable by default: WAL, `synchronous=FULL`, so a commit has been synced when it is reported. A file that is foreign,
broken, newer or already served is refused with a sentence that says so; it is never replaced.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import re
import threading
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from itertools import chain
from pathlib import Path
from queue import SimpleQueue
from time import perf_counter, sleep
from typing import Any, TypeVar

import apsw
import msgspec

from server.store import schema
from server.store.checkpoint import Checkpointer
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
    drive,
)

T = TypeVar("T")
log = logging.getLogger("tocsin.store")

APPLICATION_ID = 0x546F6373  # "Tocs", in the file's header: PRAGMA application_id
WAL_RESET_RACE = ((3, 7, 0), (3, 51, 2))  # these can lose commits with two connections (sqlite.org, 2026)
WORDS = {
    "{for_update}": "",
    "{skip_locked}": "",
    "{among}": "IN (SELECT value FROM json_each($1))",
    "{int}": "",
    "{text}": "",
    "{bytes}": "",
    "{free}": "TRUE",
}
SIZES = (64, 48, 32, 24, *range(16, 0, -1))
"""Rows that one statement takes: few sizes, so that each is prepared but once, and any number soon put together."""
_values = re.compile(r"(\s*(?:INSERT|UPDATE).*?\bVALUES )(\([^()]*\))((?!.*RETURNING).*)", re.S)
BUSY_S = 0.005  # a few commits: see Pace
READERS = 3
BUSY_MS = 4_000  # below the 5 s within which a sender must be told that storage says no
NO = (
    apsw.FullError,
    apsw.IOError,
    apsw.BusyError,
    apsw.CantOpenError,
    apsw.CorruptError,
    apsw.ReadOnlyError,
    apsw.NotADBError,
    apsw.LockedError,
)


@lru_cache(maxsize=1024)
def _dialect(sql: str) -> str:
    """`$1` as SQLite's `?1`, a list as JSON, and no row locks: there is one writer."""
    for word, meaning in WORDS.items():
        sql = sql.replace(word, meaning)
    return re.sub(r"\$(\d+)", r"?\1", sql)


@lru_cache(maxsize=256)
def _of_rows(sql: str, rows: int) -> str | None:
    """An INSERT (or an UPDATE from VALUES) of one row as one of `rows` rows; None if it is no such statement."""
    found = _values.fullmatch(sql)
    if found is None:
        return None
    head, row, tail = found.groups()
    several = ", ".join([re.sub(r"\$\d+", "?", row)] * rows)
    return _dialect(f"{head}{several}{tail}")


class _Tx:
    """A transaction in the thread that owns the connection; its coroutines never suspend."""

    shared = False
    tail = None

    def __init__(self, connection: apsw.Connection):
        self._connection = connection

    async def many(self, sql: str, rows: Sequence[Sequence[Any]]) -> list[Row]:
        """One step for many rows where that can be: each gives the interpreter away, and waits to have it back."""
        if len(rows) < 2 or _of_rows(sql, 1) is None:
            return list(self._connection.executemany(_dialect(sql), rows))
        at = 0
        for size in SIZES:
            while len(rows) - at >= size:
                several = _of_rows(sql, size)
                assert several
                self._connection.execute(several, list(chain.from_iterable(rows[at : at + size])))
                at += size
        return []

    async def among(self, sql: str, keys: Sequence[str], *args: Any) -> list[Row]:
        return await self.all(sql, msgspec.json.encode(keys).decode(), *args)

    async def all(self, sql: str, *args: Any) -> list[Row]:
        return list(self._connection.execute(_dialect(sql), args))

    async def now_ms(self, own_ms: int) -> int:
        return own_ms


class SqliteEngine:
    """One database file, served by one process."""

    dialect = "sqlite"

    def __init__(self, path: Path, *, serve: bool = True, synchronous: str = "FULL", vfs: str | None = None):
        """`serve` holds the file for this process; a command beside a running server opens it with False."""
        self.path = path
        self._serve = serve
        self._synchronous = synchronous
        self._vfs = vfs
        self._waiting: SimpleQueue[Op | None] = SimpleQueue()  # None: it is closing
        self._closing = False
        self._lock_file: int | None = None
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="tocsin-read")
        self._reader = threading.local()
        self._reader_connections: list[apsw.Connection] = []
        self._writer: threading.Thread | None = None
        self._connection: apsw.Connection | None = None  # the writer's
        self._checkpointer = Checkpointer(self._connect_beside)

    async def open(self, apply: Apply, committed: Committed, failed: Failed) -> None:
        refuse_racy(tuple(int(part) for part in apsw.sqlite_lib_version().split(".")))
        self._loop = asyncio.get_running_loop()
        self._apply, self._committed, self._failed = apply, committed, failed
        connection = self._connection = await self._loop.run_in_executor(self._readers, self._open_writer)
        self._writer = threading.Thread(target=self._write, args=(connection,), name="tocsin-write")
        self._checkpointer.attach(connection)
        self._writer.start()

    def submit(self, op: Op) -> None:
        if self._closing:
            raise StoreUnavailable("the store is closed")
        if self._waiting.qsize() >= MAX_WAITING:
            raise StoreUnavailable("too many changes wait for storage")
        self._waiting.put(op)

    async def read(self, work: Callable[[Tx], Coroutine[Any, Any, T]]) -> T:
        return await self._loop.run_in_executor(self._readers, self._read, work)

    async def close(self) -> None:
        self._closing = True
        self._waiting.put(None)
        if self._writer:
            await asyncio.to_thread(self._writer.join)
        await asyncio.to_thread(self._checkpointer.close)
        self._readers.shutdown(wait=True)
        for connection in self._reader_connections:
            connection.close()
        if self._connection:
            await asyncio.to_thread(self._connection.close)  # the last one writes the WAL back, and readers may not
        if self._lock_file is not None:
            os.close(self._lock_file)

    # --- in threads from here on -------------------------------------------------------------

    def _open_writer(self) -> apsw.Connection:
        path = self.path
        begun = path.with_name(path.name + ".new")  # there while a new database is made
        known = path.exists() and not (begun.exists() and path.stat().st_size == 0)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreRefused(f"{path.parent}: cannot be created: {error.strerror}") from None
        if not known and path.with_name(path.name + "-wal").exists():
            raise StoreRefused(
                f"{path}: the database is missing but its -wal file is there; restore both or move both away"
            )
        if known and path.stat().st_size == 0:
            raise StoreRefused(f"{path}: an empty file is no database; restore it from a backup or move it away")
        if self._serve:
            self._hold()
        try:
            if not known:
                begun.touch()
            connection = self._connect(apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE)
            if known:
                self._recognise(connection)
            else:
                connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            mode = next(iter(connection.execute("PRAGMA journal_mode = WAL")))[0]
            if mode != "wal":
                raise StoreRefused(f"{path}: this file system does not allow WAL; use a local disk")
            connection.execute(f"PRAGMA synchronous = {self._synchronous}")
            drive(schema.migrate(_Tx(connection), self.dialect, str(path)))
        except apsw.NotADBError:
            raise StoreRefused(f"{path}: not a database; restore it from a backup or move it away") from None
        except apsw.CorruptError as error:
            raise StoreRefused(f"{path}: damaged ({error}); restore it from a backup") from None
        except NO as error:
            raise StoreUnavailable(f"{path}: {error}") from None
        if not known:
            path.chmod(0o600)
            folder = os.open(path.parent, os.O_RDONLY)  # the new file's name must outlive a power cut too
            os.fsync(folder)
            os.close(folder)
            begun.unlink(missing_ok=True)
        return connection

    def _hold(self) -> None:
        """Hold the file for this process: two servers on one file would each believe they own its tasks."""
        lock = self.path.with_name(self.path.name + ".lock")
        try:
            self._lock_file = os.open(lock, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise StoreRefused(f"{lock}: cannot be written: {error.strerror}; mend store.url or its rights") from None
        try:
            fcntl.flock(self._lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._lock_file)
            self._lock_file = None
            raise StoreRefused(
                f"{self.path}: another Tocsin serves this database; stop it, or use PostgreSQL for several nodes"
            ) from None

    def _recognise(self, connection: apsw.Connection) -> None:
        if next(iter(connection.execute("PRAGMA application_id")))[0] != APPLICATION_ID:
            raise StoreRefused(f"{self.path}: a database, but not Tocsin's; name another file in store.url")

    def _connect(self, flags: int) -> apsw.Connection:
        connection = apsw.Connection(str(self.path), flags=flags, vfs=self._vfs, statementcachesize=512)
        connection.set_busy_timeout(BUSY_MS)
        connection.execute("PRAGMA cache_size = -16384")
        connection.execute("PRAGMA temp_store = MEMORY")
        return connection

    def _connect_beside(self) -> apsw.Connection:
        connection = self._connect(apsw.SQLITE_OPEN_READWRITE)
        connection.execute(f"PRAGMA synchronous = {self._synchronous}")
        return connection

    def _read(self, work: Callable[[Tx], Coroutine[Any, Any, T]]) -> T:
        try:
            connection = getattr(self._reader, "connection", None)
            if connection is None:
                connection = self._reader.connection = self._connect(apsw.SQLITE_OPEN_READONLY)
                self._reader_connections.append(connection)
            connection.execute("BEGIN")
            try:
                return drive(work(_Tx(connection)))
            finally:
                if connection.in_transaction:  # a failing disk has ended it already
                    connection.execute("COMMIT")
        except NO as error:
            raise StoreUnavailable(str(error)) from error

    def _write(self, connection: apsw.Connection) -> None:
        """The writer thread: commit whatever waits, report it to the event loop, again."""
        waiting = self._waiting
        pace = Pace(BUSY_S)
        closing = False
        while not closing:
            waits = perf_counter()
            op = waiting.get()
            began = perf_counter()
            ops: dict[Op, None] = {}  # in order; one that was told no and handed over again may wait twice
            while True:
                closing = closing or op is None
                if op is not None and not op.done.done():  # given up by its caller while it waited
                    ops[op] = None
                if len(ops) == MAX_BATCH or waiting.empty():
                    break
                op = waiting.get()
            if ops:
                self._commit(connection, list(ops))
                self._checkpointer.finish(connection)
                if rest_s := pace.rest_s(began - waits, perf_counter() - began):
                    sleep(rest_s)

    def _commit(self, connection: apsw.Connection, ops: list[Op]) -> None:
        try:
            connection.execute("BEGIN IMMEDIATE")
            results, events = drive(self._apply(_Tx(connection), ops))
            connection.execute("COMMIT")
        except BaseException as error:  # noqa: BLE001 - handed to whoever waits for the operation
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            if isinstance(error, NO):
                log.error("storage says no: %s", error)
                failure: BaseException = StoreUnavailable(str(error))
            elif len(ops) > 1:  # one of them is at fault: the others must not share its fate
                for op in ops:
                    self._commit(connection, [op])
                return
            else:
                failure = error
            self._loop.call_soon_threadsafe(self._failed, ops, failure)
            return
        self._loop.call_soon_threadsafe(self._committed, list(zip(ops, results, strict=True)), events)


def refuse_racy(version: tuple[int, ...]) -> None:
    """Raise StoreRefused for a SQLite library that can lose commits (the WAL-reset race)."""
    low, high = WAL_RESET_RACE
    if low <= version <= high:
        text = ".".join(map(str, version))
        raise StoreRefused(f"SQLite {text} can lose commits in WAL mode; install apsw 3.51.3 or later")
