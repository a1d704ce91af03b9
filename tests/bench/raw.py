"""The limit for storing: SQLite alone writing the same rows, one transaction for every 64 of them, beside our store."""

from __future__ import annotations

import asyncio
import tempfile
import time
from pathlib import Path
from time import perf_counter

import apsw
import uuid_utils

from server.model import DEFAULT_PREFERENCES, NotificationTask, Priority, Recipient, Status
from server.store import open_store, sql
from server.store.rows import chunk_cell, row_of
from server.store.writes import Enqueue
from tests.bench.kit import Row, median, row

BATCH = 64
CELL = chunk_cell(
    [Recipient(f"u{n}", f"Jean {n}", f"jean{n}@example.org", None, "fr", DEFAULT_PREFERENCES) for n in (1, 2)]
)
BODY = b"x" * 560  # as long as the event of such a task


def task() -> NotificationTask:
    """A task of the size that post.py sends."""
    now = time.time_ns() // 1_000_000
    return NotificationTask(
        id=str(uuid_utils.uuid7()), type="meteo", status=Status.PENDING, priority=Priority.HAUTE,
        titre="Alerte orange : vents violents", message="Restez chez vous. " * 14, total=2,
        created_ms=now, place_ms=now,
    )  # fmt: skip


def question_marks(statement: str) -> str:
    """`$1` as SQLite has it."""
    return statement.replace("$", "?")


def raw(path: Path, batches: int) -> float:
    """Rows of tasks, recipients and events per second, by apsw alone."""
    connection = apsw.Connection(str(path))
    connection.execute("PRAGMA synchronous = FULL")
    (seq,) = next(iter(connection.execute("SELECT COALESCE(MAX(seq), 0) FROM event")))
    began = perf_counter()
    for _ in range(batches):
        tasks = [task() for _ in range(BATCH)]
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany(question_marks(sql.ADD_TASK), [row_of(one) for one in tasks])
        connection.executemany(question_marks(sql.ADD_CHUNK), [(one.id, 0, CELL) for one in tasks])
        events = [
            (seq + n, one.created_ms, "task.enqueued", one.id, one.type, "pending", 2, BODY)
            for n, one in enumerate(tasks, 1)
        ]
        seq += BATCH
        connection.executemany(question_marks(sql.ADD_EVENT), events)
        connection.execute("COMMIT")
    per_s = batches * BATCH / (perf_counter() - began)
    connection.close()
    return per_s


async def ours(folder: Path, batches: int) -> float:
    """The same through the store: event, counters and numbering with it."""
    store = open_store("sqlite:ours.db", folder)
    await store.open()
    began = perf_counter()
    for _ in range(batches):
        await asyncio.gather(*(store.apply(Enqueue(task(), [(0, CELL)], 10**9)) for _ in range(BATCH)))
    per_s = batches * BATCH / (perf_counter() - began)
    await store.close()
    return per_s


async def run(quick: bool = False) -> list[Row]:
    """Storing tasks."""
    batches = 40 if quick else 150
    pairs: list[tuple[float, float]] = []
    with tempfile.TemporaryDirectory(prefix="tocsin-bench-") as name:
        folder = Path(name)
        store = open_store("sqlite:raw.db", folder)
        await store.open()
        await store.close()
        for _ in range(3):
            pairs.append((await ours(folder, batches), raw(folder / "raw.db", batches)))
    mine, limit = (median(side) for side in zip(*pairs, strict=True))
    return [row(f"store, {BATCH} tasks per commit", mine, "tasks/s", limit, "", "beside SQLite alone, the same rows")]
