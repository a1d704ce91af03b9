"""Runs over a cluster: one kind of trouble each, from a new database to a report. Tests take them short, the campaign
long. Everything random comes from the seed; every run ends with every check there is.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from msgspec import Struct, field

from server.store import open_store
from server.store.verify import verify
from tests.cluster.kit import Cluster, Node, Postgres, cluster, until
from tests.faults.checkers import CONCURRENCY, Account, account, check_follower, check_log


class Report(Struct):
    """What one run came to."""

    name: str
    seed: int
    nodes: int = 0
    troubles: int = 0
    killed: int = 0  # of the troubles
    stopped: int = 0
    account: Account = field(default_factory=Account)
    by_node: list[int] = []  # messages delivered
    takeover_s: float = 0.0  # the slowest
    refusal_s: float = 0.0  # the slowest 503 while storage was away
    refused: int = 0
    events: int = 0
    took_s: float = 0.0
    faults: list[str] = []


class Scene(Struct):
    """A cluster under trouble, and its report."""

    cluster: Cluster
    report: Report
    blamed: set[int]  # lives of nodes that may have sent something twice: killed, or asleep beyond their lease

    async def finish(self) -> None:
        """Let everything end, stop in good order, and check all there is."""
        c, report = self.cluster, self.report
        await c.ended()
        report.faults += await c.stop()
        found = await c.contents()
        report.faults += found.faults + check_log(found)
        for follower in c.followers:
            report.faults += check_follower(follower, found)
        store = open_store(c.url, c.folder, serve=False)
        await store.open()
        try:
            report.faults += [f"verify: {finding}" for finding in await verify(store)]
        finally:
            await store.close()
        report.account = account(c.journal, [c.gateway], found.tasks)
        report.faults += report.account.faults(concurrency=CONCURRENCY)
        for message_id, lives in c.gateway.lives.items():
            if len(lives) > 1 and not self.blamed.intersection(lives):
                report.faults.append(f"{message_id} sent by {lives}, who were left alone")
        report.events = len(found.events)
        owners = [life for lives in c.gateway.lives.values() for life in lives]
        report.by_node = [sum(life in node.lives for life in owners) for node in c.nodes]
        report.refused = sum(c.journal.refused.values())


@asynccontextmanager
async def scene(
    name: str,
    folder: Path,
    postgres: Postgres,
    seed: int,
    nodes: int = 2,
    way: Callable[[str], str] = str,
    **environ: str,
) -> AsyncIterator[Scene]:
    """A started cluster with a subscriber at its first node and one who goes from node to node."""
    print(f"{name}: seed {seed}")
    begun = time.perf_counter()
    async with cluster(folder, postgres, seed, nodes, way, **environ) as made:
        made.follow(made.nodes[0])
        made.follow(*made.nodes)
        staged = Scene(made, Report(name, seed, nodes), set())
        try:
            yield staged
        finally:
            staged.report.took_s = time.perf_counter() - begun


async def once(folder: Path, postgres: Postgres, *, seed: int, tasks: int, nodes: int) -> Report:
    """`tasks` tasks posted at all nodes: each done once, by all of them, and told to a subscriber at the first."""
    async with scene(f"{tasks} tasks, {nodes} nodes", folder, postgres, seed, nodes, QUEUE__LEASE_S="30") as s:
        c = s.cluster
        left = list(range(tasks))

        async def sender(number: int) -> None:
            while left:
                left.pop()
                status = await c.post(c.nodes[number % nodes], c.random.randint(1, 2))
                if status != 202:
                    s.report.faults.append(f"a POST was answered {status}")

        await asyncio.gather(*(sender(number) for number in range(8)))
        await s.finish()
        s.report.faults += [f"node {n} delivered nothing" for n, count in enumerate(s.report.by_node) if not count]
    return s.report


async def rolling(folder: Path, postgres: Postgres, *, seed: int, rounds: int, nodes: int = 2) -> Report:
    """SIGTERM one node after the other under load, each started again before the next: no repeat, none lost."""
    async with scene("rolling restart", folder, postgres, seed, nodes, QUEUE__LEASE_S="30") as s:
        c = s.cluster
        async with c.load():
            for number in range(rounds):
                node = c.nodes[number % nodes]
                await c.gateway.more(60)
                code = await node.stop()
                s.report.troubles += 1
                s.report.stopped += 1
                if code != 0:
                    s.report.faults.append(f"exit code {code} after SIGTERM: {node.last_words()}")
                await c.gateway.more(20)
                await c.start(node)
        await s.finish()
        s.report.faults += [f"sent twice: {len(s.report.account.repeats)}"] if s.report.account.repeats else []
    return s.report


async def kills(folder: Path, postgres: Postgres, *, seed: int, rounds: int, nodes: int = 2) -> Report:
    """kill -9 of a node at random under load; the others take its tasks over, then it comes back."""
    async with scene("kill -9 of a node", folder, postgres, seed, nodes) as s:
        c = s.cluster
        async with c.load():
            for _ in range(rounds):
                node = c.random.choice(c.nodes)
                await c.gateway.more(c.random.randint(5, 80))
                await node.kill()
                s.report.troubles += 1
                s.report.killed += 1
                s.blamed.add(node.lives[-1])
                s.report.takeover_s = max(s.report.takeover_s, await c.until_let_go(node.name))
                await c.start(node)
        await s.finish()
    return s.report


async def asleep(folder: Path, postgres: Postgres, *, seed: int, rounds: int) -> Report:
    """SIGSTOP a node with a task in hand for longer than its lease: taken over; what it says late counts if true."""
    async with scene("SIGSTOP beyond the lease", folder, postgres, seed) as s:
        c = s.cluster
        for number in range(rounds):
            node = c.nodes[number % 2]
            c.gateway.delay_s = 0.3
            async with c.load(posters=2):
                await until(lambda name=node.name: _in_hand(c, name))
                await c.gateway.more(3)
                node.signal(signal.SIGSTOP)
                s.report.troubles += 1
                s.blamed.add(node.lives[-1])
                fences = dict(await c.rows("SELECT id, fence FROM task WHERE node = $1", node.name))
                c.gateway.delay_s = 0.01
                s.report.takeover_s = max(s.report.takeover_s, await c.until_let_go(node.name))
                node.signal(signal.SIGCONT)
                await c.gateway.more(20)
            await c.ended()
            for task_id, fence, status in await c.rows("SELECT id, fence, status FROM task"):
                if task_id in fences and status != "completed":
                    s.report.faults.append(f"{task_id}, fence {fences[task_id]} when it slept, is {status} at {fence}")
        await s.finish()
    return s.report


async def _in_hand(c: Cluster, name: str) -> bool:
    return bool(await c.rows("SELECT 1 FROM task WHERE status = 'processing' AND node = $1", name))


async def storage(
    folder: Path, postgres: Postgres, *, seed: int, rounds: int, how: tuple[str, ...], strict: bool = False
) -> Report:
    """PostgreSQL goes away under load (`fast`, `immediate`, `frozen`) or its connections are cut (`cut`).

    How soon a POST was told so is a fault with `strict` alone: other work on the same cores makes any answer late.
    """
    async with scene(f"PostgreSQL: {', '.join(how)}", folder, postgres, seed, QUEUE__LEASE_S="30") as s:
        c = s.cluster
        await c.post(c.nodes[0], 1_500)  # one that is in hand while it happens, and read on after it
        async with c.load(backlog=1_600):
            for number in range(rounds):
                await c.gateway.more(c.random.randint(20, 80))
                await away(s, how[number % len(how)])
                s.report.troubles += 1
                await asyncio.gather(*(_ready(c, node) for node in c.nodes))
        await s.finish()
        if strict and s.report.refusal_s > 5.5:
            s.report.faults.append(f"POST while storage is away: answered after {s.report.refusal_s:.1f} s")
    return s.report


async def away(s: Scene, mode: str) -> None:
    """Take storage away and give it back; what is asked meanwhile must be answered, in time and with 503."""
    c = s.cluster
    match mode:
        case "cut":
            await c.postgres.cut(c.url)
            return
        case "frozen":
            c.postgres.signal(signal.SIGSTOP)
        case _:
            await c.postgres.stop(mode)
    try:
        await asyncio.gather(*(_refused(s, node) for node in c.nodes))
    finally:
        if mode == "frozen":
            c.postgres.signal(signal.SIGCONT)
        else:
            await c.postgres.start()


async def _refused(s: Scene, node: Node) -> None:
    """A POST at `node` is answered 503, and so is readiness."""
    c = s.cluster
    begun = time.perf_counter()
    status = await c.post(node)
    took_s = time.perf_counter() - begun
    s.report.refusal_s = max(s.report.refusal_s, took_s)
    if status != 503:
        s.report.faults.append(f"POST while storage is away: {status}")
    async with c.callers[node].session.get(f"{node.base}/api/health/ready") as answer:
        if answer.status != 503:
            s.report.faults.append(f"ready while storage is away: {answer.status}")


async def _ready(c: Cluster, node: Node) -> None:
    async def answers() -> bool:
        async with c.callers[node].session.get(f"{node.base}/api/health/ready") as answer:
            return answer.status == 200

    await until(answers)


async def by_way(
    folder: Path,
    postgres: Postgres,
    *,
    seed: int,
    way: Callable[[str], str],
    troubles: tuple[Callable[[], Awaitable[None]], ...],
) -> Report:
    """The nodes come to PostgreSQL by a `way` on which there are `troubles` under load, each over when it returns."""
    async with scene("a pooler between", folder, postgres, seed, 2, way, QUEUE__LEASE_S="30") as s:
        c = s.cluster
        async with c.load():
            for trouble in troubles:
                await c.gateway.more(60)
                await trouble()
                s.report.troubles += 1
                await asyncio.gather(*(_ready(c, node) for node in c.nodes))
            await c.gateway.more(60)
        await s.finish()
        s.report.faults += [f"node {n} delivered nothing" for n, count in enumerate(s.report.by_node) if not count]
    return s.report


async def split(folder: Path, postgres: Postgres, *, seed: int, tasks: int) -> Report:
    """One node that only serves, one that only delivers."""
    async with scene("serve --workers 0, worker", folder, postgres, seed, 1, QUEUE__EXPRESS_WORKERS="0") as s:
        c = s.cluster
        front = c.nodes[0]
        await front.stop()
        front.command = ("serve", "--workers", "0")
        worker = c.add("worker", "--workers", "3")
        await c.start(front, worker)
        s.report.nodes = 2
        for _ in range(tasks):
            if (status := await c.post(front)) != 202:
                s.report.faults.append(f"a POST was answered {status}")
        await c.ended()
        session = c.callers[worker].session
        for path, expected in (("/api/health/ready", 200), ("/metrics", 200), ("/api/queue/stats", 404), ("/", 404)):
            async with session.get(worker.base + path) as answer:
                if answer.status != expected:
                    s.report.faults.append(f"worker: {path} is {answer.status}")

        async def runs() -> bool:
            return bool((await c.callers[front].get("/api/queue/stats"))["stats"]["running"])

        await until(runs)  # once the node that only serves has heard of the worker
        await s.finish()
        if s.report.by_node[0]:
            s.report.faults.append(f"the node that only serves delivered {s.report.by_node[0]}")
    return s.report


def shown(report: Report) -> dict[str, Any]:
    """A report as a row of a table."""
    kept = report.account
    return {
        "run": report.name, "seed": report.seed, "nodes": report.nodes, "troubles": report.troubles,
        "acknowledged": kept.acknowledged, "messages": kept.delivered, "lost": len(kept.lost) + len(kept.unreached),
        "repeats": kept.repeated, "most per life and task": kept.worst, "refused": report.refused,
        "slowest takeover s": round(report.takeover_s, 1), "slowest 503 s": round(report.refusal_s, 1),
        "events": report.events, "took s": round(report.took_s, 1), "faults": len(report.faults),
    }  # fmt: skip


__all__ = ["Report", "asleep", "by_way", "kills", "once", "rolling", "shown", "split", "storage"]
