"""What grows: statistics, first page, claim, start and memory with up to a million stored tasks; more recipients and
subscribers.

Stored tasks are written with SQL, since a million through the door would take the night: task, recipients and
outcomes of each, events of the last 65 536, counters to match; 10 000 are pending.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import tempfile
import time
from pathlib import Path
from time import perf_counter

import apsw

from server.model import NotificationTask, Priority, Status
from server.store import open_store, sql
from server.store.reads import id_at
from server.store.rows import row_of
from server.store.writes import Claim
from tests.bench.drain import Watcher, fresh, until_completed, watch
from tests.bench.kit import Row, Tocsin, median, notification, row
from tests.bench.load import flood, paced, request
from tests.bench.post import BODY
from tests.bench.raw import CELL, question_marks

PENDING = 10_000
SIZES = (10_000, 100_000, 1_000_000)


def stock(path: Path, have: int, want: int) -> None:
    """Bring a store from `have` to `want` stored tasks, the first PENDING of them pending, the rest completed."""
    connection = apsw.Connection(str(path))
    connection.execute("PRAGMA synchronous = OFF")
    connection.execute("PRAGMA cache_size = -262144")
    began = time.time_ns() // 1_000_000 - 3_600_000
    for start in range(have, want, 10_000):
        tasks: list[NotificationTask] = []
        for n in range(start, min(start + 10_000, want)):
            at = began + n * 3
            pending = n < PENDING
            tasks.append(
                NotificationTask(
                    id=f"{id_at(at)[:24]}{n:012x}", type="meteo", priority=Priority.HAUTE, titre="Alerte orange",
                    status=Status.PENDING if pending else Status.COMPLETED, message="Restez chez vous. " * 14, total=2,
                    sent=0 if pending else 2, attempts=0 if pending else 1, created_ms=at, place_ms=at,
                    started_ms=None if pending else at, ended_ms=None if pending else at + 5, fence=0 if pending else 1,
                )
            )  # fmt: skip
        connection.execute("BEGIN")
        connection.executemany(question_marks(sql.ADD_TASK), [row_of(task) for task in tasks])
        connection.executemany(question_marks(sql.ADD_CHUNK), [(task.id, 0, CELL) for task in tasks])
        connection.executemany(
            "INSERT INTO outcome VALUES (?, ?, 1, 1, 1, 'email', 'sent', '', '', '', '', ?, 1, 0)",
            [(task.id, n, task.created_ms) for task in tasks if task.ended_ms for n in (0, 1)],
        )
        if want - start <= 65_536:
            (seq,) = next(iter(connection.execute("SELECT n FROM counter WHERE name = 'seq'")))
            connection.executemany(
                question_marks(sql.ADD_EVENT),
                [(seq + n, task.created_ms, "task.completed", task.id, "meteo", "completed", 2, b"{}")
                 for n, task in enumerate(tasks, 1)],
            )  # fmt: skip
            connection.execute("UPDATE counter SET n = n + ? WHERE name = 'seq'", (len(tasks),))
        for status in ("pending", "completed"):
            n = sum(task.status == status for task in tasks)
            connection.execute(question_marks(sql.ADD_TALLY), ("meteo", 2, status, n))
        connection.execute("COMMIT")
    connection.close()


async def claim_ms(path: Path) -> float:
    """Milliseconds of a claim of two, through the store, on a copy-free store that is thrown away afterwards."""
    store = open_store(f"sqlite:{path.name}", path.parent)
    await store.open()
    took = []
    for _ in range(150):
        began = perf_counter()
        claimed = await store.apply(Claim(time.time_ns() // 1_000_000, 30_000, "bench", 2, 0))
        took.append(perf_counter() - began)
        assert len(claimed.tasks) == 2
    await store.close()
    return median(took) * 1e3


async def asked_ms(port: int, path: str, times: int) -> float:
    """The median of asking one after the other."""
    took = []
    for _ in range(times):
        found = await flood(port, request("GET", path), connections=1, count=1)
        took.append(found.seconds)
    return median(took) * 1e3


async def stored(sizes: tuple[int, ...]) -> list[Row]:
    """The figures that must not grow with what is stored."""
    rows: list[Row] = []
    first: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="tocsin-bench-") as name:
        path = Path(name) / "tocsin.db"
        with fresh() as server:
            idle = server.rss_mib()
        store = open_store("sqlite:tocsin.db", path.parent)
        await store.open()
        await store.close()
        have = 0
        for size in sizes:
            await asyncio.to_thread(stock, path, have, size)
            have = size
            os.sync()  # else the start waits for the disk to take what has just been written
            began = perf_counter()
            server = Tocsin(path.parent, QUEUE__WORKERS="0", QUEUE__EXPRESS_WORKERS="0")
            start_s = perf_counter() - began
            try:
                few = "/api/queue/tasks?limit=50&status=failed"
                figures = {
                    "statistics": await asked_ms(server.port, "/api/queue/stats", 60),
                    "first page of tasks": await asked_ms(server.port, "/api/queue/tasks?limit=50", 60),
                    "first page, failed only": await asked_ms(server.port, few, 60),
                }
                rss = server.rss_mib()
            finally:
                server.end(signal.SIGKILL)
            copy = path.with_name("claim.db")
            for kind in ("", "-wal"):
                if Path(f"{path}{kind}").exists():
                    shutil.copy(f"{path}{kind}", f"{copy}{kind}")
            figures["claim of two"] = await claim_ms(copy)
            for kind in ("", "-wal", "-shm", ".lock"):
                Path(f"{copy}{kind}").unlink(missing_ok=True)
            for figure, value in figures.items():
                limit = first.setdefault(figure, value)
                target = "<= 1.5 of it" if size > sizes[0] else ""
                rows.append(row(f"{figure}, {size:,} stored", value, "ms", limit if target else None, target))
        rows.append(row(f"start with {size:,} stored, {PENDING:,} pending", start_s, "s", None, "< 2"))
        rows.append(row("RSS, idle", idle, "MiB", None, "< 90"))
        rows.append(row(f"RSS with {size:,} stored", rss, "MiB", None, "< 150"))
    return rows


async def recipients(quick: bool) -> list[Row]:
    """Deliveries per second by how many recipients a task has."""
    rows: list[Row] = []
    for each, tasks in ((1, 4000), (10, 2000), (1000, 40), (100_000, 1)):
        tasks = max(tasks // 4, 1) if quick else tasks
        body = request("POST", "/api/notifications/meteo", notification(each))
        with fresh() as server:
            await flood(server.port, BODY, count=500)
            until_completed(server, 500)
            server.pause()
            await flood(server.port, body, connections=min(16, tasks), count=tasks)
            server.pause(paused=False)
            began = perf_counter()
            took = await asyncio.to_thread(until_completed, server, 500 + tasks) - began
            rows.append(row(f"deliveries, {each:,} recipients per task", each * tasks / took, "deliveries/s"))
    return rows


async def subscribers(quick: bool) -> list[Row]:
    """POST latency while so many read along, at 200 POST/s, everything delivered."""
    rows: list[Row] = []
    with fresh() as server:
        await flood(server.port, BODY, count=1000)
        for n in (0, 10, 1000):
            crew: list[Watcher] = await watch(server.port, None, n) if n else []
            took = await paced(server.port, BODY, rate=200, seconds=2 if quick else 5)
            rows.append(row(f"POST p50 at 200/s, {n:,} subscribers to every event", median(took) * 1e3, "ms"))
            for one in crew:
                one.transport.abort()
            await asyncio.sleep(0.2)
    return rows


async def run(quick: bool = False) -> list[Row]:
    """All that may grow."""
    return await stored(SIZES[:2] if quick else SIZES) + await recipients(quick) + await subscribers(quick)
