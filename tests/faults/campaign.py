"""The long form: `python -m tests.faults.campaign [PART…] [--quick] [--seed N] [--minutes M] [--report FILE]`.

Runs every fault of this folder at length, then the cluster's (`tests.cluster`), then the negative controls, and prints
a table: runs, losses, repeats, worst times, seeds. With `--report` the same goes to a Markdown file. Exit code 1 if
anything did not hold. A seed repeats what a run draws; how the machine schedules threads and sockets it cannot repeat.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Awaitable, Callable
from functools import cache
from pathlib import Path

import apsw

from tests.cluster import runs as cluster
from tests.cluster.campaign import LONG, QUICK
from tests.cluster.kit import Postgres
from tests.faults import runs, streams, trouble
from tests.faults.controls import CONTROLS
from tests.faults.power import cut
from tests.faults.runs import Report, table

AnyReport = Report | cluster.Report
Run = Callable[[Path, int], Awaitable[AnyReport]]
PLAN: dict[str, list[Run]] = {
    "kill": [lambda folder, seed: runs.kills(folder, seed=seed, rounds=10)] * 5,
    "steps": [
        lambda folder, seed, step=step: runs.kills(folder, seed=seed, rounds=6, step=step) for step in runs.STEPS
    ],  # type: ignore[misc]
    "large": [lambda folder, seed: runs.one_large(folder, seed=seed, recipients=10_000, rounds=10)] * 3,
    "term": [lambda folder, seed: runs.terms(folder, seed=seed, rounds=10)] * 2,
    "large term": [
        lambda folder, seed: runs.one_large(
            folder, seed=seed, recipients=10_000, rounds=10, signal_name="term", SERVER__SHUTDOWN_GRACE_S="1"
        )
    ],
    "power": [lambda folder, seed: power(folder, seed)] * 2,
    "clocks": [
        lambda folder, seed: trouble.clock_turned(folder, seed=seed, signals=(signal.SIGUSR1, signal.SIGUSR2) * 2),
        lambda folder, seed: trouble.clock_turned(folder, seed=seed, signals=(signal.SIGUSR2, signal.SIGUSR1) * 2),
        lambda folder, seed: trouble.stalled(folder, seed=seed, seconds=5),
        lambda folder, seed: trouble.stalled(folder, seed=seed, seconds=60),
    ],
    "trouble": [
        lambda folder, seed: trouble.locked(folder, seed=seed, strict=True),
        lambda folder, seed: trouble.doubled(folder, seed=seed),
        lambda folder, seed: trouble.poisoned(folder, seed=seed),
        lambda folder, seed: trouble.cleaned(folder, seed=seed, acknowledged=1_000),
        lambda folder, seed: trouble.read_along(folder, seed=seed, acknowledged=1_000),
        lambda folder, seed: trouble.stormed(folder, seed=seed, subscribers=900),
        lambda folder, seed: trouble.starved(folder, seed=seed, descriptors=96),
    ],
    "streams": [
        lambda folder, seed: streams.crowded(folder, seed=seed, seconds=300, stall_s=60, strict=True),
    ],
    "cluster": [],  # has its own list, see `plan`
}


def plan(name: str, *, quick: bool) -> list[Run]:
    """The runs of one part; `quick`: each kind once, and the cluster's as short as in `make test`."""
    if name == "cluster":
        return [on_cluster(run) for run in (QUICK if quick else LONG).values()]
    if name == "streams" and quick:
        return [lambda folder, seed: streams.crowded(folder, seed=seed)]
    return list(dict.fromkeys(PLAN[name])) if quick else PLAN[name]


@cache
def postgres() -> Postgres:
    """The PostgreSQL of all runs over a cluster; begun by the first of them."""
    return Postgres()


def on_cluster(run: Callable[[Path, Postgres, int], Awaitable[cluster.Report]]) -> Run:
    """A run over several nodes as one of this campaign."""

    async def whole(folder: Path, seed: int) -> cluster.Report:
        folder.mkdir(parents=True)
        return await run(folder, postgres(), seed)

    return whole


async def power(folder: Path, seed: int) -> Report:
    """Power cut at 150 points of a run, as a row of the table."""
    begun = time.perf_counter()
    loss = await cut(folder, seed=seed, posts=400, cuts=150)
    report = Report(f"power cut at {loss.cuts} points", seed, took_s=time.perf_counter() - begun)
    report.account.acknowledged = loss.acknowledged
    report.account.lost = loss.lost
    report.faults = loss.lost + loss.faults
    return report


async def guarded(run: Run, name: str, folder: Path, seed: int, within_s: float) -> AnyReport:
    """A run's report; one that falls over is a fault, not the end of the campaign."""
    try:
        async with asyncio.timeout(within_s):
            return await run(folder, seed)
    except Exception as error:
        traceback.print_exc()
        report = Report(name, seed)
        report.faults.append(f"{type(error).__name__}: {error}")
        return report


def row(report: AnyReport) -> dict[str, object]:
    """A report as a row of the one table."""
    kept = report.account
    here: dict[str, object] = {
        "run": report.name, "seed": report.seed, "nodes": 1, "kills": report.killed, "stops": report.stopped,
        "acknowledged": kept.acknowledged, "messages": kept.delivered, "lost": len(kept.lost) + len(kept.unreached),
        "given up": 0, "repeats": kept.repeated, "most per kill and task": kept.worst, "events": report.events,
    }  # fmt: skip
    if isinstance(report, cluster.Report):
        here |= {
            "run": f"cluster: {report.name}", "nodes": report.nodes, "slowest start s": "", "slowest answer s": "",
            "slowest 503 s": round(report.refusal_s, 2), "slowest takeover s": round(report.takeover_s, 2),
        }  # fmt: skip
    else:
        here |= {
            "given up": len(report.given_up),
            "slowest start s": round(report.start_s, 2), "slowest answer s": round(report.post_s, 2),
            "slowest 503 s": "", "slowest takeover s": "",
        }  # fmt: skip
    return here | {"took s": round(report.took_s, 1), "faults": len(report.faults)}


async def campaign(
    names: list[str], seed: int, minutes: float, folder: Path, *, quick: bool
) -> tuple[list[AnyReport], dict[str, list[str]]]:
    """Every run of `names`, as far as the time allows, and the controls."""
    begun = time.monotonic()
    until = begun + minutes * 60
    reports: list[AnyReport] = []
    todo = [(name, run) for name in names if name != "controls" for run in plan(name, quick=quick)]
    for number, (name, run) in enumerate(todo, 1):
        seed += 1
        left_s = until - time.monotonic()
        if left_s < 5:
            reports.append(Report(f"{name}: no time left", seed, faults=["not run"]))
            continue
        print(f"[{number}/{len(todo)}, {(time.monotonic() - begun) / 60:.1f} min] ", end="", flush=True)
        place = folder / str(seed)
        report = await guarded(run, name, place, seed, left_s)
        reports.append(report)
        figures = ", ".join(f"{name} {value}" for name, value in list(row(report).items())[2:] if value not in ("", 0))
        print(f"  {figures}", *report.faults[:10], sep="\n  ", flush=True)
        if report.faults:
            print(f"  kept: {place}")
        else:
            shutil.rmtree(place)
    found: dict[str, list[str]] = {}
    for control, check in CONTROLS.items() if "controls" in names else ():
        seed += 1
        print("[control] ", end="", flush=True)
        place = folder / f"{seed}-control"
        place.mkdir()
        try:
            kept = await check(place / "kept", seed, broken=False)
            found[control] = [f"found with the promise kept: {fault}" for fault in kept]
            found[control] += await check(place / "broken", seed, broken=True)
        except Exception as error:
            traceback.print_exc()
            found[control] = [f"found with the promise kept: {type(error).__name__}: {error}"]
        print(f"{control}: seed {seed}: {len(found[control])} found: {found[control][:1]}", flush=True)
    return reports, found


def written(reports: list[AnyReport], found: dict[str, list[str]], seed: int, took_s: float) -> str:
    """The report."""
    kept = [report.account for report in reports]
    words = [
        f"{len(reports)} runs, {sum(report.killed for report in reports)} kills, "
        f"{sum(report.stopped for report in reports)} clean stops, {sum(a.acknowledged for a in kept)} notifications "
        f"acknowledged, {sum(a.delivered for a in kept)} messages delivered; "
        f"{sum(len(a.lost) + len(a.unreached) for a in kept)} lost, {sum(a.repeated for a in kept)} repeated.",
        f"Python {platform.python_version()}, SQLite {apsw.sqlite_lib_version()}, {os.cpu_count()} cores, "
        f"{took_s / 60:.1f} minutes, first seed {seed + 1}.",
    ]
    parts = ["\n".join(words)]
    if reports:
        parts.append(table([row(report) for report in reports]))
    if found:
        caught = [
            {
                "promise broken on purpose": name,
                "caught": "no" if not faults or faults[0].startswith("found with") else "yes",
                "found": len(faults),
                "for example": faults[0].replace("|", "/")[:110] if faults else "",
            }
            for name, faults in found.items()
        ]
        parts.append(table(caught))
    broken = [
        f"* {report.name}, seed {report.seed}: {fault[:300]}" for report in reports for fault in report.faults[:10]
    ]
    parts.append("What did not hold:\n\n" + "\n".join(broken) if broken else "Everything held.")
    return "\n\n".join(parts) + "\n"


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="tests.faults.campaign", description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    known = [*PLAN, "controls"]
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"which: {', '.join(known)}; all by default")
    parser.add_argument("--quick", action="store_true", help="each kind of run once, a quarter of an hour in all")
    parser.add_argument("--seed", type=int, default=int(time.time()) % 1_000_000)
    parser.add_argument("--minutes", type=float, default=60, help="begin nothing after so many (default: 60)")
    parser.add_argument("--report", type=Path, help="a Markdown file to write the table to")
    args = parser.parse_args()
    if unknown := set(args.parts) - set(known):
        parser.error(f"PART: expected {', '.join(known)}; got {', '.join(sorted(unknown))}")
    folder = Path(tempfile.mkdtemp(prefix="tocsin-campaign-"))
    begun = time.perf_counter()
    chosen = args.parts or known
    try:
        reports, found = asyncio.run(campaign(chosen, args.seed, args.minutes, folder, quick=args.quick))
    finally:
        if postgres.cache_info().currsize:
            postgres().close()
    text = written(reports, found, args.seed, time.perf_counter() - begun)
    print("\n" + text)
    if args.report:
        args.report.write_text(text, encoding="utf-8")
    missed = [name for name, faults in found.items() if not faults or faults[0].startswith("found with")]
    return 1 if missed or any(report.faults for report in reports) else 0


if __name__ == "__main__":
    sys.exit(main())
