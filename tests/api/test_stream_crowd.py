"""The whole promise at once: 200 subscribers of a real server that is restarted while 20 000 events pass.

They have filters of their own, pause, leave and come back, and retention passes some that are away. What each was told
is compared with what stood in the database, read beside the server and sifted by what the events themselves say.
"""

from __future__ import annotations

import asyncio
import random
import socket
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple
from zlib import crc32

import aiohttp
import apsw
import msgspec
import pytest
from aiohttp import ClientWebSocketResponse, WSMsgType

from notifiers import Message, Outcome, Refused, RetryLater, Sent
from server.api.stream import HUB
from server.model import NewNotification, Recipient, Status
from tests.api.http_kit import TurnedClock
from tests.kit import ADMIN_KEY, Town, jean, running

TYPES = ("meteo", "securite", "sante", "infra")
PRIORITIES = ("CRITIQUE", "HAUTE", "NORMALE")
FOLLOWERS, EVENTS, STANDING = 200, 20_000, 12
WAVE = 50  # tasks
WAVE_S = 4.0
KEPT_WAVES = 18
SETTINGS = {
    "EVENTS__RING": "1024",  # some five waves: those who were away longer are read to from the store
    "EVENTS__RETENTION_HOURS": str(KEPT_WAVES * WAVE_S / 3600),
    "EVENTS__STALL_S": "80000",  # whoever pauses here is to be waited for
}
RECEIVE_BYTES = 16 * 1024  # of some followers' kernel: little, so that a pause is felt by the server


class Told(msgspec.Struct):
    """A frame as far as a follower looks into it, each event as it came."""

    kind: str
    seq: int = 0
    oldest: int = 0
    first: int = msgspec.field(name="from", default=0)
    to: int = 0
    events: list[msgspec.Raw] = []


class Seq(msgspec.Struct):
    """An event's number."""

    seq: int


class Numbers(msgspec.Struct):
    """A frame as the numbers of its events."""

    events: list[Seq] = []


class Row(NamedTuple):
    """An event that was stored."""

    of: str  # its task, or itself if it is of none
    checksum: int


frames = msgspec.json.Decoder(Told)
numbers = msgspec.json.Decoder(Numbers)


class Stage:
    """What all followers stand before: the server of now, what its database has held, how far things are."""

    def __init__(self, folder: Path, session: aiohttp.ClientSession) -> None:
        self.session = session
        self.url = ""
        self.up = asyncio.Event()
        self.calls: set[asyncio.Task[ClientWebSocketResponse]] = set()  # not answered yet
        self.ends = 0  # of servers
        self.end: int | None = None  # the last seq, once it is known
        self.stored: dict[int, Row] = {}
        self.where: defaultdict[str, set[int]] = defaultdict(set)  # the events that have a value
        self.standing: list[str] = []  # tasks that are sent again and again
        self.met: Counter[str] = Counter()
        self.waves = 0
        self._turned = asyncio.Event()
        self._database = folder / "tocsin.db"

    def wave_over(self) -> None:
        """Wake those who count waves."""
        self.waves += 1
        self._turned.set()
        self._turned = asyncio.Event()

    async def connect(self, query: list[tuple[str, str]]) -> ClientWebSocketResponse:
        """Open a stream. Raises ClientError."""
        call = asyncio.ensure_future(
            self.session.ws_connect(f"{self.url}/ws/events", params=query, max_msg_size=0, autoclose=False)
        )
        self.calls.add(call)
        call.add_done_callback(self.calls.discard)
        return await call

    def down(self) -> None:
        """The server is about to end."""
        self.up.clear()
        self.ends += 1
        self.wave_over()

    async def wait(self, waves: int, ends: int | None = None) -> None:
        """Return after so many waves, or when nobody may wait any more: if the server ends that was the `ends`-th."""
        until = self.waves + waves
        while self.waves < until and self.end is None and ends in (None, self.ends):
            await self._turned.wait()

    def _read(self, sql: str, *values: Any) -> list[Any]:
        with apsw.Connection(str(self._database), flags=apsw.SQLITE_OPEN_READONLY) as database:
            return list(database.execute(sql, values))

    def note(self) -> int:
        """Note what was stored since the last time; the newest seq."""
        head = max(self.stored, default=0)
        for seq, body in self._read("SELECT seq, body FROM event WHERE seq > ? ORDER BY seq", head):
            head += 1
            assert seq == head, f"the store has no event {head}"
            task = msgspec.json.decode(body).get("task") or {"id": "", "type": "", "status": "", "priority": ""}
            values = task["id"], task["type"], task["status"], task["priority"]
            self.stored[seq] = Row(values[0] or str(seq), crc32(body))
            for value in values:
                self.where[value].add(seq)
        return head

    def oldest(self) -> int:
        """The oldest event that the database still has."""
        (oldest,) = self._read("SELECT min(seq) FROM event")[0]
        return int(oldest)


class Follower:
    """A client as the README tells to write one: it goes on behind the last `to`, and checks what it is told."""

    def __init__(self, stage: Stage, draw: random.Random) -> None:
        self.stage, self.draw = stage, draw
        self.latest = draw.random() < 0.2
        self.only: dict[str, frozenset[str]] = {}
        for name, values, most in (
            ("type", TYPES, 2), ("status", [each.value for each in Status], 2), ("priority", PRIORITIES, 2),
            ("task_id", stage.standing, 4),
        ):  # fmt: skip
            if draw.random() < 0.4:
                self.only[name] = frozenset(draw.sample(values, draw.randint(1, most)))
        head = max(stage.stored)
        self.since = draw.choice((None, 0, draw.randint(max(1, head - 5000), head)))
        self.start = self.since or 0
        self.seen: list[tuple[int, int]] = []
        self.gone: set[int] = set()

    def query(self) -> list[tuple[str, str]]:
        """Its filter, and where it stands."""
        query = [(name, value) for name, values in self.only.items() for value in values]
        query += [("mode", "latest"), ("interval_ms", "16")] if self.latest else []
        return query if self.since is None else [*query, ("since", str(self.since))]

    def done(self) -> bool:
        """Has it come to the end?"""
        return self.stage.end is not None and self.since is not None and self.since >= self.stage.end

    async def follow(self) -> None:
        """Read, pause, leave and come back until the end is reached."""
        stage, draw = self.stage, self.draw
        while not self.done():
            await stage.up.wait()
            ends = stage.ends
            try:
                ws = await stage.connect(self.query())
            except aiohttp.ClientError:
                assert stage.ends > ends, "a running server refused a follower"
                continue
            stage.met["joined"] += 1
            await self._read(ws, draw.randint(1, 80), ends)
            if draw.random() < 0.3 and (connection := ws._response.connection) and connection.transport:
                connection.transport.abort()
            await ws.close()
            await stage.wait(draw.choice((0, 0, 1, 3, 2 * KEPT_WAVES) if draw.random() < 0.5 else (0,)))

    async def _read(self, ws: ClientWebSocketResponse, most: int, ends: int) -> None:
        for _ in range(most):
            if self.draw.random() < 0.04:
                self.stage.met["paused"] += 1
                await self.stage.wait(self.draw.randint(1, 6), ends)
            if self.done():
                return
            message = await ws.receive()
            if message.type is not WSMsgType.TEXT:
                assert self.stage.ends > ends, f"{message} from a running server"
                self.stage.met[str(ws.close_code)] += 1
                return
            self._take(frames.decode(message.data), message.data)

    def _take(self, told: Told, data: str) -> None:
        if told.kind == "hello":
            if not self.since:  # 0 begins with the oldest kept each time that it is asked for
                self.start = self.since = told.seq if self.since is None else told.oldest - 1
            return
        if told.kind == "shutdown":
            self.stage.met["shutdown"] += 1
            return
        assert self.since is not None
        assert told.first == self.since + 1, f"{told.kind} from {told.first} behind {self.since}"
        assert told.to >= self.since
        if told.kind == "gap":
            self.stage.met["gap"] += 1
            assert told.to < self.stage.oldest(), "that was still to be had"
            self.gone.update(range(told.first, told.to + 1))
        else:
            assert told.kind == "events", told
            before = self.since
            for number, event in zip(numbers.decode(data).events, told.events, strict=True):
                assert before < number.seq <= told.to, f"{number.seq} behind {before} in a frame up to {told.to}"
                before = number.seq
                self.seen.append((before, crc32(event)))
        self.since = told.to

    def check(self) -> None:
        """It has seen its events as they were stored; with mode=latest the newest of every task, as it came to be."""
        assert self.since is not None
        there = set(range(self.start + 1, self.since + 1)) - self.gone
        for values in self.only.values():
            there &= set().union(*(self.stage.where[value] for value in values))
        wanted = {seq: self.stage.stored[seq] for seq in sorted(there)}
        if not self.latest:
            assert self.seen == [(seq, row.checksum) for seq, row in wanted.items()]
            return
        assert self.seen == sorted(set(self.seen))
        assert all(wanted[seq].checksum == checksum for seq, checksum in self.seen)
        assert {row.of: seq for seq, row in wanted.items()} == {wanted[seq].of: seq for seq, _ in self.seen}


def outcome(draw: random.Random) -> Callable[[Message], Outcome]:
    """What the far end answers: most are reached, some later, some never."""

    def answer(message: Message) -> Outcome:
        if message.titre == "encore" or draw.random() < 0.1:
            return Refused("address_refused", "550")
        return RetryLater("busy", "451") if draw.random() < 0.1 else Sent()

    return answer


@asynccontextmanager
async def server(stage: Stage, folder: Path, draw: random.Random, clock: TurnedClock) -> AsyncIterator[Town]:
    """A server over the store of before, which goes on at the time of before."""
    async with running(folder, clock=clock, **SETTINGS) as town:
        town.service("email").always(outcome(draw))
        stage.url = str(town.client.make_url("")).rstrip("/")
        stage.up.set()
        try:
            yield town
        finally:
            stage.down()
            # What asyncio accepts as it closes stays open, unread by anybody, until its process ends: here, never.
            await asyncio.gather(*stage.calls, return_exceptions=True)


async def sent(town: Town, draw: random.Random, titre: str = "alerte") -> str:
    """Send one; its task's id."""
    new = NewNotification(titre, "Tempête", msgspec.convert([jean()], list[Recipient]), draw.choice(PRIORITIES))
    return (await town.queue.enqueue(draw.choice(TYPES), new, town.own_key())).task_id


async def wave(stage: Stage, town: Town, draw: random.Random) -> None:
    """Some two hundred events of every kind."""
    if pauses := draw.random() < 0.1:
        await town.queue.pause(town.own_key(), paused=True)
    ids = await asyncio.gather(*(sent(town, draw) for _ in range(draw.randint(1, 2 * WAVE))))
    await asyncio.gather(*(town.queue.cancel(each) for each in ids if pauses and draw.random() < 0.2))
    if pauses:
        await town.queue.pause(town.own_key(), paused=False)
    for task_id in draw.sample(stage.standing, 4):
        if (await town.queue.task(task_id)).status is Status.FAILED:
            await town.queue.retry(task_id)
    if draw.random() < 0.1:
        await town.queue.clear(0, (Status.COMPLETED, Status.CANCELLED))


async def until_live(stage: Stage, town: Town) -> None:
    """Wait until all have caught up but those who do not read, and those who wait for the clock."""
    subs = town.app[HUB].subscribers
    await town.until(lambda: all(not sub.serving or sub.buffered() or sub.plan.interval_ms for sub in subs))
    stage.met["live"] += sum(sub.group is not None for sub in subs)


async def until_told(stage: Stage, town: Town, crowd: list[Follower]) -> None:
    """Wait until all have come to the end; a heartbeat takes those there for whom nothing more comes."""
    hub = town.app[HUB]
    while not all(each.done() for each in crowd):
        for _ in range(100):
            await asyncio.sleep(0)
        settled = hub.live.settled == hub.log.head and not any(sub.serving for sub in hub.subscribers)
        town.clock.turn(21 if settled else 0.02)  # the latter for those with mode=latest
    stage.note()


@pytest.mark.parametrize("seed", [20_260_104])
async def test_200_see_their_log_over_pauses_a_restart_and_retention(
    tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = random.Random(seed)
    monkeypatch.setattr("server.store.ANSWER_S", 600)  # its readers are in this process too, and hold it up

    made_before = count()

    def made_small(address: tuple[Any, ...]) -> socket.socket:
        made = socket.socket(address[0], address[1], address[2])
        if next(made_before) % 4 == 0:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BYTES)
        made.setblocking(False)
        return made

    connector = aiohttp.TCPConnector(limit=0, socket_factory=made_small)
    headers = {"X-API-Key": ADMIN_KEY}
    async with aiohttp.ClientSession(connector=connector, headers=headers) as session:
        stage = Stage(tmp_path, session)
        crowd: list[Follower] = []
        head, clock = 0, TurnedClock()
        async with asyncio.TaskGroup() as group:
            for until in (EVENTS // 2, EVENTS):
                async with server(stage, tmp_path, draw, clock) as town:
                    if not stage.standing:
                        stage.standing += [await sent(town, draw, "encore") for _ in range(STANDING)]
                        await town.until_idle()
                        stage.note()
                    await town.queue.pause(town.own_key(), paused=False)  # a wave was cut off
                    while head < until:
                        while len(crowd) < min(FOLLOWERS, FOLLOWERS * head / until + 20):
                            crowd.append(Follower(stage, random.Random(draw.random())))
                            group.create_task(crowd[-1].follow())
                        await wave(stage, town, draw)
                        await town.until_idle()
                        head = stage.note()
                        stage.met["behind"] += sum(sub.serving is not None for sub in town.app[HUB].subscribers)
                        if stage.waves % 3 == 0:
                            await until_live(stage, town)
                        stage.wave_over()
                        town.clock.turn(WAVE_S)
                    if until < EVENTS:  # it ends while things go on
                        last = asyncio.create_task(wave(stage, town, draw))
                        await town.until(lambda before=head: town.app[HUB].log.head > before + 1)
                        stage.down()
                    else:
                        stage.end = stage.note()
                        stage.wave_over()
                        await until_told(stage, town, crowd)
                await asyncio.gather(last, return_exceptions=True)
        for each in crowd:
            each.check()
        assert len(crowd) == FOLLOWERS
        assert min(stage.met[what] for what in ("joined", "live", "behind", "paused")) > FOLLOWERS
        assert min(stage.met[what] for what in ("shutdown", "1001", "gap")) > 10
