"""Is the store whole? Every promise that its rows can show, looked at in one read snapshot, beside a running server.

`verify(store)` gives what it found wrong: nothing, for a store that is whole. Tables are read in pages by their keys,
so that memory does not grow with what is stored. Whether messages arrived is beyond what rows can show.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import AsyncIterator
from typing import Any

from msgspec import Struct

from server.store import Store, sql
from server.store.engine import Row, Tx

PAGE = 1_000
TASK_PAGE = 200
"""Tasks looked at by one statement: each has its outcomes counted, and a statement has its deadline."""
EXAMPLES = 3
SKEW_MS = 60_000
"""Clocks of nodes may differ by so much: a task this much younger than the oldest kept event must have its own."""

CHECKS = {
    "integrity": "the database's own check of its file",
    "counters": "tasks by type, priority and status, as counted, are those stored",
    "totals": "the totals since the beginning cover what is stored",
    "log": "event numbers follow one another, up to the last one taken",
    "events": "every task has its events, and the last one says what its row says",
    "tasks": "every row is in a state that a task can be in",
    "progress": "as many recipients reached as outcomes say so",
    "orphans": "no recipients and no outcomes without their task",
    "webhooks": "every completion webhook is waiting or done",
}
"""What is looked at, by name."""

TASKS = """
SELECT id, type, priority, status, total, skipped, sent, failed, created_ms, ended_ms, lease_ms,
  (SELECT status FROM event WHERE task_id = task.id ORDER BY seq DESC LIMIT 1),
  (SELECT COUNT(DISTINCT n) FROM outcome WHERE task_id = task.id AND word = 'sent'),
  (SELECT MIN(n) FROM chunk WHERE task_id = task.id), (SELECT MAX(n) FROM chunk WHERE task_id = task.id),
  (SELECT MAX(n) FROM outcome WHERE task_id = task.id),
  (SELECT COUNT(*) FROM trash WHERE task_id = task.id)
FROM task WHERE id > $1 ORDER BY id LIMIT $2"""

OWNERS = """
SELECT task_id, (SELECT COUNT(*) FROM task WHERE task.id = owner.task_id)
  + (SELECT COUNT(*) FROM trash WHERE trash.task_id = owner.task_id)
FROM (SELECT DISTINCT task_id FROM {table} WHERE task_id > $1 ORDER BY task_id LIMIT $2) AS owner ORDER BY task_id"""

HOOKS = "SELECT id, state, attempts, done_ms, until_ms FROM webhook WHERE id > $1 ORDER BY id LIMIT $2"


class Finding(Struct, frozen=True):
    """Something that is not as it must be."""

    check: str  # a name of CHECKS
    what: str  # one sentence
    n: int = 1  # how often
    examples: tuple[str, ...] = ()  # ids or numbers, a few

    def __str__(self) -> str:
        times = f" ({self.n}×)" if self.n > 1 else ""
        return f"{self.check}: {self.what}{times}{': ' if self.examples else ''}{', '.join(self.examples)}"


class Report(Struct, frozen=True):
    """What a look at the store gave: how much each check looked at, and what is wrong."""

    looked_at: dict[str, int]
    findings: list[Finding]


async def verify(store: Store) -> list[Finding]:
    """What is wrong with the store; empty if nothing is. Raises StoreUnavailable if it cannot be read."""
    return (await examine(store)).findings


async def examine(store: Store) -> Report:
    """`verify`, with how much was looked at."""
    return await store.snapshot(lambda tx: _Look(tx, store.dialect).run())


class _Look:
    """One pass over everything."""

    def __init__(self, tx: Tx, dialect: str):
        self._tx = tx
        self._dialect = dialect
        self._looked: Counter[str] = Counter(dict.fromkeys(CHECKS, 0))
        self._wrong: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
        self._times: Counter[tuple[str, str]] = Counter()
        self._tasks: Counter[tuple[str, int, str]] = Counter()

    async def run(self) -> Report:
        if self._dialect == "sqlite":
            await self._integrity()
        oldest = await self._log()
        await self._task_rows(oldest)
        await self._counters()
        for table in ("chunk", "outcome"):
            await self._owners(table)
        await self._webhooks()
        findings = [Finding(*key, self._times[key], tuple(examples)) for key, examples in self._wrong.items()]
        return Report(dict(self._looked), findings)

    def _no(self, check: str, what: str, example: object = "") -> None:
        key = (check, what)
        self._times[key] += 1
        if example != "" and len(self._wrong[key]) < EXAMPLES:
            self._wrong[key].append(str(example))
        else:
            _ = self._wrong[key]  # there, if without an example

    async def _pages(self, statement: str, first: Any, size: int = PAGE) -> AsyncIterator[Row]:
        """Every row of a keyset-paged statement whose first column is the key."""
        last = first
        while rows := await self._tx.all(statement, last, size):
            for row in rows:
                yield row
            last = rows[-1][0]

    async def _integrity(self) -> None:
        said = [row[0] for row in await self._tx.all("PRAGMA integrity_check")]
        self._looked["integrity"] = 1
        for line in said:
            if line != "ok":
                self._no("integrity", "the file is damaged", line)

    async def _log(self) -> Row | None:
        """Walk the log; gives the (seq, at_ms) of its oldest event, None if it is empty."""
        last = int((await self._tx.all(sql.LAST_SEQ))[0][0])
        before: int | None = None
        oldest: Row | None = None
        async for row in self._pages(sql.EVENTS_AFTER, -1):
            seq, at_ms, body = row[0], row[1], row[7]
            if oldest is None:
                oldest = (seq, at_ms)
            elif before is not None and seq != before + 1:
                self._no("log", "numbers are missing", f"{before + 1} to {seq - 1}")
            if not bytes(body).startswith(b'{"seq":%d,' % seq):
                self._no("log", "an event does not carry its own number", seq)
            before = seq
            self._looked["log"] += 1
        if before is not None and before != last:
            self._no("log", f"the last event is not the last number taken ({last})", before)
        return oldest

    async def _task_rows(self, oldest: Row | None) -> None:
        async for row in self._pages(TASKS, "", TASK_PAGE):
            task_id, kind, priority, status, total, skipped, sent, failed, created_ms, ended_ms, lease_ms = row[:11]
            told, reached, first_chunk, last_chunk, last_outcome, trashed = row[11:]
            self._tasks[kind, priority, status] += 1
            if told is None:
                if oldest and (oldest[0] <= 1 or created_ms > oldest[1] + SKEW_MS):
                    self._no("events", "a task without an event", task_id)
            elif told != status:
                self._no("events", f"the row says {status}, the last event {told}", task_id)
            self._looked["events"] += 1
            if (ended_ms is not None) != (status in ("completed", "failed", "cancelled")):
                self._no("tasks", f"{status} and its end do not go together", task_id)
            if (lease_ms is not None) != (status == "processing"):
                self._no("tasks", f"{status} and its lease do not go together", task_id)
            if status == "completed" and sent + skipped != total:
                self._no("tasks", "completed without everybody reached", task_id)
            if min(total, skipped, sent, failed) < 0 or sent + skipped + (failed if ended_ms else 0) > total:
                self._no("tasks", "more recipients settled than there are", task_id)
            if first_chunk != 0 or last_chunk >= total:
                self._no("tasks", "its recipients are not all there", task_id)
            if trashed:
                self._no("tasks", "both stored and in the trash", task_id)
            self._looked["tasks"] += 1
            if sent != reached:
                self._no("progress", "the row's recipients reached are not those of its outcomes", task_id)
            if last_outcome is not None and last_outcome >= total:
                self._no("progress", "an outcome for a recipient that is not there", task_id)
            self._looked["progress"] += 1

    async def _counters(self) -> None:
        counted = {(row[0], row[1], row[2]): int(row[3]) for row in await self._tx.all(sql.TALLY)}
        for key in sorted(counted.keys() | self._tasks.keys()):
            self._looked["counters"] += 1
            if counted.get(key, 0) != self._tasks[key]:
                what = f"counted {counted.get(key, 0)}, stored {self._tasks[key]}"
                self._no("counters", what, "/".join(map(str, key)))
        totals = {str(row[0]): int(row[1]) for row in await self._tx.all(sql.TOTALS)}
        by_status: Counter[str] = Counter()
        for (_, _, status), n in self._tasks.items():
            by_status[status] += n
        stored = {
            "total_enqueued": self._tasks.total(),
            "total_processed": by_status["completed"],
            "total_failed": by_status["failed"],
        }
        for name, n in stored.items():
            self._looked["totals"] += 1
            if totals[name] < n:
                self._no("totals", f"{name} is {totals[name]}, with {n} such tasks stored")

    async def _owners(self, table: str) -> None:
        async for task_id, owners in self._pages(OWNERS.replace("{table}", table), ""):
            self._looked["orphans"] += 1
            if not owners:
                self._no("orphans", f"{table} rows without their task", task_id)

    async def _webhooks(self) -> None:
        async for hook_id, state, attempts, done_ms, until_ms in self._pages(HOOKS, ""):
            self._looked["webhooks"] += 1
            if state not in ("waiting", "delivered", "stopped", "gave_up"):
                self._no("webhooks", f"unknown state {state}", hook_id)
            elif (done_ms is None) != (state == "waiting"):
                self._no("webhooks", f"{state} and its end do not go together", hook_id)
            if attempts < 0 or until_ms <= 0 or (state == "delivered" and attempts == 0):
                self._no("webhooks", "attempts that cannot be", hook_id)


__all__ = ["CHECKS", "Finding", "Report", "examine", "verify"]
