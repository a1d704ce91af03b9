"""Negative controls: each promise switched off in turn, and what its checker then finds.

A checker that finds nothing proves something only if it is shown to find. Every control is the same run twice over:
with the promise kept it must find nothing, with the promise broken (`broken=True`) it must find something.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp

from notifiers import Message, Outcome, RetryLater, Sent
from server.app import CHANNELS
from server.store import sql
from server.store.rows import task_of
from server.store.settle import Settle
from server.store.writes import Sweep
from tests.faults import trouble
from tests.faults.checkers import account, check_follower, check_log, contents
from tests.faults.harness import ADMIN_KEY, following, load, serving
from tests.faults.power import cut
from tests.faults.runs import scene
from tests.kit import Town, running


async def fencing(folder: Path, seed: int, *, broken: bool) -> list[str]:
    """A worker that lost its task goes on as if it had not: somebody is called once more than two owners explain."""
    apply = Settle.apply.__func__  # type: ignore[attr-defined]

    async def unfenced(cls: Any, batch: Any, ops: list[Settle]) -> list[Any]:
        for op in ops:
            rows = await batch.tx.all(sql.LOCK_TASK, op.task_id)
            op.fence, op.known = task_of(rows[0]).fence, None
        result: list[Any] = await apply(cls, batch, ops)
        return result

    if broken:
        Settle.apply = classmethod(unfenced)  # type: ignore[assignment,method-assign]
    folder.mkdir()
    try:
        async with running(folder, QUEUE__BACKOFF_S="0.05") as town:
            return await _two_owners(town)
    finally:
        Settle.apply = classmethod(apply)  # type: ignore[method-assign]


class Gated:
    """A far end that answers each call when its own gate is opened: later at the first, sent at the others."""

    needs = frozenset({"email"})

    def __init__(self) -> None:
        self.gates: list[asyncio.Event] = []

    async def deliver(self, message: Message) -> Outcome:
        gate = asyncio.Event()
        self.gates.append(gate)
        await gate.wait()
        return RetryLater("busy") if gate is self.gates[0] else Sent()

    async def check(self) -> str:
        return "gated"

    async def aclose(self) -> None:
        for gate in self.gates:
            gate.set()


async def _two_owners(town: Town) -> list[str]:
    far_end = town.app[CHANNELS]["email"].notifier = Gated()
    task_id = await town.send()
    await town.until(lambda: len(far_end.gates) == 1)
    first = town.pool.hands.pop(task_id)  # forgotten by its pool, and still at work
    first.gone = asyncio.Event()
    await town.lose_leases()
    await town.store.apply(Sweep(town.clock.now_ms()))
    await town.until(lambda: len(far_end.gates) == 2)  # the second owner's call is on the wire, too
    town.pool.hands.pop(task_id)  # what one node has in hand it does not begin again; a third node would
    far_end.gates[0].set()
    await first.gone.wait()
    if (await town.task(task_id))["status"] == "pending":  # the first owner gave away what was not its own
        town.clock.turn(1)
        await town.until(lambda: len(far_end.gates) == 3)
    await far_end.aclose()
    await town.until_ended(task_id)
    calls = len(far_end.gates)
    return [] if calls == 2 else [f"{calls} calls by two owners of one recipient"]


async def synchronous(folder: Path, seed: int, *, broken: bool) -> list[str]:
    """The power fails behind commits that were not synced."""
    folder.mkdir()
    loss = await cut(folder, seed=seed, posts=80, cuts=12, synchronous="NORMAL" if broken else "FULL")
    return loss.lost


async def push_after_commit(folder: Path, seed: int, *, broken: bool) -> list[str]:
    """Killed just before a commit, the server has told of events that never were."""
    async with scene("push before commit", folder, seed) as s:
        s.server.plan = {"kill": ["before commit", s.random.randint(3, 12)]}
        if broken:
            s.server.plan["off"] = "push after commit"
        await s.server.start()
        async with following(s.server, s.follower), load(s.caller, s.random, posters=2):
            await s.server.ended()
        return check_follower(s.follower, contents(s.server.database))


async def commit_before_202(folder: Path, seed: int, *, broken: bool) -> list[str]:
    """Killed just before a commit, the server has acknowledged what was never stored."""
    async with scene("202 before commit", folder, seed) as s:
        s.server.plan = {"kill": ["before commit", s.random.randint(3, 12)]}
        if broken:
            s.server.plan["off"] = "commit before 202"
        await s.server.start()
        async with load(s.caller, s.random):
            await s.server.ended()
        await s.dead()
        found = contents(s.server.database)
        lost = account(s.journal, s.sinks, found.tasks).lost
        return [task for task in lost if "not stored" in task] + check_log(found)


async def dedupe(folder: Path, seed: int, *, broken: bool) -> list[str]:
    """The same Idempotency-Key makes a second task."""
    return (await trouble.doubled(folder, seed=seed, plan={"off": "dedupe"} if broken else None)).faults


async def origin(folder: Path, seed: int, *, broken: bool) -> list[str]:
    """Another site's page opens the event stream with the operator's cookie."""
    async with (
        serving(folder, plan={"off": "origin"} if broken else None) as server,
        aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True)) as browser,
    ):
        async with browser.post(f"{server.base}/admin/login", json={"key": ADMIN_KEY}) as answer:
            assert answer.status < 400, await answer.text()
        try:
            socket = await browser.ws_connect(
                f"{server.base}/ws/events", headers={"Origin": "https://elsewhere.example"}
            )
        except aiohttp.WSServerHandshakeError as refused:
            return [] if refused.status == 403 else [f"a foreign page was answered {refused.status}"]
        await socket.close()
        return ["a foreign page may follow the events"]


Control = Callable[..., Awaitable[list[str]]]
CONTROLS: dict[str, Control] = {
    "fencing off": fencing,
    "synchronous=NORMAL": synchronous,
    "event push before commit": push_after_commit,
    "202 before commit": commit_before_202,
    "dedupe off": dedupe,
    "Origin check off": origin,
}
