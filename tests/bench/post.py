"""POST/s, durable, beside the bare handler; latency at half of it; and that nothing acknowledged is lost by kill -9."""

from __future__ import annotations

import asyncio
import signal
import sys
import tempfile
from pathlib import Path

import apsw

from tests.bench.kit import Process, Row, Tocsin, median, notification, quantile, row
from tests.bench.load import flood, paced, request

BODY = request("POST", "/api/notifications/meteo", notification())


def bare() -> Process:
    """The limit, as a process of its own."""
    return Process([sys.executable, "-m", "tests.bench.bare"])


def lost(store: Path, ids: list[str]) -> int:
    """How many of `ids` are not in the store of a server that was killed."""
    connection = apsw.Connection(str(store))
    kept = {found for (found,) in connection.execute("SELECT id FROM task")}
    whole = next(iter(connection.execute("PRAGMA integrity_check")))[0]
    connection.close()
    return sum(task not in kept for task in ids) + (whole != "ok")


async def run(quick: bool = False) -> list[Row]:
    """All figures of accepting."""
    slices, seconds = (3, 1.5) if quick else (7, 2.0)
    with tempfile.TemporaryDirectory(prefix="tocsin-bench-") as folder, bare() as limit:
        server = Tocsin(Path(folder))
        try:
            server.pause()
            for side in (limit, server):
                await flood(side.port, BODY, seconds=seconds)
            rates: list[tuple[float, float]] = []
            costs: list[tuple[float, float]] = []
            for _ in range(slices):  # in turns, so that whatever else the machine does meets both
                used = limit.cpu_s(), server.cpu_s()
                theirs = await flood(limit.port, BODY, seconds=seconds)
                ours = await flood(server.port, BODY, seconds=seconds)
                bare_cpu, our_cpu = limit.cpu_s() - used[0], server.cpu_s() - used[1]
                costs.append((bare_cpu / theirs.answers * 1e6, our_cpu / ours.answers * 1e6))
                bare_rate = theirs.per_s
                assert set(ours.statuses) == {202}, ours.statuses
                rates.append((ours.per_s, bare_rate))
            ours_per_s, bare_per_s = (median(side) for side in zip(*rates, strict=True))
            ratio = median([ours / bare_rate for ours, bare_rate in rates])
            rows = [row("POST/s, durable, queue paused", ours_per_s, "/s", bare_per_s, ">= 0.80 of it")]
            rows[0]["ratio"] = round(ratio, 3)
            slices_seen = sorted(ours / other for ours, other in rates)
            rows[0]["note"] = "ratios of the slices: " + " ".join(f"{seen:.2f}" for seen in slices_seen)
            bare_us, our_us = (median(side) for side in zip(*costs, strict=True))
            note = "the ratio that a busy machine does not flatter: where others take the core, both sides only wait"
            rows.append(row("POSTs per second of CPU", 1e6 / our_us, "/s", 1e6 / bare_us, ">= 0.80 of it", note))
            rate = ours_per_s / 2
            late = await paced(server.port, BODY, rate=rate, seconds=seconds * 3, exact=True)
            bare_late = await paced(limit.port, BODY, rate=rate, seconds=seconds * 3, exact=True)
            for part, target in ((0.5, ""), (0.99, "<= 10 ms")):
                name = f"POST latency at {rate:,.0f}/s, p{part * 100:.0f}"
                rows.append(row(name, quantile(late, part) * 1e3, "ms", quantile(bare_late, part) * 1e3, target))
            flooding = asyncio.create_task(flood(server.port, BODY, seconds=30, ids=True))
            await asyncio.sleep(seconds)
            server.end(signal.SIGKILL)
            ids = (await flooding).ids
            gone = await asyncio.to_thread(lost, server.store, ids)
            rows.append(row(f"lost of {len(ids):,} acknowledged, kill -9 under load", gone, "tasks", None, "<= 0"))
            return rows
        finally:
            server.end(signal.SIGKILL)
