"""What is read from the store: each function is one consistent look, bounded in rows."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import msgspec
from msgspec import Struct

from server.model import Event, NotificationTask, Outcome, Person, Priority, Status
from server.store import sql
from server.store.batch import bucket_ms
from server.store.engine import Row, Tx
from server.store.rows import event_of, outcome_of, recipients_of, task_of

SCAN = 5_000
"""Rows that one page looks at, at the most, where no index answers its filter."""
MINUTES = 15
SEARCHED = ("id", "email")
"""Of a recipient, what a search looks at."""
RECIPIENTS = {
    "sqlite": {
        "{text_of_recipients}": "CAST(recipients AS TEXT)",
        "{each_recipient}": "json_each(CAST(recipients AS TEXT)) AS person",
    },
    "postgres": {
        "{text_of_recipients}": "lower(convert_from(recipients, 'UTF8'))",
        "{each_recipient}": "json_array_elements(convert_from(recipients, 'UTF8')::json) AS person(value)",
    },
}
"""How each engine reads a chunk's recipients."""


class TaskFilter(Struct, frozen=True):
    """Which tasks: every given part must hold."""

    status: tuple[Status, ...] = ()
    type: tuple[str, ...] = ()
    priority: tuple[Priority, ...] = ()
    q: str = ""  # in id (as a prefix), titre, message, or a recipient's id or e-mail
    since_ms: int | None = None  # created at or after
    until_ms: int | None = None  # created before
    task_ids: tuple[str, ...] = ()

    @property
    def empty(self) -> bool:
        """Does it let everything through?"""
        return self == TaskFilter()


class Page(Struct, frozen=True):
    """Some tasks, newest first; `cursor` goes on behind them, None at the end.

    A page may be short and still have a cursor: it looked at `SCAN` rows and stopped.
    """

    tasks: list[NotificationTask]
    cursor: str | None
    seq: int = 0  # the log's last number in the snapshot that was looked at: events behind it are newer than the page


def id_at(ms: int) -> str:
    """The smallest UUIDv7 of a millisecond (RFC 9562, 5.7)."""
    text = f"{max(ms, 0):012x}"[-12:]
    return f"{text[:8]}-{text[8:]}-7000-8000-000000000000"


def _like(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    return f"%{escaped}%"


def _any_like(column: str, placeholders: list[str]) -> str:
    return " OR ".join(f"{column} LIKE {each} ESCAPE '\\'" for each in placeholders)


def _spellings(text: str) -> list[str]:
    """`text` as it may be written: to SQLite the two cases of a letter beyond ASCII are two letters."""
    others = [] if text.isascii() else [text, text.upper(), text.capitalize(), text.title()]
    return list(dict.fromkeys([text.lower(), *others]))


class _Args:
    """Arguments gathered while a statement is put together; each gives its placeholder."""

    def __init__(self) -> None:
        self.values: list[Any] = []

    def add(self, value: Any) -> str:
        self.values.append(value)
        return f"${len(self.values)}"


def _filter(only: TaskFilter, args: _Args) -> str:
    """The part of a filter that no range of ids answers.

    Without its OFFSET PostgreSQL would answer the EXISTS for all tasks at once: by reading every recipient stored.
    """
    parts = ["1 = 1"]
    if only.type:
        parts.append(f"type IN ({', '.join(args.add(name) for name in only.type)})")
    if only.priority:
        parts.append(f"priority IN ({', '.join(args.add(int(value)) for value in only.priority)})")
    if only.q:
        said = _spellings(only.q)
        likes = [args.add(_like(text)) for text in said]
        encoded = [args.add(_like(msgspec.json.encode(text)[1:-1].decode())) for text in said]
        prefix = args.add(_like(only.q.lower())[1:])
        of_person = " OR ".join(_any_like(f"lower(person.value ->> '{name}')", likes) for name in SEARCHED)
        parts.append(
            f"({_any_like('id', [prefix])} OR {_any_like('lower(titre)', likes)}"
            f" OR {_any_like('lower(message)', likes)}"
            " OR EXISTS (SELECT 1 FROM chunk WHERE task_id = task.id"
            f" AND ({_any_like('{text_of_recipients}', encoded)})"  # quick, but "nom" is in each of them as a key
            f" AND EXISTS (SELECT 1 FROM {{each_recipient}} WHERE {of_person}) LIMIT 1 OFFSET 0))"
        )
    return " AND ".join(parts)


def page_sql(
    only: TaskFilter, status: Status | None, before: str | None, limit: int
) -> tuple[str, str, list[Any], list[Any]]:
    """The statements of one page (rows, and the row where it stopped looking) with their arguments."""
    args = _Args()
    bounds = []
    if status:
        bounds.append(f"status = {args.add(status.value)}")
    upper = min(
        [bound for bound in (before, id_at(only.until_ms) if only.until_ms is not None else None) if bound], default="g"
    )
    bounds.append(f"id < {args.add(upper)}")
    if only.since_ms is not None:
        bounds.append(f"id >= {args.add(id_at(only.since_ms))}")
    scope = " AND ".join(bounds)
    end_args = list(args.values)
    rows = sql.PAGE.format(range=scope, scan=SCAN, filter=_filter(only, args), limit=limit)
    return rows, sql.PAGE_END.format(range=scope, scan=SCAN - 1), args.values, end_args


def on_engine(statement: str, dialect: str) -> str:
    """A statement of `page_sql` as one engine takes it."""
    for name, meaning in RECIPIENTS[dialect].items():
        statement = statement.replace(name, meaning)
    return statement


async def page(tx: Tx, dialect: str, only: TaskFilter, limit: int, before: str | None = None) -> Page:
    """Up to `limit` tasks that `only` lets through, newest first, older than the id `before`."""
    seq = (await tx.all(sql.LAST_SEQ))[0][0]
    if only.task_ids:
        return await _named(tx, only, limit, before, seq)
    found: list[NotificationTask] = []
    stopped: list[str] = []
    more = False
    for status in only.status or (None,):
        rows_sql, end_sql, args, end_args = page_sql(only, status, before, limit + 1)
        rows_sql = on_engine(rows_sql, dialect)
        rows = await tx.all(rows_sql, *args)
        found += [task_of(row) for row in rows]
        if len(rows) <= limit:
            stopped += [row[0] for row in await tx.all(end_sql, *end_args)]
    if stopped:  # nothing older than the newest place where a look stopped may be shown yet
        horizon = max(stopped)
        found = [task for task in found if task.id >= horizon]
        more = True
    found.sort(key=lambda task: task.id, reverse=True)
    if len(found) > limit:
        return Page(found[:limit], found[limit - 1].id, seq)
    return Page(found, max(stopped) if more else None, seq)


async def _named(tx: Tx, only: TaskFilter, limit: int, before: str | None, seq: int) -> Page:
    ids = sorted({task_id for task_id in only.task_ids if before is None or task_id < before}, reverse=True)[
        : limit + 1
    ]
    tasks = [task_of(row) for row in await tx.many(sql.GET_TASK, [(task_id,) for task_id in ids])]
    tasks = [task for task in tasks if _passes(task, only)]
    return Page(tasks[:limit], ids[limit - 1] if len(ids) > limit else None, seq)


def _passes(task: NotificationTask, only: TaskFilter) -> bool:
    return (
        (not only.status or task.status in only.status)
        and (not only.type or task.type in only.type)
        and (not only.priority or task.priority in only.priority)
        and (only.since_ms is None or task.created_ms >= only.since_ms)
        and (only.until_ms is None or task.created_ms < only.until_ms)
        and (
            not only.q
            or only.q.lower() in f"{task.titre}\n{task.message}".lower()
            or task.id.startswith(only.q.lower())
        )
    )


async def task(tx: Tx, task_id: str) -> NotificationTask | None:
    rows = await tx.all(sql.GET_TASK, task_id)
    return task_of(rows[0]) if rows else None


class Chunk(Struct, frozen=True, gc=False):
    """Some neighbouring recipients of a task with all outcomes recorded for them."""

    n: int  # the first one's ordinal
    recipients: list[Person]
    outcomes: dict[int, list[Outcome]]  # by ordinal, oldest first


async def chunk(tx: Tx, task_id: str, n: int) -> Chunk | None:
    """The first chunk that begins at or after ordinal `n`; None behind the last."""
    rows = await tx.all(sql.CHUNKS, task_id, n, 1)
    return await _with_outcomes(tx, task_id, rows[0]) if rows else None


async def chunk_holding(tx: Tx, task_id: str, n: int) -> Chunk | None:
    """The chunk with ordinal `n` in it, or the last one before."""
    rows = await tx.all(sql.CHUNK_OF, task_id, n)
    return await _with_outcomes(tx, task_id, rows[0]) if rows else None


async def first_chunk(tx: Tx, task: NotificationTask, recipients: bytes) -> Chunk:
    """The first chunk of a task just claimed, with what earlier holders recorded for it."""
    if task.fence == 1:  # there were none
        return Chunk(0, recipients_of(recipients), {})
    return await _with_outcomes(tx, task.id, (0, recipients))


async def _with_outcomes(tx: Tx, task_id: str, row: Row) -> Chunk:
    first, recipients = row[0], recipients_of(row[1])
    outcomes: defaultdict[int, list[Outcome]] = defaultdict(list)
    for line in await tx.all(sql.OUTCOMES, task_id, first, first + len(recipients)):
        outcomes[line[0]].append(outcome_of(line))
    return Chunk(first, recipients, outcomes)


async def events_after(tx: Tx, seq: int, limit: int) -> list[Event]:
    return [event_of(row) for row in await tx.all(sql.EVENTS_AFTER, seq, limit)]


async def events_of(tx: Tx, task_id: str, after: int, limit: int) -> list[Event]:
    return [event_of(row) for row in await tx.all(sql.EVENTS_OF, task_id, after, limit)]


async def bounds(tx: Tx) -> tuple[int, int]:
    newest = (await tx.all(sql.LAST_SEQ))[0][0]
    oldest = await tx.all(sql.FIRST_SEQ)
    return (oldest[0][0] if oldest else newest + 1), newest


class Minute(Struct, frozen=True):
    """One minute's figures; times from acceptance (or planned time) to a recipient reached, in ms."""

    minute: int
    enqueued: int
    completed: int
    failed: int
    sent: int
    latency_p50_ms: float | None
    latency_p95_ms: float | None


class Figures(Struct, frozen=True):
    """What the counters say, at one moment. Costs the same whatever is stored."""

    total_enqueued: int
    total_processed: int
    total_failed: int
    tally: dict[tuple[str, int, str], int]  # (type, priority, status) -> tasks
    minutes: list[Minute]  # the last 15, oldest first
    oldest_pending_ms: int | None  # epoch
    paused: bool
    seq: int


async def figures(tx: Tx, now_ms: int) -> Figures:
    """Everything `GET /api/queue/stats` needs from the store."""
    totals: dict[str, int] = {name: n for name, n in await tx.all(sql.TOTALS)}  # noqa: C416 - typed
    tally = {(row[0], row[1], row[2]): row[3] for row in await tx.all(sql.TALLY)}
    waiting = [(kind, priority) for (kind, priority, status), n in tally.items() if status == "pending" and n > 0]
    oldest = min((row[0] for row in await tx.many(sql.OLDEST_READY, waiting)), default=None)
    this_minute = now_ms // 60_000
    per_minute: defaultdict[int, dict[str, int]] = defaultdict(dict)
    for minute, what, n in await tx.all(sql.MINUTES, this_minute - MINUTES):
        per_minute[minute][what] = n
    minutes = [_minute(at, per_minute[at]) for at in range(this_minute - MINUTES + 1, this_minute + 1)]
    return Figures(
        total_enqueued=totals["total_enqueued"],
        total_processed=totals["total_processed"],
        total_failed=totals["total_failed"],
        tally=tally,
        minutes=minutes,
        oldest_pending_ms=oldest,
        paused=(await tx.all(sql.GET_META, "paused"))[0][0] == "1",
        seq=totals["seq"],
    )


def _minute(at: int, what: dict[str, int]) -> Minute:
    buckets = sorted((int(name[6:]), n) for name, n in what.items() if name.startswith("reach:"))
    return Minute(
        minute=at,
        enqueued=what.get("enqueued", 0),
        completed=what.get("completed", 0),
        failed=what.get("failed", 0),
        sent=sum(n for _, n in buckets),
        latency_p50_ms=_quantile(buckets, 0.5),
        latency_p95_ms=_quantile(buckets, 0.95),
    )


def _quantile(buckets: list[tuple[int, int]], part: float) -> float | None:
    wanted = part * sum(n for _, n in buckets)
    for bucket, n in buckets:
        wanted -= n
        if wanted <= 0:
            return round(bucket_ms(bucket), 1)
    return None
