"""The hub alone, over sockets of paper: whatever happens in whatever order, each is told its part of the log."""

from __future__ import annotations

import asyncio
import random
from typing import Any
from unittest.mock import patch

import msgspec
from hypothesis import example, given, settings
from hypothesis import strategies as st

from server.api.fanout import Hub
from server.api.frames import Mode, StreamQuery
from server.api.live import FEW
from server.api.subscriber import LIMIT, Subscriber
from server.log import Log
from server.model import Event
from server.settings import Events as Settings
from tests.api.http_kit import TurnedClock
from tests.api.stream_kit import Shelf, event, settle


class Line:
    """A socket as the hub sees it: what is written waits here until it is let through."""

    def __init__(self) -> None:
        self.taken = b""
        self.waiting = 0
        self.shut = False
        self.closed = False
        self.breaks = False
        self.room = asyncio.Event()
        self.room.set()

    def write(self, data: bytes) -> None:
        if self.breaks and b'"seq":' in data:
            self.breaks = False
            raise RuntimeError("no such socket")
        assert not self.closed
        self.taken += data
        if self.shut:
            self.waiting += len(data)
            if self.waiting > LIMIT:
                self.room.clear()

    def open(self) -> None:
        self.shut, self.waiting = False, 0
        self.room.set()

    async def drain(self) -> None:
        await self.room.wait()

    def get_write_buffer_size(self) -> int:
        return self.waiting

    def is_closing(self) -> bool:
        return self.closed

    def get_extra_info(self, name: str) -> None:
        return None

    def close(self) -> None:
        self.closed = True
        self.room.set()

    abort = close

    def frames(self) -> list[dict[str, Any]]:
        found, data = [], self.taken
        while data:
            first, size, at = data[0], data[1], 2
            if size == 126:
                size, at = int.from_bytes(data[2:4], "big"), 4
            elif size == 127:
                size, at = int.from_bytes(data[2:10], "big"), 10
            if first == 0x81:
                found.append(msgspec.json.decode(data[at : at + size]))
            data = data[at + size :]
        self.taken = b""
        return found


QUERIES = [
    StreamQuery(),
    StreamQuery(stats=True),
    StreamQuery(type=["meteo"]),
    StreamQuery(task_id=["task-3", "task-4"]),
    StreamQuery(task_id=["task-3"], type=["meteo"], stats=True),
    StreamQuery(type=["none"]),
    StreamQuery(mode=Mode.LATEST, interval_ms=50),
    StreamQuery(mode=Mode.LATEST, interval_ms=200, type=["infra", "meteo"]),
    StreamQuery(mode=Mode.LATEST, task_id=["task-3", "task-5"]),
]


class Reader:
    """A client that checks each frame, and at the end all of them."""

    def __init__(self, hub: Hub, query: StreamQuery, since: int | None) -> None:
        self.hub = hub
        self.line = Line()
        self.sub = Subscriber(self.line, self.line.drain, "websocket", key_id="k", session_id=None, lang="fr")  # type: ignore[arg-type]
        self.begin(query, since)
        hub.add(self.sub, query.plan(), since, query.stats)

    def begin(self, query: StreamQuery, since: int | None) -> None:
        self.query, self.only = query, query.plan().filter
        head = self.hub.log.head
        self.start = self.at = head if since is None else (self.hub.log.oldest - 1 if since == 0 else since)
        self.seen: list[int] = []
        self.stats: Any = None

    def again(self, query: StreamQuery, since: int | None) -> None:
        self.look()
        self.begin(query, since)
        self.hub.subscribe(self.sub, query.plan(), since, query.stats)

    def look(self) -> None:
        for frame in self.line.frames():
            if frame["kind"] == "stats":
                assert self.query.stats
                self.stats = frame["stats"]["n"]
                continue
            assert frame["kind"] == "events", frame
            assert frame["from"] == self.at + 1, (frame["from"], self.at)
            assert frame["to"] >= self.at
            for each in frame["events"]:
                assert self.at < each["seq"] <= frame["to"]
                assert not self.seen or each["seq"] > self.seen[-1]
                self.seen.append(each["seq"])
            self.at = frame["to"]

    def check(self, log: list[Event], n: int) -> None:
        self.look()
        mine = [each for each in log if each.seq > self.start and self.only.passes(each)]
        assert self.at == self.hub.log.head
        if self.query.mode is Mode.EVENTS:
            assert self.seen == [each.seq for each in mine]
        else:
            last = {each.task_id or each.seq: each.seq for each in mine}
            assert set(last.values()) <= set(self.seen) <= {each.seq for each in mine}
        if self.query.stats:
            assert self.stats == n


which = st.integers(0, len(QUERIES) - 1)
place = st.one_of(st.none(), st.integers(0, 80))
step = st.one_of(
    st.tuples(st.just("commit"), st.integers(1, 3)),
    st.tuples(st.just("commit"), st.integers(1, 40)),
    st.tuples(st.just("trickle"), st.integers(2, 15), st.integers(0, 3), st.sampled_from([0, 0.25])),
    st.tuples(st.just("trickle"), st.integers(2, 15), st.just(0), st.just(0)),
    st.tuples(st.just("commit"), st.sampled_from([300, 700])),
    st.tuples(st.just("big"), st.integers(1, 8)),
    st.tuples(st.just("miss"), st.integers(1, 5)),
    st.tuples(st.just("join"), which, place),
    st.tuples(st.just("join"), which, st.none()),
    st.tuples(st.just("crowd"), which),
    st.tuples(st.just("again"), st.integers(0, 50), which, place),
    st.tuples(st.just("leave"), st.integers(0, 50)),
    st.tuples(st.just("thin"), st.integers(0, 20)),
    st.tuples(st.just("shut"), st.integers(0, 50)),
    st.tuples(st.just("open"), st.integers(0, 50)),
    st.tuples(st.just("break"), st.integers(0, 50)),
    st.tuples(st.just("turns"), st.integers(1, 12)),
    st.tuples(st.just("turns"), st.integers(1, 3)),
    st.tuples(st.just("clock"), st.sampled_from([0.02, 0.05, 0.3, 1.0, 11.0])),
)


async def story(steps: list[Any], draw: random.Random, ring: int, ring_bytes: int, breaks: bool, few: int) -> None:
    clock, shelf = TurnedClock(), Shelf()
    shelf.events = [event(n + 1) for n in range(30)]
    log = Log(shelf, ring, clock, ring_bytes=ring_bytes)
    await log.open()
    n = [0]

    async def stats() -> dict[str, int]:
        await asyncio.sleep(0)
        return {"n": n[0]}

    hub = Hub(log, clock, Settings(stall_s=1e9), node="n", version="1", stats_source=stats)
    readers: list[Reader] = []

    def commit(count: int, missed: int = 0, **given: Any) -> None:
        events = [event(log.head + 1 + i, draw, **given) for i in range(count)]
        shelf.events += events
        n[0] += 1
        log.append(events[missed:])
        weight = sum(len(e.body) + 400 for e in log._ring if e)
        assert log._bytes == weight
        assert [e.seq for e in log.recent(log.in_memory - 1, 10**6) or []] == list(range(log.in_memory, log.head + 1))

    with patch("server.api.live.FEW", few):
        for name, *rest in steps:
            if name == "commit":
                commit(rest[0])
            elif name == "trickle":
                for _ in range(rest[0]):
                    commit(1)
                    await settle(rest[1])
                    clock.turn(rest[2])
            elif name == "big":
                commit(rest[0], titre="x" * 30_000)
            elif name == "miss":
                commit(rest[0] + 2, missed=rest[0])
            elif name == "join":
                readers.append(Reader(hub, QUERIES[rest[0]], rest[1] if rest[1] is None else min(rest[1], log.head)))
            elif name == "crowd":
                for k in range(few + 2):
                    readers.append(Reader(hub, QUERIES[(rest[0] + k % 3) % len(QUERIES)], None))
            elif name == "turns":
                await settle(rest[0])
            elif name == "clock":
                clock.turn(rest[0])
            elif name == "thin":
                for reader in readers[rest[0] :]:
                    reader.look()
                    await hub.remove(reader.sub)
                del readers[rest[0] :]
            elif readers:
                reader = readers[rest[0] % len(readers)]
                if name == "again" and reader.sub.ended is None:
                    reader.again(QUERIES[rest[1]], rest[2] if rest[2] is None else min(rest[2], log.head))
                elif name == "leave":
                    readers.remove(reader)
                    reader.look()
                    await hub.remove(reader.sub)
                elif name == "shut":
                    reader.line.shut = True
                elif name == "open":
                    reader.line.open()
                elif name == "break" and breaks:
                    reader.line.breaks = True
        for reader in readers:
            reader.line.breaks = False
            reader.line.open()
        commit(1)
        try:
            for _ in range(400):
                await settle(30)
                clock.turn(0.3)
                for reader in readers:
                    reader.look()
                if all(reader.at == log.head or reader.sub.ended for reader in readers) and not any(
                    r.sub.serving for r in readers
                ):
                    break
            await settle(50)
            clock.turn(30)
            await settle(50)
            clock.turn(1)
            await settle(50)
            for reader in readers:
                if reader.sub.ended is None:
                    reader.check(shelf.events, n[0])
                else:
                    assert breaks and reader.sub.ended == 1011
            assert not hub.live._busy
            assert hub.live._here == sum(reader.sub.ended is None for reader in readers)
            for reader in list(readers):
                await hub.remove(reader.sub)
            assert not hub.live._groups and not hub.live._broad and not hub.live._by_task
            assert log.on_append == [hub.live.appended]
            await settle(20)
            assert {t.get_name() for t in hub._tasks} <= {"stream tick", "stream stats"}, hub._tasks
        finally:
            for task in list(hub._tasks):
                task.cancel()
            await asyncio.gather(*hub._tasks, return_exceptions=True)


@settings(max_examples=60)
@given(
    steps=st.lists(step, min_size=3, max_size=40), seed=st.integers(0, 2**32), ring=st.sampled_from([1, 16, 64, 1024]),
    ring_bytes=st.sampled_from([1, 20_000, 100_000, 10_000_000]), few=st.sampled_from([2, FEW]),
)  # fmt: skip
@example([("join", 3, None)] + [("trickle", 15, 0, 0)] * 4, 1, 64, 10_000_000, FEW)  # one that asks for two tasks
@example([("join", 0, None), ("commit", 1), ("join", 2, None), ("trickle", 15, 0, 0)], 1, 64, 10_000_000, FEW)
@example([("join", 6, None), ("trickle", 5, 3, 0.25)], 1, 64, 10_000_000, FEW)
def test_each_is_told_its_part_of_the_log(steps, seed, ring, ring_bytes, few):
    asyncio.run(story(steps, random.Random(seed), ring, ring_bytes, False, few))


@settings(max_examples=60)
@given(
    steps=st.lists(step, min_size=3, max_size=40), seed=st.integers(0, 2**32), ring=st.sampled_from([16, 64, 1024]),
    few=st.sampled_from([2, FEW]),
)  # fmt: skip
def test_a_socket_that_fails_costs_nobody_anything(steps, seed, ring, few):
    asyncio.run(story(steps, random.Random(seed), ring, 10_000_000, True, few))
