"""Runs with a thousand subscribers: some never read, then all come back at once. The others must not notice.

The server and the subscribers (crowd.py) are real processes, and so are the sockets. Tests take a run short, the
campaign long (`python -m tests.faults.campaign streams`). What is a count always counts: gaps, repeats, who was cut off
and with what code, memory. What other work on the same two cores can spoil (how late frames are, deliveries/s, how long
a POST takes) is held to the promise with `strict` alone, which is for the long form; without, it is printed.
"""

from __future__ import annotations

import asyncio
import json
import re
import resource
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from statistics import median
from typing import Any
from urllib.request import Request, urlopen
from zlib import crc32

import apsw
from msgspec import Struct

from tests.bench.kit import KEY, notification
from tests.bench.kit import quantile as part
from tests.bench.load import flood, paced, request
from tests.faults.harness import Server, serving
from tests.faults.runs import Report

READERS, DEAD, WHOLE = 900, 100, 50
"""Those who read, those who do not, and how many of the former look at every event as well."""
PER_S = 50
"""Events a second: a POST makes three, one when it is accepted, one when it is taken up, one when it is done."""
LATE_MS = 100
MORE_MIB = 64
CAUGHT_UP_S = 15
PATIENCE_S = 300
"""In which whatever is waited for must have come, on a machine with other things to do."""
LARGE, LARGE_ONES = 10_000, 5
POST = request("POST", "/api/notifications/meteo", notification(1))


class Crowd:
    """The subscribers' process."""

    def __init__(self, process: Process, sums: Path):
        self._process = process
        self._sums = sums

    async def do(self, what: str, within_s: float = PATIENCE_S, **more: Any) -> dict[str, Any]:
        """Give an order; what came of it."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps({"do": what} | more).encode() + b"\n")
        async with asyncio.timeout(within_s):
            found: dict[str, Any] = json.loads(await self._process.stdout.readline())
            return found

    async def end(self) -> dict[int, int]:
        """Let it end; the checksums of the events that it saw, by seq."""
        assert self._process.stdin
        self._process.stdin.close()
        async with asyncio.timeout(60):
            await self._process.wait()
        return {int(seq): checksum for seq, checksum in json.loads(self._sums.read_text("utf-8")).items()}


@asynccontextmanager
async def crowding(server: Server) -> AsyncIterator[Crowd]:
    """A crowd that has not joined yet."""
    sums = server.folder / "sums.json"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.faults.crowd", str(_port(server)), KEY, str(sums), stdin=PIPE, stdout=PIPE,
    )  # fmt: skip
    try:
        yield Crowd(process, sums)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def enough_descriptors() -> None:
    """Make room for as many sockets; both processes take it over. Raises RuntimeError if that is not allowed."""
    need = READERS + 2 * DEAD + 200
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < need:
        raise RuntimeError(f"ulimit -n: expected {need} or more, got {hard}")
    if soft != resource.RLIM_INFINITY and soft < need:
        resource.setrlimit(resource.RLIMIT_NOFILE, (need, hard))


def _port(server: Server) -> int:
    return int(server.base.rpartition(":")[2])


def _mib(server: Server, what: str) -> float:
    """Memory of the server now (VmRSS) or at its peak (VmHWM)."""
    assert server.process
    text = Path(f"/proc/{server.process.pid}/status").read_text("utf-8")
    return int(text.partition(f"{what}:")[2].split()[0]) / 1024


def _log(server: Server) -> dict[int, int]:
    """The checksums of the store's events, by seq."""
    with apsw.Connection(str(server.database), flags=apsw.SQLITE_OPEN_READONLY) as store:
        return {seq: crc32(body) for seq, body in store.execute("SELECT seq, body FROM event")}


async def _ask(server: Server, path: str) -> Any:
    def ask() -> Any:
        with urlopen(Request(server.base + path, headers={"X-API-Key": KEY}), timeout=60) as answer:
            return json.loads(answer.read())

    return await asyncio.to_thread(ask)


async def _head(server: Server) -> int:
    """The newest seq, once nothing is in hand."""
    while (stats := (await _ask(server, "/api/queue/stats"))["stats"])["current_queue_size"]:
        await asyncio.sleep(0.1)
    return int(stats["seq"])


async def _deliveries(server: Server) -> float:
    """Deliveries/s of one large task on the null channel."""
    body = request("POST", "/api/notifications/meteo", notification(LARGE))
    posted = await flood(_port(server), body, connections=1, count=1, ids=True)
    while (task := (await _ask(server, f"/api/queue/tasks/{posted.ids[0]}"))["task"])["status"] != "completed":
        await asyncio.sleep(0.1)
    begun, ended = (datetime.fromisoformat(task[f"{what}_at_iso"]) for what in ("started", "completed"))
    return LARGE / (ended - begun).total_seconds()


class Half(Struct):
    """What the stretches of a run came to, those with the dead or those without."""

    speeds: list[float] = []  # deliveries/s
    late_ms: list[int] = []  # p99 from an event's `at` to its frame, while there were `PER_S` events a second


async def _stretch(server: Server, crowd: Crowd, half: Half, seconds: float) -> None:
    """Some large tasks, then steady events for `seconds`."""
    for _ in range(LARGE_ONES):
        half.speeds.append(await _deliveries(server))
    await crowd.do("late")
    await paced(_port(server), POST, rate=PER_S / 3, seconds=seconds)
    half.late_ms.append((await crowd.do("late"))["p99"])


async def crowded(
    folder: Path, *, seed: int, rounds: int = 1, seconds: float = 10, stall_s: float = 10, strict: bool = False
) -> Report:
    """In each round a stretch with those who read alone, then one with the dead beside them until they are cut off.

    The latter is at least twice as long as the former, `seconds`. In the end a thousand come back at once.
    """
    report = Report("a crowd", seed)
    begun = time.perf_counter()
    enough_descriptors()
    settings = {"AUTH__ADMIN_KEY": KEY, "EVENTS__STALL_S": str(stall_s), "EVENTS__CONNECTIONS_PER_KEY": "2000"}
    async with serving(folder, **settings) as server, crowding(server) as crowd:
        report.start_s = server.start_s[0]
        await crowd.do("open", readers=READERS, whole=WHOLE)
        await flood(_port(server), POST, count=200)  # warm
        await _deliveries(server)
        before_mib = _mib(server, "VmRSS")
        alone, beside = Half(), Half()
        for _ in range(rounds):
            await _stretch(server, crowd, alone, seconds)
            await crowd.do("dead", dead=DEAD)
            while await _subscribers(server) < READERS + DEAD:
                await asyncio.sleep(0.1)
            due_s = stall_s * 1.5 + 3  # a ping comes after half of `stall_s`; a look each second
            until = time.monotonic() + (due_s if strict else PATIENCE_S)
            await _stretch(server, crowd, beside, seconds * 2)
            while (there := await _subscribers(server)) != READERS and time.monotonic() < until:
                await asyncio.sleep(0.2)
            if there != READERS:
                report.faults.append(f"of {DEAD} that read nothing {there - READERS} were not cut off in time")
            seen = await crowd.do("bury")
        head = await _head(server)
        seen = await crowd.do("until", seq=head)
        report.faults += seen["faults"]
        more_mib = _mib(server, "VmHWM") - before_mib
        saw = seen["cut"].get("1013", 0)
        if not set(seen["cut"]) <= {"1013", "reset"} or saw < rounds * DEAD // 10:
            report.faults.append(f"they were closed with {seen['cut']}")
        late, ratio = max(alone.late_ms + beside.late_ms), median(beside.speeds) / median(alone.speeds)
        if strict and late > LATE_MS:
            report.faults.append(f"frames were {late} ms late (p99)")
        if more_mib > MORE_MIB:
            report.faults.append(f"{more_mib:.0f} MiB more memory")
        if strict and ratio < 0.95:
            report.faults.append(f"{ratio:.2f} of the deliveries/s without those who read nothing")
        report.name = (
            f"{READERS} read, {DEAD} do not: frames {late} ms late (p99; alone {max(alone.late_ms)}), "
            f"{rounds * DEAD} cut off ({saw} saw 1013), {more_mib:+.0f} MiB, {ratio:.2f} of the deliveries/s without"
        )
        report.name += await _come_back(server, crowd, report, seed, seconds=min(seconds / 2, 15), strict=strict)
        report.events = await _head(server)
        told = await crowd.end()
        report.stopped = 1
        if code := await server.stop():
            report.faults.append(f"the server ended with {code}")
        stored = _log(server)
        if wrong := [seq for seq, checksum in told.items() if stored.get(seq) != checksum]:
            report.faults.append(f"{len(wrong)} events were told otherwise than stored, the first {min(wrong)}")
        if missing := set(range(min(told), report.events + 1)) - told.keys():
            report.faults.append(f"{len(missing)} events were told to nobody")
    report.took_s = time.perf_counter() - begun
    print(f"{report.name}; {alone} {beside}", flush=True)
    return report


async def _come_back(server: Server, crowd: Crowd, report: Report, seed: int, *, seconds: float, strict: bool) -> str:
    """All leave, and a thousand come back at once, from somewhere in the last 2 000 events, while others send."""
    calm = await paced(_port(server), POST, rate=PER_S, seconds=seconds)
    head = await _head(server)
    beside = asyncio.create_task(paced(_port(server), POST, rate=PER_S, seconds=seconds))
    back = await crowd.do("back", readers=READERS + DEAD, seq=head, behind=2000, seed=seed)
    during = await beside
    seen = await crowd.do("until", seq=await _head(server))
    report.faults += seen["faults"]
    report.worst_s = back["took_s"]
    if strict and back["took_s"] > CAUGHT_UP_S:
        report.faults.append(f"{READERS + DEAD} had caught up after {back['took_s']:.1f} s")
    before_ms, during_ms = part(calm, 0.99) * 1000, part(during, 0.99) * 1000
    if strict and during_ms > before_ms * 2:
        report.faults.append(f"a POST took {during_ms:.0f} ms (p99) instead of {before_ms:.0f}")
    return f"; all back in {back['took_s']:.1f} s, POST p99 {before_ms:.0f} -> {during_ms:.0f} ms"


async def _subscribers(server: Server) -> int:
    """How many the server says there are."""

    def ask() -> str:
        with urlopen(f"{server.base}/metrics", timeout=60) as answer:
            return str(answer.read().decode())

    found = re.search(r"^tocsin_subscribers (\S+)$", await asyncio.to_thread(ask), re.MULTILINE)
    assert found
    return int(float(found[1]))
