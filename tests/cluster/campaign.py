"""The long form: `python -m tests.cluster.campaign`. Prints a table as Markdown, and every fault with its seed.
`make campaign` (`tests.faults.campaign`) runs it too.

`--seed N` makes it another one, `--only WORD` runs those whose name holds it, `--quick` is the short form of the tests.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from tests.cluster import runs
from tests.cluster.kit import Postgres
from tests.cluster.runs import Report
from tests.faults.runs import table

WAYS = ("fast", "immediate", "cut")

Run = Callable[[Path, Postgres, int], Coroutine[Any, Any, Report]]
LONG: dict[str, Run] = {
    "once-2": lambda folder, pg, seed: runs.once(folder, pg, seed=seed, tasks=5_000, nodes=2),
    "once-3": lambda folder, pg, seed: runs.once(folder, pg, seed=seed, tasks=5_000, nodes=3),
    "rolling": lambda folder, pg, seed: runs.rolling(folder, pg, seed=seed, rounds=9, nodes=3),
    "kills": lambda folder, pg, seed: runs.kills(folder, pg, seed=seed, rounds=30, nodes=3),
    "asleep": lambda folder, pg, seed: runs.asleep(folder, pg, seed=seed, rounds=4),
    "storage": lambda folder, pg, seed: runs.storage(folder, pg, seed=seed, rounds=30, how=WAYS, strict=True),
    "frozen": lambda folder, pg, seed: runs.storage(folder, pg, seed=seed, rounds=3, how=("frozen",), strict=True),
    "split": lambda folder, pg, seed: runs.split(folder, pg, seed=seed, tasks=300),
}
QUICK: dict[str, Run] = {
    "once-3": lambda folder, pg, seed: runs.once(folder, pg, seed=seed, tasks=600, nodes=3),
    "rolling": lambda folder, pg, seed: runs.rolling(folder, pg, seed=seed, rounds=2),
    "kills": lambda folder, pg, seed: runs.kills(folder, pg, seed=seed, rounds=4),
    "asleep": lambda folder, pg, seed: runs.asleep(folder, pg, seed=seed, rounds=1),
    "storage": lambda folder, pg, seed: runs.storage(folder, pg, seed=seed, rounds=4, how=(*WAYS, "frozen")),
    "split": lambda folder, pg, seed: runs.split(folder, pg, seed=seed, tasks=20),
}


async def campaign(chosen: dict[str, Run], seed: int, postgres: Postgres) -> list[Report]:
    """Every run, one after the other; one that breaks off is a fault like any other."""
    reports: list[Report] = []
    for number, (name, run) in enumerate(chosen.items(), 1):
        print(f"[{number}/{len(chosen)}] ", end="", flush=True)
        begun = time.perf_counter()
        with tempfile.TemporaryDirectory(prefix="tocsin-campaign-") as folder:
            try:
                report = await run(Path(folder), postgres, seed)
            except Exception as error:
                took_s = time.perf_counter() - begun
                report = Report(name, seed, took_s=took_s, faults=[f"broke off: {type(error).__name__}: {error}"])
        for fault in report.faults:
            print(f"  fault: {fault}")
        reports.append(report)
    return reports


def main() -> int:
    """Run it; 1 if there was a fault."""
    parser = argparse.ArgumentParser(prog="python -m tests.cluster.campaign", description=__doc__)
    parser.add_argument("--seed", type=int, default=random.randrange(2**31))
    parser.add_argument("--only", default="")
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    chosen = {name: run for name, run in (QUICK if args.quick else LONG).items() if args.only in name}
    if not chosen:
        parser.error(f"--only: expected one of {', '.join(LONG)}")
    print(f"seed {args.seed}")
    postgres = Postgres()
    try:
        reports = asyncio.run(campaign(chosen, args.seed, postgres))
    finally:
        postgres.close()
    print(table([runs.shown(report) for report in reports]))
    return int(any(report.faults for report in reports))


if __name__ == "__main__":
    sys.exit(main())
