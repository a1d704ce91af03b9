"""The hub: everyone who reads the event stream, and who is told what when.

A subscriber that has caught up is live (live.py). One whose socket does not take what comes leaves the live and is
served from its own cursor, with back-pressure, until it has caught up; so a slow one costs the others nothing, and
memory is bounded by its socket's buffer. Who reads nothing is cut off (subscriber.py sees it). Handshakes and commands
are left to websocket.py and sse.py.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

from server.api.frames import (
    HEARTBEAT,
    PING,
    ErrorFrame,
    GapFrame,
    Hello,
    Plan,
    Shutdown,
    Wire,
    encode,
    events_on_wire,
    on_wire,
)
from server.api.live import FRAME_BYTES, FRAME_EVENTS, LATEST_BYTES, LATEST_EVENTS, TURN_WRITES, Live
from server.api.stats_feed import StatsFeed
from server.api.subscriber import LIMIT, Subscriber
from server.api.turns import Turns
from server.clock import Clock
from server.http.problems import Draining, StreamsFull, TooManyStreams
from server.log import Batch, Cursor, Filter, Gap, Log
from server.settings import Events as Settings
from server.store.engine import StoreUnavailable

log = logging.getLogger("tocsin.stream")

Place = tuple[Filter, Wire, int, int]
"""Filter, wire, where the cursor stands, and what the subscriber was told of: it makes the next frame."""

CACHE_BYTES = 4 * 1024 * 1024
PLACE_BYTES, WORD_BYTES = 600, 150
"""What a frame that is kept takes beside its bytes, and each word of its filter beside its letters."""
HEARTBEAT_S = 20.0
TICK_S = 1.0
GRACE_S = 2.0
"""How long an ended connection may take to go."""
RETRY_MS = (1000, 3000)
"""When to come back after a shutdown: spread, so that not all come at once."""


class Hub:
    """All subscribers of this node."""

    def __init__(
        self, log: Log, clock: Clock, settings: Settings, *, node: str, version: str,
        stats_source: Callable[[], Awaitable[dict[str, Any] | bytes]],
    ) -> None:  # fmt: skip
        self.log = log
        self.clock = clock
        self.settings = settings
        self.beat_s = max(1.0, min(HEARTBEAT_S, settings.stall_s / 2))
        self.closing = False
        self.turns = Turns()
        self.subscribers: set[Subscriber] = set()
        self._node, self._version = node, version
        self._per_key: Counter[str] = Counter()
        self._tasks: set[asyncio.Task[None]] = set()
        self._frames: dict[Place, tuple[int, bytes]] = {}
        self._frames_bytes = 0
        self._dying: dict[asyncio.Transport, float] = {}  # closed, with bytes that nobody takes
        self._nobody = asyncio.Event()
        self._nobody.set()
        self.live = Live(log, clock, self._fall_behind, self.own)
        self._stats = StatsFeed(stats_source, clock, self.own, log.on_append)
        self.cut_off = 0  # because they read nothing
        log.on_append.append(self.live.appended)

    # --- life ------------------------------------------------------------------------------------------

    def own(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        """Run `work` beside; `close` awaits it, and a failure is logged."""
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()):
            log.error("%s failed", task.get_name(), exc_info=error)

    def _start(self) -> None:
        if not self._tasks:
            self.live.start()
            self.own(self._tick(), "stream tick")

    async def close(self, wait_s: float = GRACE_S) -> None:
        """Say goodbye to everyone: `shutdown`, then 1001; who is not gone by then is cut off."""
        self.closing = True
        retry_after_ms = random.randint(*RETRY_MS)
        for sub in list(self.subscribers):
            self.end(sub, 1001, encode(Shutdown(retry_after_ms)), retry_after_ms)
        for rest_s in (wait_s, 1.0):
            try:
                async with asyncio.timeout(rest_s):
                    await self._nobody.wait()
            except TimeoutError:
                for sub in list(self.subscribers):
                    sub.cut()
        for transport in self._dying:
            _drop(transport)
        self.live.stop()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # --- who is there --------------------------------------------------------------------------------

    @contextmanager
    def admitted(self, key_id: str) -> Iterator[None]:
        """A place for one more stream of this key. Raises StreamsFull, TooManyStreams or Draining."""
        if self.closing:
            raise Draining()
        if self._per_key.total() >= self.settings.connections:
            raise StreamsFull()
        if self._per_key[key_id] >= self.settings.connections_per_key:
            raise TooManyStreams(retry_after_s=5)
        self._per_key[key_id] += 1
        try:
            yield
        finally:
            self._per_key[key_id] -= 1
            if not self._per_key[key_id]:
                del self._per_key[key_id]

    def hello(self) -> bytes:
        """The first frame."""
        return encode(Hello(self.log.head, self.log.oldest, self._node, self._version, max(1, int(self.beat_s))))

    def add(self, sub: Subscriber, plan: Plan, since: int | None, stats: bool) -> None:
        """Begin to serve `sub`, which was just sent hello."""
        self._start()
        self.subscribers.add(sub)
        self._nobody.clear()
        now = self.clock.monotonic()
        sub.alive_at = now
        sub.beat_at = now + self.beat_s
        if self.closing:
            self.end(sub, 1001, encode(Shutdown(RETRY_MS[0])), RETRY_MS[0])
            return
        self.subscribe(sub, plan, since, stats)

    def subscribe(self, sub: Subscriber, plan: Plan, since: int | None, stats: bool) -> None:
        """Serve `sub` by another plan from here on."""
        self._leave(sub)
        sub.plan = plan
        cursor = Cursor(self.log, since, plan.filter, latest=bool(plan.interval_ms))
        sub.told = cursor.position
        if since is None or since == self.log.head:
            self.live.join(sub)
        else:
            self._catch_up(sub, cursor)
        if stats:
            self._stats.add(sub)
        else:
            self._stats.remove(sub)

    async def remove(self, sub: Subscriber) -> None:
        """Close the connection of `sub`, and forget it."""
        sub.transport.close()
        if sub.buffered():
            self._dying[sub.transport] = self.clock.monotonic() + GRACE_S
        self.subscribers.discard(sub)
        serving = sub.serving
        self._leave(sub)
        self._stats.remove(sub)
        if not self.subscribers:
            self._nobody.set()
        if serving:
            await asyncio.gather(serving, return_exceptions=True)

    def revoked(self, key_id: str, session_id: str | None) -> None:
        """A key ended, or with `session_id` that session alone: so do its streams."""
        for sub in list(self.subscribers):
            if sub.key_id == key_id and session_id in (None, sub.session_id):
                self.end(sub, 1008)

    def end(self, sub: Subscriber, code: int, last: bytes = b"", retry_after_ms: int | None = None) -> None:
        """End a connection with `code`, after the frame `last`; what the peer does not take is cut off (`_tick`)."""
        if sub.ended is not None:
            return
        self._leave(sub)
        self._stats.remove(sub)
        sub.end(code, last, retry_after_ms, self.clock.monotonic())

    def send(self, sub: Subscriber, frame: ErrorFrame) -> None:
        """Answer a command."""
        if sub.is_open():
            sub.write(on_wire(sub.wire, encode(frame)))

    # --- those behind ----------------------------------------------------------------------------------

    def _leave(self, sub: Subscriber) -> None:
        """Out of the live, or out of its own catch-up."""
        if sub.serving:
            sub.serving.cancel()
            sub.serving = sub.cursor = None
        self.live.leave(sub)

    def _catch_up(self, sub: Subscriber, cursor: Cursor) -> None:
        """Serve `sub` from `cursor` until it has caught up."""
        sub.cursor = cursor
        sub.serving = self.own(self._serve(sub, cursor), "stream catch-up")

    def _fall_behind(self, sub: Subscriber) -> None:
        """Its socket is not keeping up: serve it at its own pace."""
        self._leave(sub)
        if sub.is_open():
            cursor = Cursor(self.log, None, sub.plan.filter, latest=bool(sub.plan.interval_ms))
            cursor.position = sub.told
            self._catch_up(sub, cursor)

    async def _serve(self, sub: Subscriber, cursor: Cursor) -> None:
        """Read to `sub` until it has caught up; where that fails it is closed, to come back from its own place."""
        try:
            await self._read_to(sub, cursor)
        except Exception:
            log.exception("a stream catch-up failed; its subscriber is closed")
            sub.serving = sub.cursor = None
            self.end(sub, 1011)

    async def _read_to(self, sub: Subscriber, cursor: Cursor) -> None:
        """Read to `sub` at its own pace until it has caught up."""
        while sub.is_open():
            try:
                await sub.drain()
                await self.turns.take()
                frame = await self._next(sub, cursor)
            except StoreUnavailable as error:
                log.warning("a subscriber waits for storage: %s", error)
                await self.clock.sleep(1)
                continue
            except ConnectionError:
                return
            if not sub.is_open():
                return
            if frame is None:
                sub.serving = sub.cursor = None
                self.live.join(sub)
                return
            if not frame:  # nothing of this part of the log is for it
                continue
            sub.write(frame)
            sub.told = cursor.position
            if sub.plan.interval_ms:
                await self.clock.sleep(sub.plan.interval_ms / 1000)

    async def _next(self, sub: Subscriber, cursor: Cursor) -> bytes | None:
        """The next frame behind `cursor`; empty if there is nothing to say, None at the head."""
        if sub.plan.interval_ms:
            step = await cursor.read(LATEST_EVENTS, LATEST_BYTES)
            return step if step is None else _step(sub, step)
        told, foreign = sub.told, cursor.foreign
        place: Place = (sub.plan.filter, sub.wire, cursor.position, told)
        if not foreign and (found := self._frames.get(place)):
            cursor.position = found[0]
            return found[1]
        step = await cursor.read(FRAME_EVENTS, FRAME_BYTES)
        if step is None:
            return None
        frame = _step(sub, step)
        # What is ahead of the log is none of its places yet; and a heartbeat may have come while it was read.
        if frame and cursor.position < self.log.head and not foreign and sub.told == told:
            self._keep(place, cursor.position, frame)
        return frame

    def _keep(self, place: Place, to: int, frame: bytes) -> None:
        """Others at the same place, after a reconnect of all, take the same frame."""
        if place in self._frames:
            return
        self._frames_bytes += _weight(place, frame)
        self._frames[place] = (to, frame)
        while self._frames_bytes > CACHE_BYTES:
            first = next(iter(self._frames))
            self._frames_bytes -= _weight(first, self._frames.pop(first)[1])

    # --- the clock -------------------------------------------------------------------------------------

    async def _tick(self) -> None:
        """Heartbeats, and an end for connections that take nothing any more."""
        ticks = 0
        while True:
            await self.clock.sleep(TICK_S)
            ticks += 1
            now = self.clock.monotonic()
            for n, sub in enumerate(list(self.subscribers)):
                if sub.ended is not None:
                    if now - sub.ended_at >= GRACE_S:
                        sub.cut()
                elif sub.is_closing():
                    sub.finish()  # SSE: nothing else says that the peer is gone
                elif sub.stalled(now, self.settings.stall_s):
                    self.cut_off += 1
                    log.info("a subscriber has read nothing for %g s: cut off", self.settings.stall_s)
                    self.end(sub, 1013)
                elif now >= sub.beat_at:
                    self._beat(sub, now)
                if n % TURN_WRITES == TURN_WRITES - 1:
                    await asyncio.sleep(0)
            for transport in [transport for transport, until in self._dying.items() if now >= until]:
                del self._dying[transport]
                _drop(transport)
            self._stats.tick(ticks)

    def _beat(self, sub: Subscriber, now: float) -> None:
        """Tell it how far the log is, filter or not, and ask whether it is there."""
        sub.beat_at = now + self.beat_s
        if sub.buffered() > LIMIT:
            return
        data = b""
        if sub.group is not None or sub.cursor is not None:
            to = sub.cursor.position if sub.cursor is not None else self.live.told_of(sub)
            data = on_wire(sub.wire, HEARTBEAT % (sub.told + 1, to), to)
            sub.told = to
        if sub.wire == "websocket":
            sub.pinged = True
            sub.pings += 1
            data += PING
        if data:
            sub.write(data)


def _drop(transport: asyncio.Transport) -> None:
    """End what was closed and could not yet say its last; asyncio fails to end one that has."""
    if transport.get_write_buffer_size():
        transport.abort()


def _weight(place: Place, frame: bytes) -> int:
    """Bytes that a frame kept under `place` takes in memory, about: a filter of many words is more than its frame."""
    only = place[0]
    words = [*only.type, *only.task_id]
    return len(frame) + PLACE_BYTES + WORD_BYTES * len(words) + sum(map(len, words))


def _step(sub: Subscriber, step: Batch | Gap) -> bytes:
    if isinstance(step, Gap):
        first = min(step.first, sub.told + 1)  # what nobody told it of, since nothing passed, is past retention too
        return on_wire(sub.wire, encode(GapFrame(first, step.last)), step.last)
    if not step.events:
        return b""
    return events_on_wire(sub.wire, sub.told + 1, step.last, step.events)
