"""The stream behind a real front, with a log over a plain list: what tests of the stream stand on."""

from __future__ import annotations

import asyncio
import json
import random
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import aiohttp
import msgspec
from aiohttp import ClientWebSocketResponse, web
from aiohttp.test_utils import TestClient, TestServer

from server.api import stream
from server.api.fanout import Hub
from server.http.front import setup
from server.http.routes import Routes
from server.log import Log
from server.model import Event, EventKind, Priority, Role, Status
from server.settings import Auth, Events, Settings
from server.store import Store, open_store
from tests.api.http_kit import SECRETS, TurnedClock
from tests.stores import store_url

KINDS = [kind for kind in EventKind if kind.value.startswith("task.")]
TYPES = ("meteo", "securite", "sante", "infra")


def event(seq: int, draw: random.Random | None = None, **given: Any) -> Event:
    """The log's line `seq`: of a task, as drawn or as given."""
    draw = draw or random.Random(seq)
    task_id = given.get("task_id", f"task-{draw.randrange(12)}")
    kind = given.get("kind", draw.choice(KINDS) if task_id else EventKind.PAUSED)
    values = {
        "type": draw.choice(TYPES) if task_id else "",
        "status": draw.choice(list(Status)).value if task_id else "",
        "priority": int(draw.choice(list(Priority))) if task_id else 0,
    } | {name: value for name, value in given.items() if name in ("type", "status", "priority")}
    body: dict[str, Any] = {"seq": seq, "event": kind.value, "at": "2025-11-13T10:00:00.000Z"}
    if task_id:
        body["task"] = {"id": task_id, **values, "titre": given.get("titre", "Tempête")}
    return Event(seq, 0, kind.value, task_id, body=json.dumps(body).encode(), **values)


class Shelf:
    """As much of a store as a log needs: a list whose beginning can be cut off."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.cut = 0  # events removed from the beginning
        self.reads = 0
        self.indexed = 0
        self.answers = asyncio.Event()
        self.answers.set()

    async def bounds(self) -> tuple[int, int]:
        return self.cut + 1, self.cut + len(self.events)

    async def events_after(self, seq: int, limit: int) -> list[Event]:
        self.reads += 1
        await asyncio.sleep(0)
        await self.answers.wait()
        start = max(seq - self.cut, 0)
        return self.events[start : start + limit]

    async def events_of(self, task_id: str, after: int, limit: int) -> list[Event]:
        self.indexed += 1
        await asyncio.sleep(0)
        await self.answers.wait()
        return [each for each in self.events if each.task_id == task_id and each.seq > after][:limit]

    def trim(self, oldest: int) -> None:
        """Forget what lies before `oldest`."""
        del self.events[: oldest - 1 - self.cut]
        self.cut = oldest - 1


class Desk:
    """A running server with nothing but the stream, and the hand that writes its log."""

    def __init__(self, client: TestClient[Any, Any], app: web.Application, log: Log, shelf: Shelf, clock: TurnedClock):
        self.client, self.app, self.log, self.shelf, self.clock = client, app, log, shelf, clock
        self.hub: Hub = app[stream.HUB]
        self.keyring = app[stream.FRONT].keyring
        self.stats: dict[str, Any] = {"total_tasks": 0}
        self.draw = random.Random(7)

    def commit(self, n: int = 1, **given: Any) -> list[Event]:
        """Append `n` events, as after one commit."""
        events = [event(self.log.head + 1 + i, self.draw, **given) for i in range(n)]
        self.shelf.events += events
        self.log.append(events)
        return events

    async def open(self, query: str = "", role: Role = Role.VIEWER, **headers: str) -> ClientWebSocketResponse:
        """A WebSocket that has not read anything yet."""
        return await self.client.ws_connect(
            f"/ws/events?{query}", headers={"X-API-Key": SECRETS[role]} | headers, max_msg_size=0
        )

    async def refused(self, query: str = "", **headers: str) -> tuple[int, dict[str, Any]]:
        """The status and problem with which a handshake is refused."""
        upgrade = {
            "Connection": "Upgrade",
            "Upgrade": "websocket",
            "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
        }
        answer = await self.client.get(f"/ws/events?{query}", headers=upgrade | headers)
        return answer.status, await answer.json()

    async def until(self, holds: Callable[[], Any]) -> None:
        """Wait until `holds()`, looking at every turn of the loop."""
        while not holds():
            await asyncio.sleep(0)

    async def turn(self, seconds: float, step: float = 1.0) -> None:
        """Let time pass in steps, and let what is due happen after each."""
        while seconds > 0:
            await settle()
            self.clock.turn(min(step, seconds))
            seconds -= step
        await settle()


async def settle(turns: int = 20) -> None:
    """Let everything happen that needs no time."""
    for _ in range(turns):
        await asyncio.sleep(0)


async def frame(ws: ClientWebSocketResponse) -> dict[str, Any]:
    """The next frame of an open stream."""
    async with asyncio.timeout(60):
        message = await ws.receive()
    assert message.type is aiohttp.WSMsgType.TEXT, (message, ws.close_code)
    found: dict[str, Any] = msgspec.json.decode(message.data)
    return found


async def close_code(ws: ClientWebSocketResponse) -> int | None:
    """The code with which the server closes, whatever it still has to say before."""
    async with asyncio.timeout(60):
        while (await ws.receive()).type is aiohttp.WSMsgType.TEXT:
            pass
    return ws.close_code


async def read_to(ws: ClientWebSocketResponse, seq: int) -> list[dict[str, Any]]:
    """All frames up to the one that reaches `seq`."""
    frames = []
    while True:
        frames.append(await frame(ws))
        assert frames[-1]["kind"] != "error", frames[-1]
        if frames[-1].get("to", 0) >= seq:
            return frames


def seqs(frames: list[dict[str, Any]]) -> list[int]:
    """The numbers of all events in `frames`."""
    return [event["seq"] for each in frames for event in each.get("events", ())]


class Raw:
    """A WebSocket client that sends what no library would."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def open(cls, kit: Desk) -> Raw:
        server = kit.client.server
        reader, writer = await asyncio.open_connection(server.host, server.port)
        writer.write(
            f"GET /ws/events HTTP/1.1\r\nHost: x\r\nX-API-Key: {SECRETS[Role.VIEWER]}\r\n"
            "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n".encode()
        )
        head = await reader.readuntil(b"\r\n\r\n")
        assert b" 101 " in head, head
        return cls(reader, writer)

    def send(self, opcode: int, payload: bytes) -> None:
        size = len(payload)
        head = (
            struct.pack("!BB", 0x80 | opcode, 0x80 | size)
            if size < 126
            else struct.pack("!BBH", 0x80 | opcode, 254, size)
        )
        self.writer.write(head + b"\0\0\0\0" + payload)

    async def receive(self) -> tuple[int, bytes]:
        """The next frame: opcode and payload."""
        async with asyncio.timeout(60):
            first, size = await self.reader.readexactly(2)
            if size == 126:
                (size,) = struct.unpack("!H", await self.reader.readexactly(2))
            elif size == 127:
                (size,) = struct.unpack("!Q", await self.reader.readexactly(8))
            return first & 15, await self.reader.readexactly(size)

    async def close_code(self) -> int:
        """The code of the close frame, whatever comes before it."""
        while True:
            opcode, payload = await self.receive()
            if opcode == 8:
                return int(struct.unpack("!H", payload[:2])[0])

    async def gone(self) -> bool:
        """Does the server end the connection?"""
        async with asyncio.timeout(60):
            try:
                while await self.reader.read(65536):
                    pass
            except ConnectionError:
                pass  # cut off rather than closed
        return True


@asynccontextmanager
async def desk(
    folder: Path, *, ring: int = 1024, events: int = 0, rests: bool = False, **settings: Any
) -> AsyncIterator[Desk]:
    """A server with the stream alone; `events` are in its log from the start, `settings` are those of `[events]`.

    Without `rests` it does not rest, and lets all take their turn at once: its readers are in this process too, and
    their work would count as its own.
    """
    clock = TurnedClock()
    store: Store = open_store(await store_url(folder), folder)
    await store.open()
    try:
        app = web.Application()
        front = setup(app, Settings(auth=Auth(), events=Events(**settings)), clock, store)
        await _add_keys(store, clock)
        await front.keyring.open()
        shelf = Shelf()
        shelf.events = [event(n + 1) for n in range(events)]
        log = Log(shelf, ring, clock)
        await log.open()
        stats: list[Desk] = []

        async def now() -> dict[str, Any]:
            return stats[0].stats

        app[stream.HUB] = Hub(log, clock, Events(**settings), node="n1", version="1", stats_source=now)
        app.on_shutdown.append(stream.close_streams)
        routes = Routes()
        routes.extend(stream.routes)
        routes.register(app)
        async with TestClient(TestServer(app)) as client:
            stats.append(Desk(client, app, log, shelf, clock))
            with ExitStack() as changed:
                if not rests:
                    changed.enter_context(patch.multiple("server.api.turns", REST=0.0, AT_ONCE=10_000))
                    changed.enter_context(patch("server.api.live.REST", 0.0))
                yield stats[0]
        await front.keyring.close()
    finally:
        await store.close()


async def _add_keys(store: Store, clock: TurnedClock) -> None:
    from server.http.auth import hash_of
    from server.model import ApiKey

    for role, secret in SECRETS.items():
        name = role.name.lower()
        await store.add_key(ApiKey(id=name, name=name, role=role, hash=hash_of(secret), created_ms=clock.now_ms()))
