"""Runs: one fault each, from a fresh folder to a report. Tests take them short, the campaign long.

A run draws everything random from its seed, waits for events and never for a time, and ends with every check there
is (`checkers.py`). Its report holds the figures and, if all is well, no fault.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any

from msgspec import Struct, field

from tests.faults.checkers import Account, account, check_store, contents
from tests.faults.harness import Caller, Follower, Server, calling, following, load, mail_url, notice, people, sms_url
from tests.faults.journal import Journal
from tests.faults.sinks import Sink, gateway, mail

STEPS = ("before commit", "after commit", "during call", "after reply", "during push")
"""The named steps at which launch.py can end the process."""
UP_TO = {"before commit": 25, "after commit": 25, "during call": 150, "after reply": 150, "during push": 60}
"""A step's kill comes at a time drawn from 1 to this."""


class Report(Struct):
    """What one run came to."""

    name: str
    seed: int
    account: Account = field(default_factory=Account)
    killed: int = 0
    stopped: int = 0
    start_s: float = 0.0  # the slowest
    post_s: float = 0.0  # the slowest answer
    worst_s: float = 0.0  # what the run itself measures
    events: int = 0
    given_up: list[str] = []  # in hand at three kills
    took_s: float = 0.0
    faults: list[str] = []


class Scene(Struct):
    """A server over a folder, its far ends, and who talks to it."""

    server: Server
    caller: Caller
    follower: Follower
    mail: Sink
    sms: Sink
    random: Random
    report: Report

    @property
    def journal(self) -> Journal:
        return self.caller.journal

    @property
    def sinks(self) -> list[Sink]:
        return [self.mail, self.sms]

    async def dead(self) -> None:
        """The server has been killed: its next life begins."""
        await self.server.ended()
        for sink in self.sinks:
            await sink.next_life()

    async def finish(self, within_s: float = 90) -> None:
        """Start once more with nothing broken, let everything end, stop, and check all there is."""
        self.server.plan = None
        await self.server.start()
        async with following(self.server, self.follower):
            await self.follower.until_ended(self.journal.acknowledged, within_s)
            await self.settle()

    async def settle(self) -> None:
        """Stop in good order: exit code 0, and subscribers are told."""
        code = await self.server.stop()
        self.report.stopped += 1
        if code != 0:
            self.report.faults.append(f"exit code {code} after SIGTERM: {self.server.last_words()}")

    async def check(self, *, concurrency: int = 64, kills: bool = True, may_fail: bool = False) -> None:
        """Every check, into the report; the server is down."""
        report = self.report
        report.faults += await check_store(self.server.database, self.follower)
        found = contents(self.server.database)
        report.account = kept = account(self.journal, self.sinks, found.tasks)
        if kills and not may_fail:  # promised: in hand at three crashes and no outcome between them, it is given up
            starts = Counter(event["task"]["id"] for event in found.told("task.started"))
            report.given_up = [task_id for task_id in kept.failed if starts[task_id] >= 3]
            kept.failed = [task_id for task_id in kept.failed if starts[task_id] < 3]
        report.faults += report.account.faults(concurrency=concurrency, kills=kills, may_fail=may_fail)
        report.events = len(found.events)
        report.start_s = max(self.server.start_s, default=0.0)
        report.post_s = self.caller.slowest_s


@asynccontextmanager
async def scene(name: str, folder: Path, seed: int, **environ: str) -> AsyncIterator[Scene]:
    """Everything for one run, the server not yet started. The seed is printed."""
    print(f"{name}: seed {seed}")
    begun = time.perf_counter()
    folder.mkdir(parents=True, exist_ok=True)
    async with AsyncExitStack() as stack:
        post, sms = await stack.enter_async_context(mail()), await stack.enter_async_context(gateway())
        urls = {"CHANNELS__EMAIL__URL": mail_url(post), "CHANNELS__SMS__URL": sms_url(sms)}
        server = Server(folder, **(urls | environ))
        caller = await stack.enter_async_context(calling(server, folder))
        made = Scene(server, caller, Follower(), post, sms, Random(seed), Report(name, seed))
        try:
            yield made
        finally:
            made.report.took_s = time.perf_counter() - begun
            if server.process and server.process.returncode is None:
                await server.kill()


async def kills(folder: Path, *, seed: int, rounds: int, step: str = "") -> Report:
    """kill -9 under load, `rounds` times over one store: at random moments, or at the n-th time of a named step."""
    async with scene(f"kill -9 {step or 'at random'}", folder, seed) as s:
        for _ in range(rounds):
            s.server.plan = {"kill": [step, s.random.randint(1, UP_TO[step])]} if step else None
            await s.server.start()
            async with following(s.server, s.follower), load(s.caller, s.random):
                if step:
                    await s.server.ended()
                else:
                    await s.random.choice([s.journal, s.mail, s.sms]).more(s.random.randint(1, 150))
                    await s.server.kill()
            s.report.killed += 1
            await s.dead()
        await s.finish()
        await s.check()
    return s.report


async def terms(folder: Path, *, seed: int, rounds: int) -> Report:
    """SIGTERM under load, `rounds` times over one store: nobody lost, nobody told twice, sockets told first."""
    async with scene("SIGTERM at random", folder, seed) as s:
        for number in range(rounds):
            await s.server.start()
            async with following(s.server, s.follower), load(s.caller, s.random):
                await s.random.choice([s.journal, s.mail, s.sms]).more(s.random.randint(1, 150))
                await s.settle()
            if not s.follower.farewell or s.follower.code != 1001:
                s.report.faults.append(
                    f"round {number}: socket closed {s.follower.code}, shutdown frame {s.follower.farewell}"
                )
            await s.dead()
        await s.finish()
        await s.check(kills=False)
    return s.report


async def one_large(
    folder: Path, *, seed: int, recipients: int, rounds: int, signal_name: str = "kill", **environ: str
) -> Report:
    """One task of many recipients by e-mail, interrupted `rounds` times: everybody reached, few repeats or none."""
    killing = signal_name == "kill"
    async with scene(f"{recipients} recipients, {'kill -9' if killing else 'SIGTERM'}", folder, seed, **environ) as s:
        points = sorted(s.random.sample(range(1, recipients), rounds))
        await s.server.start()
        for number, point in enumerate(points):
            async with following(s.server, s.follower):
                if number == 0:
                    assert await s.caller.post(notice(people(recipients))) == 202
                await s.mail.until(lambda point=point: len(s.mail.lives) >= point)
                if killing:
                    await s.server.kill()
                    s.report.killed += 1
                else:
                    await s.settle()
            await s.dead()
            if number + 1 < len(points):
                await s.server.start()
        await s.finish(180)
        await s.check(kills=killing)
    return s.report


def table(rows: list[dict[str, Any]]) -> str:
    """Rows as a Markdown table; what a row does not have stays empty."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    lines = [names, ["---"] * len(names), *([str(row.get(name, "")) for name in names] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
