"""The log: committed events out to everyone who reads along.

The newest events stand, already encoded, in one ring shared by all; a reader is a cursor and goes at its own pace,
from the ring or, once it has fallen behind it, from the store, page by page. Replay and live are the same code, so
nothing is missing or repeated where one becomes the other. Appending never waits. The log knows nothing of sockets
(api/fanout.py has them).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Protocol

from msgspec import Struct

from server.clock import Clock
from server.model import Event

PAGE = 256
"""Events read from the store at once; pages begin at multiples of it, so that readers nearby share them."""
RING_BYTES = 32 * 1024 * 1024
"""The ring holds the newest `events.ring` events, or as many as have room here; the store has the others."""
PAGES_BYTES = 8 * 1024 * 1024
OVERHEAD = 400
"""Bytes that an event takes in memory beside its body."""
SCAN = 16 * PAGE
"""Events that one read looks at, at most, where its filter lets few through."""
OF_TASK = 64
"""Events of one task that are read at once where a reader wants those of a few tasks alone."""


class Reads(Protocol):
    """What the log needs of the store."""

    async def events_after(self, seq: int, limit: int) -> list[Event]:
        """Committed events behind `seq`, in order."""

    async def events_of(self, task_id: str, after: int, limit: int) -> list[Event]:
        """A task's own events behind `after`, in order, by an index."""

    async def bounds(self) -> tuple[int, int]:
        """(oldest kept seq, newest seq); oldest is newest + 1 while none is kept."""


class Filter(Struct, frozen=True):
    """Which events: every part that is given must hold, so an event of no task passes only where none is."""

    type: frozenset[str] = frozenset()
    status: frozenset[str] = frozenset()
    task_id: frozenset[str] = frozenset()
    priority: frozenset[int] = frozenset()

    @property
    def empty(self) -> bool:
        """Does it let everything through?"""
        return not (self.type or self.status or self.task_id or self.priority)

    def passes(self, event: Event) -> bool:
        """Does it let `event` through?"""
        return (
            (not self.task_id or event.task_id in self.task_id)
            and (not self.type or event.type in self.type)
            and (not self.status or event.status in self.status)
            and (not self.priority or event.priority in self.priority)
        )

    def of(self, events: list[Event]) -> list[Event]:
        """Those of `events` that it lets through."""
        return events if self.empty else [event for event in events if self.passes(event)]


ALL = Filter()


class Batch(Struct, frozen=True):
    """What `first` to `last` of the log hold for one reader."""

    first: int
    last: int
    events: list[Event]


class Gap(Struct, frozen=True):
    """`first` to `last` are past retention: they cannot be read any more."""

    first: int
    last: int


def conflate(events: Iterable[Event]) -> list[Event]:
    """The newest event of each task, in `seq` order; events of no task are all kept."""
    newest: dict[str | int, Event] = {}
    for event in events:
        key = event.task_id or event.seq
        newest.pop(key, None)  # so that it stands where the newer one belongs
        newest[key] = event
    return list(newest.values())


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


class Log:
    """The newest events, and the way to the older ones."""

    def __init__(self, store: Reads, ring: int, clock: Clock, *, ring_bytes: int = RING_BYTES) -> None:
        self._store = store
        self._clock = clock
        self._size = ring
        self._most_bytes = ring_bytes
        self._ring: list[Event | None] = [None] * ring  # an event stands at its seq modulo the size
        self._first = 1  # the oldest in the ring
        self._bytes = 0
        self._pages: dict[int, list[Event]] = {}
        self._pages_bytes = 0
        self._reading: dict[int, asyncio.Event] = {}
        self._waiter: asyncio.Future[None] | None = None
        self.head = 0  # the newest seq
        self.oldest = 1  # the oldest that the store keeps
        self.on_append: list[Callable[[list[Event]], None]] = []  # told what is new

    async def open(self) -> None:
        """Find out where the log stands. What other nodes commit meanwhile may be appended already."""
        self.oldest, newest = await self._store.bounds()
        if newest > self.head:
            self._restart(newest + 1)
            self.head = newest

    # --- writing -------------------------------------------------------------------------------------

    def append(self, events: list[Event]) -> None:
        """Take in what was just committed; to be called in commit order.

        Numbers that were missed (another node's, or between `open` and the first call) are read from the store.
        """
        if not events or events[0].seq != self.head + 1:
            events = [event for event in events if event.seq > self.head]
            if not events:
                return
            if events[0].seq != self.head + 1:
                self._restart(events[0].seq)
        ring, size, taken, first = self._ring, self._size, self._bytes, self._first
        for event in events:
            slot = event.seq % size
            if (old := ring[slot]) is not None:
                taken -= len(old.body) + OVERHEAD
            ring[slot] = event
            taken += len(event.body) + OVERHEAD
        head = event.seq
        if first <= head - size:
            first = head - size + 1
        while taken > self._most_bytes and first < head:
            slot = first % size
            if (old := ring[slot]) is not None:
                taken -= len(old.body) + OVERHEAD
                ring[slot] = None
            first += 1
        self._bytes, self._first, self.head = taken, first, head
        if self._waiter:
            self._waiter.set_result(None)
            self._waiter = None
        for told in self.on_append:
            told(events)

    def _restart(self, first: int) -> None:
        """Begin anew: the ring holds nothing before `first`."""
        self._ring = [None] * self._size
        self._bytes = 0
        self._first = first

    def trimmed(self, oldest: int) -> None:
        """Retention has removed everything before `oldest`."""
        self.oldest = max(self.oldest, oldest)

    # --- reading -------------------------------------------------------------------------------------

    async def beyond(self, seq: int) -> None:
        """Return once there is an event behind `seq`."""
        while self.head <= seq:
            if self._waiter is None:
                self._waiter = asyncio.get_running_loop().create_future()
            await asyncio.shield(self._waiter)  # others wait for it too

    async def newest(self) -> int:
        """The newest seq in the store, which may be ahead of what this node has read. Raises StoreUnavailable."""
        return (await self._store.bounds())[1]

    @property
    def in_memory(self) -> int:
        """The oldest seq that the ring can give."""
        return self._first

    def recent(self, after: int, limit: int) -> list[Event] | None:
        """Up to `limit` events behind `after`, out of the ring; None if it does not reach back so far."""
        if after + 1 < self._first:
            return None
        last = self.head
        if last == after + 1:
            return [self._ring[last % self._size]]  # type: ignore[list-item]
        if last <= after:
            return []
        begin, end = (after + 1) % self._size, min(last, after + limit) % self._size
        if begin <= end:
            return self._ring[begin : end + 1]  # type: ignore[return-value]
        return self._ring[begin:] + self._ring[: end + 1]  # type: ignore[return-value]

    async def behind(self, after: int) -> list[Event] | Gap:
        """The next few events behind `after`, which must be below `head`: from the ring or the store.

        Raises StoreUnavailable.
        """
        events = self.recent(after, PAGE - after % PAGE)  # to the page's end, as from the store
        if events is not None:
            return events
        if after + 1 < self.oldest:
            return Gap(after + 1, self.oldest - 1)
        events = await self._stored(after)
        if events and events[0].seq == after + 1:
            return events
        if events:  # retention passed between the two looks
            self.trimmed(events[0].seq)
            return Gap(after + 1, events[0].seq - 1)
        self.trimmed((await self._store.bounds())[0])
        return self._gone(after) or Gap(after + 1, self._first - 1)

    def _gone(self, after: int) -> Gap | None:
        """What retention has removed of what lies behind `after`; what the ring still has is not gone."""
        last = min(self.oldest, self._first) - 1
        return Gap(after + 1, last) if last > after else None

    def far(self, after: int, tasks: int) -> bool:
        """Is it so far from `after` to the ring that the events of so many tasks are better read by index?"""
        return self._first - after > PAGE * tasks

    async def of_tasks(self, task_ids: Iterable[str], after: int) -> Batch | Gap:
        """The next events of `task_ids` behind `after`, of what the ring has no more: as many as are read at once.

        Raises StoreUnavailable.
        """
        if gone := self._gone(after):
            return gone
        last = self._first - 1
        found: list[Event] = []
        for task_id in task_ids:
            events = await self._store.events_of(task_id, after, OF_TASK)
            if len(events) == OF_TASK:
                last = min(last, events[-1].seq)  # of what lies behind it some may be missing
            found += events
        self.trimmed((await self._store.bounds())[0])  # looked at last: what it had not removed by now was read
        if gone := self._gone(after):
            return gone
        events = [event for event in found if event.seq <= last]
        return Batch(after + 1, last, sorted(events, key=lambda event: event.seq))

    async def _stored(self, after: int) -> list[Event]:
        """The rest of the page that `after` + 1 is on; read once for all who want it at the same time."""
        page = after - after % PAGE
        while True:
            events = self._pages.get(page)
            if events and events[-1].seq > after:
                self._pages[page] = self._pages.pop(page)  # to the end: the one unused for longest goes first
                break
            if (reading := self._reading.get(page)) is not None:
                await reading.wait()
                continue
            reading = self._reading[page] = asyncio.Event()
            try:
                events = [each for each in await self._store.events_after(page, PAGE) if each.seq <= page + PAGE]
                self._keep(page, events)
                break
            finally:
                del self._reading[page]
                reading.set()
        return _unbroken([event for event in events if event.seq > after])

    def _keep(self, page: int, events: list[Event]) -> None:
        """Keep a page, which may still grow at its end."""
        self._pages_bytes += _weight(events) - _weight(self._pages.pop(page, []))
        self._pages[page] = events
        while self._pages_bytes > PAGES_BYTES and len(self._pages) > 1:
            self._pages_bytes -= _weight(self._pages.pop(next(iter(self._pages))))


def _weight(events: list[Event]) -> int:
    return sum(len(event.body) for event in events) + OVERHEAD * len(events)


def _unbroken(events: list[Event]) -> list[Event]:
    """`events` as far as their numbers follow each other; what lies behind a hole is read next, as behind a gap."""
    if not events or events[-1].seq - events[0].seq == len(events) - 1:
        return events
    first = events[0].seq
    return [event for n, event in enumerate(events) if event.seq == first + n]


class Cursor:
    """One reader's place in the log.

    `read` gives what comes next: None at the head. What it has given lies at or before `position`. With `latest`
    it gives the newest state of each task in what it has looked at. A `since` beyond the head was told by another
    node, which has read further in the log than this one: then `read` waits. Or it comes from another log (a restored
    database): the reader is told by a gap over everything, and goes on from the head.
    """

    __slots__ = ("_all", "begun", "filter", "foreign", "latest", "log", "position")

    def __init__(self, log: Log, since: int | None = None, only: Filter = ALL, *, latest: bool = False) -> None:
        self.log = log
        self.filter = only
        self.latest = latest
        self._all = only.empty and not latest
        self.begun = log.head
        self.foreign = since is not None and since > log.head
        if since is None:
            self.position = log.head
        elif since == 0:
            self.position = log.oldest - 1  # "from the oldest kept" leaves no gap to tell of
        else:
            self.position = since

    async def read(self, most: int = PAGE, most_bytes: int = 64 * 1024) -> Batch | Gap | None:
        """What comes next: at most `most` events or `most_bytes` of them (always one), None at the head.

        A Batch may be empty: nothing so far passed the filter. Raises StoreUnavailable; the position stands then.
        """
        log = self.log
        if self.foreign:
            stored = await log.newest()
            self.foreign = False
            if self.position > stored:
                self.position = self.begun
                return Gap(1, self.position)
            await log.beyond(self.position - 1)
        begin = position = self.position
        found: dict[str | int, Event] = {}
        size = 0
        tasks = self.filter.task_id
        while position < log.head and position - begin < SCAN:
            if tasks and log.far(position, len(tasks)):
                step: Batch | Gap | list[Event] = await log.of_tasks(tasks, position)
            else:
                step = await log.behind(position)
            if isinstance(step, Gap):
                if position == begin:
                    self.position = step.last
                    return step
                break
            if isinstance(step, list) and self._all:  # pages are frames: readers that began elsewhere meet here
                return self._batch(begin, within(step[:most], most_bytes))
            events, last = (step.events, step.last) if isinstance(step, Batch) else (step, step[-1].seq)
            for event in events:
                if self.filter.passes(event):
                    if found and (len(found) >= most or size + len(event.body) > most_bytes):
                        return self._batch(begin, list(found.values()), position)
                    size += len(event.body)
                    key = (event.task_id or event.seq) if self.latest else event.seq
                    if self.latest and (older := found.pop(key, None)):
                        size -= len(older.body)
                    found[key] = event
                position = event.seq
            position = last
        if position == begin:
            return None
        return self._batch(begin, list(found.values()), position)

    def _batch(self, begin: int, events: list[Event], last: int = 0) -> Batch:
        self.position = last or events[-1].seq
        return Batch(begin + 1, self.position, events)
