"""A small server around the front alone, for tests of what stands before every route."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import aiohttp_jinja2  # noqa: F401 - imported once here, so that its import is not timed by a test
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from server.http.auth import hash_of
from server.http.front import FRONT, Front, keyring_context, setup
from server.http.routes import Routes
from server.model import ApiKey, Role
from server.settings import Auth, Limits, Server, Settings
from server.store import open_store
from tests.stores import store_url

SECRETS = {role: f"tocsin_{role.name.lower()}_key_of_this_test_server" for role in Role}


class TurnedClock:
    """A clock that stands still until it is turned."""

    def __init__(self) -> None:
        self._now = 1_000_000.0
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._order = count()

    def now_ms(self) -> int:
        return 1_700_000_000_000 + int(self._now * 1000)

    def monotonic(self) -> float:
        return self._now

    def sleep(self, seconds: float) -> asyncio.Future[None]:
        waiting: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._now + seconds, next(self._order), waiting))
        return waiting

    def turn(self, seconds: float) -> None:
        """Let `seconds` pass."""
        self._now += seconds
        while self._sleepers and self._sleepers[0][0] <= self._now:
            waiting = heapq.heappop(self._sleepers)[2]
            if not waiting.done():
                waiting.set_result(None)


@dataclass
class Kit:
    """The server, a client without a cookie jar of its own will, and what it is made of."""

    client: TestClient[Any, Any]
    front: Front
    clock: TurnedClock

    def key(self, role: Role = Role.ADMIN) -> dict[str, str]:
        """The header of a key with `role`."""
        return {"X-API-Key": SECRETS[role]}

    @property
    def origin(self) -> str:
        """The server as a browser names it."""
        return str(self.client.make_url("/")).rstrip("/")


@asynccontextmanager
async def serving(
    folder: Path, *modules: Routes, pages: bool = False, keys: bool = True, **settings: Any
) -> AsyncIterator[Kit]:
    """The routes behind a real front and a real store, with one key per role."""
    clock = TurnedClock()
    sections = Settings(
        server=Server(**settings.pop("server", {})),
        auth=Auth(**settings.pop("auth", {})),
        limits=Limits(**settings.pop("limits", {})),
        **settings,
    )
    store = open_store(await store_url(folder), folder)
    await store.open()
    try:
        if keys:
            for role, secret in SECRETS.items():
                name = role.name.lower()
                await store.add_key(
                    ApiKey(id=name, name=name, role=role, hash=hash_of(secret), created_ms=clock.now_ms())
                )
        app = web.Application()
        setup(app, sections, clock, store)
        app.cleanup_ctx.append(keyring_context)
        if pages:
            from server.api import pages as drawn

            drawn.setup(app)
        routes = Routes()
        routes.extend(*modules)
        routes.register(app)
        async with TestClient(TestServer(app)) as client:
            yield Kit(client, app[FRONT], clock)
    finally:
        await store.close()
