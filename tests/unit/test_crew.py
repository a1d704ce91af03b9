"""The crew: so many tasks at a time as there are workers, the most urgent first, none in the way for long."""

from __future__ import annotations

import asyncio
from itertools import count, pairwise
from random import Random
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from server.clock import SystemClock
from server.crew import TURN_RECIPIENTS, Crew
from server.model import NotificationTask, Priority, Status
from server.store import StoreUnavailable


class Note:
    """What came of a task, to be written down."""

    def __init__(self, task: NotificationTask) -> None:
        self.task = task
        self.late: object = None


class Shelf:
    """A store that has everything written down in the next turn of the event loop, or says no so many times."""

    def __init__(self) -> None:
        self.no = 0
        self.written: list[str] = []

    def submit(self, note: Note) -> asyncio.Future[NotificationTask]:
        if self.no:
            self.no -= 1
            raise StoreUnavailable("no")
        loop = asyncio.get_running_loop()
        done = loop.create_future()
        self.written.append(note.task.id)
        loop.call_soon(done.set_result, note.task)
        return done


class Errand:
    """A hand at a task, all of whose calls are answered at once, or once `open` is set."""

    _numbers = count()

    def __init__(self, scene: Scene, priority: Priority = Priority.NORMALE, total: int = 2, fails: bool = False):
        name = f"t{next(self._numbers):05}"
        self.task = NotificationTask(
            id=name, type="meteo", status=Status.PROCESSING, priority=priority, titre="t", message="m", total=total
        )
        self.scene = scene
        self.fails = fails
        self.open = asyncio.Event()
        self.open.set()
        self.before: asyncio.Event | None = None
        self.gone: asyncio.Event | None = None
        self.told = False
        self.stopped = ""
        self.waiting = self.express = False
        self.worker = 0
        self.begun_s = 0.0

    def stop(self, why: str) -> None:
        self.stopped = self.stopped or why

    async def round(self) -> Note:
        if self.before:
            await self.before.wait()
        self.scene.at_once.add(self)
        if calls := not self.stopped:
            self.scene.calling.append(self.task.id)
            self.scene.twice = self.scene.twice or self.scene.calling.count(self.task.id) > 1
        self.scene.most = max(self.scene.most, len(self.scene.at_once))
        await self.open.wait()
        self.scene.at_once.discard(self)
        if calls:
            self.scene.calling.remove(self.task.id)
        self.scene.done.append(self.task.id)
        if self.fails:
            raise RuntimeError("a defect")
        return Note(self.task)

    async def insist(self, settle: Note, said: StoreUnavailable) -> NotificationTask:
        return await self.scene.shelf.submit(settle)


class Scene:
    """A crew at work, and what can be seen of it."""

    def __init__(self, workers: int = 2, express: int = 1) -> None:
        self.shelf = Shelf()
        self.at_once: set[Errand] = set()
        self.most = 0
        self.calling: list[str] = []
        self.twice = False  # were two at one task at the same time?
        self.done: list[str] = []
        self.settled: list[str] = []
        self.crew: Any = Crew(
            self.shelf, SystemClock(), workers, express, lambda: None, lambda task: self.settled.append(task.id)  # type: ignore[arg-type]
        )  # fmt: skip

    def errands(self, n: int, **about: Any) -> list[Errand]:
        found = [Errand(self, **about) for _ in range(n)]
        for errand in found:
            self.crew.take(errand)
        return found

    async def idle(self) -> None:
        await self.crew.finish(60)
        assert not self.crew.work
        assert (self.crew.hands, self.crew.busy, self.crew.waiting) == ({}, set(), 0)


async def test_no_more_are_at_work_than_there_are_workers_and_all_get_their_turn() -> None:
    scene = Scene(workers=3)
    errands = scene.errands(50)
    await scene.idle()
    assert scene.most <= 3
    assert sorted(scene.done) == sorted(scene.settled) == [errand.task.id for errand in errands]


async def test_short_tasks_go_many_to_a_turn_of_the_event_loop_and_leave_it_some() -> None:
    scene = Scene(workers=2)
    scene.errands(200, total=2)
    seen = [0]
    while len(scene.done) < 200:
        await asyncio.sleep(0)
        seen.append(len(scene.done))
    steps = [after - before for before, after in pairwise(seen)]
    assert 2 * max(steps) <= TURN_RECIPIENTS + 2 * 2  # each worker may be at its last task of the turn
    assert sum(steps) / len(steps) > 4
    await scene.idle()


async def test_a_long_task_is_a_turn_of_its_own() -> None:
    scene = Scene(workers=1)
    scene.errands(5, total=TURN_RECIPIENTS)
    seen: list[int] = []
    while len(scene.done) < 5:
        await asyncio.sleep(0)
        seen.append(len(scene.done))
    assert {1, 2, 3, 4, 5} <= set(seen)
    await scene.idle()


async def test_the_most_urgent_of_those_that_wait_is_next_and_has_a_lane_of_its_own() -> None:
    scene = Scene(workers=1, express=1)
    (long,) = scene.errands(1)
    long.open.clear()
    calm = scene.errands(3)
    urgent = scene.errands(1, priority=Priority.CRITIQUE)
    while not scene.done:
        await asyncio.sleep(0)
    assert scene.done == [urgent[0].task.id]  # by the express lane, while the only worker is at the long one
    more = scene.errands(1, priority=Priority.HAUTE)
    long.open.set()
    await scene.idle()
    assert scene.done[1:] == [each.task.id for each in (long, *more, *calm)]


async def test_what_storage_refuses_is_written_down_all_the_same() -> None:
    scene = Scene()
    scene.shelf.no = 1
    (errand,) = scene.errands(1)
    await scene.idle()
    assert scene.settled == scene.shelf.written == [errand.task.id]


async def test_a_defect_met_at_one_task_frees_its_worker_for_the_next() -> None:
    scene = Scene(workers=1)
    scene.errands(1, fails=True)
    (other,) = scene.errands(1)
    await scene.idle()
    assert scene.settled == [other.task.id]


async def test_what_is_given_back_is_taken_up_stopped_however_few_workers_there_are() -> None:
    scene = Scene(workers=1, express=0)
    (long,) = scene.errands(1)
    long.open.clear()
    waiting = scene.errands(3)
    scene.crew.give_back("drain")
    assert [each.stopped for each in (long, *waiting)] == ["", "drain", "drain", "drain"]
    long.open.set()
    await scene.idle()
    assert sorted(scene.settled) == sorted(each.task.id for each in (long, *waiting))


async def test_a_task_taken_up_again_at_its_old_place_while_it_still_waits_is_worked_on_all_the_same() -> None:
    scene = Scene(workers=1)
    (long,) = scene.errands(1)
    long.open.clear()
    (first,) = scene.errands(1)
    again = Errand(scene)
    again.task = first.task  # as another node took it over, and this one claimed it once more
    first.stop("lost")
    scene.crew.take(again)
    assert scene.crew.hands[first.task.id] is again
    long.open.set()
    await scene.idle()
    assert scene.done.count(first.task.id) == 2


async def test_the_third_hand_at_a_task_waits_for_the_first_though_the_second_was_never_taken_up() -> None:
    scene = Scene(workers=2)
    at_work, long = scene.errands(2)
    at_work.open.clear()
    long.open.clear()
    hands = [Errand(scene), Errand(scene)]
    for hand in hands:  # cancelled and wanted again, twice, while no worker is free
        scene.crew.hands[at_work.task.id].stop("cancelled")
        hand.task = at_work.task
        scene.crew.take(hand)
    assert hands[1].before is at_work.gone is not None
    at_work.open.set()
    long.open.set()
    await scene.idle()


async def test_what_is_given_back_says_nothing_of_how_long_tasks_take() -> None:
    scene = Scene(workers=1, express=0)
    (long,) = scene.errands(1)
    long.open.clear()
    scene.errands(100)
    scene.crew.give_back("ahead")
    while len(scene.settled) < 100:
        await asyncio.sleep(0)
    assert scene.crew.hand_s == 1.0
    long.open.set()
    await scene.idle()


@given(chance=st.randoms(use_true_random=False), workers=st.integers(1, 4), express=st.integers(0, 2))
async def test_whatever_happens_a_task_has_one_worker_and_no_worker_is_lost(
    chance: Random, workers: int, express: int
) -> None:
    scene = Scene(workers, express)
    crew = scene.crew
    names = [f"t{number}" for number in range(chance.choice([2, 20]))]
    held: list[Errand] = []
    for _ in range(60):
        match chance.randrange(7):
            case 0 | 1 | 2:
                errand = Errand(scene, chance.choice(list(Priority)), chance.choice([1, 90]), chance.random() < 0.1)
                errand.task = replace(errand.task, id=chance.choice(names))
                if before := crew.hands.get(errand.task.id):
                    before.stop("cancelled")
                if chance.random() < 0.5:
                    errand.open.clear()
                    held.append(errand)
                scene.shelf.no = chance.randrange(2)
                crew.take(errand)
            case 3 if held:
                held.pop(chance.randrange(len(held))).open.set()
            case 4:
                crew.give_back("ahead")
            case _:
                await asyncio.sleep(0)
        at_work = [each for each in crew.busy if not each.stopped]
        assert len({each.worker for each in crew.busy}) == len(crew.busy)
        assert sum(each.express for each in at_work) <= express
        assert sum(not each.express for each in at_work) <= workers
    for errand in held:
        errand.open.set()
    await scene.idle()
    assert not scene.twice
    assert (crew.free, crew.express) == (workers, express)
