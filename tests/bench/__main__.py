"""Measure: `make bench`, or `make bench ONLY=post`, or several (`ONLY="post drain"`); `quick` shortens the runs.

Every part is a module with `async def run(quick) -> list of rows`. Results come as a table, as JSON in
tests/bench/results/ and, of a whole run, as docs/bench.svg. A part that cannot be run is a row that says so.
"""

from __future__ import annotations

import importlib
import inspect
import json
import operator
import os
import re
import sys
import time
from pathlib import Path

import uvloop

from tests.bench import chart
from tests.bench.kit import LOAD_CORE, ROOT, Row, machine, missing

PARTS = ("post", "ladder", "drain", "raw", "growth", "fanout", "page", "smtp", "cluster", "peers")
RESULTS = Path(__file__).parent / "results"
COMPARE = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}


def verdict(row: Row) -> str:
    """`ok`, `missed`, or nothing where there is no target. A target speaks of the ratio, or of the value."""
    if row["value"] is None:
        return "missing"
    found = re.match(r"(<=|>=|<|>) (?:bare \+ )?([\d.]+)", row["target"])
    if not found:
        return ""
    about, bound = row["value"], float(found[2])
    if "bare +" in row["target"]:
        about -= row["limit"] or 0
    elif row["ratio"] is not None and not row["target"].endswith("ms"):
        about = row["ratio"]
    return "ok" if COMPARE[found[1]](about, bound) else "missed"


def number(value: float | None) -> str:
    """A figure as the table shows it."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:,.1f}" if abs(value) >= 10 else f"{value:,.2f}"


def shown(rows: list[Row]) -> str:
    """The table."""
    head = ("figure", "value", "unit", "limit", "ratio", "target", "")
    lines = [head]
    for row in rows:
        ratio = "-" if row["ratio"] is None else f"{row['ratio']:.2f}"
        value, limit = number(row["value"]), number(row["limit"])
        lines.append((row["figure"], value, row["unit"], limit, ratio, row["target"], verdict(row)))
    widths = [max(len(line[n]) for line in lines) for n in range(len(head))]
    text = []
    for n, line in enumerate(lines):
        cells = [
            cell.rjust(width) if at in (1, 3, 4) else cell.ljust(width)
            for at, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        text.append("  ".join(cells).rstrip())
        if n and (note := rows[n - 1].get("note")):
            text.append(f"    {note}")
    return "\n".join(text)


def measure(part: str, quick: bool) -> list[Row]:
    """The rows of one part; a part that breaks down is a row that says why."""
    print(f"… {part}", file=sys.stderr, flush=True)
    began = time.monotonic()
    try:
        module = importlib.import_module(f"tests.bench.{part}")
        # fanout places its own processes on the cores; everything else measures from the load's core
        os.sched_setaffinity(0, os.sched_getaffinity(1) if part == "fanout" else {LOAD_CORE})
        found = module.run(quick)
        rows: list[Row] = uvloop.run(found) if inspect.isawaitable(found) else found
    except Exception as error:  # the other parts are still worth measuring
        rows = [missing(part, f"{type(error).__name__}: {error}")]
    for row in rows:
        row["part"] = part
    print(f"  {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    return rows


def main(arguments: list[str]) -> int:
    """Measure what is asked for; 1 if something could not be measured or missed its target."""
    quick = "quick" in arguments
    parts = [name for name in arguments if name != "quick"]
    if unknown := [name for name in parts if name not in PARTS]:
        print(f"bench: expected one of {', '.join(PARTS)} (and quick), got {' '.join(unknown)}", file=sys.stderr)
        return 2
    facts = machine()
    rows: list[Row] = []
    for part in parts or PARTS:
        rows += measure(part, quick)
    if float(facts["load before"]) > 1:
        print("The machine was busy before this began: rates and times below are those of what was left of it.")
    print("\n" + " · ".join(f"{name} {value}" for name, value in facts.items()) + "\n")
    print(shown(rows))
    RESULTS.mkdir(exist_ok=True)
    name = time.strftime("%Y%m%d-%H%M%S") + ("" if not parts else "-" + "-".join(parts)) + ".json"
    found = {"machine": facts, "quick": quick, "rows": [row | {"verdict": verdict(row)} for row in rows]}
    (RESULTS / name).write_text(json.dumps(found, indent=1, ensure_ascii=False), encoding="utf-8")
    if not parts:
        (ROOT / "docs" / "bench.svg").write_text(chart.drawn(rows, facts), encoding="utf-8")
    return int(any(verdict(row) in ("missed", "missing") for row in rows))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
