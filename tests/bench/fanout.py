"""Fan-out: how many messages a second reach 1, 100 and 1 000 subscribers, how late, and what an idle one costs.

Beside each figure stands a bare aiohttp application that sends the same events to as many sockets with `send_str`, a
message each, in the same run. A message is an event that reached a subscriber. Each commit comes in a turn of the event
loop of its own. `a frame each` waits with the next commit until everyone was told of the last, and switches off the
rests with which many are told (server/api/live.py): the same frames on both sides, one behind the other. `as they come`
has the rests and does not wait: what is committed during a rest goes out as one frame. What is compared is the fan-out
alone, from the log's `append` to the socket, with the making of the event; `drain` has the whole way from POST to
frame. The ring is full before it begins, as on a node that has worked for a while: one that still fills it pays for
fresh memory, too. Both sides stand ready and are measured in turns, a burst each: the machine's own ups and downs meet
both. The servers and those who read are processes of their own, on a core each where there are two.

    python -m tests.bench.fanout [quick]
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import uvloop
from aiohttp import web
from msgspec import Struct

from server.api import live, stream
from server.api.fanout import Hub
from server.clock import SystemClock
from server.commands.serve import calm_collector
from server.http.auth import hash_of
from server.http.front import keyring_context, setup
from server.http.routes import Routes
from server.log import Log
from server.model import ApiKey, Event, Role
from server.settings import Auth, Events, Settings
from server.store import open_store
from tests.bench.readers import KEY, Child, read

REST = live.REST
BODY = (
    '{"seq":%d,"event":"task.completed","at":"2025-11-13T10:00:00.123Z","ns":%019d,"task":{"id":'
    '"019a7d1c-7a57-7c3e-9f43-4c7f3b1f2a10","type":"meteo","status":"completed","priority":"HAUTE","titre":"Alerte '
    'orange : vents violents","attempts":1,"run":1,"progress":{"sent":2,"failed":0,"skipped":0,"total":2},'
    '"created_at_iso":"2025-11-13T10:00:00.000Z","started_at_iso":"2025-11-13T10:00:00.010Z","completed_at_iso":'
    '"2025-11-13T10:00:00.123Z","next_attempt_at_iso":null,"planifiee_a":null,"expire_a":null,"node":"a1","error":null,'
    '"result":{"success":true,"type":"meteo","utilisateurs_notifies":2,"utilisateurs_total":2,"non_joints":0,'
    '"ignores":0,"doublons":0}}}'
)
BYTES = BODY.encode()
BURSTS = {  # events per commit, and whether the next one waits until all are told
    "1 event per commit, a frame each": (1, 1),
    "1 event per commit, as they come": (1, 0),
    "8 events per commit, as they come": (8, 0),
}
FIRST = 1_000_000  # numbers of one width, so that all frames are equally long
FILL = 65_536  # events that were there before the first reader: as many as the ring may hold


class Nothing:
    """A store with nothing in it but the number it stands at."""

    async def bounds(self) -> tuple[int, int]:
        return FIRST + 1, FIRST

    async def events_after(self, seq: int, limit: int) -> list[Event]:
        raise AssertionError("the ring holds all that the bench reads")

    async def events_of(self, task_id: str, after: int, limit: int) -> list[Event]:
        raise AssertionError("nobody asks for a task")


# --- the server's side ---------------------------------------------------------------------------


class Bare:
    """What aiohttp alone does."""

    def __init__(self) -> None:
        self.sockets: list[web.WebSocketResponse] = []
        self.seq = FIRST

    async def build(self, folder: Path) -> web.Application:
        app = web.Application()
        app.router.add_get("/ws/events", self.serve)
        return app

    async def serve(self, request: web.Request) -> web.StreamResponse:
        ws = web.WebSocketResponse(compress=False, max_msg_size=4096)
        await ws.prepare(request)
        await ws.send_str('{"kind":"hello"}')
        self.sockets.append(ws)
        async for _ in ws:
            pass
        self.sockets.remove(ws)
        return ws

    async def fill(self) -> None:
        """There is no ring here."""
        self.seq += FILL

    async def tell(self, n: int, *, each: bool) -> None:
        """Send `n` messages to all."""
        for _ in range(n):
            self.seq += 1
            body = BODY % (self.seq, time.monotonic_ns())
            text = f'{{"kind":"events","from":{self.seq},"to":{self.seq},"events":[{body}]}}'
            for ws in self.sockets:
                await ws.send_str(text)

    @property
    def there(self) -> int:
        return len(self.sockets)


class Tocsin:
    """The stream as served: front, key, hub."""

    def __init__(self) -> None:
        self.clock = SystemClock()
        self.log = Log(Nothing(), FILL, self.clock)
        self.hub: Hub | None = None

    async def build(self, folder: Path) -> web.Application:
        app = web.Application()
        store = open_store("sqlite:bench.db", folder)
        await store.open()
        key = ApiKey(id="k", name="bench", role=Role.VIEWER, hash=hash_of(KEY), created_ms=0)
        await store.add_key(key)
        events = Events(connections=10_000, connections_per_key=10_000)
        setup(app, Settings(auth=Auth(), events=events), self.clock, store)
        app.cleanup_ctx.append(keyring_context)
        app.on_cleanup.append(lambda _: store.close())
        await self.log.open()
        self.hub = app[stream.HUB] = Hub(self.log, self.clock, events, node="n", version="1", stats_source=self.stats)
        self.live = self.hub.live
        app.on_shutdown.append(stream.close_streams)
        routes = Routes()
        routes.extend(stream.routes)
        routes.register(app)
        return app

    async def stats(self) -> dict[str, Any]:
        return {}

    async def fill(self) -> None:
        """Have the ring hold as much as it may, as it does after some minutes of work."""
        for seq in range(FIRST + 1, FIRST + FILL + 1):
            self.log.append([self.event(seq)])

    async def tell(self, n: int, *, each: bool) -> None:
        """Append `n` events, as one commit does; with `each`, wait until they are on their way."""
        first = self.log.head + 1
        self.log.append([self.event(seq) for seq in range(first, first + n)] if n > 1 else [self.event(first)])
        while each and self.live.settled < self.log.head:
            await asyncio.sleep(0)

    @staticmethod
    def event(seq: int) -> Event:
        body = BYTES % (seq, time.monotonic_ns())
        return Event(seq, 0, "task.completed", "t", "meteo", "completed", 2, body)

    @property
    def there(self) -> int:
        return len(self.hub.subscribers) if self.hub else 0


def rss_kib() -> int:
    """Memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") // 1024


@asynccontextmanager
async def served(side: Bare | Tocsin, folder: Path) -> AsyncIterator[int]:
    runner = web.AppRunner(await side.build(folder), access_log=None, shutdown_timeout=1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, backlog=2048)
    await site.start()
    yield runner.addresses[0][1]
    await runner.cleanup()


async def serve(which: str) -> None:
    """The server process: does what its standard input says, a line each."""
    side = Bare() if which == "bare" else Tocsin()
    with tempfile.TemporaryDirectory() as folder:
        async with served(side, Path(folder)) as port:
            print(port, flush=True)
            lines = asyncio.StreamReader()
            await asyncio.get_running_loop().connect_read_pipe(
                lambda: asyncio.StreamReaderProtocol(lines), os.fdopen(0, "rb")
            )
            calm_collector()
            while line := (await lines.readline()).decode().split():
                print(await obey(side, line), flush=True)


async def obey(side: Bare | Tocsin, line: list[str]) -> float:
    match line:
        case ["there", n]:  # wait until n are connected; the memory they take
            while side.there < int(n):
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.2)
            gc.collect()
            return rss_kib()
        case ["rss"]:
            gc.collect()
            return rss_kib()
        case ["fill"]:
            await side.fill()
            return 0
        case ["burst", n, at_once, each]:
            live.REST = 0.0 if each == "1" else REST
            began = time.monotonic_ns()
            for _ in range(int(n) // int(at_once)):
                await side.tell(int(at_once), each=each == "1")
                await asyncio.sleep(0)  # a commit comes in a turn of its own
            return began
        case ["cpu"]:
            return time.process_time()
        case ["paced", rate, n]:
            live.REST = REST
            loop = asyncio.get_running_loop()
            start = loop.time()
            for i in range(int(n)):
                await asyncio.sleep(max(0.0, start + i / float(rate) - loop.time()))
                await side.tell(1, each=False)
            return 0
    raise ValueError(line)


# --- the run ---------------------------------------------------------------------------------------


class Side(Struct):
    """One of the two that are compared, with its readers, and what was measured of it."""

    server: Child
    readers: Child
    seq: int = FIRST + FILL
    kib: float = 0.0  # per idle reader
    speeds: dict[str, list[float]] = {}  # messages/s, by burst
    costs: dict[str, list[float]] = {}  # processor time per message, µs
    late: dict[int, tuple[float, float]] = {}  # ms, p50 and p99, by events/s

    async def burst(self, name: str, n: int, messages: int, *, counts: bool) -> None:
        """Send `messages` to `n` readers."""
        at_once, each = BURSTS[name]
        self.seq += messages
        await self.readers.ask("burst", self.seq)
        used = float(await self.server.ask("cpu"))
        began = float(await self.server.ask("burst", messages, at_once, each))
        ended = json.loads(await self.readers.hear())["at"]
        cost = (float(await self.server.ask("cpu")) - used) / (n * messages) * 1e6
        if counts:
            self.speeds.setdefault(name, []).append(n * messages / (ended - began) * 1e9)
            self.costs.setdefault(name, []).append(cost)

    async def paced(self, rate: int, count: int) -> None:
        """Send `count` messages, `rate` a second, and note how late they come."""
        self.seq += count
        await self.readers.ask("late", self.seq)
        self.server.say("paced", rate, count)
        late = json.loads(await self.readers.hear())["late"]
        await self.server.hear()
        self.late[rate] = (late[len(late) // 2] / 1e6, late[int(len(late) * 0.99)] / 1e6)


@asynccontextmanager
async def side(which: str, n: int) -> AsyncIterator[Side]:
    """A server with its ring full, and `n` readers at it."""
    server = await Child.start(0, "serve", which)
    try:
        port = int(await server.hear())
        await server.ask("fill")
        readers = await Child.start(1, "read", n, port)
        try:
            empty = float(await server.ask("rss"))
            readers.say("connect")
            await readers.hear()
            yield Side(server, readers, kib=(float(await server.ask("there", n)) - empty) / n)
        finally:
            await readers.end()
    finally:
        await server.end()


async def compared(n: int, messages: int, turns: int, rates: dict[int, int]) -> dict[str, Side]:
    """Both sides with `n` readers, measured in turns: what the machine does meanwhile is done to both."""
    async with side("bare", n) as bare, side("tocsin", n) as ours:
        for name in BURSTS:
            for turn in range(turns + 1):  # the first one warms up
                for each in (bare, ours) if turn % 2 else (ours, bare):
                    await each.burst(name, n, messages, counts=turn > 0)
        for rate, count in rates.items():
            for each in (bare, ours):
                await each.paced(rate, count)
        return {"bare": bare, "ours": ours}


async def run(quick: bool = False) -> list[dict[str, Any]]:
    """All figures of the fan-out."""
    rows: list[dict[str, Any]] = []
    for n in (1, 100, 1000):
        messages = {1: 2_000, 100: 200, 1000: 40}[n]
        rates = {50: 100 if quick else 250, 500: 1000 if quick else 2500} if n == 100 else {}
        found = [await compared(n, messages, 5 if quick else 15, rates) for _ in range(1 if quick else 2)]

        def both(of: Callable[[Side], list[float]], found: list[dict[str, Side]] = found) -> list[float]:
            """The medians of a figure: bare, ours."""
            return [statistics.median(x for sides in found for x in of(sides[which])) for which in ("bare", "ours")]

        for burst in BURSTS:
            bare, ours = both(lambda side, burst=burst: side.speeds[burst])  # type: ignore[misc]
            cpu_bare, cpu = both(lambda side, burst=burst: side.costs[burst])  # type: ignore[misc]
            note = f"processor time per message: {cpu:.1f} us, bare {cpu_bare:.1f} us, ratio {cpu_bare / cpu:.2f}"
            rows.append(
                _row(f"fan-out to {n} subscribers, {burst}", ours, "messages/s", bare, ">= 0.9") | {"note": note}
            )
        if n == 1000:
            bare, ours = both(lambda side: [side.kib])
            rows.append(_row("idle subscriber", ours, "KiB", bare, "< bare + 40 KiB"))
        for rate in rates:
            for q, name in enumerate(("p50", "p99")):
                bare, ours = both(lambda side, rate=rate, q=q: [side.late[rate][q]])  # type: ignore[misc]
                target = "" if name == "p50" else "<= 5 ms" if rate == 50 else "<= 20 ms"
                rows.append(_row(f"commit to frame, {rate}/s, {n} subscribers, {name}", ours, "ms", bare, target))
    return rows


def _row(figure: str, value: float, unit: str, limit: float, target: str) -> dict[str, Any]:
    ratio = round(value / limit, 3) if limit else None
    return {"figure": figure, "value": value, "unit": unit, "limit": limit, "ratio": ratio, "target": target}


def _pin(core: int) -> None:
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[core % len(cores)]})


def main(arguments: list[str]) -> None:
    match arguments:
        case [core, "serve", which]:
            _pin(int(core))
            uvloop.run(serve(which))
        case [core, "read", n, port]:
            _pin(int(core))
            uvloop.run(read(int(n), int(port)))
        case _:
            for row in uvloop.run(run("quick" in arguments)):
                print(
                    f"{row['figure']:60} {row['value']:12,.2f} {row['unit']:14} bare {row['limit']:12,.2f}"
                    f"  ratio {row['ratio']}  {row['target']}  {row.get('note', '')}"
                )


if __name__ == "__main__":
    main(sys.argv[1:])
