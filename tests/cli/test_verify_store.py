"""`verify`: nothing wrong with a store that was worked with; each kind of damage is found and named."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from notifiers import Refused
from server.store.desk import Run
from server.store.verify import CHECKS, examine, verify
from tests.kit import Town, jean

BOTH = pytest.mark.usefixtures("both_engines")


async def busy(town: Town) -> str:
    """Put a bit of everything into the store; the id of a task that was completed."""
    town.service("sms").always(lambda message: Refused("address_refused", "550"))
    done = await town.send("meteo", [jean(n) for n in range(300)])
    failed = await town.send("sante", [jean(1), jean(2, canal="sms")])
    await town.until_idle()
    await town.post(f"/api/queue/tasks/{failed}/retry")
    await town.until_idle()
    await town.post("/admin/api/queue/pause")
    cancelled = await town.send("securite", [jean(3)])
    await town.post(f"/api/queue/tasks/{cancelled}/cancel")
    await town.send("infra", [jean(4)])
    return done


async def change(town: Town, statement: str, *args: Any) -> None:
    """Damage the store as nothing of ours does."""
    await town.store.apply(Run(statement, args))


@BOTH
async def test_a_store_that_was_worked_with_is_whole(town: Town) -> None:
    await busy(town)

    report = await examine(town.store)

    assert report.findings == []
    assert report.looked_at.keys() == CHECKS.keys()
    assert report.looked_at["tasks"] == 4
    assert report.looked_at["log"] == (await town.store.bounds())[1]


@BOTH
async def test_a_store_is_whole_after_a_clean_up(town: Town) -> None:
    await busy(town)
    await town.post("/admin/api/queue/clear", {"hours": 0})

    assert await verify(town.store) == []


DAMAGE = {
    "counters": "UPDATE tally SET n = n + 1 WHERE status = 'completed'",
    "totals": "UPDATE counter SET n = 0 WHERE name = 'total_enqueued'",
    "log": "DELETE FROM event WHERE seq = 3",
    "events": "UPDATE event SET status = 'pending' WHERE kind = 'task.completed'",
    "tasks": "UPDATE task SET lease_ms = 1 WHERE status = 'completed'",
    "progress": "DELETE FROM outcome WHERE word = 'sent' AND n = 7",
    "orphans": "UPDATE outcome SET task_id = 'nobody' WHERE word = 'refused'",
}


@pytest.mark.parametrize("check", DAMAGE)
async def test_damage_is_found_and_named(town: Town, check: str) -> None:
    await busy(town)
    await change(town, DAMAGE[check])

    findings = await verify(town.store)

    assert {finding.check for finding in findings} == {check}
    assert all(str(finding).startswith(f"{check}: ") for finding in findings)


@BOTH
async def test_a_task_that_no_event_tells_of_is_found(town: Town) -> None:
    done = await busy(town)
    await change(town, "UPDATE event SET task_id = '' WHERE task_id = $1", done)

    assert [(f.check, f.what, f.examples) for f in await verify(town.store)] == [
        ("events", "a task without an event", (done,))
    ]


async def test_a_webhook_that_is_neither_waiting_nor_done_is_found(town: Town) -> None:
    await change(
        town,
        "INSERT INTO webhook (id, task_id, host, url, body, state, attempts, due_ms, until_ms, last_error)"
        " VALUES ('msg_1', 't', 'h', 'u', $1, 'delivered', 1, 0, 1, '')",
        b"{}",
    )

    assert [finding.check for finding in await verify(town.store)] == ["webhooks"]


@BOTH
async def test_it_is_one_snapshot_while_the_server_works(town: Town) -> None:
    sending = [asyncio.create_task(town.send("meteo", [jean(n)])) for n in range(60)]

    looks = [await verify(town.store) for _ in range(4)]

    await asyncio.gather(*sending)
    await town.until_idle()
    assert [*looks, await verify(town.store)] == [[]] * 5
