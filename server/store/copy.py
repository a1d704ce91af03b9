"""A store into another: all tables, page by page, so that a copy that was cut off goes on where it stood.

Each page and the place behind it are one transaction of the target (`meta`, key `copy`); that note goes when all is
copied and compared. While it is there the target's queue is paused, so that nothing is sent from half a copy. The
source must be held by the caller (nothing else writes to it); it is only read.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec
from msgspec import Struct

from server.store import Store, sql
from server.store.batch import Batch
from server.store.cluster import SILENT_MS
from server.store.engine import Op, Row, Tx

TABLES: dict[str, tuple[str, ...]] = {
    "task": ("id",),
    "chunk": ("task_id", "n"),
    "outcome": ("task_id", "n", "run", "attempt"),
    "event": ("seq",),
    "tally": ("type", "priority", "status"),
    "minute": ("minute", "what"),
    "pace": ("second", "type"),
    "trash": ("task_id",),
    "idempotency": ("key_id", "key"),
    "api_key": ("id",),
    "session": ("id",),
    "once": ("hash",),
    "audit": ("id",),
    "webhook": ("id",),
    "counter": ("name",),
    "meta": ("key",),
}
"""Every table with its key, in the order in which they are copied: what makes a node work comes last."""

LIVE = ("node", "duty")
"""Tables of running nodes: nothing of them is worth keeping."""

PAGE = {"chunk": 100, "webhook": 200}
"""Rows that are moved at once, where they are large."""
ROWS = 1_000
OWN = ("schema", "copy")
"""Rows of `meta` that are a database's own."""

NOTE = "SELECT value FROM meta WHERE key = 'copy'"
SAVE_NOTE = """
INSERT INTO meta (key, value) VALUES ('copy', $1) ON CONFLICT (key) DO UPDATE SET value = excluded.value"""
DROP_NOTE = "DELETE FROM meta WHERE key = 'copy'"
PAUSE = "UPDATE meta SET value = '1' WHERE key = 'paused'"
NEXT_AUDIT = "SELECT setval(pg_get_serial_sequence('audit', 'id'), (SELECT MAX(id) FROM audit)) FROM audit LIMIT 1"


class CopyRefused(Exception):
    """This target must not be written to, or what is in it is not the source; the text says what to do."""


class Note(Struct):
    """How far a copy has come."""

    source: str  # what it is a copy of: `identity`
    done: list[str] = []  # tables
    last: list[Any] = []  # the key of the last row copied of the table in hand


class Sum(Struct, frozen=True):
    """A table's rows, whatever their order: how many, and the sum of their hashes."""

    rows: int
    hash: int


async def columns(tx: Tx, dialect: str, table: str) -> list[str]:
    """A table's columns, by name."""
    if dialect == "sqlite":
        rows = await tx.all("SELECT name FROM pragma_table_info($1) ORDER BY name", table)
    else:
        rows = await tx.all(
            "SELECT column_name::text FROM information_schema.columns"
            ' WHERE table_schema = current_schema() AND table_name = $1 ORDER BY column_name COLLATE "C"',
            table,
        )
    return [row[0] for row in rows]


async def count(store: Store, table: str) -> int:
    """How many rows a table has, without those of `meta` that are a database's own."""
    own = f" WHERE key NOT IN {OWN}" if table == "meta" else ""
    rows = await store.snapshot(lambda tx: tx.all(f"SELECT COUNT(*) FROM {table}{own}"))
    return int(rows[0][0])


async def identity(store: Store) -> str:
    """What a source is recognised by when a copy goes on: its numbers, which change with everything done to a task."""
    rows = await store.snapshot(lambda tx: tx.all("SELECT name, n FROM counter ORDER BY name"))
    return " ".join(f"{name}={n}" for name, n in rows)


async def page(store: Store, table: str, after: list[Any]) -> tuple[list[str], list[Row]]:
    """The next rows behind a key, with the names of their columns."""
    key = TABLES[table]
    own = f"key NOT IN {OWN}" if table == "meta" else "1 = 1"
    places = ", ".join(f"${number}" for number in range(1, len(key) + 1))
    behind = f"({', '.join(key)}) > ({places})" if after else "1 = 1"
    limit = PAGE.get(table, ROWS)

    async def read(tx: Tx) -> tuple[list[str], list[Row]]:
        names = await columns(tx, store.dialect, table)
        statement = (
            f"SELECT {', '.join(names)} FROM {table} WHERE {own} AND {behind} ORDER BY {', '.join(key)} LIMIT {limit}"
        )
        return names, await tx.all(statement, *after)

    return await store.snapshot(read)


@dataclass(eq=False)
class Put(Op):
    """Write a page of rows, and how far the copy has come with it."""

    table: str
    names: list[str]
    rows: list[Row]
    note: Note

    @classmethod
    async def apply(cls, batch: Batch, ops: list[Put]) -> list[Any]:
        for op in ops:
            if op.rows:
                await batch.tx.many(op._statement(), op.rows)
            await batch.tx.all(SAVE_NOTE, msgspec.json.encode(op.note).decode())
        return [None] * len(ops)

    def _statement(self) -> str:
        key = TABLES[self.table]
        places = ", ".join(f"${number}" for number in range(1, len(self.names) + 1))
        changes = ", ".join(f"{name} = excluded.{name}" for name in self.names if name not in key)
        return (
            f"INSERT INTO {self.table} ({', '.join(self.names)}) VALUES ({places})"
            f" ON CONFLICT ({', '.join(key)}) DO {f'UPDATE SET {changes}' if changes else 'NOTHING'}"
        )


@dataclass(eq=False)
class Begin(Op):
    """Note that a copy is under way, and pause the queue until it is done."""

    note: Note

    @classmethod
    async def apply(cls, batch: Batch, ops: list[Begin]) -> list[Any]:
        for op in ops:
            await batch.tx.all(PAUSE)
            await batch.tx.all(SAVE_NOTE, msgspec.json.encode(op.note).decode())
        return [None] * len(ops)


@dataclass(eq=False)
class Finish(Op):
    """All is copied and the same: the note goes, and new audit entries are numbered behind those copied."""

    dialect: str

    @classmethod
    async def apply(cls, batch: Batch, ops: list[Finish]) -> list[Any]:
        for op in ops:
            if op.dialect == "postgres":
                await batch.tx.all(NEXT_AUDIT)
            await batch.tx.all(DROP_NOTE)
        return [None] * len(ops)


async def nodes(store: Store) -> list[str]:
    """The nodes at work on a store that many may share; a file is held by whoever opened it."""
    if store.dialect == "sqlite":
        return []

    async def read(tx: Tx) -> list[str]:
        return [row[0] for row in await tx.all(sql.NODES, await tx.now_ms(0) - SILENT_MS)]

    return await store.snapshot(read)


async def begin(source: Store, target: Store) -> Note:
    """The copy's note: a new one in an empty target, or where an earlier run stood. Raises CopyRefused."""
    for store, name in ((source, "source"), (target, "target")):
        if busy := await nodes(store):
            raise CopyRefused(f"nodes are at work on the {name} ({', '.join(busy)}); stop them first")
    here = await identity(source)
    found = await target.snapshot(lambda tx: tx.all(NOTE))
    if found:
        note = msgspec.json.decode(found[0][0], type=Note)
        if note.source != here:
            raise CopyRefused("the source was worked with since this copy was begun; empty the target and begin anew")
        return note
    full = [table for table in TABLES if table not in ("counter", "meta") and await count(target, table)]
    if full:
        raise CopyRefused(f"the target holds other data ({', '.join(full)}); name an empty database")
    note = Note(here)
    await target.apply(Begin(note))
    return note


async def copy_table(source: Store, target: Store, table: str, note: Note, moved: Callable[[int], None]) -> None:
    """Copy what is left of a table; `moved` is told of every page, in rows."""
    while True:
        names, rows = await page(source, table, note.last)
        if rows:
            note.last = [rows[-1][names.index(part)] for part in TABLES[table]]
            await target.apply(Put(table, names, rows, note))
            moved(len(rows))
        if len(rows) < PAGE.get(table, ROWS):
            break
    note.done.append(table)
    note.last = []
    await target.apply(Put(table, [], [], note))


async def sum_of(store: Store, table: str, moved: Callable[[int], None]) -> Sum:
    """Count and checksum of a table."""
    total = rows_seen = 0
    after: list[Any] = []
    while True:
        names, rows = await page(store, table, after)
        for row in rows:
            digest = hashlib.blake2b(msgspec.msgpack.encode(row), digest_size=8).digest()
            total = (total + int.from_bytes(digest, "big")) % 2**64
        rows_seen += len(rows)
        moved(len(rows))
        if len(rows) < PAGE.get(table, ROWS):
            return Sum(rows_seen, total)
        after = [rows[-1][names.index(part)] for part in TABLES[table]]


async def finish(target: Store) -> None:
    """Make the copy a store of its own."""
    await target.apply(Finish(target.dialect))
