"""Runs of every other trouble: clocks, stalls, doubles, poison, clean-up, readers, storms, too few descriptors.

As in `runs.py`: one fault each, from a fresh folder to a report with every check there is.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections import Counter
from pathlib import Path

import aiohttp
import apsw

from tests.faults.harness import KEY, Follower, following, load, notice, people
from tests.faults.runs import Report, scene

WITHIN_S = 5.0
"""A POST that cannot be stored is answered 503 within so long (CONTRACT, section 4, point 5)."""


async def locked(folder: Path, *, seed: int, strict: bool = False) -> Report:
    """Another process holds the database's write lock: 503 while it does, and all goes on once it lets go.

    How soon the 503 came is a fault with `strict` alone: other work on the same cores makes any answer late.
    """
    async with scene("database locked", folder, seed) as s:
        await s.server.start()
        async with following(s.server, s.follower):
            for _ in range(5):
                await s.caller.post(notice(people(2)))
            holder = apsw.Connection(str(s.server.database))
            holder.set_busy_timeout(10_000)
            holder.execute("BEGIN IMMEDIATE")
            statuses = Counter(await asyncio.gather(*(s.caller.post(notice(people(2))) for _ in range(8))))
            if statuses != {503: 8}:
                s.report.faults.append(f"answered {dict(statuses)} while the database was locked")
            if strict and s.caller.slowest_s > WITHIN_S:
                s.report.faults.append(f"the slowest 503 took {s.caller.slowest_s:.2f} s")
            holder.execute("ROLLBACK")
            holder.close()
            async with load(s.caller, s.random):
                await s.journal.more(30)
            await s.follower.until_ended(s.journal.acknowledged)
            await s.settle()
        await s.dead()
        await s.check(kills=False)
    return s.report


async def clock_turned(folder: Path, *, seed: int, signals: tuple[signal.Signals, ...]) -> Report:
    """The wall clock goes a day ahead (SIGUSR1) or back (SIGUSR2) under load."""
    days = ", ".join("+1 day" if number is signal.SIGUSR1 else "-1 day" for number in signals)
    kept = {"QUEUE__RETENTION_HOURS": "0", "EVENTS__RETENTION_HOURS": "0"}
    async with scene(f"wall clock {days}", folder, seed, **kept) as s:
        s.server.plan = {"clock": True}
        await s.server.start()
        async with following(s.server, s.follower), load(s.caller, s.random):
            for number in signals:
                await s.journal.more(40)
                s.server.signal(number)
            await s.journal.more(40)
        async with following(s.server, s.follower):
            await s.follower.until_ended(s.journal.acknowledged)
            await s.settle()
        await s.dead()
        await s.finish()
        await s.check(kills=False)
    return s.report


async def stalled(folder: Path, *, seed: int, seconds: float) -> Report:
    """The event loop stands still for longer than a lease, with a large task in hand."""
    async with scene(f"event loop stalled {seconds:g} s", folder, seed, QUEUE__LEASE_S="3") as s:
        s.server.plan = {"stall_s": seconds}
        await s.server.start()
        async with following(s.server, s.follower):
            await s.caller.post(notice(people(2_000)))
            await s.mail.more(200)
            s.server.signal(signal.SIGUSR1)
            await s.follower.until_ended(s.journal.acknowledged, 60 + seconds)
            await s.settle()
        await s.dead()
        await s.check(kills=False)
    return s.report


async def doubled(folder: Path, *, seed: int, plan: dict[str, object] | None = None) -> Report:
    """The same POST with the same Idempotency-Key, many times at once and again after a kill: one task."""
    async with scene("duplicate POSTs", folder, seed) as s:
        s.server.plan = plan
        for _ in range(2):
            await s.server.start()
            async with following(s.server, s.follower):
                for number in range(10):
                    body = notice(people(2))
                    posts = (s.caller.post(body, **{"Idempotency-Key": f"once-{number}"}) for _ in range(4))
                    statuses = await asyncio.gather(*posts)
                    if not set(statuses) <= {202, 409} or 202 not in statuses:
                        s.report.faults.append(f"answered {statuses}")
                await s.server.kill()
            s.report.killed += 1
            await s.dead()
        await s.finish()
        await s.check()
        if len(s.journal.acknowledged) != 10:
            s.report.faults.append(f"10 notifications became {len(s.journal.acknowledged)} tasks")
    return s.report


async def poisoned(folder: Path, *, seed: int) -> Report:
    """A task that brings the server down whenever it is delivered: three crashes, then it has failed; others arrive."""
    async with scene("poison task", folder, seed) as s:
        s.server.plan = {"poison": "poison"}
        await s.server.start()
        await s.caller.post(notice(people(1), titre="poison"))
        (poison,) = s.journal.acknowledged
        await s.server.ended()
        crashes = 1
        while crashes < 3:
            await s.dead()
            await s.server.start()
            await s.caller.post(notice(people(2)))
            await s.server.ended()
            crashes += 1
        await s.dead()
        s.report.killed = crashes
        await s.server.start()
        async with following(s.server, s.follower):
            await s.caller.post(notice(people(2)))
            await s.follower.until_ended(s.journal.acknowledged)
            task = (await s.caller.get(f"/api/queue/tasks/{poison}"))["task"]
            if task["status"] != "failed" or not task["error"]:
                s.report.faults.append(f"the poison is {task['status']}: {task['error']}")
            await s.settle()
        await s.dead()
        await s.check(may_fail=True)
        if s.report.account.failed != [poison]:
            s.report.faults.append(f"failed: {s.report.account.failed}")
    return s.report


async def cleaned(folder: Path, *, seed: int, acknowledged: int) -> Report:
    """Clean-up of all that ended, again and again under load: nobody is lost with it."""
    async with scene("clean-up during load", folder, seed) as s:
        await s.server.start()
        async with following(s.server, s.follower):
            removed = 0
            async with load(s.caller, s.random):
                while len(s.journal.acknowledged) < acknowledged:
                    await s.journal.more(10)
                    removed += (await s.caller.admin("/admin/api/queue/clear", {"hours": 0}))["removed"]
            await s.follower.until_ended(s.journal.acknowledged)
            stats = (await s.caller.get("/api/queue/stats"))["stats"]
            if stats["total_enqueued"] != len(s.journal.acknowledged):
                s.report.faults.append(
                    f"{stats['total_enqueued']} enqueued, {len(s.journal.acknowledged)} acknowledged"
                )
            if removed + stats["total_tasks"] != len(s.journal.acknowledged) or not removed:
                s.report.faults.append(
                    f"{removed} removed and {stats['total_tasks']} left of {len(s.journal.acknowledged)}"
                )
            await s.settle()
        await s.dead()
        await s.check(kills=False)
    return s.report


async def read_along(folder: Path, *, seed: int, acknowledged: int) -> Report:
    """Another process holds a read transaction open under load: the log grows, nothing else happens."""
    async with scene("reader holds a transaction", folder, seed) as s:
        await s.server.start()
        async with following(s.server, s.follower):
            reader = apsw.Connection(str(s.server.database), flags=apsw.SQLITE_OPEN_READONLY)
            reader.execute("BEGIN")
            before = reader.execute("SELECT COUNT(*) FROM task").fetchall()
            async with load(s.caller, s.random):
                await s.journal.more(acknowledged)
            if reader.execute("SELECT COUNT(*) FROM task").fetchall() != before:
                s.report.faults.append("the reader's snapshot moved")
            reader.close()
            await s.follower.until_ended(s.journal.acknowledged)
            await s.settle()
        await s.dead()
        await s.check(kills=False)
    return s.report


async def stormed(folder: Path, *, seed: int, subscribers: int) -> Report:
    """The server restarts, and everybody comes back at once with `since`: all catch up, none misses a thing."""
    async with scene(f"{subscribers} reconnect at once", folder, seed) as s:
        await s.server.start()
        async with following(s.server, s.follower):
            async with load(s.caller, s.random):
                await s.journal.more(100)
            await s.follower.until_ended(s.journal.acknowledged)
            await s.server.kill()
        await s.dead()
        s.report.killed = 1
        await s.server.start()
        crowd = [Follower(s.random.randint(0, s.follower.last)) for _ in range(subscribers)]
        begun = time.perf_counter()
        reading = [asyncio.create_task(each.follow(s.server)) for each in crowd]
        head = s.follower.last
        await asyncio.gather(*(each.until(lambda each=each: each.last >= head) for each in crowd))
        s.report.worst_s = time.perf_counter() - begun
        async with following(s.server, s.follower):
            assert await s.caller.post(notice(people(1))) == 202
            await s.follower.until_ended(s.journal.acknowledged)
            await s.settle()
        await asyncio.gather(*reading)
        for each in crowd:
            s.report.faults += each.faults
            wrong = sum(s.follower.bodies.get(seq) != body for seq, body in each.bodies.items())
            if wrong:
                s.report.faults.append(f"a subscriber was told {wrong} events otherwise")
            if not each.farewell or each.code != 1001:
                s.report.faults.append(f"a subscriber was closed {each.code}, shutdown frame {each.farewell}")
        await s.dead()
        await s.check()
    return s.report


async def starved(folder: Path, *, seed: int, descriptors: int) -> Report:
    """More connections than the process may have file descriptors: it serves on as soon as some are free."""
    async with scene(f"{descriptors} file descriptors", folder, seed) as s:
        s.server.plan = {"nofile": descriptors}
        await s.server.start()
        async with following(s.server, s.follower):
            await s.caller.post(notice(people(2)))
            port = int(s.server.base.rpartition(":")[2])
            held = [await asyncio.open_connection("127.0.0.1", port) for _ in range(descriptors + 50)]
            async with aiohttp.ClientSession(headers=KEY, timeout=aiohttp.ClientTimeout(total=1)) as stranger:
                try:
                    async with stranger.get(f"{s.server.base}/api/health") as answer:
                        await answer.read()
                    s.report.faults.append("there was room for one more: the limit did not bite")
                except (TimeoutError, aiohttp.ClientError):
                    pass  # as it should be: nobody can be let in
            for _, writer in held:
                writer.close()
            await asyncio.gather(*(writer.wait_closed() for _, writer in held), return_exceptions=True)
            async with load(s.caller, s.random):
                await s.journal.more(30)
            await s.follower.until_ended(s.journal.acknowledged)
            await s.settle()
        await s.dead()
        await s.check(kills=False, may_fail=True)
    return s.report
