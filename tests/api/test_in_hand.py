"""What may happen to a task while it is in hand. Time is turned by hand."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from notifiers import Message, Outcome, Sent
from tests.api.http_kit import TurnedClock
from tests.kit import Service, Town, jean, running


def in_s(town: Town, seconds: float) -> str:
    """A moment, so many seconds from the town's now, as a sender writes it."""
    return datetime.fromtimestamp(town.clock.now_ms() / 1000 + seconds, UTC).isoformat()


async def calls(service: Service, n: int) -> None:
    """Wait until so many calls have arrived."""
    while len(service.calls) < n:
        service.arrived.clear()
        await service.arrived.wait()


async def passing(town: Town, holds: Callable[[], Any], step_s: float = 0.5) -> None:
    """Let time pass, step by step, until `holds()`."""

    def look() -> Any:
        town.clock.turn(step_s)
        return holds()

    await town.until(look)


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


async def test_a_long_task_gives_way_and_is_told_of_though_the_time_of_day_is_set_back(tmp_path: Path) -> None:
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

        def slowly(message: Message) -> Outcome:
            clock.turn(1)
            return Sent()

        email.always(slowly)
        email.release()
        await town.until_status(long, "completed")
        await town.until_status(other, "completed")
        assert "task.progress" in await town.events(long)
