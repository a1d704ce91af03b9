"""What may happen to a task while it is in hand. Time is turned by hand."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from notifiers import Message, Outcome, Refused, Sent
from server.app import CHANNELS
from server.channels import Channel
from server.store import StoreUnavailable
from server.store.engine import Op
from server.store.settle import Settle
from tests.api.http_kit import TurnedClock
from tests.kit import Service, Stall, Town, jean, running


def in_s(town: Town, seconds: float) -> str:
    """A moment, so many seconds from the town's now, as a sender writes it."""
    return datetime.fromtimestamp(town.clock.now_ms() / 1000 + seconds, UTC).isoformat()


async def calls(service: Service, n: int) -> None:
    """Wait until so many calls have arrived."""
    while len(service.calls) < n:
        service.arrived.clear()
        await service.arrived.wait()


async def quick_ones(town: Town) -> None:
    """Tasks that are soon done, so that more is claimed than there are workers."""
    for number in range(50):
        await town.send("infra", [jean(number, canal="app")])
        await town.until_idle()


async def passing(town: Town, holds: Callable[[], Any], step_s: float = 0.5) -> None:
    """Let time pass, step by step, until `holds()`; no faster than the store writes, unless it is held up."""

    async def through_the_store() -> None:
        for _ in range(3):
            await town.store.touch_keys({})

    while not holds():
        town.clock.turn(step_s)
        written = asyncio.ensure_future(through_the_store())
        await asyncio.wait([written], timeout=0.5)
        written.cancel()
        await asyncio.gather(written, return_exceptions=True)


async def test_an_expired_task_ends_though_all_its_calls_wait_for_their_turn(tmp_path: Path) -> None:
    async with running(tmp_path, CHANNELS__EMAIL__RATE_PER_SECOND="0.01") as town:
        email = town.service("email")
        task_id = await town.send("infra", [jean(number) for number in range(20)], expire_a=in_s(town, 15))
        await calls(email, 1)
        begun = town.clock.monotonic()

        await passing(town, lambda: not town.pool.hands)

        assert town.clock.monotonic() - begun < 18
        task = await town.task(task_id)
        assert (task["status"], task["failure"]["kind"], task["progress"]["sent"]) == ("failed", "expired", 1)


async def test_a_planned_notification_that_was_cancelled_and_is_wanted_again_still_waits_for_its_time(
    town: Town,
) -> None:
    email = town.service("email")
    task_id = await town.send("infra", planifiee_a=in_s(town, 3600))
    await town.post(f"/api/queue/tasks/{task_id}/cancel")

    again = (await (await town.post(f"/api/queue/tasks/{task_id}/retry")).json())["task"]
    assert (again["status"], again["next_attempt_at_iso"]) == ("pending", again["planifiee_a"])
    await town.turn(3500)
    assert email.reached == []

    await town.turn(101)
    assert (await town.task(task_id))["status"] == "completed"


async def test_a_task_in_hand_goes_on_while_the_queue_is_paused(tmp_path: Path) -> None:
    async with running(tmp_path, QUEUE__WORKERS="1", QUEUE__EXPRESS_WORKERS="0", DELIVERY__CONCURRENCY="1") as town:
        email = town.service("email")
        email.hold()
        task_id = await town.send("infra", [jean(number) for number in range(3)])
        await calls(email, 1)
        await town.post("/admin/api/queue/pause")
        over = town.clock.monotonic() + 25

        await passing(town, lambda: town.clock.monotonic() > over)
        email.release()
        await town.until(lambda: not town.pool.hands)

        assert (await town.task(task_id))["status"] == "completed"


class SetBack(TurnedClock):
    """A clock whose time of day can be set back, as a time server does; durations go on."""

    back_ms = 0

    def now_ms(self) -> int:
        return super().now_ms() - self.back_ms


async def test_a_long_task_gives_way_though_the_time_of_day_is_set_back(tmp_path: Path) -> None:
    clock = SetBack()
    async with running(tmp_path, clock=clock, QUEUE__WORKERS="1", DELIVERY__CONCURRENCY="1") as town:
        email = town.service("email")
        email.hold()
        long = await town.send("infra", [jean(number) for number in range(5)])
        await calls(email, 1)
        other = await town.send("infra", [jean(9, canal="app")])
        clock.back_ms = 3_600_000
        over = clock.monotonic() + 20

        await passing(town, lambda: town.pool.hands[long].stopped or clock.monotonic() > over)
        assert town.pool.hands[long].stopped == "turn"

        email.release()
        await town.until_status(other, "completed")
        await town.until_status(long, "completed")


async def test_progress_is_told_though_the_time_of_day_is_set_back(tmp_path: Path) -> None:
    clock = SetBack()
    async with running(tmp_path, clock=clock, DELIVERY__CONCURRENCY="1") as town:

        def slowly(message: Message) -> Outcome:
            clock.back_ms = 3_600_000
            clock.turn(1)
            return Sent()

        town.service("email").always(slowly)
        task_id = await town.send("infra", [jean(number) for number in range(5)])
        await town.until_status(task_id, "completed")

        assert "task.progress" in await town.events(task_id)


async def test_what_was_claimed_ahead_in_vain_keeps_its_place_before_what_came_later(tmp_path: Path) -> None:
    async with running(tmp_path, QUEUE__WORKERS="1", QUEUE__EXPRESS_WORKERS="0") as town:
        await quick_ones(town)
        email, app = town.service("email"), town.service("app")
        email.hold()
        await town.post("/admin/api/queue/pause")
        await town.send("infra", [jean(0)])
        first = [await town.send("infra", [jean(number, canal="app")]) for number in (1, 2)]
        await town.post("/admin/api/queue/resume")
        await town.until(lambda: all(task_id in town.pool.hands for task_id in first))
        town.clock.turn(0.5)
        later = await town.send("infra", [jean(3, canal="app")])
        assert later not in town.pool.hands

        await passing(town, lambda: len(town.pool.hands) == 1)
        email.release()
        await town.until_idle()

        assert app.reached == ["u1", "u2", "u3"]


async def test_what_a_drain_gives_back_keeps_its_place_before_what_came_later(tmp_path: Path) -> None:
    one = {"QUEUE__WORKERS": "1", "QUEUE__EXPRESS_WORKERS": "0", "DELIVERY__CONCURRENCY": "1"}
    async with running(tmp_path, **one) as town:
        email = town.service("email")
        email.hold()
        first = await town.send("infra", [jean(1), jean(2)])
        await calls(email, 1)
        town.clock.turn(1)
        await town.send("infra", [jean(3)])
        town.clock.turn(1)
        draining = asyncio.create_task(town.pool.drain(0))
        await town.until(lambda: town.pool.hands[first].stopped)
        email.release()
        await draining
        assert email.reached == ["u1"]

    async with running(tmp_path, clock=town.clock, **one) as town:
        again = town.service("email")
        await town.until_idle()
        assert again.reached == ["u2", "u3"]


async def test_a_task_that_is_being_stored_keeps_no_worker_from_those_that_wait(tmp_path: Path) -> None:
    async with running(tmp_path, QUEUE__WORKERS="1", QUEUE__EXPRESS_WORKERS="0") as town:
        await quick_ones(town)
        email, app = town.service("email"), town.service("app")
        email.hold()
        await town.send("infra", [jean(1)])
        waiting = await town.send("infra", [jean(2, canal="app")])
        await town.until(lambda: waiting in town.pool.hands)
        stall = Stall(threading.Event())
        stalled = asyncio.ensure_future(town.store.apply(stall))
        await town.until(stall.begun.is_set)
        body = {"titre": "t", "message": "m", "utilisateurs": [jean(3, canal="app")]}
        posted = asyncio.ensure_future(town.post("/api/notifications/infra", body))
        await town.until(lambda: town.pool._taking)

        email.release()
        await calls(app, 1)

        assert app.reached == ["u2"]
        stall.go.set()
        await stalled
        assert (await posted).status == 202
        await town.until_idle()
        assert app.reached == ["u2", "u3"]


async def test_who_is_being_called_as_a_task_is_cancelled_is_not_called_again_by_its_retry(tmp_path: Path) -> None:
    async with running(tmp_path, DELIVERY__CONCURRENCY="2") as town:
        email = town.service("email")
        email.hold()
        task_id = await town.send("infra", [jean(number) for number in range(4)])
        await calls(email, 2)
        await town.post(f"/api/queue/tasks/{task_id}/cancel")
        await town.post(f"/api/queue/tasks/{task_id}/retry")
        await town.until(lambda: task_id in town.pool.hands and town.pool.hands[task_id].task.run == 2)
        await asyncio.wait(town.pool._crew.work, timeout=0.1)
        email.release()

        task = await town.until_status(task_id, "completed")

        assert sorted(email.reached) == ["u0", "u1", "u2", "u3"]
        assert (task["run"], task["progress"]["sent"]) == (2, 4)


async def test_a_drain_ends_though_storage_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(tmp_path, DELIVERY__CONCURRENCY="2") as town:
        apply = town.store.apply
        refused: list[Op] = []

        async def away(op: Op) -> Any:
            if isinstance(op, Settle):
                refused.append(op)
                raise StoreUnavailable("away")
            return await apply(op)

        monkeypatch.setattr(town.store, "apply", away)
        await town.send("infra", [jean(number) for number in range(5)])
        await town.until(lambda: refused)

        draining = asyncio.create_task(town.pool.drain(1))
        over = town.clock.monotonic() + 20
        await passing(town, lambda: draining.done() or town.clock.monotonic() > over)
        ended = draining.done()
        monkeypatch.undo()

        assert ended
        await draining


async def test_a_drain_ends_though_a_service_never_answers(tmp_path: Path) -> None:
    async with running(tmp_path) as town:
        email = town.service("email")
        email.hold()
        await town.send("infra", [jean(number) for number in range(5)])
        await calls(email, 5)

        draining = asyncio.create_task(town.pool.drain(1))
        over = town.clock.monotonic() + 20
        await passing(town, lambda: draining.done() or town.clock.monotonic() > over)
        ended = draining.done()
        email.release()

        assert ended
        await draining


async def test_a_defect_met_by_one_makes_nobody_be_called_twice_who_was_reached(town: Town) -> None:
    email = town.service("email")
    defects = ["u3"]

    def defective(channel: Channel, outcome: Outcome, took_s: float) -> None:
        if email.calls[-1].recipient in defects:
            raise ValueError(defects.pop())

    town.app[CHANNELS]["email"].on_outcome.append(defective)
    task_id = await town.send("infra", [jean(number) for number in range(8)])
    await town.until(lambda: not defects and not town.pool.hands)
    await town.lose_leases()

    await passing(town, lambda: len(email.calls) > 8)
    await town.until_status(task_id, "completed")

    assert {number: email.reached.count(f"u{number}") for number in range(8)} == {n: 1 + (n == 3) for n in range(8)}


async def test_a_long_task_gives_way_to_nobody_where_nobody_waits(tmp_path: Path) -> None:
    async with running(tmp_path, QUEUE__WORKERS="1", QUEUE__EXPRESS_WORKERS="0", DELIVERY__CONCURRENCY="1") as town:
        email = town.service("email")
        email.hold()
        task_id = await town.send("infra", [jean(number) for number in range(3)])
        await calls(email, 1)
        over = town.clock.monotonic() + 25

        await passing(town, lambda: town.clock.monotonic() > over)
        email.release()
        await town.until_status(task_id, "completed")

        assert "task.retry_scheduled" not in await town.events(task_id)


async def test_nobody_is_called_by_the_fallback_before_the_refusal_is_written_down(tmp_path: Path) -> None:
    async with running(tmp_path, CHANNELS__EMAIL__FALLBACK="sms") as town:
        email, sms = town.service("email"), town.service("sms")
        email.always(lambda message: Refused("address_refused", "550"))
        email.hold()
        task_id = await town.send("infra", [jean(1), jean(2)])
        await town.until(lambda: len(email.calls) == 2)
        stall = Stall(threading.Event())
        stalled = asyncio.ensure_future(town.store.apply(stall))
        await town.until(stall.begun.is_set)

        email.release()
        for _ in range(200):
            await asyncio.sleep(0)
        too_early = list(sms.calls)
        stall.go.set()
        await stalled
        await town.until_status(task_id, "completed")

        assert too_early == []
        assert sorted(sms.reached) == ["u1", "u2"]
        assert len(email.calls) == 2
