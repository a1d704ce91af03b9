"""Lists: their order, their pages while new tasks come, their filters, and what viewers see of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from server.model import Role
from tests.api.hooks_support import SECRETS
from tests.kit import Town, jean, running

both = pytest.mark.usefixtures("both_engines")


async def walk(town: Town, path: str, of: str, between: Any = None) -> list[dict[str, Any]]:
    """All rows of a list, page by page; `between` happens after each."""
    rows: list[dict[str, Any]] = []
    cursor = ""
    while True:
        page = await town.json(path + cursor)
        rows += page[of]
        if page["next_cursor"] is None:
            return rows
        cursor = f"&cursor={page['next_cursor']}"
        if between:
            await between()


@both
async def test_the_list_is_newest_first_and_stable_while_tasks_come(town: Town) -> None:
    ids = [await town.send("infra", [jean(n)]) for n in range(7)]

    async def another() -> None:
        await town.send("infra", [jean(99)])

    rows = await walk(town, "/api/queue/tasks?limit=2", "tasks", another)

    assert [row["id"] for row in rows] == ids[::-1]


@both
async def test_a_search_looks_at_id_title_message_and_recipients(town: Town) -> None:
    await town.post("/admin/api/queue/pause")
    flood = await town.send("meteo", [jean(1, id="hab-0042", email="Zoe.Ruiz@example.org")], titre="Crue de la Loue")
    fire = await town.send("securite", [jean(2)], message="Incendie 100 % maîtrisé, rue_des_Lilas")
    town.clock.turn(1)

    async def found(query: str) -> set[str]:
        return {row["id"] for row in await walk(town, f"/api/queue/tasks?{query}", "tasks")}

    for word, those in {
        flood[:30]: {flood}, flood: {flood}, flood[1:]: set(), "crue": {flood}, "LOUE": {flood}, "Incendie": {fire},
        "hab-0042": {flood}, "zoe.ruiz@": {flood}, "100 %": {fire}, "rue_des": {fire}, "ru%des": set(),
        "r_e_des": set(), "Tempête": {flood}, "nowhere": set(),
    }.items():  # fmt: skip
        assert await found(f"q={quote(word)}") == those, word
    assert await found("priority=critique&priority=3") == {fire}
    assert await found("type=meteo&type=infra") == {flood}
    assert await found("status=completed") == set() and await found("status=pending&q=crue") == {flood}


@both
async def test_deliveries_are_paged_filtered_and_masked_for_viewers(town: Town) -> None:
    people = [jean(n, canal="sms" if n % 2 else "email") for n in range(5)]
    people.append(jean(5, preferences={"actif": False}))
    task_id = await town.send("infra", people)
    await town.until_idle()
    path = f"/api/queue/tasks/{task_id}/deliveries?limit=2"

    rows = await walk(town, path, "deliveries")

    assert [row["id"] for row in rows] == [f"u{n}" for n in range(6)]
    assert set(rows[0]) >= {"id", "nom", "channel", "address", "status", "attempts", "error", "sent_at_iso"}
    assert [row["status"] for row in rows] == ["sent"] * 5 + ["skipped"]
    assert (rows[0]["address"], rows[1]["address"]) == ("jean0@example.org", "+33 6 12 34 00 01")
    skipped = await walk(town, path + "&status=skipped", "deliveries")
    assert [row["id"] for row in skipped] == ["u5"]
    viewer = await town.client.get(path, headers=await town.key(Role.VIEWER))
    masked = [row["address"] for row in (await viewer.json())["deliveries"]]
    assert masked == ["j…0@example.org", "+33…01"]


@both
async def test_a_timeline_is_read_page_by_page(town: Town) -> None:
    task_id = await town.send("infra")
    await town.until_idle()

    events = await walk(town, f"/api/queue/tasks/{task_id}/events?limit=1", "events")

    kinds = [event["event"] for event in events if event["event"] != "task.progress"]
    assert kinds == ["task.enqueued", "task.started", "task.completed"]
    assert [event["seq"] for event in events] == sorted({event["seq"] for event in events})


async def test_a_viewer_sees_of_a_webhook_its_host_alone(tmp_path: Path) -> None:
    async with running(tmp_path, WEBHOOKS__SECRETS=f'["{SECRETS[0]}"]') as town:
        await town.post("/admin/api/queue/pause")
        task_id = await town.send("infra", webhook_url="https://example.org:8443/hook/SECRET?token=SECRET")
        viewer = await town.client.get(f"/api/queue/tasks/{task_id}", headers=await town.key(Role.VIEWER))
        assert "SECRET" not in await viewer.text()
        assert (await viewer.json())["task"]["webhook_url"].startswith("https://example.org")
        assert (await town.task(task_id))["webhook_url"].endswith("token=SECRET")


@both
async def test_a_clean_up_without_a_body_takes_what_ended_a_day_ago_and_never_what_has_not(town: Town) -> None:
    old = await town.send("infra")
    await town.until_idle()
    await town.post("/admin/api/queue/pause")
    waiting = await town.send("infra")
    town.clock.turn(86_400 - 5)
    cleared = await town.client.post("/admin/api/queue/clear", headers=await town.key(Role.ADMIN))
    assert await cleared.json() == {"success": True, "message": "0 tâche supprimée", "removed": 0}
    town.clock.turn(10)
    cleared = await town.client.post("/admin/api/queue/clear", headers=await town.key(Role.ADMIN))
    assert (await cleared.json())["message"] == "1 tâche supprimée"
    assert (await town.get(f"/api/queue/tasks/{old}")).status == 404
    assert (await town.task(waiting))["status"] == "pending"


@both
async def test_statistics_have_the_guides_shape_and_what_the_contract_adds(town: Town) -> None:
    await town.send("infra")
    await town.until_idle()
    await town.post("/admin/api/queue/pause")
    await town.send("meteo")
    town.clock.turn(7)

    stats = (await town.json("/api/queue/stats"))["stats"]

    totals = [stats[f"total_{name}"] for name in ("enqueued", "processed", "failed", "tasks")]
    assert (totals, stats["current_queue_size"]) == ([2, 1, 0, 2], 1)
    assert stats["tasks_by_status"] == {"pending": 1, "processing": 0, "completed": 1, "failed": 0, "cancelled": 0}
    assert (stats["workers"], stats["paused"]) == (2, True)
    assert stats["oldest_pending_s"] == 7 and isinstance(stats["running"], bool)
