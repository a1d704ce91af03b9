"""From accepted to completed: tasks/s, time from POST to the completed frame, and one task with 100 000 recipients."""

from __future__ import annotations

import asyncio
import re
import signal
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter, sleep

from tests.bench.kit import KEY, Row, Tocsin, median, notification, quantile, row
from tests.bench.load import Connection, flood, paced, request, task_id
from tests.bench.post import BODY, bare

TASKS = 20_000
MANY = 100_000
_completed = re.compile(rb'"event":"task\.completed","at":"[^"]*","task":\{"id":"([0-9a-f-]{36})"')
_open = re.compile(rb'"kind":"hello"')


@contextmanager
def fresh(**settings: str) -> Iterator[Tocsin]:
    """A server over an empty store."""
    with tempfile.TemporaryDirectory(prefix="tocsin-bench-") as folder:
        server = Tocsin(Path(folder), **settings)
        try:
            yield server
        finally:
            server.end(signal.SIGKILL)


def until_completed(server: Tocsin, n: int, most_s: float = 120) -> float:
    """When `n` tasks were completed (perf_counter), looking 20 times a second."""
    end = perf_counter() + most_s
    while perf_counter() < end:
        if server.stats()["total_processed"] >= n:
            return perf_counter()
        sleep(0.05)
    raise TimeoutError(f"{n} tasks were not completed in {most_s} s: {server.stats()}")


class Watcher(asyncio.Protocol):
    """A subscriber; the first one notes when each task's completed frame came, the others only read."""

    def __init__(
        self, port: int, seen: dict[str, float] | None, query: str = "", moved: Callable[[], None] = lambda: None
    ):
        self.seen = seen
        self.moved = moved
        self.opened = asyncio.get_running_loop().create_future()
        self._tail = b""
        self._request = (
            f"GET /ws/events{query} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nX-API-Key: {KEY}\r\nConnection: Upgrade\r\n"
            "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        ).encode()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: asyncio.Transport = transport  # type: ignore[assignment]
        self.transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        if not self.opened.done():
            self._tail += data
            if _open.search(self._tail):
                self.opened.set_result(None)
                self._tail = b""
            return
        if self.seen is None:
            return
        now = perf_counter()
        text = self._tail + data
        end = 0
        for found in _completed.finditer(text):
            self.seen.setdefault(found[1].decode(), now)
            end = found.end()
        self._tail = text[max(end, len(text) - 160) :]
        self.moved()

    def connection_lost(self, error: Exception | None) -> None:
        if not self.opened.done():
            self.opened.set_exception(ConnectionError("no event stream"))


async def watch(
    port: int, seen: dict[str, float] | None, n: int = 1, query: str = "", moved: Callable[[], None] = lambda: None
) -> list[Watcher]:
    """`n` subscribers, all connected."""
    loop = asyncio.get_running_loop()
    made = [
        await loop.create_connection(lambda: Watcher(port, seen, query, moved), "127.0.0.1", port) for _ in range(n)
    ]
    crew = [watcher for _, watcher in made]
    await asyncio.gather(*(watcher.opened for watcher in crew))
    return crew


async def reach(
    server: Tocsin, rate: float, seconds: float, load: float = 0, subscribers: int = 0, query: str = ""
) -> list[float]:
    """Seconds from a POST (when it was due) to its completed frame, sent at `rate` beside `load` POST/s more."""
    seen: dict[str, float] = {}
    due: dict[str, float] = {}
    crew = await watch(server.port, seen)
    crew += await watch(server.port, None, subscribers, query)
    beside = asyncio.create_task(paced(server.port, BODY, rate=load, seconds=seconds + 1)) if load else None
    await paced(
        server.port, BODY, rate=rate, seconds=seconds, connections=8, exact=True,
        on_answer=lambda at, answer: due.__setitem__(task_id(answer), at),
    )  # fmt: skip
    if beside:
        await beside
    end = perf_counter() + 20
    while not due.keys() <= seen.keys() and perf_counter() < end:
        await asyncio.sleep(0.01)
    for watcher in crew:
        watcher.transport.abort()
    return [seen.get(task, perf_counter()) - at for task, at in due.items()]


async def drained(workers: int, tasks: int) -> tuple[float, float]:
    """(tasks/s of a backlog, tasks/s from the first POST to the last completion)."""
    with fresh(QUEUE__WORKERS=str(workers)) as server:
        warm = await flood(server.port, BODY, count=1000)
        until_completed(server, 1000)
        server.pause()
        await flood(server.port, BODY, count=tasks)
        server.pause(paused=False)
        began = perf_counter()
        backlog = tasks / (await asyncio.to_thread(until_completed, server, 1000 + tasks) - began)
        began = perf_counter()
        await flood(server.port, BODY, count=tasks)
        through = tasks / (await asyncio.to_thread(until_completed, server, 1000 + 2 * tasks) - began)
        assert warm.statuses[202] == 1000
        assert server.stats()["total_failed"] == 0
        return backlog, through


async def steady(seconds: float) -> tuple[float, float]:
    """(tasks/s accepted and completed without a growing backlog, bare POST/s): the sender waits while 256 are open."""
    with fresh() as server, bare() as limit:
        rates = []
        bares = []
        for number in range(4):
            rate = (await flood(limit.port, BODY, seconds=seconds / 2)).per_s
            found = await _hold(server, seconds)
            if number:
                bares.append(rate)
                rates.append(found)
        return median(rates), median(bares)


async def _hold(server: Tocsin, seconds: float) -> float:
    """Send as fast as tasks complete, at most 256 open at once; completions per second."""
    seen: dict[str, float] = {}
    moved = asyncio.Event()  # a connection is free, or a task completed
    crew = await watch(server.port, seen, moved=moved.set)
    loop = asyncio.get_running_loop()
    free: list[Connection] = []
    sent = 0

    def answered(connection: Connection, status: int, answer: bytes) -> None:
        assert status == 202, status
        free.append(connection)
        moved.set()

    for _ in range(64):
        free.append((await loop.create_connection(lambda: Connection(answered), "127.0.0.1", server.port))[1])
    everybody = list(free)
    began = perf_counter()
    while perf_counter() < began + seconds:
        while free and sent - len(seen) < 256:
            free.pop().send(BODY)
            sent += 1
        moved.clear()
        async with asyncio.timeout(20):
            await moved.wait()
    per_s = len(seen) / (perf_counter() - began)
    while len(seen) < sent and perf_counter() < began + seconds + 20:
        await asyncio.sleep(0.01)
    for one in [*everybody, *crew]:
        one.transport.abort()
    return per_s


async def crowd() -> tuple[float, float]:
    """(deliveries/s of one task with 100 000 recipients, MiB of memory above idle at its peak)."""
    with fresh() as server:
        body = request("POST", "/api/notifications/meteo", notification(MANY))
        await flood(server.port, BODY, count=100)
        until_completed(server, 100)
        idle = server.rss_mib()
        server.forget_peak()
        server.pause()
        await flood(server.port, body, connections=1, count=1)
        server.pause(paused=False)
        began = perf_counter()
        per_s = MANY / (await asyncio.to_thread(until_completed, server, 101) - began)
        return per_s, server.rss_mib("VmHWM") - idle


async def run(quick: bool = False) -> list[Row]:
    """All figures of completing."""
    tasks = 5_000 if quick else TASKS
    rows: list[Row] = []
    seconds = 3.0 if quick else 6.0
    both, bare_per_s = await steady(seconds / 2)
    rows.append(row("accepting and completing together", both, "tasks/s", bare_per_s, ">= 0.35 of it"))
    for workers in (2, 32):
        backlog, through = await drained(workers, tasks)
        note = f"{tasks:,} tasks of 2 recipients"
        rows.append(row(f"backlog drained, {workers} workers", backlog, "tasks/s", None, ">= 4000", note))
        rows.append(row(f"first POST to last completed, {workers} workers", through, "tasks/s", None, "", note))
    with fresh() as server:
        await flood(server.port, BODY, count=500)
        until_completed(server, 500)
        took = await reach(server, 50, seconds)
        for part, target in ((0.5, "<= 3 ms"), (0.99, "<= 8 ms")):
            name = f"POST to completed frame, 50/s, p{part * 100:.0f}"
            rows.append(row(name, quantile(took, part) * 1e3, "ms", None, target))
    for workers in (2, 8):
        with fresh(QUEUE__WORKERS=str(workers)) as server:
            await flood(server.port, BODY, count=500)
            until_completed(server, 500)
            for mode, query in (("mode=latest", "?mode=latest"), ("every event", "")):
                took = await reach(server, 50, seconds, load=both / 2, subscribers=100, query=query)
                name = f"the same, {both / 2:,.0f} POST/s beside, 100 subscribers ({mode}), {workers} workers, p99"
                rows.append(row(name, quantile(took, 0.99) * 1e3, "ms", None, "<= 50 ms"))
    per_s, more = await crowd()
    rows.append(row("one task of 100,000 recipients", per_s, "deliveries/s", None, ">= 25000"))
    rows.append(row("its memory above idle, at the peak", more, "MiB", None, "< 80"))
    return rows
