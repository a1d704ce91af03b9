"""A whole server for tests: real store, real routes, one clock to turn, and scripted services at the far end.

`Town` is a running server seen from its door: it sends, asks, waits until the queue is idle. Only the outside world
is a fake (`Service`).
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import ClientResponse, web
from aiohttp.test_utils import TestClient, TestServer

from notifiers import Message, Outcome, Sent
from server.api.context import POOL, QUEUE, STORE
from server.app import CHANNELS, build
from server.config import load
from server.http.front import FRONT
from server.model import ApiKey, Event, Role
from server.settings import Settings
from server.store.desk import Run
from server.store.engine import Op
from tests.api.http_kit import TurnedClock
from tests.stores import store_url

ADMIN_KEY = "admin-key-of-the-tests-0123456789"


class Service:
    """The far end of a channel: answers as scripted, in order, then always Sent; remembers every call."""

    def __init__(self, needs: frozenset[str] = frozenset()):
        self.needs = needs
        self.calls: list[Message] = []
        self._script: deque[Outcome] = deque()
        self._always: Callable[[Message], Outcome] | None = None
        self._open = asyncio.Event()
        self._open.set()
        self.arrived = asyncio.Event()

    def will(self, *outcomes: Outcome) -> None:
        """Answer the next calls so."""
        self._script.extend(outcomes)

    def always(self, answer: Callable[[Message], Outcome]) -> None:
        """Answer every call by `answer(message)`."""
        self._always = answer

    def hold(self) -> None:
        """Do not answer until `release`."""
        self._open.clear()

    def release(self) -> None:
        """Answer again."""
        self._open.set()

    @property
    def reached(self) -> list[str]:
        """The recipients called, in order."""
        return [call.recipient for call in self.calls]

    async def deliver(self, message: Message) -> Outcome:
        self.calls.append(message)
        self.arrived.set()
        await self._open.wait()
        if self._always:
            return self._always(message)
        return self._script.popleft() if self._script else Sent()

    async def check(self) -> str:
        return "scripted"

    async def aclose(self) -> None:
        self.release()


def jean(number: int = 0, *, canal: str = "email", **more: Any) -> dict[str, Any]:
    """A recipient; `number` makes them different people."""
    return {
        "id": f"u{number}",
        "nom": f"Jean Dupont {number}",
        "email": f"jean{number}@example.org",
        "telephone": f"+33 6 12 34 {number // 100 % 100:02d} {number % 100:02d}",
        "preferences": {"canal_prefere": canal},
    } | more


@dataclass(eq=False)
class Stall(Op):
    """Storage that takes its time over a transaction, until `go`."""

    go: threading.Event
    begun: threading.Event = field(default_factory=threading.Event)

    @classmethod
    async def apply(cls, batch: Any, ops: list[Stall]) -> list[Any]:
        for op in ops:
            op.begun.set()
            assert op.go.wait(60)
        return [None] * len(ops)


class Town:
    """A running server and its callers."""

    def __init__(self, app: web.Application, client: TestClient[Any, Any], clock: TurnedClock):
        self.app = app
        self.client = client
        self.clock = clock
        self.store = app[STORE]
        self.pool = app[POOL]
        self.queue = app[QUEUE]
        self._changed = asyncio.Event()
        self.store.on_commit.append(self._told)

    def _told(self, events: list[Event]) -> None:
        self._changed.set()

    def service(self, channel: str, needs: frozenset[str] | None = None) -> Service:
        """Put a scripted service at the far end of `channel`."""
        service = Service(self.app[CHANNELS][channel].notifier.needs if needs is None else needs)
        self.app[CHANNELS][channel].notifier = service
        return service

    async def key(self, role: Role, name: str = "") -> dict[str, str]:
        """The header of a new key with `role`."""
        made = await self.post("/admin/api/keys", {"name": name or role.name.lower(), "role": role.name.lower()})
        assert made.status == 201, await made.text()
        return {"X-API-Key": (await made.json())["key"]}

    async def post(self, path: str, body: Any = None, **headers: str) -> ClientResponse:
        return await self.client.post(path, json=body, headers={"X-API-Key": ADMIN_KEY} | headers)

    async def get(self, path: str, **headers: str) -> ClientResponse:
        return await self.client.get(path, headers={"X-API-Key": ADMIN_KEY} | headers)

    async def json(self, path: str) -> Any:
        """What a GET answers, which must be 200."""
        answer = await self.get(path)
        assert answer.status == 200, await answer.text()
        return await answer.json()

    async def send(self, kind: str = "meteo", recipients: list[dict[str, Any]] | None = None, **more: Any) -> str:
        """Post a notification; its task's id."""
        body = {"titre": "alerte", "message": "Tempête prévue", "utilisateurs": recipients or [jean()]} | more
        answer = await self.post(f"/api/notifications/{kind}", body)
        assert answer.status == 202, await answer.text()
        task_id: str = (await answer.json())["task_id"]
        return task_id

    async def task(self, task_id: str) -> dict[str, Any]:
        found: dict[str, Any] = (await self.json(f"/api/queue/tasks/{task_id}"))["task"]
        return found

    async def deliveries(self, task_id: str, query: str = "") -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = (await self.json(f"/api/queue/tasks/{task_id}/deliveries?limit=500&{query}"))[
            "deliveries"
        ]
        return rows

    async def events(self, task_id: str) -> list[str]:
        """The kinds of a task's events, oldest first."""
        return [event["event"] for event in (await self.json(f"/api/queue/tasks/{task_id}/events?limit=500"))["events"]]

    async def until(self, holds: Callable[[], Any]) -> None:
        """Wait until `holds()` (a value or a coroutine) is true; looks at every commit and now and then."""
        while True:
            self._changed.clear()
            found = holds()
            if asyncio.iscoroutine(found):
                found = await found
            if found:
                return
            with suppress(TimeoutError):
                async with asyncio.timeout(0.05):
                    await self._changed.wait()

    async def until_status(self, task_id: str, *status: str) -> dict[str, Any]:
        """Wait until a task is in one of `status`."""

        async def there() -> bool:
            return (await self.task(task_id))["status"] in status

        await self.until(there)
        return await self.task(task_id)

    async def until_idle(self) -> None:
        """Wait until nothing is in hand, ready or due (what is only due later may stay)."""

        async def idle() -> bool:
            now_ms = self.clock.now_ms()
            due_ms = await self.store.next_due_ms()  # first: what becomes ready after this look is seen by the next
            figures = await self.store.figures(now_ms)
            processing = sum(n for (_, _, status), n in figures.tally.items() if status == "processing")
            return not processing and figures.oldest_pending_ms is None and (due_ms is None or due_ms > now_ms)

        await self.until(idle)

    async def turn(self, seconds: float) -> None:
        """Let time pass, and everything happen that is due by then."""
        self.clock.turn(seconds)
        await self.until_idle()

    async def until_ended(self, task_id: str, step_s: float = 400) -> dict[str, Any]:
        """Let time pass until a task has ended."""
        await self.until_idle()
        while (task := await self.task(task_id))["status"] in ("pending", "processing"):
            await self.turn(step_s)
        return task

    async def crash(self) -> None:
        """Lose the worker pool as a crash would: nothing in hand is settled."""
        pool = self.pool
        work = [*pool._loops, *pool._crew.work]
        for task in work:
            task.cancel()
        await asyncio.gather(*work, return_exceptions=True)
        pool.hands.clear()
        await self.lose_leases()

    async def lose_leases(self) -> None:
        """Let every lease run out, by whatever clock the store goes."""
        await self.store.apply(Run("UPDATE task SET lease_ms = 1 WHERE status = 'processing'", ()))

    def own_key(self) -> ApiKey:
        """The admin key as the server knows it."""
        key = self.app[FRONT].keyring.by_secret(ADMIN_KEY)
        assert key
        return key


def settings_for(folder: Path, **environ: str) -> Settings:
    """Settings as shipped, in `folder`, changed by variables: QUEUE__WORKERS="4"."""
    file = folder / "config.toml"
    if not file.exists():
        file.write_text("", encoding="utf-8")
    shipped = {"AUTH__ADMIN_KEY": ADMIN_KEY, "STORE__URL": "sqlite:tocsin.db"}
    return load(file, {f"TOCSIN_{name}": value for name, value in (shipped | environ).items()})


@asynccontextmanager
async def running(
    folder: Path, node: str = "test-node", clock: TurnedClock | None = None, **environ: str
) -> AsyncIterator[Town]:
    """A server over `folder`, started and, at the end, stopped; by the time of `clock`, if it is to go on with one."""
    clock = clock or TurnedClock()
    url = await store_url(folder)
    app = build(settings_for(folder, **({"STORE__URL": url} | environ)), clock, node=node)
    server = TestServer(app)
    client = TestClient(server)
    try:
        await client.start_server()
        yield Town(app, client, clock)
    finally:
        passing = asyncio.create_task(_pass_time(clock))  # whatever waits for a time at the end need not
        await client.close()
        passing.cancel()
        await asyncio.gather(passing, return_exceptions=True)


async def _pass_time(clock: TurnedClock) -> None:
    while True:
        clock.turn(0.1)
        await asyncio.sleep(0.01)
