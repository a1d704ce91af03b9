"""What tests of followers need: a server at today's date, and a receiver at the far end of a webhook."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from server.app import WEBHOOKS, build
from tests.api.http_kit import TurnedClock
from tests.kit import Town, settings_for
from tests.stores import store_url

SECRETS = ["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_c2Vjb25kLXNlY3JldC1vZi10aGUtdGVzdHM="]


class TodaysClock(TurnedClock):
    """Stands still at the moment the test began, so that signatures are fresh for who checks them."""

    def __init__(self) -> None:
        super().__init__()
        self._offset_ms = time.time_ns() // 1_000_000 - super().now_ms()

    def now_ms(self) -> int:
        return super().now_ms() + self._offset_ms


@dataclass
class Received:
    """One call of a webhook."""

    path: str
    headers: dict[str, str]
    body: bytes
    at_ms: int


class Receiver:
    """A web server that answers as scripted, then always 204; remembers every call."""

    def __init__(self, clock: TurnedClock):
        self.calls: list[Received] = []
        self.url = ""
        self.most_at_once = 0
        self.connections = 0
        self._clock = clock
        self._at_once = 0
        self._script: deque[web.Response] = deque()
        self._open = asyncio.Event()
        self._open.set()
        self.changed = asyncio.Event()

    def will(self, *answers: int | web.Response) -> None:
        """Answer the next calls so."""
        self._script.extend(web.Response(status=each) if isinstance(each, int) else each for each in answers)

    def hold(self) -> None:
        """Do not answer until `release`."""
        self._open.clear()

    def release(self) -> None:
        self._open.set()

    async def until_called(self, times: int) -> None:
        while len(self.calls) < times:
            self.changed.clear()
            await self.changed.wait()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        headers = {name.lower(): value for name, value in request.headers.items()}
        self.calls.append(Received(request.path_qs, headers, await request.read(), self._clock.now_ms()))
        self._at_once += 1
        self.most_at_once = max(self.most_at_once, self._at_once)
        self.changed.set()
        await self._open.wait()
        self._at_once -= 1
        return self._script.popleft() if self._script else web.Response(status=204)


@asynccontextmanager
async def receiving(clock: TurnedClock) -> AsyncIterator[Receiver]:
    """A receiver on the loopback."""
    receiver = Receiver(clock)
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", receiver.handle)
    async with TestServer(app) as server:
        receiver.url = str(server.make_url("/hook"))
        yield receiver
        receiver.release()


@asynccontextmanager
async def today(folder: Path, clock: TurnedClock | None = None, **environ: str) -> AsyncIterator[Town]:
    """A server like `kit.running`, at today's date."""
    clock = clock or TodaysClock()
    where = {"STORE__URL": await store_url(folder)}
    app = build(settings_for(folder, **(where | environ)), clock, node="test-node")
    async with TestClient(TestServer(app)) as client:
        yield Town(app, client, clock)


async def turn_until(town: Town, holds: Callable[[], Any], step_s: float = 1.0) -> None:
    """Let time pass, step by step, until `holds()` (a value or a coroutine) is true; not while a webhook is called."""
    while True:
        found = holds()
        if asyncio.iscoroutine(found):
            found = await found
        if found:
            return
        if not step_s or not town.app[WEBHOOKS].on_wire:
            town.clock.turn(step_s)
        for _ in range(3):
            await town.store.touch_keys({})  # through the store and back, behind what was handed to it before
