"""Alerts: raised when too much fails or a channel is down, cleared when that is over, told once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from notifiers import Refused, RetryLater, Sent
from server.followers.alerts import Window, verdict
from tests.api.hooks_support import turn_until
from tests.kit import Service, Town, jean, running

pytestmark = pytest.mark.usefixtures("both_engines")

EAGER = {"ALERTS__MIN_TASKS": "3", "ALERTS__FAILURE_RATIO": "0.5", "ALERTS__NOTIFY": '["sms:+33612345678"]'}


async def alerts(town: Town) -> list[dict[str, Any]]:
    return (await town.json("/api/queue/stats"))["stats"]["alerts"]


async def told(town: Town) -> list[dict[str, Any]]:
    """The alert events of the log, oldest first."""
    events = [json.loads(event.body) for event in await town.store.events_after(0, 1000)]
    return [event for event in events if event["event"].startswith("alert.")]


async def fail(town: Town, times: int) -> None:
    town.service("email").always(lambda message: Refused("address_refused", "550"))
    for _ in range(times):
        await town.until_status(await town.send(), "failed", "completed")


async def succeed(town: Town, times: int) -> None:
    town.service("email")
    for _ in range(times):
        await town.until_status(await town.send(), "failed", "completed")


async def until_told(service: Service, times: int) -> None:
    while len(service.calls) < times:
        service.arrived.clear()
        await service.arrived.wait()


async def test_too_many_failures_raise_an_alert_that_is_seen_and_told(tmp_path: Path) -> None:
    async with running(tmp_path, **EAGER) as town:
        phone = town.service("sms")
        await fail(town, 3)
        await town.until(lambda: alerts(town))
        await until_told(phone, 1)

        (alert,) = await alerts(town)
        assert (alert["kind"], alert["failed"], alert["ended"], alert["ratio"]) == ("failure_ratio", 3, 3, 1.0)
        assert alert["window_s"] == 300
        (event,) = await told(town)
        assert (event["event"], event["alert"]) == ("alert.raised", alert)
        (call,) = phone.calls
        assert (call.telephone, call.type, call.priority) == ("+33612345678", "alert", "CRITIQUE")
        assert call.message == "Échecs : 3 sur 3 tâches terminées (100 %), en 5 min."


async def test_it_is_cleared_once_enough_goes_well_again(tmp_path: Path) -> None:
    async with running(tmp_path, **EAGER) as town:
        await fail(town, 3)
        await town.until(lambda: alerts(town))
        await succeed(town, 5)

        async def cleared() -> bool:
            return not await alerts(town)

        await town.until(cleared)
        raised, over = await told(town)
        assert over["event"] == "alert.cleared"
        assert over["alert"]["id"] == raised["alert"]["id"]
        assert over["alert"]["since"] == raised["alert"]["since"]
        assert over["alert"]["ratio"] < 0.4


async def test_it_is_cleared_when_the_window_has_passed(tmp_path: Path) -> None:
    async with running(tmp_path, **EAGER) as town:
        await fail(town, 3)
        await town.until(lambda: alerts(town))

        async def cleared() -> bool:
            return not await alerts(town)

        await turn_until(town, cleared, 10)

        assert [event["event"] for event in await told(town)] == ["alert.raised", "alert.cleared"]


async def test_few_tasks_raise_none(tmp_path: Path) -> None:
    async with running(tmp_path, **EAGER) as town:
        await fail(town, 2)

        assert await told(town) == []


async def test_people_are_told_once_per_window(tmp_path: Path) -> None:
    async with running(tmp_path, **EAGER) as town:
        phone = town.service("sms")

        async def stands() -> bool:
            return bool(await alerts(town))

        async def cleared() -> bool:
            return not await alerts(town)

        await fail(town, 3)
        await town.until(stands)
        await succeed(town, 5)
        await town.until(cleared)
        await fail(town, 5)
        await town.until(stands)
        assert [event["event"] for event in await told(town)] == ["alert.raised", "alert.cleared", "alert.raised"]
        assert len(phone.calls) == 1

        await turn_until(town, cleared, 10)
        await fail(town, 3)
        await until_told(phone, 2)


async def test_an_alert_and_what_led_to_it_outlive_a_restart(tmp_path: Path) -> None:
    async with running(tmp_path, **EAGER) as town:
        await fail(town, 3)
        await town.until(lambda: alerts(town))
        before = await alerts(town)
    async with running(tmp_path, **EAGER) as town:
        phone = town.service("sms")
        assert await alerts(town) == before
        await fail(town, 1)

        assert await alerts(town) == before
        assert len(await told(town)) == 1
        assert phone.calls == []


async def test_what_failed_before_a_restart_counts_with_what_fails_after(tmp_path: Path) -> None:
    async with running(tmp_path, **EAGER) as town:
        await fail(town, 2)
    async with running(tmp_path, **EAGER) as town:
        await fail(town, 1)
        await town.until(lambda: alerts(town))

        assert (await alerts(town))[0]["ended"] == 3


async def test_a_channel_that_is_down_is_an_alert_until_a_call_gets_through(tmp_path: Path) -> None:
    notify = {"ALERTS__NOTIFY": '["email:astreinte@example.org", "sms:+33612345678"]'}
    async with running(tmp_path, **(EAGER | notify)) as town:
        phone, mail = town.service("sms"), town.service("email")
        mail.always(lambda message: RetryLater("unreachable", transport=True))
        task_id = await town.send(recipients=[jean(n) for n in range(8)])
        await town.until(lambda: alerts(town))
        await until_told(phone, 1)

        (alert,) = await alerts(town)
        assert (alert["kind"], alert["channel"]) == ("channel_down", "email")
        assert phone.calls[0].message.startswith("Le service du canal « email » ne répond plus depuis ")
        assert "alert" not in mail.reached, "the channel that is down is not asked to say so"

        mail.always(lambda message: Sent())

        async def cleared() -> bool:
            return not await alerts(town)

        await turn_until(town, cleared, 5)
        await town.until_ended(task_id, 10)
        assert [event["event"] for event in await told(town)] == ["alert.raised", "alert.cleared"]


async def test_a_channel_is_not_held_to_be_down_after_a_restart(tmp_path: Path, both_engines: str) -> None:
    async with running(tmp_path, **EAGER) as town:
        town.service("email").always(lambda message: RetryLater("unreachable", transport=True))
        await town.send(recipients=[jean(n) for n in range(8)])
        await town.until(lambda: alerts(town))
    async with running(tmp_path, **EAGER) as town:

        async def cleared() -> bool:
            return not await alerts(town)

        if both_engines == "postgres":  # another node may still find it down: it is until a call gets through
            assert await alerts(town)
            await turn_until(town, cleared, 5)
        await town.until(cleared)


async def test_an_alert_that_cannot_be_told_makes_no_further_alert(tmp_path: Path) -> None:
    async with running(tmp_path, **EAGER) as town:
        phone = town.service("sms")
        phone.always(lambda message: RetryLater("busy"))
        await fail(town, 3)
        await until_told(phone, 1)
        await turn_until(town, lambda: len(phone.calls) == 3, 1)
        before = await told(town)
        await turn_until(town, lambda: town.clock.monotonic() > 1_000_200, 10)

        assert len(phone.calls) == 3
        assert len({call.id for call in phone.calls}) == 1
        assert await told(town) == before
        assert (await town.json("/api/queue/stats"))["stats"]["total_enqueued"] == 3


@pytest.mark.parametrize(
    ("ended", "failed", "raised", "stands"),
    [
        (0, 0, False, False), (9, 9, False, False), (10, 1, False, False), (10, 2, False, True),
        (100, 19, False, False),
        (10, 2, True, True), (100, 17, True, True), (100, 15, True, False), (1, 1, True, True), (0, 0, True, False),
    ],
)  # fmt: skip
def test_when_the_alert_stands(ended: int, failed: int, raised: bool, stands: bool) -> None:
    window = Window(300)
    window.add(1_000_000, ended, failed)

    assert verdict(window, 0.2, 10, raised=raised) is stands


def test_the_window_slides_and_stays_small() -> None:
    window = Window(60)
    for second in range(10_000):
        window.add(second * 1000, 1, second % 2)
        window.slide(second * 1000)

    assert 58 <= window.ended <= 61
    assert abs(window.ratio - 0.5) < 0.02
    window.slide(20_000_000)
    assert (window.ended, window.failed, window.ratio) == (0, 0, 0.0)


def test_the_window_slides_on_though_the_clock_is_set_back() -> None:
    window = Window(60)
    for second in range(90_000, 90_030):
        window.add(second * 1000, 1, 1)
        window.slide(second * 1000)
    for second in range(100, 200):  # a day earlier
        window.add(second * 1000, 1, 0)
        window.slide(second * 1000)

    assert window.failed == 0
    assert window.ended <= 61
