"""The live subscribers: those that have caught up and whose sockets take what comes.

They are told in rounds: a round gives everyone the next frame's worth, from a frame built once for all who read the
same (a Group), a few sockets in a turn of the event loop. A round that told many is followed by a rest, `REST` times
as long as it took, or until nobody else has anything to do; what is appended meanwhile goes out as one frame. So
however many read and however much happens, those who send find most of the event loop free. Whoever does not keep up
is handed to `fall_behind` with its place in the log (`told`). A live subscriber has missed nothing between its `told`
and `settled` that its filter lets through.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from time import perf_counter
from typing import Any

from server.api.frames import Plan, Wire, events_on_wire
from server.api.subscriber import LIMIT, Group, Subscriber
from server.api.turns import rest
from server.clock import Clock
from server.log import Log, conflate, within
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
WRITE_BYTES = TURN_BYTES // TURN_WRITES
"""A write is as good as so many bytes more."""
FEW = 16
"""Subscribers that are told at once, and without a rest: it is done before it could be in anybody's way."""
REST = 2.0
"""A rest in times of the round before it: telling leaves two thirds of the event loop's time to those who want it."""
REST_MOST_S = 0.05

FAILED = "a turn of the stream failed; its subscribers go on from their own place"
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
        self._turns: Iterator[bool] = iter(())  # the rest of the round that is under way
        self._busy = False  # a round is under way, or the rest behind it
        self._began = 0.0
        self._here = 0  # how many are live
        self._groups: dict[tuple[Plan, Wire], Group] = {}
        self._broad: set[Group] = set()  # those that any event may be for
        self._by_task: dict[str, set[Group]] = {}
        self._few: list[tuple[Group, tuple[Subscriber, ...]]] | None = None  # `_broad` and who is in it, while few are

    def start(self) -> None:
        """Begin with what is appended from now on."""
        self._loop = asyncio.get_running_loop()
        self._position = self.settled = self._log.head

    def stop(self) -> None:
        """Tell nobody any more."""
        self._loop = None

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
        self._here += 1
        self._few = None

    def leave(self, sub: Subscriber) -> None:
        """Forget `sub`."""
        group, sub.group = sub.group, None
        if group is None:
            return
        group.subs.discard(sub)
        self._here -= 1
        self._few = None
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

    def _touched(self, events: list[Event]) -> Iterable[Group]:
        """The groups that some of `events` may be for."""
        found = set(self._broad)
        for event in events:
            found |= self._by_task.get(event.task_id, _NONE)
        return found

    def told_of(self, sub: Subscriber) -> int:
        """How far `sub` has missed nothing, told or not."""
        group = sub.group
        return max(sub.told, group.scanned if group and group.pacing else self.settled)

    # --- telling ---------------------------------------------------------------------------------------

    def appended(self, events: list[Event]) -> None:
        """`events` are new."""
        if self._busy or self._loop is None:
            return
        if self._here > FEW:
            self._busy = True
            self._loop.call_soon(self._begin)  # behind those whose change it is: they are answered first
        else:
            self._tell_few(events)

    def _tell_few(self, events: list[Event]) -> None:
        """Tell everyone at once of the next frame's worth; `events` are new, and as a rule all of it."""
        try:
            if len(events) == 1 and events[0].seq == self._position + 1:
                self._position += 1
            else:
                events = self._take_up()
            last = self._position
            if self._by_task or self._few is None:
                self._few = [(group, tuple(group.subs)) for group in self._touched(events)]
            for group, subs in self._few:
                if passed := events if group.all else self._passed(group, events):
                    self._tell(group, subs, passed, last)
            self.settled = last
        except Exception:
            log.exception(FAILED)
            self._all_fall_behind()
        if self._busy or self._position < self._log.head:
            self._rested()

    def _begin(self) -> None:
        """Begin a round."""
        if self._here > FEW:
            self._began = perf_counter()
            self._turns = self._round()
            self._go_on()
        else:
            self._tell_few([])

    def _go_on(self) -> None:
        """A turn of a round that takes several."""
        if self._loop is None:
            return
        try:
            over = next(self._turns, True)
        except Exception:
            log.exception(FAILED)
            self._all_fall_behind()
            over = True
        self._loop.call_soon(self._rest if over else self._go_on)

    def _rest(self) -> None:
        """The round is over, and the sockets have been written to, which happens at the end of a turn."""
        if self._loop is not None:
            rest(self._loop, min(REST * (perf_counter() - self._began), REST_MOST_S), self._rested)

    def _rested(self) -> None:
        self._busy = self._position < self._log.head
        if self._busy and self._loop is not None:
            self._loop.call_soon(self._begin)

    def _all_fall_behind(self) -> None:
        for group in list(self._groups.values()):
            for sub in list(group.subs):
                self._fall_behind(sub)
        self._position = self.settled = self._log.head

    def _take_up(self) -> list[Event]:
        """The next frame's worth of events; none if everyone has just fallen behind."""
        events = self._log.recent(self._position, FRAME_EVENTS) if self._groups else []
        if not events:  # nobody is live; or more came at once than the ring holds (None)
            self._all_fall_behind()
            return []
        if len(events) > 1:
            events = within(events, FRAME_BYTES)
        self._position = events[-1].seq
        return events

    def _passed(self, group: Group, events: list[Event]) -> list[Event]:
        """Those of `events` that `group` is to be told now."""
        if group.plan.interval_ms:
            if group.pacing is None:
                group.scanned = events[0].seq - 1
                group.pacing = self._own(self._pace(group), "stream pace")
            return []
        return group.plan.filter.of(events)

    def _round(self) -> Iterator[bool]:
        """Tell everyone the next frame's worth of events; yields False where it gives way to the event loop."""
        events = self._take_up()
        last = self._position
        room = TURN_BYTES
        for group in self._touched(events):
            if passed := events if group.all else self._passed(group, events):
                for cost in self._tell_all(group, passed, last):
                    room -= cost
                    if room <= 0:
                        room = TURN_BYTES
                        yield False
        self.settled = last

    def _tell_all(self, group: Group, events: list[Event], last: int) -> Iterator[int]:
        """Tell everyone in `group`, a turn's worth at a time; yields what that cost, in bytes."""
        cost = WRITE_BYTES + sum([len(event.body) for event in events])
        at_once = max(1, TURN_BYTES // cost)
        subs = list(group.subs)
        for n in range(0, len(subs), at_once):
            some = subs[n : n + at_once]
            self._tell(group, some, events, last)
            yield cost * len(some)

    def _tell(self, group: Group, subs: Sequence[Subscriber], events: list[Event], last: int) -> None:
        """Write one frame up to `last` to `subs` of `group`; `events` are what passed its filter."""
        data, built_for = b"", -1  # as a rule all have been told of the same
        for sub in subs:
            told = sub.told
            if sub.group is not group or told >= last:  # gone, or come later, while others were written to
                continue
            if told != built_for:
                built_for = told
                unseen = events if told < events[0].seq else [event for event in events if event.seq > told]
                data = events_on_wire(group.wire, told + 1, last, unseen) if unseen else b""
            if not data or sub.is_closing():
                continue
            if sub.buffered() > LIMIT:
                self._fall_behind(sub)
                continue
            sub.write(data)
            sub.told = last

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
            for _ in self._tell_all(group, shown, last):
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
