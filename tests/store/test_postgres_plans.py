"""How PostgreSQL finds what the store looks for: on an index at any size, with statistics that are fresh or old.

The statements are listed from the code, those for many rows at once (`postgres_sets`) beside those of `sql`. A prepared
statement is planned for its arguments, or once for all where that looks no dearer; both plans are held to the same.
`TOCSIN_NIGHTLY` makes it a million rows.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
from collections.abc import Iterator
from typing import Any

import asyncpg
import pytest

from server.model import Status
from server.store import open_store, reads, sql
from server.store.engine import MAX_BATCH
from server.store.postgres import _dialect
from server.store.postgres_sets import LOOK, SETS, TAIL
from server.store.reads import TaskFilter
from tests.pg import fresh_database

ROWS = 1_000_000 if os.environ.get("TOCSIN_NIGHTLY") else 200_000
FEW = 1_000
GROWING = {"task", "event", "outcome", "chunk"}
PLANNING = 10.0
"""A plan for all arguments is taken if it looks cheaper than one for these and the planning of it."""
STATEMENTS = {
    name: _dialect(text)
    for name, text in vars(sql).items()
    if name.isupper() and isinstance(text, str) and re.match(r"\s*(SELECT|UPDATE|DELETE|WITH|INSERT)", text)
    if "{range}" not in text
}
NAMES = {text: name for name, text in vars(sql).items() if isinstance(text, str)}
STATEMENTS |= {f"{NAMES[one]} for many": many for one, many in SETS.items()} | {"LOOK": _dialect(LOOK), "TAIL": TAIL}
IN_ORDER = ("READY", "PROMOTE", "EXPIRE", "SILENT", "NEXT_DUE", "NEXT_EXPIRY", "OLD_ENDED", "OLDEST_READY")
"""Of these a few rows are wanted, first ones first: the index must give the order, or all would be sorted."""
ID = "00000100-0000-7000-8000-000000010000"
ARGUMENTS: dict[str, tuple[Any, ...]] = {
    "READY": ("infra", 3, 3),
    "PROMOTE": (ROWS, 200),
    "EXPIRE": (ROWS, 200, "{}"),
    "SILENT": (ROWS, 200),
    "OLD_ENDED": (ROWS, "completed", 50),
    "OLDEST_READY": ("infra", 2),
    "PURGE_EVENTS": (ROWS, 2_000),
    "PURGE_IDEMPOTENCY": (ROWS, 2_000),
    "PURGE_HOOKS": (ROWS, 500),
    "EMPTY_OUTCOMES": (ID, 2_000),
    "EMPTY_CHUNKS": (ID, 200),
    "EVENTS_AFTER": (ROWS // 2, 1_000),
    "EVENTS_OF": (ID, 0, 100),
    "AUDIT_PAGE": (2**62, 100),
    "HOOKS_DUE": (ROWS, "a.example", "\n", "\n", "\n", 64),
    "HOOKS_WAITING": (10_000,),
}

TASKS = f"""
INSERT INTO task ({sql.TASK})
SELECT lpad(to_hex(i / 100), 8, '0') || '-0000-7000-8000-' || lpad(i::text, 12, '0'),
  CASE i % 3 WHEN 0 THEN 'meteo' ELSE 'infra' END,
  CASE WHEN $3 OR i % ($2 / {FEW}) = 0 THEN 'pending' WHEN i % 1000 = 1 THEN 'failed' ELSE 'completed' END, 1 + i % 3,
  'alerte ' || i, 'message', 2, 0, 0, 2, 0, 1, 1, i, i,
  CASE WHEN NOT $3 AND i % ($2 / {FEW}) <> 0 THEN i END, i, CASE WHEN $3 AND i % 50 = 0 THEN i ELSE 0 END, NULL,
  CASE WHEN i % 70 = 0 THEN i END, NULL, 1, 0, NULL, NULL, NULL, NULL
FROM generate_series($1::bigint, $1 + $2::bigint - 1) AS n(i)"""
AROUND = (
    "INSERT INTO event SELECT row_number() OVER (ORDER BY id), 1, 'task.enqueued', id, type, status, priority, ''"
    " FROM task",
    "INSERT INTO chunk SELECT id, 0, '[]' FROM task",
    f"INSERT INTO outcome (task_id, {sql.OUTCOME}, again)"
    " SELECT id, 0, 1, 1, 1, 'email', 'sent', '', '', '', '', 1, 1, 0 FROM task WHERE status <> 'pending'",
    "INSERT INTO idempotency SELECT 'k', 'key ' || id, '', id, '', created_ms FROM task LIMIT 20000",
    f"INSERT INTO webhook ({sql.HOOK}) SELECT id, id, 'h', 'u', '', CASE created_ms % 100 WHEN 0 THEN 'waiting' ELSE"
    " 'delivered' END, 1, created_ms, 1, CASE created_ms % 100 WHEN 0 THEN NULL ELSE created_ms END, 1, 200, ''"
    " FROM task LIMIT 20000",
    "INSERT INTO audit (at_ms, key_id, key_name, action, target, address, detail)"
    " SELECT created_ms, 'k', 'n', 'send', id, '', '{}' FROM task LIMIT 20000",
)
READY = STATEMENTS["READY"]


class Database:
    """A store in PostgreSQL, and plans on it."""

    def __init__(self, url: str):
        self.url = url
        self.costs: dict[str, tuple[int, int]] = {}  # of a claim, by what is stored: rows touched, blocks touched
        self._loop = asyncio.new_event_loop()
        self._connection: Any = None

    def run(self, statement: str, *args: Any) -> list[Any]:
        """Run one statement."""
        if self._connection is None:
            self._connection = self._loop.run_until_complete(asyncpg.connect(self.url))
            self.run("SET plan_cache_mode = force_generic_plan")  # says nothing to EXPLAIN with arguments of its own
        rows: list[Any] = self._loop.run_until_complete(self._connection.fetch(statement, *args))
        return rows

    def close(self) -> None:
        """Disconnect."""
        if self._connection:
            self._loop.run_until_complete(self._connection.close())
        self._loop.close()

    def explain(self, how: str, statement: str, *args: Any) -> dict[str, Any]:
        """The plan's top node."""
        found: dict[str, Any] = json.loads(self.run(f"EXPLAIN ({how}, FORMAT JSON) {statement}", *args)[0][0])[0][
            "Plan"
        ]
        return found

    def arguments(self, name: str, statement: str) -> tuple[Any, ...]:
        """Something to run a statement with."""
        if name in ARGUMENTS:
            return ARGUMENTS[name]
        prepared = self._loop.run_until_complete(self._connection.prepare(statement))
        ids = [f"{n // 100:08x}-0000-7000-8000-{n:012d}" for n in range(10_000, 10_000 + MAX_BATCH)]
        samples = {"text": ID, "int8": 10_000, "int4": 1, "bytea": b""}
        samples |= {f"{kind}[]": [value] * MAX_BATCH for kind, value in samples.items()} | {"text[]": ids}
        return tuple(samples[kind.name] for kind in prepared.get_parameters())

    def plans(self, statement: str, args: tuple[Any, ...]) -> list[dict[str, Any]]:
        """The plans that may be taken for a prepared statement."""
        own = self.explain("COSTS", statement, *args)
        self._loop.run_until_complete(self._connection.execute(f"PREPARE shared AS {statement}"))
        nothing = f"({', '.join(['NULL'] * len(args))})" if args else ""
        shared = self.explain("COSTS", f"EXECUTE shared{nothing}")
        self.run("DEALLOCATE shared")
        return [own, shared] if shared["Total Cost"] < own["Total Cost"] + PLANNING else [own]

    def claim_cost(self, kind: str = "infra") -> tuple[int, int]:
        """(rows, blocks) that looking for three ready tasks touches."""
        self.run(READY, kind, 3, 3)  # once before: what only the first look pays for
        plan = self.explain("ANALYZE, BUFFERS", READY, kind, 3, 3)
        rows = sum(
            int((node["Actual Rows"] + node.get("Rows Removed by Filter", 0)) * node["Actual Loops"])
            for node in nodes(plan)
        )
        return rows, plan["Shared Hit Blocks"] + plan["Shared Read Blocks"]


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Every step of a plan."""
    yield plan
    for part in plan.get("Plans", ()):
        yield from nodes(part)


def faults(plan: dict[str, Any], *, in_order: bool) -> list[str]:
    """Steps that walk through a table that grows or, where order is wanted, sort what they found in it."""
    found = [
        f"{node['Node Type']} on {node['Relation Name']}"
        for node in nodes(plan)
        if node["Node Type"] == "Seq Scan" and node["Relation Name"] in GROWING
    ]
    if in_order:
        found += [str(node["Node Type"]) for node in nodes(plan) if "Sort" in node["Node Type"]]
    return found


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    """ROWS tasks with what hangs on them, a thousand of them ready; then as many ready ones again, at one go."""
    folder = tmp_path_factory.mktemp("plans")

    async def make() -> str:
        url = await fresh_database()
        store = open_store(url, folder)
        await store.open()
        await store.close()
        return url

    made = Database(asyncio.run(make()))
    try:
        for table in sorted(GROWING):
            made.run(f"ALTER TABLE {table} SET (autovacuum_enabled = off)")
            made.run(f"ALTER TABLE {table} SET UNLOGGED")  # no plan depends on it, and it is soon filled
        made.run(TASKS, 0, ROWS, False)
        for statement in AROUND:
            made.run(statement)
        made.costs["few, never looked at by ANALYZE"] = made.claim_cost()
        made.run("ANALYZE")
        made.costs["few"] = made.claim_cost()
        made.run(TASKS, ROWS, ROWS, True)
        made.costs["many, statistics of few"] = made.claim_cost()
        made.run("ANALYZE")
        made.costs["many"] = made.claim_cost()
        made.run("INSERT INTO tally SELECT type, priority, status, COUNT(*) FROM task GROUP BY 1, 2, 3")
        yield made
    finally:
        made.close()


def test_a_claim_costs_the_same_whatever_waits_and_whatever_the_statistics_say(database: Database) -> None:
    print(database.costs)

    rows, blocks = database.costs["few"]
    assert rows <= 3 * 3
    for others in database.costs.values():
        assert others[0] == rows, database.costs
        assert others[1] <= blocks + 8, database.costs  # an index grows a level now and then


@pytest.mark.parametrize("name", sorted(STATEMENTS))
def test_no_statement_walks_through_what_is_stored(database: Database, name: str) -> None:
    statement = STATEMENTS[name]

    for plan in database.plans(statement, database.arguments(name, statement)):
        assert not faults(plan, in_order=name in IN_ORDER), json.dumps(plan, indent=1)


FILTERS = [
    TaskFilter(),
    TaskFilter(type=("meteo",)),
    TaskFilter(q="nobody has this"),
    TaskFilter(since_ms=5_000, until_ms=10_000),
]


@pytest.mark.parametrize("status", [None, Status.FAILED, Status.PENDING])
@pytest.mark.parametrize("only", FILTERS)
def test_a_page_searches_an_index_and_looks_at_a_bounded_number_of_rows(
    database: Database, only: TaskFilter, status: Status | None
) -> None:
    rows, end, args, end_args = reads.page_sql(only, status, None, 50)
    rows = reads.on_engine(rows, "postgres")

    for statement, given in ((rows, args), (end, end_args)):
        for plan in database.plans(statement, tuple(given)):
            assert not faults(plan, in_order=False), json.dumps(plan, indent=1)
    looked_at = database.explain("ANALYZE", rows, *args)
    scanned = max(int(node["Actual Rows"] * node["Actual Loops"]) for node in nodes(looked_at))
    assert scanned <= reads.SCAN, json.dumps(looked_at, indent=1)


@pytest.mark.parametrize("name", ["PROMOTE", "EXPIRE", "SILENT", "OLD_ENDED"])
def test_what_time_brings_is_found_a_slice_at_a_time(database: Database, name: str) -> None:
    args = ARGUMENTS[name]
    most = next(arg for arg in args[1:] if isinstance(arg, int))
    database.run("BEGIN")
    try:
        plan = database.explain("ANALYZE", STATEMENTS[name], *args)
    finally:
        database.run("ROLLBACK")

    seen = [int((n["Actual Rows"] + n.get("Rows Removed by Filter", 0)) * n["Actual Loops"]) for n in nodes(plan)]
    assert max(seen) <= most, json.dumps(plan, indent=1)
