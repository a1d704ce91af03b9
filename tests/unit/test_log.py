"""The log: whatever happens to ring and store, a cursor gives every event once, in order, or says what is gone."""

from __future__ import annotations

import asyncio
import random
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.log import ALL, Batch, Cursor, Filter, Gap, Log, conflate
from server.model import Event
from server.store.engine import StoreUnavailable
from tests.api.http_kit import TurnedClock
from tests.api.stream_kit import Shelf, event

FILTERS = [
    ALL,
    Filter(type=frozenset({"meteo"})),
    Filter(task_id=frozenset({"task-1", "task-2"})),
    Filter(status=frozenset({"failed"}), priority=frozenset({1, 2})),
    Filter(type=frozenset({"none"})),
]


async def opened(ring: int = 16, events: int = 0, **more: int) -> tuple[Log, Shelf]:
    shelf = Shelf()
    shelf.events = [event(n + 1) for n in range(events)]
    log = Log(shelf, ring, TurnedClock(), **more)
    await log.open()
    return log, shelf


def commit(log: Log, shelf: Shelf, n: int, **given: object) -> list[Event]:
    events = [event(log.head + 1 + i, **given) for i in range(n)]
    shelf.events += events
    log.append(events)
    return events


async def rest(cursor: Cursor, most: int = 256) -> tuple[list[Event], list[Gap]]:
    """All that a cursor has to give now; checks that its steps follow each other."""
    events: list[Event] = []
    gaps: list[Gap] = []
    while (step := await cursor.read(most)) is not None:
        assert cursor.position == step.last
        if isinstance(step, Gap):
            gaps.append(step)
            continue
        assert all(step.first <= each.seq <= step.last for each in step.events)
        events += step.events
    assert cursor.position == cursor.log.head
    return events, gaps


steps = st.lists(
    st.one_of(
        st.tuples(st.just("commit"), st.integers(1, 60)),
        st.tuples(st.just("read"), st.integers(1, 5)),
        st.tuples(st.just("trim"), st.integers(1, 300)),
        st.tuples(st.just("miss"), st.integers(1, 20)),
    ),
    min_size=3,
    max_size=25,
)


@settings(max_examples=50)
@given(
    steps=steps, only=st.sampled_from(FILTERS), since=st.integers(0, 400), most=st.sampled_from([1, 7, 256]),
    indexed=st.booleans(),
)  # fmt: skip
def test_a_cursor_gives_the_filtered_log_once_and_in_order(steps, only, since, most, indexed):
    async def story() -> None:
        log, shelf = await opened(ring=16, events=400)
        log.far = lambda after, tasks: indexed and after + 1 < log.in_memory  # type: ignore[method-assign]
        everything = list(shelf.events)
        cursor = Cursor(log, since, only)
        seen: list[Event] = []
        gone: set[int] = set()

        def take(step: Batch | Gap) -> None:
            if isinstance(step, Gap):
                assert step.last < shelf.cut + 1
                gone.update(range(step.first, step.last + 1))
            else:
                seen.extend(step.events)

        for what, n in steps:
            if what == "commit":
                everything += commit(log, shelf, n)
            elif what == "miss":  # another node's events, of which this log hears nothing
                missed = [event(len(everything) + 1 + i) for i in range(n)]
                everything += missed
                shelf.events += missed
                log.append([(last := event(len(everything) + 1))])
                everything.append(last)
                shelf.events.append(last)
            elif what == "trim":
                shelf.trim(max(shelf.cut + 1, min(len(everything), shelf.cut + n)))
                if n % 2:  # else this node has not heard of it yet
                    log.trimmed(shelf.cut + 1)
            else:
                for _ in range(n):
                    if (step := await cursor.read(most)) is not None:
                        take(step)
        while (step := await cursor.read(most)) is not None:
            take(step)
        assert [each.seq for each in seen] == [
            each.seq for each in everything if each.seq > since and each.seq not in gone and only.passes(each)
        ]
        assert shelf.indexed == 0 or only.task_id

    with patch("server.log.OF_TASK", 5):
        asyncio.run(story())


async def test_the_events_of_a_few_tasks_are_read_by_index():
    log, shelf = await opened(ring=16, events=20_000)
    events, gaps = await rest(Cursor(log, 0, Filter(task_id=frozenset({"task-1", "task-2"}))))
    assert [each.seq for each in events] == [
        each.seq for each in shelf.events if each.task_id in ("task-1", "task-2")
    ]  # more than are read at once
    assert not gaps
    assert shelf.reads <= 2  # near its end alone

    events, _ = await rest(Cursor(log, 0, Filter(task_id=frozenset({"none"}))))
    assert not events
    assert shelf.reads <= 2


async def test_retention_that_passes_a_reader_of_one_task_is_told_as_a_gap():
    log, shelf = await opened(events=2000)
    cursor = Cursor(log, 10, Filter(task_id=frozenset({"task-1"})))
    shelf.answers.clear()
    reading = asyncio.create_task(cursor.read())
    await asyncio.sleep(0)
    shelf.trim(1501)  # between its looks at the task and at what is kept
    shelf.answers.set()
    assert await reading == Gap(11, 1500)
    events, gaps = await rest(cursor)
    assert [each.seq for each in events] == [each.seq for each in shelf.events if each.task_id == "task-1"]
    assert not gaps


@settings(max_examples=50)
@given(seed=st.integers(0, 10_000), most=st.sampled_from([1, 5, 2048]), cut=st.integers(0, 300))
def test_latest_ends_with_the_same_states_as_every_event_would(seed, most, cut):
    async def story() -> None:
        log, shelf = await opened(ring=64, events=300)
        draw = random.Random(seed)
        cursor = Cursor(log, cut, latest=True)
        shown: dict[str, Event] = {}
        for _ in range(draw.randrange(1, 6)):
            commit(log, shelf, draw.randrange(1, 200))
            events, _ = await rest(cursor, most)
            assert [each.seq for each in events] == sorted({each.seq for each in events})
            shown.update({each.task_id: each for each in events})
        assert shown == {each.task_id: each for each in shelf.events if each.seq > cut}

    asyncio.run(story())


def test_conflation_keeps_every_event_that_is_of_no_task():
    events = [event(1, task_id="a"), event(2, task_id=""), event(3, task_id="a"), event(4, task_id="")]
    assert [each.seq for each in conflate(events)] == [2, 3, 4]


async def test_without_since_a_cursor_begins_now():
    log, shelf = await opened(events=5)
    cursor = Cursor(log)
    assert await cursor.read() is None
    commit(log, shelf, 2)
    assert [each.seq for each in (await rest(cursor))[0]] == [6, 7]


async def test_since_0_begins_with_the_oldest_kept_and_speaks_of_no_gap():
    log, shelf = await opened(events=50)
    shelf.trim(21)
    log.trimmed(21)
    events, gaps = await rest(Cursor(log, 0))
    assert [each.seq for each in events] == list(range(21, 51))
    assert not gaps


async def test_retention_that_passes_a_cursor_is_told_as_a_gap():
    log, shelf = await opened(events=50)
    cursor = Cursor(log, 10)
    shelf.trim(31)
    log.trimmed(31)
    assert await cursor.read() == Gap(11, 30)
    assert [each.seq for each in (await rest(cursor))[0]] == list(range(31, 51))


async def test_what_the_ring_still_has_is_no_gap():
    log, shelf = await opened()
    commit(log, shelf, 10)
    shelf.trim(11)
    log.trimmed(11)
    events, gaps = await rest(Cursor(log, 3))
    assert [each.seq for each in events] == list(range(4, 11))
    assert not gaps


async def test_a_place_in_another_log_is_told_as_a_gap_over_everything():
    log, shelf = await opened(events=5)
    cursor = Cursor(log, 900)
    commit(log, shelf, 1)
    assert await cursor.read() == Gap(1, 5)
    assert [each.seq for each in (await rest(cursor))[0]] == [6]


async def test_readers_at_one_place_share_one_look_into_the_store():
    log, shelf = await opened(events=300)
    cursors = [Cursor(log, n % 7) for n in range(50)]
    found = await asyncio.gather(*(cursor.read() for cursor in cursors))
    assert {step.last for step in found if step} == {256}
    assert shelf.reads == 1


async def test_a_reader_that_is_cancelled_leaves_the_others_their_page():
    log, shelf = await opened(events=300)
    shelf.answers.clear()
    first, second = (asyncio.create_task(Cursor(log, 0).read()) for _ in range(2))
    for _ in range(3):
        await asyncio.sleep(0)
    first.cancel()
    shelf.answers.set()
    step = await second
    assert isinstance(step, Batch)
    assert len(step.events) == 256


async def test_the_ring_holds_no_more_bytes_than_it_may():
    log, shelf = await opened(ring=1000, ring_bytes=100_000)
    for _ in range(10):
        commit(log, shelf, 100)
    assert log.in_memory > 800
    assert [each.seq for each in (await rest(Cursor(log, 0)))[0]] == list(range(1, 1001))


async def test_a_burst_larger_than_the_ring_is_read_from_the_store():
    log, shelf = await opened(ring=16)
    cursor = Cursor(log)
    commit(log, shelf, 100)
    assert [each.seq for each in (await rest(cursor))[0]] == list(range(1, 101))


async def test_what_is_appended_twice_is_there_once():
    log, shelf = await opened()
    events = commit(log, shelf, 5)
    log.append(events)
    log.append(events[3:])
    assert log.head == 5
    assert len((await rest(Cursor(log, 0)))[0]) == 5


async def test_a_cursor_stands_still_while_storage_says_no():
    log, shelf = await opened(events=30)
    cursor = Cursor(log, 3)

    async def fails(seq: int, limit: int) -> list[Event]:
        raise StoreUnavailable("no")

    log._store = type("Down", (), {"events_after": staticmethod(fails)})()
    with pytest.raises(StoreUnavailable):
        await cursor.read()
    log._store = shelf
    assert [each.seq for each in (await rest(cursor))[0]] == list(range(4, 31))


async def test_followers_wake_when_there_is_something_new():
    log, shelf = await opened(events=3)
    waiting = [asyncio.create_task(log.beyond(3)) for _ in range(2)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    await asyncio.sleep(0)
    assert not waiting[1].done()
    commit(log, shelf, 1)
    await waiting[1]
