"""Real server processes under test, the load on them, and followers of their event stream.

A Server is `run.py serve` (or the launcher with a plan of what to break) over one folder, started again and again
with one log. Everything here waits for events and conditions with a deadline; nothing sleeps for a time.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from io import BytesIO
from pathlib import Path
from random import Random
from typing import Any

import aiohttp
import msgspec

from tests.faults.journal import Journal
from tests.faults.sinks import Sink

ROOT = Path(__file__).resolve().parents[2]
ADMIN_KEY = "admin-key-of-the-campaign-0123456789"
KEY = {"X-API-Key": ADMIN_KEY}
ENDED = ("completed", "failed", "cancelled")
START_S = 120.0


class Server:
    """One server over one folder: at most one process at a time."""

    def __init__(self, folder: Path, *, plan: dict[str, Any] | None = None, **environ: str):
        """`environ` are settings: QUEUE__WORKERS="4"; `plan` is for launch.py."""
        self.folder = folder
        self.plan = plan
        self.environ = {
            "AUTH__ADMIN_KEY": ADMIN_KEY,
            "SERVER__PORT": "0",
            "STORE__URL": "sqlite:tocsin.db",
            "CHANNELS__EMAIL__URL": "null:",
            "CHANNELS__SMS__URL": "null:",
            "CHANNELS__APP__URL": "null:",
            "QUEUE__BACKOFF_S": "0.05",
        } | environ
        self.base = ""
        self.starts = 0
        self.start_s: list[float] = []
        self.process: Process | None = None
        self.log = folder / "server.log"
        folder.mkdir(parents=True, exist_ok=True)
        config = folder / "config.toml"
        if not config.exists():
            config.write_text("", encoding="utf-8")

    @property
    def database(self) -> Path:
        """The database file."""
        return self.folder / self.environ["STORE__URL"].removeprefix("sqlite:")

    async def spawn(self, *arguments: str) -> Process:
        """The process, not yet known to be listening."""
        command = ["run.py"] if self.plan is None else ["-m", "tests.faults.launch", json.dumps(self.plan)]
        environ = os.environ | {f"TOCSIN_{name}": value for name, value in self.environ.items()}
        with self.log.open("ab") as log:
            return await asyncio.create_subprocess_exec(
                sys.executable, *command, "serve", "--config", str(self.folder / "config.toml"), *arguments,
                stdout=PIPE, stderr=log, cwd=ROOT, env=environ,
            )  # fmt: skip

    async def start(self) -> None:
        """Start, and return once it says where it listens. Raises RuntimeError if it ended instead."""
        begun = time.perf_counter()
        self.process = await self.spawn()
        self.starts += 1
        assert self.process.stdout
        async with asyncio.timeout(START_S):
            while line := (await self.process.stdout.readline()).decode():
                if "/admin/queue" in line:
                    port = line.rpartition(":")[2].partition("/")[0]
                    self.base = f"http://127.0.0.1:{port}"
                    self.start_s.append(time.perf_counter() - begun)
                    return
        code = await self.process.wait()
        raise RuntimeError(f"the server ended with {code}: {self.last_words()}")

    def signal(self, number: signal.Signals) -> None:
        """Send a signal, if it still lives."""
        if self.process and self.process.returncode is None:
            self.process.send_signal(number)

    async def ended(self, within_s: float = 60) -> int:
        """The exit code, once it has ended by itself or by a signal."""
        assert self.process
        async with asyncio.timeout(within_s):
            return await self.process.wait()

    async def kill(self) -> None:
        """kill -9."""
        self.signal(signal.SIGKILL)
        await self.ended()

    async def stop(self) -> int:
        """SIGTERM; the exit code."""
        self.signal(signal.SIGTERM)
        return await self.ended()

    def last_words(self) -> str:
        """The end of its log."""
        return self.log.read_text(encoding="utf-8", errors="replace")[-1500:]


@asynccontextmanager
async def serving(folder: Path, *, plan: dict[str, Any] | None = None, **environ: str) -> AsyncIterator[Server]:
    """A server that has been started; whatever lives of it at the end is killed."""
    server = Server(folder, plan=plan, **environ)
    try:
        await server.start()
        yield server
    finally:
        if server.process and server.process.returncode is None:
            await server.kill()


def people(count: int, canal: str = "email", first: int = 0) -> list[dict[str, Any]]:
    """`count` recipients."""
    return [
        {
            "id": f"u{n}", "nom": f"Jean {n}", "email": f"u{n}@example.org", "telephone": f"+3361{n:07d}",
            "preferences": {"canal_prefere": canal},
        }
        for n in range(first, first + count)
    ]  # fmt: skip


def notice(recipients: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    """The body of a notification."""
    return {"titre": "alerte", "message": "Tempête prévue", "utilisateurs": recipients} | more


class Caller:
    """A client of one server, with its journal."""

    def __init__(self, server: Server, journal: Journal):
        self.server = server
        self.journal = journal
        self.session = aiohttp.ClientSession(headers=KEY, timeout=aiohttp.ClientTimeout(total=120))
        self.slowest_s = 0.0

    async def close(self) -> None:
        await self.session.close()

    async def post(self, body: dict[str, Any], kind: str = "meteo", **headers: str) -> int:
        """Post a notification; the status, 0 if it was never answered. A 202 is in the journal."""
        begun = time.perf_counter()
        try:
            url = f"{self.server.base}/api/notifications/{kind}"
            data = BytesIO(msgspec.json.encode(body))
            headers = {"Content-Type": "application/json"} | headers
            async with self.session.post(url, data=data, headers=headers) as answer:
                given = await answer.json()
        except (aiohttp.ClientError, OSError, TimeoutError):
            self.journal.cut += 1
            return 0
        self.slowest_s = max(self.slowest_s, time.perf_counter() - begun)
        if answer.status == 202:
            self.journal.wrote(given["task_id"], len({person["id"] for person in body["utilisateurs"]}))
        else:
            self.journal.refusal(answer.status)
        return answer.status

    async def admin(self, path: str, body: Any = None) -> Any:
        """A POST that must be answered 200."""
        async with self.session.post(self.server.base + path, json=body if body is not None else {}) as answer:
            given = await answer.json()
            assert answer.status == 200, given
            return given

    async def get(self, path: str) -> Any:
        """A GET that must be answered 200."""
        async with self.session.get(self.server.base + path) as answer:
            given = await answer.json()
            assert answer.status == 200, given
            return given


@asynccontextmanager
async def calling(server: Server, folder: Path) -> AsyncIterator[Caller]:
    """A caller with a journal in `folder`."""
    caller = Caller(server, Journal(folder / "acknowledged.jsonl"))
    try:
        yield caller
    finally:
        await caller.close()
        caller.journal.close()


@asynccontextmanager
async def load(caller: Caller, random: Random, *, posters: int = 6, most: int = 4) -> AsyncIterator[None]:
    """Senders that post one notification after the other, of 1 to `most` recipients, until the server is gone."""
    over = False

    async def sender() -> None:
        while not over:
            some = people(random.randint(1, most), random.choice(["email", "sms"]))
            body = notice(some, priorite=random.choice(["CRITIQUE", "HAUTE", "NORMALE"]))
            if await caller.post(body, random.choice(["meteo", "securite", "infra"])) == 0:
                return

    senders = [asyncio.create_task(sender(), name=f"sender-{number}") for number in range(posters)]
    try:
        yield
    finally:
        over = True
        await asyncio.gather(*senders)


class Follower:
    """Reads the whole log over WebSocket, from life to life of the server, and keeps it as it was told."""

    def __init__(self, since: int = 0) -> None:
        self.last = since
        self.bodies: dict[int, bytes] = {}
        self.states: dict[str, str] = {}
        self.faults: list[str] = []  # where the stream broke its promise
        self.farewell = False  # a `shutdown` frame came
        self.code: int | None = None  # of the close
        self._news = asyncio.Event()

    async def follow(self, server: Server) -> None:
        """Read until the connection ends."""
        self.farewell, self.code = False, None
        async with aiohttp.ClientSession(headers=KEY) as session:
            try:
                socket = await session.ws_connect(f"{server.base}/ws/events?since={self.last}", max_msg_size=0)
            except (aiohttp.ClientError, OSError):
                return
            async for message in socket:
                if message.type is aiohttp.WSMsgType.TEXT:
                    self._frame(msgspec.json.decode(message.data))
            self.code = socket.close_code
            self._news.set()

    def _frame(self, frame: dict[str, Any]) -> None:
        match frame["kind"]:
            case "events":
                if frame["from"] != self.last + 1:
                    self.faults.append(f"a frame from {frame['from']} follows seq {self.last}")
                for event in frame["events"]:
                    if event["seq"] != self.last + 1:
                        self.faults.append(f"seq {event['seq']} follows {self.last}")
                    self.last = event["seq"]
                    self.bodies[self.last] = msgspec.json.encode(event)
                    if "task" in event:
                        self.states[event["task"]["id"]] = event["task"]["status"]
                if frame["to"] != self.last:
                    self.faults.append(f"a frame ends at {self.last} and says {frame['to']}")
                self._news.set()
            case "gap":
                self.faults.append(f"gap {frame['from']}..{frame['to']}")
                self.last = frame["to"]
            case "shutdown":
                self.farewell = True

    async def until(self, holds: Callable[[], bool], within_s: float = 60) -> None:
        """Return once `holds()`, looked at at every frame. Raises TimeoutError."""
        async with asyncio.timeout(within_s):
            while not holds():
                self._news.clear()
                await self._news.wait()

    async def until_ended(self, tasks: Any, within_s: float = 60) -> None:
        """Return once every one of `tasks` has ended."""
        await self.until(lambda: all(self.states.get(task_id) in ENDED for task_id in tasks), within_s)


@asynccontextmanager
async def following(server: Server, follower: Follower) -> AsyncIterator[Follower]:
    """`follower` reads along until the end of the block or of the server."""
    reading = asyncio.create_task(follower.follow(server), name="follower")
    try:
        yield follower
    finally:
        if server.process and server.process.returncode is None:
            reading.cancel()
        with suppress(asyncio.CancelledError):
            await reading


def mail_url(sink: Sink) -> str:
    """The channel URL of a mail sink."""
    return f"smtp://127.0.0.1:{sink.port}?from=tocsin@example.org&tls=none"


def sms_url(sink: Sink) -> str:
    """The channel URL of a gateway sink."""
    return f"http://127.0.0.1:{sink.port}/sms"
