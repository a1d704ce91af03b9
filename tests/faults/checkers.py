"""What must hold after a fault, whatever the fault was: each check gives a list of sentences, empty if all is well.

The total-queue checker compares the journal of 202s with the sinks and the store; the log checker compares the event
log with the legal moves, with the tasks it tells of, and with what a follower was told. They know the contract, not
the code: the tables here are written out of it on purpose.
"""

from __future__ import annotations

import importlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import apsw
import asyncpg
import msgspec
from msgspec import Struct

from tests.faults.harness import ENDED, Follower
from tests.faults.journal import Journal
from tests.faults.sinks import Sink

CONCURRENCY = 64  # delivery.concurrency as shipped

MOVES: dict[str, set[tuple[str | None, str]]] = {
    "task.enqueued": {(None, "pending")},
    "task.started": {("pending", "processing")},
    "task.progress": {(status, status) for status in ("processing", *ENDED)},
    "task.retry_scheduled": {(status, "pending") for status in ("processing", "failed", "cancelled")},
    "task.completed": {("processing", "completed")},
    "task.failed": {("processing", "failed"), ("pending", "failed")},
    "task.cancelled": {("processing", "cancelled"), ("pending", "cancelled")},
    "task.deleted": {(status, status) for status in ENDED},
}


class Contents(Struct):
    """A store as it stands on disk."""

    tasks: dict[str, str]  # status by id
    events: list[tuple[int, bytes]]
    faults: list[str]

    def told(self, kind: str) -> Iterator[dict[str, Any]]:
        """The events of one kind, in their order."""
        for _, body in self.events:
            event = msgspec.json.decode(body)
            if event["event"] == kind:
                yield event


def contents(database: Path, vfs: str | None = None) -> Contents:
    """Read a store with nothing of the server's own code, and check that it is whole."""
    connection = apsw.Connection(str(database), flags=apsw.SQLITE_OPEN_READWRITE, vfs=vfs)
    try:
        connection.set_busy_timeout(5000)
        rows = lambda sql: list(connection.execute(sql))  # noqa: E731
        faults = [f"integrity: {row[0]}" for row in rows("PRAGMA integrity_check") if row[0] != "ok"]
        rows_sql = "SELECT type, priority, status, COUNT(*) FROM task GROUP BY 1, 2, 3"
        counted = {row[:3]: row[3] for row in rows(rows_sql)}
        tally = {row[:3]: row[3] for row in rows("SELECT type, priority, status, n FROM tally WHERE n <> 0")}
        if counted != tally:
            faults.append(f"counters say {tally}, the rows {counted}")
        if untold := rows("SELECT COUNT(*) FROM task WHERE id NOT IN (SELECT task_id FROM event)")[0][0]:
            faults.append(f"{untold} tasks without an event")
        for task_id, sent, said in rows(
            "SELECT id, sent, (SELECT COUNT(DISTINCT n) FROM outcome WHERE task_id = id AND word = 'sent') AS said"
            " FROM task WHERE sent <> said"
        ):
            faults.append(f"task {task_id} counts {sent} sent and has {said} outcomes that say so")
        events = rows("SELECT seq, body FROM event ORDER BY seq")
        last = rows("SELECT n FROM counter WHERE name = 'seq'")[0][0]
        if events and events[-1][0] != last:
            faults.append(f"the log ends at {events[-1][0]}, its counter at {last}")
        return Contents(dict(rows("SELECT id, status FROM task")), events, faults)
    finally:
        connection.close()


async def contents_on_postgres(url: str) -> Contents:
    """The same of a database on PostgreSQL; whether it is whole, `verify` says."""
    connection = await asyncpg.connect(url)
    try:
        tasks = await connection.fetch("SELECT id, status FROM task")
        events = await connection.fetch("SELECT seq, body FROM event ORDER BY seq")
    finally:
        await connection.close()
    return Contents(dict(map(tuple, tasks)), [(seq, bytes(body)) for seq, body in events], [])


def check_log(found: Contents) -> list[str]:
    """Seq without a gap, only legal moves, and the last state told of each task is the one it has."""
    faults: list[str] = []
    states: dict[str, str | None] = {}
    before = found.events[0][0] - 1 if found.events else 0
    whole = before == 0
    for seq, body in found.events:
        if seq != before + 1:
            faults.append(f"seq {seq} follows {before}")
        before = seq
        event = msgspec.json.decode(body)
        if event["seq"] != seq:
            faults.append(f"event {seq} calls itself {event['seq']}")
        if "task" not in event:
            continue
        kind, task = event["event"], event["task"]
        known = task["id"] in states or whole
        if known and (states.get(task["id"]), task["status"]) not in MOVES[kind]:
            faults.append(f"seq {seq}: {kind} of a task that was {states.get(task['id'])}, now {task['status']}")
        states[task["id"]] = None if kind == "task.deleted" else task["status"]
    told = {task_id: status for task_id, status in states.items() if status is not None}
    for task_id in told.keys() | found.tasks.keys() if whole else ():
        if told.get(task_id) != found.tasks.get(task_id):
            faults.append(f"task {task_id}: told {told.get(task_id)}, stored {found.tasks.get(task_id)}")
    return faults


def check_follower(follower: Follower, found: Contents) -> list[str]:
    """What a follower was told is what the log says, event by event, and nothing else."""
    faults = list(follower.faults)
    log = {seq: msgspec.json.encode(msgspec.json.decode(body)) for seq, body in found.events}
    for seq, body in follower.bodies.items():
        if log.get(seq) != body:
            faults.append(f"seq {seq} was told as {body[:120]!r}, stored as {(log.get(seq) or b'nothing')[:120]!r}")
    return faults


class Account(Struct):
    """What became of what was acknowledged."""

    acknowledged: int = 0
    lost: list[str] = []  # neither delivered to everybody nor ended
    unreached: list[str] = []  # completed, and yet the sink misses somebody
    failed: list[str] = []
    delivered: int = 0  # messages, each counted once
    repeats: dict[tuple[int, str], int] = {}  # by (life that was killed, task)
    unexplained: list[str] = []  # repeats within one life of the server
    renamed: list[str] = []  # the same recipient under two message ids

    @property
    def repeated(self) -> int:
        """Messages that came again."""
        return sum(self.repeats.values()) + len(self.unexplained)

    @property
    def worst(self) -> int:
        """The most repeats of one task that one kill made."""
        return max(self.repeats.values(), default=0)

    def faults(self, *, concurrency: int = CONCURRENCY, kills: bool = True, may_fail: bool = False) -> list[str]:
        """Where the contract was broken. `kills`: some of the server's lives ended by kill -9."""
        faults = [f"lost: {task_id}" for task_id in self.lost]
        faults += [f"not reached: {who}" for who in self.unreached]
        faults += [f"repeated without a kill: {who}" for who in self.unexplained]
        faults += [f"two message ids: {who}" for who in self.renamed]
        if not may_fail:
            faults += [f"failed: {task_id}" for task_id in self.failed]
        for (life, task_id), count in self.repeats.items():
            if count > (concurrency if kills else 0):
                faults.append(f"{count} repeats of {task_id} after life {life}")
        return faults


def account(journal: Journal, sinks: Iterable[Sink], tasks: dict[str, str]) -> Account:
    """lost = acknowledged − (delivered ∪ ended), and every repeat laid at a kill. `tasks` are statuses by id."""
    result = Account(acknowledged=len(journal.acknowledged))
    reached: Counter[str] = Counter()
    names: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
    repeats: Counter[tuple[int, str]] = Counter()
    for sink in sinks:
        for message_id, lives in sink.lives.items():
            task_id = message_id.rpartition(".")[0]
            reached[task_id] += 1
            for one, other in pairwise(lives):
                if one == other:
                    result.unexplained.append(f"{message_id} in life {one}")
                else:
                    repeats[one, task_id] += 1
        for taken in sink.taken:
            names[taken.id.rpartition(".")[0], taken.address].add(taken.id)
    result.repeats = dict(repeats)
    result.renamed = [f"{address} of {task_id}" for (task_id, address), ids in names.items() if len(ids) > 1]
    result.delivered = sum(reached.values())
    for task_id, recipients in journal.acknowledged.items():
        status = tasks.get(task_id)
        if status not in ENDED and reached[task_id] < recipients:
            result.lost.append(f"{task_id} ({status or 'not stored'}, {reached[task_id]} of {recipients} reached)")
        elif status == "completed" and reached[task_id] < recipients:
            result.unreached.append(f"{recipients - reached[task_id]} of {task_id}")
        elif status == "failed":
            result.failed.append(task_id)
    return result


async def verified(database: Path) -> list[str]:
    """What the product's own `verify` finds in a store that nobody serves."""
    from server.store import Store
    from server.store.sqlite import SqliteEngine

    try:
        verify: Any = importlib.import_module("server.store.verify")
    except ModuleNotFoundError:
        return []
    store = Store(SqliteEngine(database, serve=False))
    await store.open()
    try:
        return [f"verify: {finding}" for finding in await verify.verify(store)]
    finally:
        await store.close()


async def check_store(database: Path, *followers: Follower) -> list[str]:
    """All that must hold of a store at rest, and of those who followed it."""
    found = contents(database)
    faults = found.faults + check_log(found)
    for follower in followers:
        faults += check_follower(follower, found)
    return faults + await verified(database)
