"""How the store finds what it looks for: on an index, at any size."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apsw
import pytest

from server.model import Status
from server.store import open_store, reads, sql
from server.store.reads import TaskFilter
from server.store.sqlite import SIZES, _dialect, _of_rows

ROWS = 1_000_000 if os.environ.get("TOCSIN_NIGHTLY") else 200_000
FEW = 1_000
SMALL = {
    "tally",
    "counter",
    "meta",
    "api_key",
    "session",
    "once",
    "trash",
    "webhook",
    "waiting",
    "pace",
    "node",
    "duty",
    "json_each",
    "CONSTANT",
    "v",
}
"""Tables that stay small whatever is stored, or are read from one end, a bounded number of rows."""
IN_KEY_ORDER = {"FIRST_SEQ", "PURGE_EVENTS"}  # a LIMIT in the order of the key
STATEMENTS = {
    name: text
    for name, text in vars(sql).items()
    if name.isupper() and isinstance(text, str) and re.match(r"\s*(SELECT|UPDATE|DELETE|WITH|INSERT)", text)
    if "{range}" not in text
}

STATEMENTS |= {
    f"{name} for many": several
    for name, text in list(STATEMENTS.items())
    if "RETURNING" not in text and (several := _of_rows(text, SIZES[0]))
}
TASKS = f"""
WITH RECURSIVE n(i) AS (SELECT ?1 UNION ALL SELECT i + 1 FROM n WHERE i < ?2)
INSERT INTO task ({sql.TASK})
SELECT printf('%08x-0000-7000-8000-%012x', i / 100, i), CASE i % 3 WHEN 0 THEN 'meteo' ELSE 'infra' END,
  CASE WHEN ?3 OR i % {ROWS // FEW} = 0 THEN 'pending' WHEN i % 1000 = 1 THEN 'failed' ELSE 'completed' END, 1 + i % 3,
  'alerte ' || i, 'message', 2, 0, 0, 2, 0, 1, 1, i, i, CASE WHEN NOT ?3 AND i % {ROWS // FEW} THEN i END, i,
  CASE WHEN ?3 AND i % 50 = 0 THEN i ELSE 0 END, NULL, CASE WHEN i % 70 = 0 THEN i END, NULL, 1, 0, NULL, NULL,
  NULL, NULL
FROM n"""
"""Tasks ?1 to ?2: one in ROWS / FEW is pending, or (?3) every one."""
COSTS: dict[str, int] = {}
"""Steps of SQLite's machine that a claim of three takes, by what is pending."""


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[apsw.Connection]:
    """A store of ROWS tasks, FEW of them pending, with two events each; then as many pending ones again."""
    import asyncio

    folder = tmp_path_factory.mktemp("plans")

    async def make() -> None:
        store = open_store("sqlite:plans.db", folder)
        await store.open()
        await store.close()

    asyncio.run(make())
    connection = apsw.Connection(str(folder / "plans.db"))
    with connection:
        connection.execute(TASKS, (1, ROWS, False))
        connection.execute(
            """
            INSERT INTO event
            SELECT row_number() OVER (ORDER BY id, x), 1, 'task.enqueued', id, type, status, priority, x''
            FROM task, (SELECT 1 AS x UNION SELECT 2)"""
        )
        connection.execute("INSERT INTO tally SELECT type, priority, status, COUNT(*) FROM task GROUP BY 1, 2, 3")
    COSTS["few"] = claim_cost(connection)
    with connection:
        connection.execute(TASKS, (ROWS + 1, 2 * ROWS, True))
    COSTS["many"] = claim_cost(connection)
    yield connection
    connection.close()


def plan(database: apsw.Connection, statement: str, args: list[object] | None = None) -> list[str]:
    """SQLite's plan, a line per step."""
    text = _dialect(statement)
    count = max((int(number) for number in re.findall(r"\?(\d+)", text)), default=text.count("?"))
    rows = database.execute("EXPLAIN QUERY PLAN " + text, args or [None] * count)
    return [str(row[3]) for row in rows]


def claim_cost(database: apsw.Connection) -> int:
    """Steps of SQLite's machine for all that a claim of three asks; nothing stays changed."""
    steps = 0

    def count(said: dict[str, Any]) -> None:
        nonlocal steps
        steps += said["stmt_status"]["SQLITE_STMTSTATUS_VM_STEP"]

    def run(statement: str, *args: Any) -> list[Any]:
        return list(database.execute(_dialect(statement), args))

    database.execute("BEGIN")
    database.trace_v2(apsw.SQLITE_TRACE_PROFILE, count)
    try:
        picked = json.dumps([row[2] for row in run(sql.READY, "infra", 3, 3)])
        run(sql.TAKEN, picked)
        run(sql.CLAIM, picked, 1, "n", 1)
        run(sql.STANDING)
    finally:
        database.trace_v2(0)
        database.execute("ROLLBACK")
    return steps


def scans(steps: list[str]) -> list[str]:
    """Steps that walk through a table that grows, or sort what they found in it."""
    walked = [
        step for step in steps if (found := re.match(r"SCAN (?!\d+-ROW VALUES)(\w+)", step)) and found[1] not in SMALL
    ]
    return [step for step in walked if step.split()[1] not in ("due", "late", "oldest", "kind")]


@pytest.mark.parametrize("name", sorted(STATEMENTS))
def test_no_statement_walks_through_what_is_stored(database: apsw.Connection, name: str) -> None:
    steps = plan(database, STATEMENTS[name])

    if name not in IN_KEY_ORDER:
        assert not scans(steps), steps
    if name in ("READY", "PROMOTE", "EXPIRE", "SILENT", "NEXT_DUE", "NEXT_EXPIRY", "OLD_ENDED", "OLDEST_READY"):
        assert not [step for step in steps if "TEMP B-TREE" in step], steps


def test_a_claim_costs_the_same_whatever_waits(database: apsw.Connection) -> None:
    print(COSTS)

    assert COSTS["many"] <= COSTS["few"] + 8, COSTS


FILTERS = [
    TaskFilter(),
    TaskFilter(type=("meteo",)),
    TaskFilter(q="nobody has this"),
    TaskFilter(since_ms=5_000, until_ms=10_000),
]


@pytest.mark.parametrize("status", [None, Status.FAILED, Status.PENDING])
@pytest.mark.parametrize("only", FILTERS)
def test_a_page_searches_an_index_and_looks_at_a_bounded_number_of_rows(
    database: apsw.Connection, only: TaskFilter, status: Status | None
) -> None:
    rows, end, args, end_args = reads.page_sql(only, status, None, 50)
    rows = reads.on_engine(rows, "sqlite")

    steps = plan(database, rows, args)

    assert steps[1].startswith("SEARCH task USING"), steps
    assert not [step for step in steps if "TEMP B-TREE" in step], steps
    assert f"LIMIT {reads.SCAN}" in rows
    assert plan(database, end, end_args)[0].startswith("SEARCH task USING")


def test_a_page_that_looked_in_vain_goes_on_where_it_stopped(database: apsw.Connection) -> None:
    import asyncio

    path = Path(database.filename)

    async def look() -> None:
        store = open_store(f"sqlite:{path.name}", path.parent, serve=False)
        await store.open()
        try:
            only = TaskFilter(type=("meteo",), status=(Status.FAILED,))
            seen: list[str] = []
            before: str | None = None
            while True:
                page = await store.page(only, 50, before)
                seen += [task.id for task in page.tasks]
                if page.cursor is None:
                    break
                before = page.cursor
            rows = database.execute("SELECT id FROM task WHERE status = 'failed' AND type = 'meteo' ORDER BY id DESC")
            assert seen == [row[0] for row in rows]
            in_vain = await store.page(TaskFilter(q="nobody has this"), 50)
            assert in_vain.tasks == []
            assert in_vain.cursor is not None
        finally:
            await store.close()

    asyncio.run(look())
