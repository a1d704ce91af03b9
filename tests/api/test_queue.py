"""What becomes of tasks: order, lanes, retries, cancels, leases, restarts. Time is turned by hand."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import pytest

from notifiers import Refused, RetryLater, Sent
from server.store.settle import Settle
from tests.kit import Town, jean, running

pytestmark = pytest.mark.usefixtures("both_engines")


def in_s(town: Town, seconds: float) -> str:
    """A moment, so many seconds from the town's now, as a sender writes it."""
    return datetime.fromtimestamp(town.clock.now_ms() / 1000 + seconds, UTC).isoformat()


async def test_the_more_urgent_goes_first_and_then_who_came_first(tmp_path: Path) -> None:
    async with running(tmp_path, QUEUE__WORKERS="1", QUEUE__EXPRESS_WORKERS="0") as town:
        email = town.service("email")
        await town.post("/admin/api/queue/pause")
        for number, priority in enumerate(["NORMALE", "HAUTE", "critique", "3", "1", "haute"]):
            await town.send("infra", [jean(number)], priorite=priority)

        await town.post("/admin/api/queue/resume")
        await town.until_idle()

        assert email.reached == ["u2", "u4", "u1", "u5", "u0", "u3"]


async def test_what_is_critical_does_not_wait_for_a_worker_that_is_busy(tmp_path: Path) -> None:
    async with running(tmp_path, QUEUE__WORKERS="1") as town:
        email, sms = town.service("email"), town.service("sms")
        email.hold()
        slow = await town.send("infra", [jean(1)])
        await town.until_status(slow, "processing")
        waiting = await town.send("infra", [jean(2, canal="sms")])
        urgent = await town.send("securite", [jean(3, canal="sms")])

        await town.until_status(urgent, "completed")

        assert (await town.task(waiting))["status"] == "pending"
        assert sms.reached == ["u3"]
        email.release()
        await town.until_idle()
        assert sms.reached == ["u3", "u2"]


async def test_where_a_worker_is_free_a_task_is_claimed_in_the_commit_that_stores_it(tmp_path: Path) -> None:
    async with running(tmp_path, QUEUE__WORKERS="1", QUEUE__EXPRESS_WORKERS="1") as town:
        email, sms = town.service("email"), town.service("sms")
        await town.send("infra", [jean(0)])
        await town.until_idle()
        await town.until(lambda: town.pool.caught_up)
        commits: list[list[str]] = []
        town.store.on_commit.append(lambda events: commits.append([event.kind for event in events]))
        email.hold()

        first = await town.send("infra", [jean(1)])
        assert commits == [["task.enqueued", "task.started"]]
        assert (await town.task(first))["status"] == "processing"

        await town.send("infra", [jean(2, canal="sms")])  # no worker is free
        assert commits[1:] == [["task.enqueued"]]
        await town.send("securite", [jean(3, canal="sms")], priorite="CRITIQUE")  # but the express lane's is
        await town.until(lambda: sms.reached == ["u3"])

        email.release()
        await town.until_idle()
        assert sms.reached == ["u3", "u2"]


async def test_nothing_new_is_claimed_before_what_waited_for_its_time_and_is_due(tmp_path: Path) -> None:
    async with running(tmp_path, QUEUE__WORKERS="1", QUEUE__EXPRESS_WORKERS="0") as town:
        email = town.service("email")
        await town.post("/admin/api/queue/pause")
        for number in range(3):
            await town.send("infra", [jean(number)])
        resumed = asyncio.create_task(town.post("/admin/api/queue/resume"))
        sends = [asyncio.create_task(town.send("infra", [jean(number)])) for number in range(3, 9)]
        await asyncio.gather(resumed, *sends)
        await town.until_idle()

        assert email.reached[:3] == ["u0", "u1", "u2"]
        assert sorted(email.reached) == [f"u{number}" for number in range(9)]


async def test_a_paused_queue_accepts_and_waits(town: Town) -> None:
    assert (await (await town.post("/admin/api/queue/pause")).json())["paused"] is True
    task_id = await town.send()

    assert (await town.json("/api/queue/stats"))["stats"]["paused"] is True
    assert (await town.task(task_id))["status"] == "pending"

    await town.post("/admin/api/queue/resume")
    await town.until_status(task_id, "completed")


async def test_only_those_not_reached_are_tried_again(town: Town) -> None:
    email = town.service("email")
    email.will(Sent(), RetryLater("timeout"), Sent())
    task_id = await town.send("infra", [jean(1), jean(2), jean(3)])
    await town.until_idle()

    task = await town.task(task_id)
    assert (task["status"], task["progress"]["sent"]) == ("pending", 2)
    assert task["next_attempt_at_iso"] is not None
    await town.turn(10)

    assert (await town.task(task_id))["status"] == "completed"
    assert sorted(email.reached) == ["u1", "u2", "u2", "u3"]
    assert len({call.id for call in email.calls}) == 3  # the repeat bears the same token


async def test_a_service_that_asks_for_patience_gets_it(town: Town) -> None:
    town.service("email").will(RetryLater("busy", "429", after_s=120))
    task_id = await town.send()
    await town.until_idle()

    await town.turn(119)
    assert (await town.task(task_id))["status"] == "pending"
    await town.turn(2)
    assert (await town.task(task_id))["status"] == "completed"


async def test_a_refused_recipient_is_reached_by_the_fallback(tmp_path: Path) -> None:
    async with running(tmp_path, CHANNELS__EMAIL__FALLBACK="sms") as town:
        town.service("email").always(lambda message: Refused("address_refused", "550"))
        sms = town.service("sms")
        task_id = await town.send("infra", [jean(1)])
        await town.until_idle()

        assert (await town.task(task_id))["status"] == "completed"
        assert sms.reached == ["u1"]
        [row] = await town.deliveries(task_id)
        assert (row["channel"], row["status"], row["attempts"]) == ("sms", "sent", 2)


async def test_an_inactive_recipient_is_skipped_and_a_double_sent_to_once(town: Town) -> None:
    email = town.service("email")
    inactive = jean(1) | {"preferences": {"actif": False}}
    task_id = await town.send("infra", [inactive, jean(2), jean(2)])
    await town.until_idle()

    result = (await town.task(task_id))["result"]
    assert email.reached == ["u2"]
    assert (result["utilisateurs_notifies"], result["ignores"], result["doublons"]) == (1, 1, 1)
    assert [row["status"] for row in await town.deliveries(task_id)] == ["skipped", "sent"]


async def test_an_operators_retry_begins_a_new_run_for_those_not_reached(town: Town) -> None:
    email = town.service("email")
    email.always(lambda message: Sent() if message.recipient == "u1" else Refused("address_refused", "550"))
    task_id = await town.send("infra", [jean(1), jean(2)])
    await town.until_idle()
    assert (await town.task(task_id))["status"] == "failed"

    email.always(lambda message: Sent())
    answer = await town.post(f"/api/queue/tasks/{task_id}/retry")
    assert (answer.status, (await answer.json())["task"]["run"]) == (200, 2)
    await town.until_idle()

    task = await town.task(task_id)
    assert (task["status"], task["error"], task["attempts"]) == ("completed", None, 1)
    assert email.reached == ["u1", "u2", "u2"]
    assert (await town.post(f"/api/queue/tasks/{task_id}/retry")).status == 409


async def test_a_cancelled_task_calls_nobody_more_and_keeps_what_was_sent(tmp_path: Path) -> None:
    async with running(tmp_path, DELIVERY__CONCURRENCY="2") as town:
        email = town.service("email")
        email.hold()
        task_id = await town.send("infra", [jean(number) for number in range(10)])
        await town.until_status(task_id, "processing")
        while len(email.calls) < 2:
            email.arrived.clear()
            await email.arrived.wait()

        answer = await town.post(f"/api/queue/tasks/{task_id}/cancel")
        assert (await answer.json())["task"]["status"] == "cancelled"
        email.release()
        await town.until(lambda: not town.pool.hands)

        assert len(email.calls) == 2
        rows = await town.deliveries(task_id)
        assert sorted(row["status"] for row in rows) == ["cancelled"] * 8 + ["sent"] * 2
        assert (await town.task(task_id))["progress"]["sent"] == 2
        assert (await town.post(f"/api/queue/tasks/{task_id}/cancel")).status == 409


async def test_a_planned_notification_waits_for_its_time(town: Town) -> None:
    email = town.service("email")
    task_id = await town.send("infra", planifiee_a=in_s(town, 3600))
    await town.turn(3500)
    assert email.reached == []

    await town.turn(101)

    assert (await town.task(task_id))["status"] == "completed"


async def test_a_notification_that_came_too_late_is_not_sent(town: Town) -> None:
    email = town.service("email")
    await town.post("/admin/api/queue/pause")
    task_id = await town.send("infra", expire_a=in_s(town, 60))
    town.clock.turn(61)
    await town.until_status(task_id, "failed")
    await town.post("/admin/api/queue/resume")

    task = await town.task(task_id)
    assert (task["status"], task["error"], task["failure"]["kind"]) == ("failed", "expirée", "expired")
    assert [row["status"] for row in await town.deliveries(task_id)] == ["expired"]
    assert email.reached == []


async def test_times_that_make_no_sense_are_refused(town: Town) -> None:
    for times in (
        {"expire_a": in_s(town, -1)},
        {"planifiee_a": in_s(town, 100), "expire_a": in_s(town, 50)},
        {"planifiee_a": in_s(town, 367 * 86_400)},
        {"planifiee_a": "2026-11-24T12:00:00"},
    ):
        body = {"titre": "t", "message": "m", "utilisateurs": [jean()]} | times
        assert (await town.post("/api/notifications/meteo", body)).status == 422
    assert (await town.json("/api/queue/stats"))["stats"]["total_enqueued"] == 0


async def test_a_worker_that_lost_its_lease_writes_nothing_but_what_is_true(town: Town) -> None:
    email = town.service("email")
    email.hold()
    task_id = await town.send("infra", [jean(1), jean(2)])
    await town.until_status(task_id, "processing")
    stale = next(iter(town.pool.hands.values())).task
    town.pool.hands.clear()  # as a node that fell silent
    await town.lose_leases()
    town.clock.turn(11)
    await town.until(lambda: task_id in town.pool.hands)  # taken over: the fence moved on
    assert town.pool.hands[task_id].task.fence > stale.fence

    refused = await town.store.apply(Settle(task_id, stale.fence, town.clock.now_ms(), [], 0, None))

    assert refused is None
    email.release()
    await town.until_idle()
    assert (await town.task(task_id))["progress"] == {"sent": 2, "failed": 0, "skipped": 0, "total": 2}


async def test_a_task_in_hand_at_three_crashes_is_given_up(tmp_path: Path) -> None:
    for crash in range(3):
        async with running(tmp_path) as town:
            email = town.service("email")
            email.hold()
            task_id = await town.send() if crash == 0 else (await town.json("/api/queue/tasks"))["tasks"][0]["id"]
            await town.until(partial(town.pool.hands.__contains__, task_id))
            await town.crash()
    async with running(tmp_path) as town:
        task = await town.until_status(task_id, "failed")

        assert "3" in task["error"] or "trois" in task["error"]


async def test_a_restart_goes_on_where_it_was(tmp_path: Path) -> None:
    async with running(tmp_path, SERVER__SHUTDOWN_GRACE_S="0", DELIVERY__CONCURRENCY="1") as town:
        email = town.service("email")
        email.always(lambda message: Sent())
        task_id = await town.send("infra", [jean(number) for number in range(3)])
        email.hold()
        await town.until(lambda: email.calls)
        email.release()

    async with running(tmp_path) as town:
        again = town.service("email")
        await town.until_status(task_id, "completed")

        assert sorted(email.reached + again.reached) == ["u0", "u1", "u2"]


async def test_while_draining_a_post_is_refused_and_readiness_says_so(town: Town) -> None:
    email = town.service("email")
    email.hold()
    task_id = await town.send()
    await town.until_status(task_id, "processing")
    draining = asyncio.create_task(town.pool.drain(30))
    await town.until(lambda: town.pool.draining)

    body = {"titre": "t", "message": "m", "utilisateurs": [jean()]}
    answer = await town.post("/api/notifications/meteo", body)
    assert (answer.status, "Retry-After" in answer.headers) == (503, True)
    assert (await town.get("/api/health/ready")).status == 503
    assert (await town.get("/api/health")).status == 200

    email.release()
    await draining
    assert (await town.task(task_id))["status"] == "completed"


async def test_a_rate_per_minute_is_kept_per_type_and_holds_up_no_other(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("[types.slow]\nrate_per_minute = 2\n[types.fast]\n", encoding="utf-8")
    async with running(tmp_path) as town:
        for _ in range(5):
            await town.send("slow")
        fast = await town.send("fast")
        await town.until_status(fast, "completed")

        async def done() -> int:
            return len((await town.json("/api/queue/tasks?type=slow&status=completed"))["tasks"])

        await town.until(lambda: not town.pool.hands)
        assert await done() == 2
        town.clock.turn(62)

        async def four() -> bool:
            return await done() == 4

        await town.until(four)
        assert (await town.json("/api/queue/stats"))["stats"]["tasks_by_status"]["pending"] == 1


async def test_a_full_queue_answers_503_and_stores_nothing(tmp_path: Path) -> None:
    async with running(tmp_path, QUEUE__MAX_PENDING="2") as town:
        await town.post("/admin/api/queue/pause")
        await town.send()
        await town.send()

        answer = await town.post("/api/notifications/meteo", {"titre": "t", "message": "m", "utilisateurs": [jean()]})

        assert (answer.status, (await answer.json())["code"]) == (503, "queue-full")
        assert answer.headers["Retry-After"]
        assert (await town.json("/api/queue/stats"))["stats"]["total_enqueued"] == 2


async def test_the_same_idempotency_key_makes_one_task_also_after_a_restart(tmp_path: Path) -> None:
    body = {"titre": "t", "message": "m", "utilisateurs": [jean()]}
    async with running(tmp_path) as town:
        answers = await asyncio.gather(
            *(town.post("/api/notifications/meteo", body, **{"Idempotency-Key": "storm-1"}) for _ in range(200))
        )
        said = {answer.status for answer in answers}
        assert said <= {202, 409}
        ids = {(await answer.json())["task_id"] for answer in answers if answer.status == 202}
        assert len(ids) == 1
        assert (await town.json("/api/queue/stats"))["stats"]["total_enqueued"] == 1
    async with running(tmp_path) as town:
        again = await town.post("/api/notifications/meteo", body, **{"Idempotency-Key": "storm-1"})
        assert (again.status, again.headers["Idempotent-Replayed"]) == (202, "true")
        assert {(await again.json())["task_id"]} == ids
        other = await town.post("/api/notifications/meteo", body | {"titre": "u"}, **{"Idempotency-Key": "storm-1"})
        assert (other.status, (await other.json())["code"]) == (422, "idempotency-conflict")
        town.clock.turn(86_401 * 2)
        fresh = await town.post("/api/notifications/meteo", body, **{"Idempotency-Key": "storm-1"})
        assert "Idempotent-Replayed" not in fresh.headers


async def test_bulk_actions_count_first_and_act_on_what_matches(town: Town) -> None:
    town.service("sms").always(lambda message: Refused("address_refused"))
    failed = [await town.send("sante", [jean(number, canal="sms")]) for number in range(3)]
    await town.send("infra", [jean(9)])
    await town.until_idle()

    assert (await town.post("/admin/api/queue/retry", {})).status == 422
    preview = await (await town.post("/admin/api/queue/retry", {"status": ["failed"], "dry_run": True})).json()
    assert (preview["count"], preview["done"]) == (3, 0)
    result = await (await town.post("/admin/api/queue/retry", {"type": ["sante", "infra"]})).json()
    assert result == {"success": True, "count": 4, "done": 3, "skipped": 1, "failed": 0}
    await town.until_idle()
    assert {(await town.task(task_id))["run"] for task_id in failed} == {2}


@pytest.mark.parametrize(("action", "fit"), [("retry", 4), ("cancel", 1)])
async def test_a_dry_run_counts_apart_what_it_would_leave_as_it_is(town: Town, action: str, fit: int) -> None:
    town.service("sms").always(lambda message: Refused("address_refused"))
    for number in range(3):
        await town.send("sante", [jean(number, canal="sms")])
    await town.send("sante", [jean(8)])
    await town.until_idle()
    cancelled = await town.send("sante", [jean(9)], planifiee_a=in_s(town, 3600))
    await town.post(f"/api/queue/tasks/{cancelled}/cancel")
    await town.send("sante", [jean(7)], planifiee_a=in_s(town, 3600))

    preview = await (await town.post(f"/admin/api/queue/{action}", {"type": ["sante"], "dry_run": True})).json()
    result = await (await town.post(f"/admin/api/queue/{action}", {"type": ["sante"]})).json()

    assert preview == {"success": True, "count": 6, "done": 0, "skipped": 6 - fit, "failed": 0}
    assert result == {"success": True, "count": 6, "done": fit, "skipped": 6 - fit, "failed": 0}


async def test_a_task_that_holds_a_worker_gives_way_to_others(tmp_path: Path) -> None:
    async with running(tmp_path, QUEUE__WORKERS="1", DELIVERY__CONCURRENCY="1") as town:
        email = town.service("email")
        email.hold()
        long = await town.send("infra", [jean(number) for number in range(5)])
        await town.until_status(long, "processing")
        other = await town.send("infra", [jean(9, canal="app")])
        town.clock.turn(6)
        await town.until(lambda: town.pool.hands[long].stopped == "turn")
        email.release()
        await town.until_idle()

        ended = {task_id: (await town.task(task_id))["status"] for task_id in (long, other)}
        assert set(ended.values()) == {"completed"}
        assert (await town.events(long)).count("task.started") == 2
        assert (await town.task(long))["attempts"] == 1
        assert sorted(email.reached) == [f"u{number}" for number in range(5)]
