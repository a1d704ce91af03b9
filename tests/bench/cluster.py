"""Many nodes on one PostgreSQL: POST/s, tasks/s with 1, 2 and 4 nodes, how late events of one node are at another.

All share two cores here, PostgreSQL included, so more nodes show what sharing costs rather than what it gains.
Beside it, in the same run and on the same server: procrastinate and pgqueuer, as far as they are installed.
"""

from __future__ import annotations

import asyncio
import signal
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from time import perf_counter

from tests.bench.drain import Watcher, until_completed, watch
from tests.bench.kit import CORES, LOAD_CORE, Process, Row, Tocsin, missing, quantile, row
from tests.bench.load import flood, paced, task_id
from tests.bench.post import BODY
from tests.pg import fresh_database


def node(folder: Path, url: str, number: int) -> Tocsin:
    """One node on `url`; they take the cores in turns."""
    return Tocsin(folder / str(number), core=CORES[number % len(CORES)], STORE__URL=url, QUEUE__WORKERS="32")


async def nodes(n: int, tasks: int) -> list[Row]:
    """The figures of `n` nodes."""
    url = await fresh_database()
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="tocsin-bench-") as name, ExitStack() as stack:
        crew = []
        for number in range(n):
            crew.append(node(Path(name), url, number))
            stack.callback(crew[-1].end, signal.SIGKILL)
        first, last = crew[0], crew[-1]
        await flood(first.port, BODY, count=1000)
        until_completed(first, 1000)
        first.pause()
        took = await flood(first.port, BODY, count=tasks)
        if n == 1:
            rows.append(row("POST/s on PostgreSQL, queue paused", took.per_s, "/s"))
        first.pause(paused=False)
        began = perf_counter()
        per_s = tasks / (await asyncio.to_thread(until_completed, first, 1000 + tasks) - began)
        rows.append(row(f"backlog drained on PostgreSQL, {n} node{'s' * (n > 1)}", per_s, "tasks/s"))
        began = perf_counter()
        await flood(first.port, BODY, count=tasks)
        through = tasks / (await asyncio.to_thread(until_completed, first, 1000 + 2 * tasks) - began)
        rows.append(row(f"first POST to last completed, {n} node{'s' * (n > 1)}", through, "tasks/s"))
        if n == 2:
            seen: dict[str, float] = {}
            due: dict[str, float] = {}
            watchers: list[Watcher] = await watch(last.port, seen)
            await paced(
                first.port, BODY, rate=50, seconds=5, connections=8,
                on_answer=lambda at, answer: due.__setitem__(task_id(answer), at),
            )  # fmt: skip
            end = perf_counter() + 10
            while not due.keys() <= seen.keys() and perf_counter() < end:
                await asyncio.sleep(0.01)
            late = [seen.get(task, perf_counter()) - at for task, at in due.items()]
            for part in (0.5, 0.99):
                name_ = f"POST at one node to completed frame at the other, 50/s, p{part * 100:.0f}"
                rows.append(row(name_, quantile(late, part) * 1e3, "ms"))
            for one in watchers:
                one.transport.abort()
    return rows


async def peer(which: str, tasks: int) -> Row:
    """Tasks/s end to end of a peer on the same PostgreSQL."""
    url = await fresh_database()
    figure = f"{which}, enqueued and done, 1 worker process"
    try:
        with Process([sys.executable, "-m", "tests.bench.pgpeers", which, url, str(tasks)], core=LOAD_CORE) as there:
            assert there.process.stdout
            said = (await asyncio.to_thread(there.process.stdout.readline)).split()
            return row(figure, float(said[1]), "tasks/s", note="one argument, no outcomes recorded per recipient")
    except (RuntimeError, IndexError):
        return missing(figure, "not installed (requirements-bench.txt), or it did not start")


async def run(quick: bool = False) -> list[Row]:
    """All figures of a cluster."""
    tasks = 2_000 if quick else 4_000
    rows: list[Row] = []
    for n in (1, 2) if quick else (1, 2, 4):
        rows += await nodes(n, tasks)
    peers = [await peer("procrastinate", tasks // 4), await peer("pgqueuer", tasks)]  # the first does under 100/s
    ours = next(found for found in rows if found["figure"].startswith("first POST"))
    best = max((found["value"] or 0 for found in peers), default=0)
    if best:
        ours["limit"], ours["ratio"], ours["target"] = best, round(ours["value"] / best, 3), "> 1 of the best peer"
    return rows + peers
