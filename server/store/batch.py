"""One transaction's worth of operations: applied kind by kind, then numbered, counted and told, all or nothing.

Whatever changes a task says so here (`Batch.event`, `Batch.moved`); at the tail of the transaction the events get
their numbers and the counters their sums. Nobody else writes the log or a counter.
"""

from __future__ import annotations

from collections import defaultdict
from itertools import groupby
from math import log2
from typing import Any

import msgspec

from server.model import AuditEntry, Event, EventKind, NotificationTask, Status, iso
from server.store import sql
from server.store.engine import Op, Row, Tx
from server.store.rows import audit_row, hook_row
from server.views import task_view

_json = msgspec.json.Encoder()

ENDING = frozenset({EventKind.COMPLETED, EventKind.FAILED, EventKind.CANCELLED})
"""What a completion webhook tells of."""

REACH_STEPS = 4
"""Buckets of the reach-time histogram per doubling: each is 19 % wide."""


def reach_bucket(ms: int) -> int:
    """The histogram bucket of a time in milliseconds."""
    return int(REACH_STEPS * log2(ms + 1)) if ms > 0 else 0


def bucket_ms(bucket: int) -> float:
    """The middle of a bucket, in milliseconds."""
    return float(2 ** ((bucket + 0.5) / REACH_STEPS) - 1)


class Batch:
    """What the operations of one transaction have to say, gathered until its tail."""

    def __init__(self, tx: Tx):
        self.tx = tx
        self._events: list[tuple[int, str, NotificationTask | None, bytes]] = []
        self._tally: defaultdict[tuple[str, int, str], int] = defaultdict(int)
        self._totals: defaultdict[str, int] = defaultdict(int)
        self._minutes: defaultdict[tuple[int, str], int] = defaultdict(int)
        self._hooks: list[Row] = []

    def event(self, kind: EventKind, at_ms: int, task: NotificationTask) -> None:
        """`task` has changed: tell it as it is now."""
        body = b'"event":"%b","at":"%b","task":%b}' % (
            kind.encode(),
            iso(at_ms).encode(),
            _json.encode(task_view(task)),
        )
        self._events.append((at_ms, kind.value, task, body))
        if task.webhook_url and kind in ENDING:
            self._hooks.append(hook_row(task, at_ms))

    def gone(self, at_ms: int, task: NotificationTask) -> None:
        """`task` has been removed."""
        left = {"id": task.id, "type": task.type, "status": task.status, "priority": task.priority.name}
        body = b'"event":"task.deleted","at":"%b","task":%b}' % (iso(at_ms).encode(), _json.encode(left))
        self._events.append((at_ms, EventKind.DELETED.value, task, body))

    def notice(self, kind: EventKind, at_ms: int, **words: Any) -> None:
        """Something that is of no one task."""
        body = b'"event":"%b","at":"%b",%b' % (kind.value.encode(), iso(at_ms).encode(), _json.encode(words)[1:])
        self._events.append((at_ms, kind.value, None, body))

    def moved(self, task: NotificationTask, before: Status | None, after: Status | None, at_ms: int) -> None:
        """Count a task's move; `before` None: it is new, `after` None: it is gone."""
        if before is not None:
            self._tally[task.type, task.priority, before.value] -= 1
        if after is not None:
            self._tally[task.type, task.priority, after.value] += 1
        if before is None:
            self._totals["total_enqueued"] += 1
            self.minute(at_ms, "enqueued")
        elif after is Status.COMPLETED:
            self._totals["total_processed"] += 1
            self.minute(at_ms, "completed")
        elif after is Status.FAILED:
            self._totals["total_failed"] += 1
            self.minute(at_ms, "failed")

    async def audit(self, entry: AuditEntry | None) -> None:
        """Write down who did it, with what was done: else it could be done and nobody know by whom."""
        if entry:
            await self.tx.many(sql.ADD_AUDIT, [audit_row(entry)])

    def minute(self, at_ms: int, what: str, n: int = 1) -> None:
        """Count `what` in the minute of `at_ms`."""
        self._minutes[at_ms // 60_000, what] += n

    async def close(self) -> list[Event]:
        """Write the tail; the events as they now stand in the log."""
        tx = self.tx
        if self._hooks:
            await tx.many(sql.ADD_HOOK, self._hooks)
        parts = [
            (at_ms, kind, task.id, task.type, task.status.value, int(task.priority), rest)
            if task
            else (at_ms, kind, "", "", "", 0, rest)
            for at_ms, kind, task, rest in self._events
        ]
        if tx.tail:
            if not (parts or self._tally or self._minutes):
                return []
            last = await tx.tail(parts, self._tally, self._totals, self._minutes)
            return [Event(*row) for row in self._numbered(parts, last)]
        rows: list[Row] = []
        if parts:
            rows = self._numbered(parts, (await tx.all(sql.TAKE_SEQ, len(parts)))[0][0])
            await tx.many(sql.ADD_EVENT, rows)
        if self._tally:
            await tx.many(sql.ADD_TALLY, [(*key, n) for key, n in sorted(self._tally.items()) if n])
        if self._totals:
            await tx.many(sql.ADD_TOTAL, sorted(self._totals.items()))
        if self._minutes:
            await tx.many(sql.ADD_MINUTE, [(*key, n) for key, n in sorted(self._minutes.items())])
        return [Event(*row) for row in rows]

    def _numbered(self, parts: list[Row], last: int) -> list[Row]:
        """The events as rows of `sql.EVENT`; `last` is the last one's number."""
        return [
            (seq, *part[:6], b'{"seq":%d,%b' % (seq, part[6])) for seq, part in enumerate(parts, last - len(parts) + 1)
        ]


async def apply(tx: Tx, ops: list[Op]) -> tuple[list[Any], list[Event]]:
    """Apply `ops`, those of one kind together, and write the tail; the results in the order of `ops`."""
    batch = Batch(tx)
    results: list[Any] = [None] * len(ops)
    kind: type[Op]
    for kind, group in groupby(_together(ops), lambda place: type(ops[place])):
        places = list(group)
        for place, result in zip(places, await kind.apply(batch, [ops[place] for place in places]), strict=True):
            results[place] = result
    return results, await batch.close()


def _together(ops: list[Op]) -> list[int]:
    """The places of `ops` in the order to apply them: as they came, but kinds that have a rank stand together where
    only such are neighbours. Each change of kind would cost all its statements again."""
    order: list[int] = []
    for free, run in groupby(range(len(ops)), lambda place: ops[place].rank is not None):
        places = list(run)
        order += sorted(places, key=lambda place: ops[place].rank or 0) if free else places
    return order
