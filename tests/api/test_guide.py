"""The guide that the product was ordered from, call by call."""

from __future__ import annotations

import re

import pytest

from notifiers import Refused, RetryLater
from server.model import Role
from tests.kit import Town, jean

MESSAGES = {
    "meteo": "Notification météorologique mise en file d'attente",
}

pytestmark = pytest.mark.usefixtures("both_engines")


@pytest.mark.parametrize("kind", ["meteo", "securite", "sante", "infra"])
async def test_a_post_is_answered_202_with_the_task_it_became(town: Town, kind: str) -> None:
    body = {"titre": "alerte_meteo", "message": "Tempête prévue", "utilisateurs": [jean(1), jean(2)]}

    answer = await town.post(f"/api/notifications/{kind}", body)

    said = await answer.json()
    assert answer.status == 202
    assert said.keys() == {"success", "message", "type", "task_id", "status"}
    assert (said["success"], said["type"], said["status"]) == (True, kind, "pending")
    assert said["message"] == MESSAGES.get(kind, said["message"])
    assert "mise en file d'attente" in said["message"]
    assert answer.headers["Location"] == f"/api/queue/tasks/{said['task_id']}"


async def test_a_task_is_followed_to_its_end(town: Town) -> None:
    task_id = await town.send("meteo", [jean(1), jean(2)])

    await town.until_idle()

    task = await town.task(task_id)
    assert task["status"] == "completed"
    assert re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d", task["created_at_iso"])
    assert task["created_at_iso"] <= task["started_at_iso"] <= task["completed_at_iso"]
    assert (task["result"]["success"], task["result"]["type"], task["result"]["utilisateurs_notifies"]) == (
        True,
        "meteo",
        2,
    )
    assert await town.events(task_id) == ["task.enqueued", "task.started", "task.completed"]


async def test_the_statistics_have_the_guides_keys_and_count_for_ever(town: Town) -> None:
    town.service("sms").always(lambda message: Refused("address_refused", "550"))
    await town.send("meteo", [jean(1)])
    await town.send("meteo", [jean(1, canal="sms")])
    await town.until_idle()

    stats = (await town.json("/api/queue/stats"))["stats"]

    assert (stats["total_enqueued"], stats["total_processed"], stats["total_failed"]) == (2, 1, 1)
    assert stats["tasks_by_status"] == {"pending": 0, "processing": 0, "completed": 1, "failed": 1, "cancelled": 0}
    assert (stats["current_queue_size"], stats["total_tasks"], stats["workers"], stats["running"]) == (0, 2, 2, True)

    cleared = await town.post("/admin/api/queue/clear", {"hours": 0})

    assert await cleared.json() == {"success": True, "message": "2 tâches supprimées", "removed": 2}
    stats = (await town.json("/api/queue/stats"))["stats"]
    assert (stats["total_enqueued"], stats["total_processed"], stats["total_failed"]) == (2, 1, 1)
    assert stats["total_tasks"] == 0


async def test_cleaning_up_leaves_what_is_young_or_not_ended(town: Town) -> None:
    done = await town.send()
    await town.until_idle()
    await town.post("/admin/api/queue/pause")
    waiting = await town.send()

    assert (await (await town.post("/admin/api/queue/clear", {"hours": 24})).json())["removed"] == 0
    assert (await (await town.post("/admin/api/queue/clear", {"hours": 0})).json())["removed"] == 1

    assert (await town.get(f"/api/queue/tasks/{done}")).status == 404
    assert (await town.task(waiting))["status"] == "pending"


async def test_a_failed_task_says_why(town: Town) -> None:
    town.service("email").always(
        lambda message: Refused("address_refused", "550") if message.recipient == "u3" else RetryLater("timeout")
    )
    task_id = await town.send("sante", [jean(1), jean(3)])

    task = await town.until_ended(task_id)

    assert task["status"] == "failed"
    assert task["error"].startswith("2 destinataires sur 2 non joints")
    assert "(550)" in task["error"]
    assert task["result"]["utilisateurs_notifies"] == 0
    by_id = {row["id"]: row for row in await town.deliveries(task_id)}
    assert (by_id["u3"]["status"], by_id["u3"]["attempts"]) == ("refused", 1)
    assert (by_id["u1"]["status"], by_id["u1"]["attempts"]) == ("gave_up", 5)


async def test_a_type_is_a_line_in_the_configuration(tmp_path) -> None:
    from tests.kit import running

    (tmp_path / "config.toml").write_text('[types.transport]\nlabel = "Transports"\n', encoding="utf-8")
    async with running(tmp_path) as town:
        task_id = await town.send("transport")
        await town.until_idle()

        assert (await town.task(task_id))["status"] == "completed"
        types = (await town.json("/api/notifications/types"))["types"]
        assert [kind["type"] for kind in types] == ["transport"]
        assert (await town.post("/api/notifications/meteo", {})).status in (404, 422)


async def test_an_unknown_type_is_a_404(town: Town) -> None:
    body = {"titre": "t", "message": "m", "utilisateurs": [jean()]}

    assert (await town.post("/api/notifications/vacances", body)).status == 404
    assert (await town.post("/api/notifications/types", body)).status in (404, 405)


async def test_roles_may_do_what_they_may(town: Town) -> None:
    body = {"titre": "t", "message": "m", "utilisateurs": [jean()]}
    viewer, operator = await town.key(Role.VIEWER), await town.key(Role.OPERATOR)

    assert (await town.client.post("/api/notifications/meteo", json=body)).status == 401
    assert (await town.client.post("/api/notifications/meteo", json=body, headers=viewer)).status == 403
    assert (await town.client.post("/api/notifications/meteo", json=body, headers=operator)).status == 202
    assert (await town.client.post("/admin/api/queue/clear", json={}, headers=operator)).status == 403
    assert (await town.client.get("/api/queue/stats", headers=viewer)).status == 200
