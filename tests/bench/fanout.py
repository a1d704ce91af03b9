"""Fan-out: how many messages a second reach 1, 100 and 1 000 subscribers, how late, and what an idle one costs.

Beside each figure stands a bare aiohttp application that sends the same events to as many sockets with `send_str`, a
message each, in the same run. A message is an event that reached a subscriber. Each commit comes in a turn of the event
loop of its own. `a frame each` waits with the next commit until everyone was told of the last, and switches off the
rests with which many are told (server/api/live.py): the same frames on both sides, one behind the other. `as they come`
has the rests and does not wait: what is committed during a rest goes out as one frame. What is compared is the fan-out
alone, from the log's `append` to the socket, with the making of the event; `drain` has the whole way from POST to
frame. The server and those who read are processes of their own, on a core each where there are two.

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
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import uvloop
from aiohttp import web

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

KEY = "tocsin_key_of_the_bench_0123456789"
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
        self.log = Log(Nothing(), 65_536, self.clock)
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


# --- the readers' side ---------------------------------------------------------------------------


class Reader(asyncio.Protocol):
    """One subscriber that looks at no more than it must: the end of what came."""

    def __init__(self, crew: Crew) -> None:
        self.crew = crew
        self.buffer = b""  # the end of what came before: a number may lie across two pieces
        self.open = False
        self.seen = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.write(  # type: ignore[attr-defined]
            f"GET /ws/events HTTP/1.1\r\nHost: x\r\nX-API-Key: {KEY}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n".encode()
        )

    def data_received(self, data: bytes) -> None:
        if not self.open:
            self.buffer += data
            if b'"kind":"hello"' in self.buffer:
                self.open = True
                self.buffer = b""
                self.crew.one_more(self.crew.opened)
            return
        crew = self.crew
        if crew.timing:
            now = time.monotonic_ns()
            at = data.find(b'"ns":')
            while at >= 0:
                if len(stamp := data[at + 5 : at + 24]) == 19:
                    crew.late_ns.append(now - int(stamp))
                at = data.find(b'"ns":', at + 24)
        if self.seen is not crew.marker and (crew.marker in data or crew.marker in self.buffer + data[:64]):
            self.seen = crew.marker
            crew.one_more(crew.reached)
        self.buffer = data[-64:] if len(data) >= 64 else (self.buffer + data)[-64:]


class Crew:
    """All readers."""

    def __init__(self, n: int) -> None:
        self.n = n
        self.opened = [0]
        self.reached = [0]
        self.all = asyncio.Event()
        self.marker = b"?"
        self.timing = False
        self.late_ns: list[int] = []

    def one_more(self, count: list[int]) -> None:
        count[0] += 1
        if count[0] == self.n:
            self.all.set()


async def read(n: int, port: int) -> None:
    """The readers' process: connects, then waits for the number that its standard input names."""
    loop = asyncio.get_running_loop()
    crew = Crew(n)
    lines = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), os.fdopen(0, "rb"))
    await lines.readline()
    for start in range(0, n, 50):
        here = range(start, min(start + 50, n))
        await asyncio.gather(*(loop.create_connection(lambda: Reader(crew), "127.0.0.1", port) for _ in here))
    await crew.all.wait()
    print("open", flush=True)
    gc.freeze()
    while line := (await lines.readline()).decode().split():
        crew.all.clear()
        crew.reached[0] = 0
        crew.marker = b'"seq":%d,' % int(line[1])
        crew.timing = line[0] == "late"
        crew.late_ns.clear()
        print("ready", flush=True)
        await crew.all.wait()
        print(
            json.dumps(
                {"at": time.monotonic_ns(), "late": sorted(crew.late_ns)[:: max(1, len(crew.late_ns) // 10_000)]}
            )
        )
        sys.stdout.flush()


# --- the run ---------------------------------------------------------------------------------------


class Child:
    """A process of the bench."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    @classmethod
    async def start(cls, core: int, *arguments: object) -> Child:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.bench.fanout", str(core), *map(str, arguments),
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, limit=2**26,
        )  # fmt: skip
        return cls(process)

    def say(self, *words: object) -> None:
        assert self.process.stdin
        self.process.stdin.write((" ".join(map(str, words)) + "\n").encode())

    async def hear(self) -> str:
        assert self.process.stdout
        async with asyncio.timeout(40):
            return (await self.process.stdout.readline()).decode().strip()

    async def ask(self, *words: object) -> str:
        """Say, and hear what comes of it."""
        self.say(*words)
        return await self.hear()

    async def end(self) -> None:
        """Let it stop by itself."""
        assert self.process.stdin
        self.process.stdin.close()
        try:
            async with asyncio.timeout(10):
                await self.process.wait()
        except TimeoutError:
            self.process.kill()
            await self.process.wait()


async def measured(which: str, n: int, messages: int, rounds: int, rates: dict[int, int]) -> dict[str, Any]:
    """One side with `n` readers: messages/s and processor µs per message by events per commit, KiB per idle reader,
    and how late (ms) at each rate."""
    server = await Child.start(0, "serve", which)
    try:
        port = int(await server.hear())
        readers = await Child.start(1, "read", n, port)
        try:
            return await figures(server, readers, n, messages, rounds, rates)
        finally:
            await readers.end()
    finally:
        await server.end()


async def figures(
    server: Child, readers: Child, n: int, messages: int, rounds: int, rates: dict[int, int]
) -> dict[str, Any]:
    empty = float(await server.ask("rss"))
    readers.say("connect")
    await readers.hear()
    found: dict[str, Any] = {"kib": (float(await server.ask("there", n)) - empty) / n, "burst": {}, "late": {}}
    seq = FIRST
    for burst, (at_once, each) in BURSTS.items():
        speeds, costs = [], []
        for _ in range(rounds + 1):  # the first one warms up
            seq += messages
            await readers.ask("burst", seq)
            used = float(await server.ask("cpu"))
            began = float(await server.ask("burst", messages, at_once, each))
            ended = json.loads(await readers.hear())["at"]
            speeds.append(n * messages / (ended - began) * 1e9)
            costs.append((float(await server.ask("cpu")) - used) / (n * messages) * 1e6)
        found["burst"][burst] = (statistics.median(speeds[1:]), statistics.median(costs[1:]))
    for rate, count in rates.items():
        seq += count
        await readers.ask("late", seq)
        server.say("paced", rate, count)
        late = json.loads(await readers.hear())["late"]
        await server.hear()
        found["late"][rate] = [late[int(len(late) * q)] / 1e6 for q in (0.5, 0.99)]
    return found


async def run(quick: bool = False) -> list[dict[str, Any]]:
    """All figures of the fan-out."""
    rows: list[dict[str, Any]] = []
    for n in (1, 100, 1000):
        messages = max(40, min(60_000 // n, 10_000) // 8 * 8)
        rates = {50: 100 if quick else 250, 500: 1000 if quick else 2500} if n == 100 else {}
        sides: dict[str, list[dict[str, Any]]] = {"bare": [], "tocsin": []}
        for _ in range(1 if quick else 2):
            for which, found in sides.items():
                found.append(await measured(which, n, messages, 3, rates))

        def both(*path: Any, sides: dict[str, list[dict[str, Any]]] = sides) -> tuple[float, float]:
            """The medians of a figure: bare, ours."""
            return tuple(statistics.median(_at(found, path) for found in sides[which]) for which in sides)  # type: ignore[return-value]

        for burst in BURSTS:
            bare, ours = both("burst", burst, 0)
            cpu_bare, cpu = both("burst", burst, 1)
            note = f"processor time per message: {cpu:.1f} us, bare {cpu_bare:.1f} us, ratio {cpu_bare / cpu:.2f}"
            name = f"fan-out to {n} subscribers, {burst}"
            rows.append(_row(name, ours, "messages/s", bare, ">= 0.9") | {"note": note})
        if n == 1000:
            bare, ours = both("kib")
            rows.append(_row("idle subscriber", ours, "KiB", bare, "< bare + 40 KiB"))
        for rate in rates:
            for q, name in enumerate(("p50", "p99")):
                bare, ours = both("late", rate, q)
                target = "" if name == "p50" else "<= 5 ms" if rate == 50 else "<= 20 ms"
                rows.append(_row(f"commit to frame, {rate}/s, {n} subscribers, {name}", ours, "ms", bare, target))
    return rows


def _at(found: Any, path: tuple[Any, ...]) -> float:
    for step in path:
        found = found[step]
    return float(found)


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
