"""Locks, clocks, stalls, doubles, poison, clean-up, readers, storms, too few descriptors: the promises hold."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import pytest

from server.store.verify import verify
from tests.faults import trouble
from tests.kit import Town, jean, running

SEED = 20_260_104


async def test_a_database_locked_by_another_process_is_a_503_in_time(tmp_path: Path):
    assert (await trouble.locked(tmp_path, seed=SEED)).faults == []


@pytest.mark.parametrize("turns", [(signal.SIGUSR1,), (signal.SIGUSR2,)], ids=["ahead", "back"])
async def test_the_wall_clock_may_jump_by_a_day(tmp_path: Path, turns: tuple[signal.Signals, ...]):
    assert (await trouble.clock_turned(tmp_path, seed=SEED, signals=turns)).faults == []


async def test_an_event_loop_that_stalls_beyond_its_lease_repeats_nothing(tmp_path: Path):
    assert (await trouble.stalled(tmp_path, seed=SEED, seconds=5)).faults == []


async def test_a_post_sent_many_times_with_one_key_is_one_task(tmp_path: Path):
    assert (await trouble.doubled(tmp_path, seed=SEED)).faults == []


async def test_a_task_that_kills_the_server_is_given_up_after_three_crashes(tmp_path: Path):
    assert (await trouble.poisoned(tmp_path, seed=SEED)).faults == []


@pytest.mark.usefixtures("both_engines")
async def test_the_neighbours_of_a_task_that_kills_the_server_are_not_given_up_with_it(tmp_path: Path):
    async def in_hand(town: Town, count: int) -> None:
        await town.until(lambda: len(town.pool.hands) == count)

    sent: list[str] = []
    for _ in range(2):  # all three are in hand at two crashes
        async with running(tmp_path) as town:
            town.service("email").hold()
            sent = sent or [await town.send(kind, priorite="1") for kind in ("meteo", "securite", "infra")]
            await in_hand(town, 3)
            await town.crash()
    async with running(tmp_path) as town:  # then one by one; the first of them is the poison
        town.service("email").hold()
        await in_hand(town, 1)
        await town.crash()
    async with running(tmp_path) as town:
        town.service("email")
        await town.turn(60)
        ends = [(await town.task(task_id))["status"] for task_id in sent]
        assert sorted(ends) == ["completed", "completed", "failed"]
        assert await verify(town.store) == []


async def test_clean_up_under_load_takes_nobody_with_it(tmp_path: Path):
    assert (await trouble.cleaned(tmp_path, seed=SEED, acknowledged=80)).faults == []


async def test_a_reader_that_holds_a_transaction_holds_up_nobody(tmp_path: Path):
    assert (await trouble.read_along(tmp_path, seed=SEED, acknowledged=100)).faults == []


async def test_two_hundred_subscribers_come_back_at_once(tmp_path: Path):
    report = await trouble.stormed(tmp_path, seed=SEED, subscribers=200)

    assert report.faults == []


async def test_it_outlives_a_lack_of_file_descriptors(tmp_path: Path):
    assert (await trouble.starved(tmp_path, seed=SEED, descriptors=96)).faults == []


async def test_no_call_begins_once_a_cancel_has_been_answered(town: Town):
    service = town.service("email")
    for _ in range(10):
        begun = len(service.calls)
        service.arrived.clear()
        task_id = await town.send(recipients=[jean(number) for number in range(300)])
        await service.arrived.wait()

        answer = await town.post(f"/api/queue/tasks/{task_id}/cancel")

        called = len(service.calls) - begun
        assert answer.status in (200, 409)
        await town.until_idle()
        await asyncio.gather(*town.pool._crew.work)
        assert len(service.calls) - begun == called
        task = await town.task(task_id)
        assert task["result"]["utilisateurs_notifies"] == called
    assert await verify(town.store) == []
