"""What storage was too slow for: whoever waited was told no, and hands it over again while it still waits there."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import uuid_utils

from server.model import Event, Failure, NotificationTask, Outcome, Priority, Recipient, Status, Word
from server.store import StoreUnavailable, open_store
from server.store.engine import Op
from server.store.rows import chunk_cell
from server.store.settle import End, Settle
from server.store.writes import Claim, Enqueue
from tests.api.test_in_hand import calls, passing
from tests.kit import Stall, Town, jean, running
from tests.stores import store_url


async def claim_in_a_stalled_commit(town: Town) -> tuple[str, Callable[[], Awaitable[None]]]:
    """A task whose claim is being committed, and what ends that commit."""
    first, second = Stall(threading.Event()), Stall(threading.Event())
    await town.post("/admin/api/queue/pause")
    task_id = await town.send("infra")
    await town.until(lambda: town.pool.caught_up)
    news: list[list[Event]] = []
    town.store.on_commit.remove(town.pool.told)  # it hears of it later
    town.store.on_commit.append(news.append)
    await town.post("/admin/api/queue/resume")
    town.store.on_commit.remove(news.append)
    town.store.on_commit.append(town.pool.told)

    stalled = [asyncio.ensure_future(town.store.apply(first))]
    await town.until(first.begun.is_set)
    for events in news:
        town.pool.told(events)
    await town.until(lambda: town.pool._asking)
    stalled.append(asyncio.ensure_future(town.store.apply(second)))
    await asyncio.sleep(0)
    first.go.set()  # the next transaction is the claim, and the second stall
    await town.until(second.begun.is_set)

    async def go_on() -> None:
        second.go.set()
        await asyncio.gather(*stalled, return_exceptions=True)

    return task_id, go_on


async def test_a_claim_that_a_drain_meets_is_given_back(tmp_path: Path) -> None:
    async with running(tmp_path) as town:
        email = town.service("email")
        task_id, go_on = await claim_in_a_stalled_commit(town)

        draining = asyncio.create_task(town.pool.drain(30))
        await asyncio.wait([draining], timeout=0.1)
        await go_on()
        await draining

        task = await town.task(task_id)
        assert (task["status"], task["node"], task["attempts"]) == ("pending", None, 0)
        assert email.reached == []


async def test_a_claim_that_was_told_no_and_is_stored_after_all_is_worked_on_at_once(tmp_path: Path) -> None:
    async with running(tmp_path) as town:
        task_id, go_on = await claim_in_a_stalled_commit(town)

        await town.until(lambda: not town.pool.caught_up and not town.pool._asking)  # it was told no
        await go_on()

        assert (await town.until_status(task_id, "completed"))["attempts"] == 1


async def test_a_post_that_was_told_no_and_is_stored_after_all_is_sent_at_once(tmp_path: Path) -> None:
    async with running(tmp_path) as town:
        await town.until(lambda: town.pool.caught_up)
        first, second = Stall(threading.Event()), Stall(threading.Event())
        stalled = [asyncio.ensure_future(town.store.apply(first))]
        await town.until(first.begun.is_set)
        body = {"titre": "t", "message": "m", "utilisateurs": [jean()]}
        posted = asyncio.ensure_future(town.post("/api/notifications/meteo", body))
        await town.until(lambda: town.pool._taking)
        stalled.append(asyncio.ensure_future(town.store.apply(second)))
        await asyncio.sleep(0)
        first.go.set()

        assert (await posted).status == 503
        second.go.set()
        await asyncio.gather(*stalled, return_exceptions=True)

        async def stored() -> list[Any]:
            found: list[Any] = (await town.json("/api/queue/tasks"))["tasks"]
            return found

        await town.until(stored)
        [task] = await stored()
        assert (await town.until_status(task["id"], "completed"))["attempts"] == 1


async def test_an_end_that_was_told_no_and_waits_to_be_stored_twice_counts_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path) as town:
        email = town.service("email")
        email.hold()
        task_id = await town.send("infra")
        await calls(email, 1)
        stall = Stall(threading.Event())
        stalled = asyncio.ensure_future(town.store.apply(stall))
        await town.until(stall.begun.is_set)
        submit = town.store.submit
        handed_over: list[Op] = []

        def noted(op: Op) -> asyncio.Future[Any]:
            if isinstance(op, Settle):
                handed_over.append(op)
            return submit(op)

        monkeypatch.setattr(town.store, "submit", noted)
        email.release()
        await town.until(lambda: handed_over)
        handed_over[0].done.set_exception(StoreUnavailable("no answer from storage"))
        await passing(town, lambda: len(handed_over) == 2)
        stall.go.set()
        await stalled
        await town.until_status(task_id, "completed")
        await town.until(lambda: not town.pool.hands)

        assert await town.events(task_id) == ["task.enqueued", "task.started", "task.completed"]
        stats = (await town.json("/api/queue/stats"))["stats"]
        assert (stats["total_processed"], stats["current_queue_size"], stats["tasks_by_status"]["completed"]) == (
            1,
            0,
            1,
        )


async def test_a_task_that_only_waits_to_be_written_down_keeps_no_worker_busy(tmp_path: Path) -> None:
    async with running(tmp_path, QUEUE__WORKERS="1") as town:
        email = town.service("email")
        email.hold()
        await town.send("infra")
        await calls(email, 1)
        assert [hand["worker"] for hand in (await town.json("/api/queue/stats"))["stats"]["in_hand"]] == [1]
        stall = Stall(threading.Event())
        stalled = asyncio.ensure_future(town.store.apply(stall))
        await town.until(stall.begun.is_set)
        email.release()
        await town.until(lambda: all(hand.settling for hand in town.pool.hands.values()))

        stats = (await town.json("/api/queue/stats"))["stats"]
        metrics = await (await town.get("/metrics")).text()
        stall.go.set()
        await stalled

        assert stats["in_hand"] == []
        assert 'tocsin_workers_busy{lane="normal"} 0.0' in metrics


async def test_what_stands_in_the_queue_twice_is_done_once(both_engines: str, tmp_path: Path) -> None:
    store = open_store(await store_url(tmp_path), tmp_path)
    await store.open()
    try:
        task = NotificationTask(
            id=str(uuid_utils.uuid7()), type="infra", status=Status.PENDING, priority=Priority.NORMALE, titre="t",
            message="m", total=1, created_ms=1, place_ms=1,
        )  # fmt: skip
        cell = chunk_cell([Recipient(id="u1", nom="Jean", email="jean@example.org")])
        await store.apply(Enqueue(task, [(0, cell)], 1_000))
        [held] = (await store.apply(Claim(1, 30_000, "n", 1, 0))).tasks
        sent = Outcome(n=0, run=1, round=1, attempt=1, channel="email", word=Word.SENT)
        settle = Settle(task.id, held.fence, 2, [sent], 0, End(Failure(kind="unreached")), known=held)
        first = store.submit(settle)
        first.set_exception(StoreUnavailable("no answer from storage"))
        assert first.exception()

        after = await store.submit(settle)

        assert after.status is Status.COMPLETED
        assert [event.kind for event in await store.events_of(task.id, 0, 10)][2:] == ["task.completed"]
        tally = (await store.figures(3)).tally
        assert {status: n for (_, _, status), n in tally.items() if n} == {"completed": 1}
    finally:
        await store.close()


async def test_an_end_that_was_told_no_and_is_stored_after_all_is_told_of_once(tmp_path: Path) -> None:
    async with running(tmp_path) as town:
        email = town.service("email")
        email.hold()
        task_id = await town.send("infra")
        await calls(email, 1)
        settled: list[NotificationTask] = []
        town.pool.on_settled.append(settled.append)
        first, second = Stall(threading.Event()), Stall(threading.Event())
        stalled = [asyncio.ensure_future(town.store.apply(first))]
        await town.until(first.begun.is_set)
        email.release()
        await town.until(lambda: any(isinstance(op, Settle) for op in town.store._asked))
        stalled.append(asyncio.ensure_future(town.store.apply(second)))
        await asyncio.sleep(0)
        first.go.set()  # the next transaction is the end, and the second stall
        await town.until(second.begun.is_set)
        (writing,) = [op for op in town.store._asked if isinstance(op, Settle)]
        writing.done.set_exception(StoreUnavailable("no answer from storage"))
        second.go.set()
        await asyncio.gather(*stalled)
        await town.until(lambda: settled)

        await passing(town, lambda: not town.pool.hands)

        assert [(task.id, task.status) for task in settled] == [(task_id, Status.COMPLETED)]
        assert await town.events(task_id) == ["task.enqueued", "task.started", "task.completed"]


async def test_a_defect_of_one_who_listens_to_the_store_keeps_nobody_else_from_being_told(tmp_path: Path) -> None:
    async with running(tmp_path) as town:

        def broken(events: list[Event]) -> None:
            raise RuntimeError("a defect")

        town.store.on_commit.insert(0, broken)
        email = town.service("email")

        task = await town.until_status(await town.send("infra"), "completed")

        assert email.reached == ["u0"]
        assert await town.events(task["id"]) == ["task.enqueued", "task.started", "task.completed"]


async def test_a_claim_that_began_before_a_pause_does_not_have_it_forgotten(town: Town) -> None:
    await town.until(lambda: town.pool.caught_up)
    stall = Stall(threading.Event())
    stalled = asyncio.ensure_future(town.store.apply(stall))
    await town.until(stall.begun.is_set)
    town.pool._most_urgent = Priority.CRITIQUE
    town.pool._wake.set()
    await town.until(lambda: town.pool._asking)
    paused = asyncio.ensure_future(town.post("/admin/api/queue/pause"))
    stall.go.set()
    await stalled
    assert (await paused).status == 200
    await town.until(lambda: not town.pool._asking)

    assert town.pool._paused
