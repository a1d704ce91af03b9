"""The statements of `sql.py` that run for many rows, as one statement each for PostgreSQL: a column is an array.

What a batch writes costs a few round trips then, however many operations are in it. A statement that is not here
runs row by row.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from server.store import sql
from server.store.engine import Row

TABLE = re.compile(r"\s*(?:INSERT INTO|UPDATE) (\w+)")
PLACE = re.compile(r"\$(\d+)")
TASK_TYPES = (
    "text text text int text text bigint bigint bigint bigint bigint int int bigint bigint bigint bigint bigint bigint"
    " bigint bigint bigint int text text text text"
)
OUTCOME_TYPES = "text bigint int int int text text text text text text bigint bigint"


def _arrays(types: str, first: int = 1) -> str:
    return f"unnest({', '.join(f'${n}::{kind}[]' for n, kind in enumerate(types.split(), first))})"


def _insert(statement: str, types: str, *constant: str) -> str:
    """`INSERT … VALUES ($1, …) …` for arrays of `types`, and `constant` columns behind them."""
    head, _, rest = statement.partition("VALUES (")
    tail = rest.partition(")")[2]
    return f"{head}SELECT {', '.join(('v.*', *constant))} FROM {_arrays(types)} AS v{tail}"


SETS = {
    sql.ADD_TASK: _insert(sql.ADD_TASK, TASK_TYPES),
    sql.ADD_CHUNK: _insert(sql.ADD_CHUNK, "text bigint bytea"),
    sql.ADD_AUDIT: _insert(sql.ADD_AUDIT, "bigint text text text text text text"),
    sql.HOLD_ON: f"""
UPDATE task SET sent = v.sent, failed = v.failed, crashes = v.crashes
FROM {_arrays("text bigint bigint int")} AS v(id, sent, failed, crashes) WHERE task.id = v.id""",
    sql.ADD_FIRST_OUTCOME: _insert(sql.ADD_FIRST_OUTCOME, OUTCOME_TYPES, "0"),
    sql.LET_END: sql.LET_END.partition("FROM (VALUES")[0]
    + f"FROM {_arrays('text text bigint bigint int int bigint bigint bigint text text')} AS v"
    + f"({', '.join(f'column{n}' for n in range(1, 12))}) WHERE id = v.column1",
    sql.RENEW: f"""
UPDATE task SET lease_ms = v.lease_ms FROM {_arrays("text bigint bigint text")} AS v(id, fence, lease_ms, node)
WHERE task.id = v.id AND task.fence = v.fence AND task.node = v.node AND status = 'processing' RETURNING task.id""",
}
"""Only statements whose rows concern different keys each, so that their order is of no account."""

LOOK = f"""
SELECT standing.*, (SELECT array_agg(types) FROM ({sql.TYPES}) AS types),
  (extract(epoch FROM clock_timestamp()) * 1000)::bigint
FROM ({sql.STANDING}) AS standing"""
"""What nearly every transaction asks first, in one round trip: how the queue stands, types, the database's clock."""

TAIL = f"""
WITH taken AS (UPDATE counter SET n = n + $1::bigint WHERE name = 'seq' RETURNING n),
told AS (
  INSERT INTO event ({sql.EVENT})
  SELECT n - $1 + nr, at_ms, kind, task_id, type, status, priority,
    convert_to('{{"seq":' || (n - $1 + nr) || ',', 'UTF8') || body
  FROM taken, ROWS FROM ({_arrays("bigint text text text text int bytea", 2)}) WITH ORDINALITY
    AS e(at_ms, kind, task_id, type, status, priority, body, nr)),
moved AS (
  INSERT INTO tally (type, priority, status, n)
  SELECT t.type, t.priority, t.status, t.n FROM taken, {_arrays("text int text bigint", 9)}
    AS t(type, priority, status, n)
  ON CONFLICT (type, priority, status) DO UPDATE SET n = tally.n + excluded.n),
summed AS (
  UPDATE counter SET n = counter.n + t.n FROM taken, {_arrays("text bigint", 13)} AS t(name, n)
  WHERE counter.name = t.name),
noted AS (
  INSERT INTO minute (minute, what, n)
  SELECT t.minute, t.what, t.n FROM taken, {_arrays("bigint text bigint", 15)} AS t(minute, what, n)
  ON CONFLICT (minute, what) DO UPDATE SET n = minute.n + excluded.n)
SELECT n FROM taken"""
"""The tail of a transaction. All of it reads from `taken`, so the lock on `seq` is held before any other counter is
touched: nodes wait for one another here and nowhere else, in commit order, and cannot deadlock."""


def table_of(statement: str) -> str:
    """The table that a statement writes to."""
    found = TABLE.match(statement)
    assert found, statement
    return found[1]


@cache
def together(statements: tuple[str, ...]) -> str:
    """Statements that write to one table each and give nothing, as one; the arguments stand one behind the other.

    They see the same snapshot and not one another's rows, so none may touch what another of them does.
    """
    if len(statements) == 1:
        return statements[0]
    parts, before = [], 0
    for number, statement in enumerate(statements):
        moved = PLACE.sub(lambda found, by=before: f"${int(found[1]) + by}", statement)  # type: ignore[misc]
        parts.append(f"w{number} AS ({moved})")
        before += max(map(int, PLACE.findall(statement)))
    return f"WITH {', '.join(parts)} SELECT 1"


def columns(rows: Sequence[Sequence[Any]], width: int) -> list[tuple[Any, ...]]:
    """`rows`, each of `width`, turned into columns."""
    return list(zip(*rows, strict=True)) if rows else [()] * width


def tail_arguments(
    events: Sequence[Row],
    tally: Mapping[tuple[str, int, str], int],
    totals: Mapping[str, int],
    minutes: Mapping[tuple[int, str], int],
) -> list[Any]:
    """TAIL's arguments."""
    return [
        len(events),
        *columns(events, 7),
        *columns([(*key, n) for key, n in sorted(tally.items()) if n], 4),
        *columns(sorted(totals.items()), 2),
        *columns([(*key, n) for key, n in sorted(minutes.items())], 3),
    ]
