"""Every statement that the server has is explained by the plan tests, or stands here with the reason why not."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import server
from server.store import sql
from server.store.postgres import _dialect
from server.store.postgres_sets import LOOK, SETS, TAIL
from server.store.schema import scripts
from tests.store import test_plans, test_postgres_plans

TABLES = "|".join(sorted({name for _, script in scripts() for name in re.findall(r"CREATE TABLE (\w+)", script)}))
SQL = re.compile(
    r"\s*(SELECT|UPDATE|DELETE|WITH|INSERT|REPLACE|MERGE|VALUES|TRUNCATE|ALTER|CREATE|DROP|PRAGMA)\s"
    rf"|(?s:.)*\b(FROM|JOIN|INTO|UPDATE)\s+({TABLES})\b"
)
"""A string that begins as a statement does, or names a table as one does."""
PAGE = "explained with each of its filters, by both plan tests"
ALL = "a command that reads everything"
NO_TABLE = "asks for no table"
FIRST = "runs once, before anything else"
ELSEWHERE = {
    "store/sql.py": {"PAGE": PAGE, "PAGE_END": PAGE},
    "store/postgres_sets.py": {
        "_insert": "makes of a statement that is explained one of SETS",
        "together": "puts statements together that are explained alone",
    },
    "store/reads.py": {"_filter": PAGE},
    "store/copy.py": dict.fromkeys(
        (
            "NOTE", "SAVE_NOTE", "DROP_NOTE", "PAUSE", "NEXT_AUDIT", "columns", "count", "identity", "page.read",
            "Put._statement",
        ),
        ALL,
    ),
    "store/verify.py": dict.fromkeys(("TASKS", "OWNERS", "HOOKS", "_Look._integrity"), ALL),
    "store/postgres.py": dict.fromkeys(
        ("PostgresEngine.__init__", "PostgresEngine._migrate", "PostgresEngine._listen_loop"), NO_TABLE
    ),
    "store/pooler.py": {"check": NO_TABLE},
    "store/sqlite.py": dict.fromkeys(
        (
            "SqliteEngine._connect", "SqliteEngine._connect_beside", "SqliteEngine._open_writer",
            "SqliteEngine._recognise",
        ),
        NO_TABLE,
    ),
    "store/schema/__init__.py": {"version": FIRST, "migrate": FIRST},
    "commands/check.py": {"WRITE": "one row, by its key, by a command"},
}  # fmt: skip


def places(source: str) -> set[str]:
    """Where statements stand in a module: the names of constants, functions and methods."""
    found: set[str] = set()

    def look(node: ast.AST, place: str) -> None:
        for part in ast.iter_child_nodes(node):
            inner = place
            if isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                inner = f"{place}.{part.name}" if place else part.name
            elif not place and isinstance(part, ast.Assign | ast.AnnAssign):
                inner = ast.unparse(part.targets[0] if isinstance(part, ast.Assign) else part.target)
            if isinstance(part, ast.Constant) and isinstance(part.value, str) and SQL.match(part.value):
                found.add(place)
            look(part, inner)

    look(ast.parse(source), "")
    return found


def explained() -> dict[str, set[str]]:
    """The constants whose statements the plan tests explain: those of `sql` on both engines."""
    on_both = {
        name
        for name, text in test_plans.STATEMENTS.items()
        if test_postgres_plans.STATEMENTS.get(name) == _dialect(text) and vars(sql).get(name) is text
    }
    on_postgres = set(test_postgres_plans.STATEMENTS.values())
    sets = {"SETS": list(SETS.values()), "LOOK": [_dialect(LOOK)], "TAIL": [TAIL]}
    return {
        "store/sql.py": on_both,
        "store/postgres_sets.py": {name for name, texts in sets.items() if on_postgres.issuperset(texts)},
    }


def test_every_statement_is_explained_or_named_here_with_the_reason() -> None:
    folder = Path(server.__file__).parent
    done = explained()
    left: dict[str, set[str]] = {}
    for path in folder.rglob("*.py"):
        name = path.relative_to(folder).as_posix()
        if rest := places(path.read_text(encoding="utf-8")) - done.get(name, set()):
            left[name] = rest

    assert left == {name: set(named) for name, named in ELSEWHERE.items()}


@pytest.mark.parametrize(
    ("source", "place"),
    [
        ('HOLE = "SELECT id FROM task"', "HOLE"),
        ('_hole: str = """\\nUPDATE task SET n = 1"""', "_hole"),
        ('HOLE = f"{HEAD} n FROM task WHERE {rest}"', "HOLE"),
        ('HOLES = {sql.ADD_KEY: (1, "WITH x AS (VALUES (1)) SELECT 1")}', "HOLES"),
        ('def hole():\n  """Why."""\n  return ask("DELETE FROM event")', "hole"),
        ('class Op:\n  async def apply(self):\n    await tx.all(f"SELECT {x} FROM y")', "Op.apply"),
        ('if True:\n  HOLE = "INSERT INTO task VALUES (1)"', "HOLE"),
        ('ask("SELECT id FROM task")', ""),
    ],
)
def test_wherever_a_statement_stands_it_is_seen(source: str, place: str) -> None:
    assert places(source) == {place}


def test_text_that_is_no_statement_is_left_alone() -> None:
    assert (
        places('"""Take from task what is there."""\nNOTE = "Delete one; update another"\nRANGE = "id < $1"') == set()
    )
