"""The live subscribers: those that have caught up and whose sockets take what comes.

They are told by plain turns of the event loop, several appends before a turn at once, from a frame built once for all
who read the same (a Group). Whoever does not keep up is handed to `fall_behind` with its place in the log (`told`).
A live subscriber has missed nothing between its `told` and `settled` that its filter lets through.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

from server.api.frames import Plan, Wire, events_frame, on_wire
from server.api.subscriber import LIMIT, Group, Subscriber
from server.clock import Clock
from server.log import Log, conflate
from server.model import Event

log = logging.getLogger("tocsin.stream")

FRAME_EVENTS = 256
FRAME_BYTES = 64 * 1024
LATEST_EVENTS = 2048
LATEST_BYTES = 1024 * 1024
SCAN = 4096
"""Events that are conflated in one turn of the event loop."""
TURN_WRITES = 200
"""Sockets written to in one turn, at most: about 1.5 ms."""
TURN_BYTES = 4 * 1024 * 1024

_NONE: set[Group] = set()


class Live:
    """Everyone who is told as it happens."""

    def __init__(
        self, log: Log, clock: Clock, fall_behind: Callable[[Subscriber], None],
        own: Callable[[Coroutine[Any, Any, None], str], asyncio.Task[None]],
    ) -> None:  # fmt: skip
        self._log = log
        self._clock = clock
        self._fall_behind = fall_behind  # takes it out of here too
        self._own = own  # runs a task and answers for it
        self.settled = 0  # live subscribers have been told of what lies at or before it
        self._position = 0  # … or are being told
        self._loop: asyncio.AbstractEventLoop | None = None
        self._turn: Iterator[None] | None = None  # while they are being told
        self._groups: dict[tuple[Plan, Wire], Group] = {}
        self._broad: set[Group] = set()  # those that any event may be for
        self._by_task: dict[str, set[Group]] = {}

    def start(self) -> None:
        """Begin with what is appended from now on."""
        self._loop = asyncio.get_running_loop()
        self._position = self.settled = self._log.head

    def stop(self) -> None:
        """Tell nobody any more."""
        self._loop = self._turn = None

    # --- who is here -----------------------------------------------------------------------------------

    def join(self, sub: Subscriber) -> None:
        """Tell `sub` what lies behind its `told`, which is the log's head."""
        key = (sub.plan, sub.wire)
        group = self._groups.get(key)
        if group is None:
            group = self._groups[key] = Group(sub.plan, sub.wire)
            for index in self._indexes(group):
                index.add(group)
        group.subs.add(sub)
        sub.group = group

    def leave(self, sub: Subscriber) -> None:
        """Forget `sub`."""
        group, sub.group = sub.group, None
        if group is None:
            return
        group.subs.discard(sub)
        if group.subs:
            return
        del self._groups[group.plan, group.wire]
        for index in self._indexes(group):
            index.discard(group)
        for task_id in group.plan.filter.task_id:
            if not self._by_task[task_id]:
                del self._by_task[task_id]
        if group.pacing:
            group.pacing.cancel()

    def _indexes(self, group: Group) -> list[set[Group]]:
        ids = group.plan.filter.task_id
        return [self._by_task.setdefault(task_id, set()) for task_id in ids] if ids else [self._broad]

    def _touched(self, events: list[Event]) -> list[Group]:
        """The groups that some of `events` may be for."""
        touched = list(self._broad)
        if self._by_task:
            found: set[Group] = set()
            for event in events:
                found |= self._by_task.get(event.task_id, _NONE)
            touched += found
        return touched

    def told_of(self, sub: Subscriber) -> int:
        """How far `sub` has missed nothing, told or not."""
        group = sub.group
        return max(sub.told, group.scanned if group and group.pacing else self.settled)

    # --- telling ---------------------------------------------------------------------------------------

    def appended(self) -> None:
        """There is something new."""
        if self._loop is not None and self._turn is None:
            self._turn = self._turns()
            self._loop.call_soon(self._go_on)

    def _go_on(self) -> None:
        if self._turn is None or self._loop is None:
            return
        try:
            next(self._turn)
        except StopIteration:
            self._turn = None
            return
        except Exception:
            log.exception("a turn of the stream failed; its subscribers go on from their own place")
            self._turn = None
            self._all_fall_behind()
            return
        self._loop.call_soon(self._go_on)

    def _all_fall_behind(self) -> None:
        for group in list(self._groups.values()):
            for sub in list(group.subs):
                self._fall_behind(sub)
        self._position = self.settled = self._log.head

    def _turns(self) -> Iterator[None]:
        """Tell everyone what was appended, until nothing is left; gives way to the event loop where it yields."""
        while True:
            yield from self._spread()
            if self._position >= self._log.head:
                return
            yield

    def _spread(self) -> Iterator[None]:
        """Tell everyone the next frame's worth of events."""
        events = self._log.recent(self._position, FRAME_EVENTS) if self._groups else []
        if not events:  # nobody is live; or more came at once than the ring holds (None)
            self._all_fall_behind()
            return
        events = within(events, FRAME_BYTES)
        first, last = self._position + 1, events[-1].seq
        self._position = last
        for group in self._touched(events):
            if group.plan.interval_ms:
                if group.pacing is None:
                    group.scanned = first - 1
                    group.pacing = self._own(self._pace(group), "stream pace")
            elif passed := (events if group.all else group.plan.filter.of(events)):
                yield from self._tell(group, passed, last)
        self.settled = last

    def _tell(self, group: Group, events: list[Event], last: int) -> Iterator[None]:
        """Write one frame up to `last` to everyone in `group`; `events` are what passed its filter.

        Gives way (yields) after `TURN_WRITES` sockets.
        """
        frames: dict[int, bytes | None] = {}
        writes, room = TURN_WRITES, TURN_BYTES
        for sub in list(group.subs):
            told = sub.told
            if sub.group is not group or told >= last:  # gone, or come later, while others were written to
                continue
            try:
                data = frames[told]
            except KeyError:
                data = frames[told] = _frame(group.wire, told, last, events)
            if data is None or sub.is_closing():
                continue
            if sub.buffered() > LIMIT:
                self._fall_behind(sub)
                continue
            sub.write(data)
            sub.told = last
            writes -= 1
            room -= len(data)
            if writes <= 0 or room <= 0:
                writes, room = TURN_WRITES, TURN_BYTES
                yield

    # --- mode=latest -----------------------------------------------------------------------------------

    async def _pace(self, group: Group) -> None:
        """While there is something to tell, tell the newest once per interval."""
        try:
            while group.subs and group.scanned < self._position:
                rest_s = group.sent_at + group.plan.interval_ms / 1000 - self._clock.monotonic()
                if rest_s > 0:
                    await self._clock.sleep(rest_s)
                await self._tell_newest(group)
        except Exception:
            log.exception("mode=latest failed; its subscribers go on from their own place")
            for sub in list(group.subs):
                self._fall_behind(sub)
        finally:
            group.pacing = None

    async def _tell_newest(self, group: Group) -> None:
        last = self._position
        newest = await self._newest(group, last)
        if newest is None:  # the ring does not reach back so far
            for sub in list(group.subs):
                self._fall_behind(sub)
            return
        shown = within(newest[:LATEST_EVENTS], LATEST_BYTES)
        if len(shown) < len(newest):
            last = shown[-1].seq  # the others' newest states lie behind it
        if shown:
            group.sent_at = self._clock.monotonic()
            for _ in self._tell(group, shown, last):
                await asyncio.sleep(0)
        group.scanned = last

    async def _newest(self, group: Group, last: int) -> list[Event] | None:
        newest: list[Event] = []
        position = group.scanned
        while position < last:
            events = self._log.recent(position, min(SCAN, last - position))
            if events is None:
                return None
            newest = conflate(newest + group.plan.filter.of(events))
            position = events[-1].seq
            if position < last:
                await asyncio.sleep(0)
        return newest


def _frame(wire: Wire, told: int, last: int, events: list[Event]) -> bytes | None:
    """`events` behind `told`, as a frame up to `last`; None if there are none."""
    if events[0].seq <= told:
        events = [event for event in events if event.seq > told]
        if not events:
            return None
    return on_wire(wire, events_frame(told + 1, last, events), last)


def within(events: list[Event], most: int) -> list[Event]:
    """The first of `events` that have at most `most` bytes; one at least."""
    if len(events) < 2:
        return events
    size = 0
    for n, event in enumerate(events):
        size += len(event.body)
        if size > most and n:
            return events[:n]
    return events
