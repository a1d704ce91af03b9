"""The server with something broken on purpose: `python -m tests.faults.launch PLAN serve …`.

PLAN is JSON. `kill`: [step, n] ends the process by SIGKILL at the n-th time of a named step. `off` switches one
promise off, so that the checkers can be shown to notice. `clock`: SIGUSR1 turns the wall clock a day ahead, SIGUSR2
a day back. `stall_s`: SIGUSR1 stalls the event loop. `nofile`: the most file descriptors. The product itself has no
such switches; everything is patched from here.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Coroutine
from itertools import count
from typing import Any

import uvloop

from server import cli
from server.api.subscriber import Subscriber
from server.channels import Channel
from server.clock import SystemClock
from server.dispatch import Dispatch
from server.http.caller import Callers
from server.model import Event
from server.store import Store
from server.store.engine import Op
from server.store.sqlite import SqliteEngine
from server.store.writes import Enqueue

STEPS = ("before commit", "after commit", "during call", "after reply", "during push")
PUSHED_S = 0.1  # what is pushed before its commit has so long to leave the house once all have been told


def main(arguments: list[str]) -> int:
    """Patch what the plan says, then run the command line."""
    plan = json.loads(arguments[0])
    if kill := plan.get("kill"):
        kill_at(*kill)
    if off := plan.get("off"):
        OFF[off]()
    if plan.get("clock"):
        turn_clock()
    if stall_s := plan.get("stall_s"):
        on_signal(signal.SIGUSR1, lambda: time.sleep(stall_s))
    if nofile := plan.get("nofile"):
        resource.setrlimit(resource.RLIMIT_NOFILE, (nofile, nofile))
    if title := plan.get("poison"):
        poison(title)
    return cli.main(arguments[1:])


def on_signal(number: signal.Signals, act: Callable[[], None]) -> None:
    """Have `act` called in the event loop when a signal comes."""
    run = uvloop.run

    def running(main: Coroutine[Any, Any, int], **options: Any) -> int:
        async def with_signal() -> int:
            asyncio.get_running_loop().add_signal_handler(number, act)
            return await main

        return run(with_signal(), **options)

    uvloop.run = running


def turn_clock() -> None:
    """The wall clock of the whole server, a day ahead or back at a signal."""
    day_ms = 86_400_000
    offset = [0]
    SystemClock.now_ms = lambda self: time.time_ns() // 1_000_000 + offset[0]  # type: ignore[method-assign]

    def turn(by_ms: int) -> None:
        offset[0] += by_ms

    on_signal(signal.SIGUSR1, lambda: turn(day_ms))
    on_signal(signal.SIGUSR2, lambda: turn(-day_ms))


def poison(title: str) -> None:
    """A notification with this title brings the process down when it is delivered."""
    deliver = Channel.deliver

    async def patched(self: Channel, message: Any, *rest: Any) -> Any:
        if message.titre == title:
            os.kill(os.getpid(), signal.SIGKILL)
        return await deliver(self, message, *rest)

    Channel.deliver = patched  # type: ignore[method-assign]


def kill_at(step: str, n: int) -> None:
    """SIGKILL at the n-th time of `step`."""
    times = count(1)

    def reached() -> None:
        if next(times) == n:
            os.kill(os.getpid(), signal.SIGKILL)

    match step:
        case "before commit" | "after commit":
            around_commit(step, reached)
        case "during call":
            deliver = Channel.deliver

            async def calling(self: Channel, *arguments: Any) -> Any:
                call = asyncio.ensure_future(deliver(self, *arguments))
                for _ in range(3):  # far enough for something to be on the wire
                    await asyncio.sleep(0)
                if not call.done():
                    reached()
                return await call

            Channel.deliver = calling  # type: ignore[method-assign]
        case "after reply":
            call = Dispatch._call

            async def called(self: Dispatch, job: Any) -> Any:
                record = await call(self, job)
                reached()
                return record

            Dispatch._call = called  # type: ignore[method-assign]
        case "during push":
            begin = Subscriber.__init__

            def begun(self: Subscriber, *arguments: Any, **options: Any) -> None:
                begin(self, *arguments, **options)
                write = self.write

                def written(data: bytes) -> None:
                    write(data)
                    reached()

                self.write = written

            Subscriber.__init__ = begun  # type: ignore[method-assign]
        case _:
            raise SystemExit(f"unknown step {step!r}, expected one of {', '.join(STEPS)}")


def around_commit(step: str, reached: Callable[[], None]) -> None:
    """Call `reached` just before or just after the COMMIT of a transaction that stores a notification."""
    commit = SqliteEngine._commit

    class Watched:
        """A connection seen by the writer alone."""

        def __init__(self, connection: Any):
            self._connection = connection

        def __getattr__(self, name: str) -> Any:
            return getattr(self._connection, name)

        def execute(self, sql: str, *arguments: Any) -> Any:
            if sql == "COMMIT" and step == "before commit":
                reached()
            result = self._connection.execute(sql, *arguments)
            if sql == "COMMIT" and step == "after commit":
                reached()
            return result

    def patched(self: SqliteEngine, connection: Any, ops: list[Op]) -> None:
        storing = any(isinstance(op, Enqueue) for op in ops)
        commit(self, Watched(connection) if storing else connection, ops)

    SqliteEngine._commit = patched  # type: ignore[method-assign]


# --- promises switched off, one at a time ---------------------------------------------------------


def push_first() -> None:
    """Events leave before their commit."""
    stores: list[Store] = []
    opening = Store.open

    async def opened(self: Store) -> None:
        stores.append(self)
        await opening(self)

    commit = SqliteEngine._commit

    def patched(self: SqliteEngine, connection: Any, ops: list[Op]) -> None:
        apply = self._apply

        async def tell(events: list[Event]) -> None:
            for told in stores[0].on_commit:
                told(events)
            await asyncio.sleep(PUSHED_S)

        async def telling(tx: Any, ops: list[Op]) -> tuple[list[Any], list[Event]]:
            results, events = await apply(tx, ops)
            if events:
                asyncio.run_coroutine_threadsafe(tell(events), self._loop).result(60)
            return results, []

        self._apply = telling
        try:
            commit(self, connection, ops)
        finally:
            self._apply = apply

    Store.open = opened  # type: ignore[method-assign]
    SqliteEngine._commit = patched  # type: ignore[method-assign]


def no_origin() -> None:
    """Every page counts as one of our own."""
    Callers.is_own_page = lambda self, request, **options: True  # type: ignore[method-assign]


def no_dedupe() -> None:
    """An Idempotency-Key is read and forgotten."""

    async def never(batch: Any, idem: Any, task: Any, *, only_look: bool) -> None:
        return None

    Enqueue._before = staticmethod(never)  # type: ignore[method-assign,assignment]


def acknowledge_first() -> None:
    """The 202 leaves before the commit."""
    apply = Store.apply

    async def hasty(self: Store, op: Op) -> Any:
        if not isinstance(op, Enqueue):
            return await apply(self, op)
        op.done = asyncio.get_running_loop().create_future()
        op.since = time.perf_counter()
        self._engine.submit(op)
        return op.task

    Store.apply = hasty  # type: ignore[method-assign]


OFF: dict[str, Callable[[], None]] = {
    "push after commit": push_first,
    "origin": no_origin,
    "dedupe": no_dedupe,
    "commit before 202": acknowledge_first,
}


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
