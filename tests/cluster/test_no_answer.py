"""PostgreSQL commits, and the connection breaks before it says so: what the node then has in hand it takes up."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from notifiers import Refused, RetryLater
from server.app import ALERTS, WEBHOOKS
from server.http.auth import KeyRing
from server.http.caller import Callers
from server.http.front import FRONT
from server.model import ApiKey, NotificationTask, Status
from server.store import Store, StoreUnavailable, open_store
from server.store.hooks import Taken
from server.store.orders import Cancel
from server.store.verify import verify
from server.store.writes import Claimed
from tests import stores
from tests.api.hooks_support import TodaysClock, receiving, today
from tests.api.http_kit import TurnedClock
from tests.api.test_in_hand import calls, in_s
from tests.api.test_webhooks import ALLOWING
from tests.kit import ADMIN_KEY, Town, jean, running
from tests.pg import fresh_database


@pytest.fixture
async def town(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Town]:
    """A node over PostgreSQL."""
    monkeypatch.setitem(stores.ENGINE, "name", "postgres")
    async with running(tmp_path) as town:
        yield town
        assert await verify(town.store) == []


class Cut:
    """A connection that breaks at the next COMMIT: after it, or (`lost`) before."""

    def __init__(self, connection: Any, lost: bool):
        self._connection, self._lost = connection, lost

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    async def execute(self, statement: str) -> Any:
        if "COMMIT" not in statement:
            return await self._connection.execute(statement)
        if not self._lost:
            await self._connection.execute(statement)
        raise asyncpg.ConnectionDoesNotExistError("connection was closed in the middle of operation")


def cut_once(store: Store, when: Callable[[Any], bool], *, lost: bool = False) -> None:
    """Cut the connection at the commit of the next operation that comes to something of which `when` holds."""
    engine: Any = store._engine
    apply = engine._apply

    async def watched(tx: Any, ops: Any) -> Any:
        results, events = await apply(tx, ops)
        if any(when(result) for result in results):
            engine._apply = apply
            engine._writer = Cut(engine._writer, lost)
        return results, events

    engine._apply = watched


def failures(town: Town) -> list[BaseException]:
    """Whatever storage says no with, from here on."""
    engine: Any = town.store._engine
    failed, said = engine._failed, list[BaseException]()

    def noted(ops: Any, error: BaseException, results: Any = ()) -> None:
        said.append(error)
        failed(ops, error, results)

    engine._failed = noted
    return said


def claims_something(result: Any) -> bool:
    return isinstance(result, Claimed) and bool(result.tasks)


def stored_as_claimed(result: Any) -> bool:
    return isinstance(result, NotificationTask) and result.status is Status.PROCESSING


def leaves(status: Status) -> Callable[[Any], bool]:
    """Does it leave a task in `status`?"""
    return lambda result: isinstance(result, NotificationTask) and result.status is status


async def turned_until(town: Town, holds: Callable[[], bool], seconds: float = 10) -> None:
    """Let time pass until `holds()`, which it must within `seconds` of the node's clock."""
    until = town.clock.monotonic() + seconds

    def there() -> bool:
        town.clock.turn(0.05)
        assert town.clock.monotonic() < until
        return holds()

    await town.until(there)


async def turned_until_completed(town: Town, task_id: str, seconds: float) -> dict[str, Any]:
    """The task once it is completed, which it must be within `seconds` of the node's clock."""
    until = town.clock.monotonic() + seconds

    async def completed() -> bool:
        town.clock.turn(0.05)
        assert town.clock.monotonic() < until
        return bool((await town.task(task_id))["status"] == "completed")

    await town.until(completed)
    return await town.task(task_id)


@pytest.mark.parametrize("lost", [False, True], ids=["written", "not written"])
async def test_a_claim_that_nobody_confirmed_is_worked_on_long_before_its_lease_ends(town: Town, lost: bool) -> None:
    email = town.service("email")
    await town.post("/admin/api/queue/pause")
    task_id = await town.send("infra", [jean(1), jean(2)])
    cut_once(town.store, claims_something, lost=lost)

    await town.post("/admin/api/queue/resume")

    task = await turned_until_completed(town, task_id, seconds=10)
    assert task["attempts"] == 1
    assert sorted(email.reached) == ["u1", "u2"]
    kinds = await town.events(task_id)
    assert kinds.count("task.started") == 1 and "task.retry_scheduled" not in kinds


async def test_a_post_that_nobody_confirmed_and_that_is_stored_is_sent_long_before_its_lease_ends(town: Town) -> None:
    email = town.service("email")
    await town.until(lambda: town.pool.caught_up)
    cut_once(town.store, stored_as_claimed)

    answer = await town.post("/api/notifications/infra", {"titre": "t", "message": "m", "utilisateurs": [jean()]})

    assert answer.status == 503  # it may have been stored, and was
    assert (await answer.json())["code"] == "storage-unsure"
    [task] = (await town.json("/api/queue/tasks"))["tasks"]
    await turned_until_completed(town, task["id"], seconds=10)
    assert len(email.reached) == 1


async def test_an_end_that_nobody_confirmed_counts_and_is_told_of_once(town: Town) -> None:
    settled: list[tuple[str, Status]] = []
    town.pool.on_settled.append(lambda task: settled.append((task.id, task.status)))
    cut_once(town.store, leaves(Status.COMPLETED))

    task_id = await town.send("infra", [jean(1), jean(2)])

    await turned_until(town, lambda: bool(settled) and not town.pool.hands)
    assert settled == [(task_id, Status.COMPLETED)]
    assert (await town.events(task_id)).count("task.completed") == 1
    stats = (await town.json("/api/queue/stats"))["stats"]
    assert stats["total_processed"] == 1
    assert sum(minute["completed"] for minute in stats["minutes"]) == 1
    assert sum(minute["sent"] for minute in stats["minutes"]) == 2


async def test_a_retry_that_nobody_confirmed_begins_when_it_is_due(town: Town) -> None:
    email = town.service("email")
    email.will(RetryLater("busy", after_s=2))
    email.hold()
    task_id = await town.send("infra")
    cut_once(town.store, leaves(Status.PENDING))

    email.release()

    task = await turned_until_completed(town, task_id, seconds=6)
    assert task["attempts"] == 2
    assert (await town.events(task_id)).count("task.retry_scheduled") == 1


async def test_a_planned_post_that_nobody_confirmed_is_sent_when_it_is_due(town: Town) -> None:
    email = town.service("email")
    cut_once(town.store, leaves(Status.PENDING))
    body = {"titre": "t", "message": "m", "utilisateurs": [jean()], "planifiee_a": in_s(town, 2)}

    answer = await town.post("/api/notifications/infra", body)

    assert answer.status == 503
    [task] = (await town.json("/api/queue/tasks"))["tasks"]
    await turned_until_completed(town, task["id"], seconds=5)
    assert len(email.reached) == 1


async def test_a_claim_that_nobody_confirmed_is_given_back_by_a_drain(town: Town) -> None:
    email = town.service("email")
    await town.post("/admin/api/queue/pause")
    task_id = await town.send("infra")
    cut_once(town.store, claims_something)
    said = failures(town)
    await town.post("/admin/api/queue/resume")
    await town.until(lambda: said)

    await town.pool.drain(30)

    task = await town.store.task(task_id)
    assert task and (task.status, task.node, task.attempts, task.crashes) == (Status.PENDING, None, 0, 0)
    assert email.reached == []


async def test_people_are_told_once_of_an_alert_that_nobody_confirmed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(stores.ENGINE, "name", "postgres")
    notify = {"ALERTS__MIN_TASKS": "1", "ALERTS__NOTIFY": '["sms:+33612345678"]'}
    async with running(tmp_path, **notify) as town:
        phone = town.service("sms")
        town.service("email").will(Refused("unknown"))
        cut_once(town.store, lambda result: result == (True, True))

        await town.send("infra")
        await turned_until(town, lambda: bool(phone.calls))

        await calls(phone, 1)
        stats = (await town.json("/api/queue/stats"))["stats"]
        assert phone.calls[0].id.startswith(stats["alerts"][0]["id"])
        await turned_until(town, lambda: not town.app[ALERTS]._wishes)
        assert len(phone.calls) == 1


async def test_whoever_cancels_a_claim_that_nobody_confirmed_waits_for_no_lease(town: Town) -> None:
    email = town.service("email")
    await town.post("/admin/api/queue/pause")
    task_id = await town.send("infra")
    cut_once(town.store, claims_something)
    said = failures(town)
    await town.post("/admin/api/queue/resume")
    await town.until(lambda: said)
    cancelled = await town.store.apply(Cancel(task_id, town.clock.now_ms()))  # as another node does, which then waits
    assert cancelled.node == town.pool.node
    until = town.clock.monotonic() + 5

    async def let_go() -> bool:
        town.clock.turn(0.05)
        assert town.clock.monotonic() < until
        task = await town.store.task(task_id)
        return bool(task and task.node is None)

    await town.until(let_go)
    assert email.reached == []


async def test_the_first_key_is_shown_though_nobody_confirmed_it(tmp_path: Path) -> None:
    store = open_store(await fresh_database(), tmp_path)
    await store.open()
    ring = KeyRing(store, TurnedClock(), Callers([], tls=False))
    cut_once(store, lambda result: result is True)
    try:
        await ring.open()

        assert ring.first and ring.by_secret(ring.first.secret) is not None
    finally:
        await ring.close()
        await store.close()


async def test_when_keys_were_used_is_noted_though_storage_was_away_for_a_while(tmp_path: Path) -> None:
    store = open_store(await fresh_database(), tmp_path)
    await store.open()
    clock = TurnedClock()
    ring = KeyRing(store, clock, Callers([], tls=False))
    await ring.open()
    try:
        assert ring.first and ring.by_secret(ring.first.secret)
        used_ms = clock.now_ms()
        cut_once(store, lambda result: result is None, lost=True)
        with pytest.raises(StoreUnavailable):
            await ring.all()
        clock.turn(60)

        [key] = await ring.all()

        assert key.used_ms == used_ms
    finally:
        await ring.close()
        await store.close()


async def audited(town: Town) -> list[tuple[str, str]]:
    """(action, target) of what operators did, oldest first, but for what was sent."""
    entries = (await town.json("/admin/api/audit"))["entries"]
    return [(entry["action"], entry["target"]) for entry in reversed(entries) if entry["action"] != "send"]


async def test_what_was_done_though_nobody_confirmed_it_is_in_the_audit_log(town: Town) -> None:
    await town.post("/admin/api/queue/pause")
    task_id = await town.send("infra")
    key = {"name": "Centrale", "role": "viewer"}
    done = [("pause", "")]

    cut_once(town.store, leaves(Status.CANCELLED))
    assert (await town.post(f"/api/queue/tasks/{task_id}/cancel")).status == 503
    assert (await town.post(f"/api/queue/tasks/{task_id}/cancel")).status == 409
    cut_once(town.store, leaves(Status.PENDING))
    assert (await town.post(f"/api/queue/tasks/{task_id}/retry")).status == 503
    cut_once(town.store, lambda result: result is True)
    assert (await town.post("/admin/api/queue/resume")).status == 503
    done += [("cancel", task_id), ("retry", task_id), ("resume", "")]
    assert await audited(town) == done

    cut_once(town.store, lambda result: result is None)
    assert (await town.post("/admin/api/keys", key)).status == 503
    [made] = await town.store.keys()
    await town.app[FRONT].keyring.reload()
    cut_once(town.store, lambda result: isinstance(result, ApiKey))
    path = f"/admin/api/keys/{made.id}"
    assert (await town.client.delete(path, headers={"X-API-Key": ADMIN_KEY})).status == 503
    assert await audited(town) == [*done, ("key.add", made.id), ("key.revoke", made.id)]


@pytest.mark.parametrize("lost", [False, True], ids=["written", "not written"])
async def test_a_webhook_taken_though_nobody_confirmed_it_is_called_once_and_soon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lost: bool
) -> None:
    monkeypatch.setitem(stores.ENGINE, "name", "postgres")
    clock = TodaysClock()
    async with receiving(clock) as receiver, today(tmp_path, clock, **ALLOWING) as town:
        cut_once(town.store, lambda result: isinstance(result, Taken) and bool(result.hooks), lost=lost)

        task_id = await town.send("infra", webhook_url=receiver.url)

        await turned_until(town, lambda: bool(receiver.calls))
        hook = (await town.store.hooks_of(task_id))[0]
        assert hook.attempts == 1
        await turned_until(town, lambda: not town.app[WEBHOOKS].on_wire)
        town.clock.turn(60)
        await town.until_idle()
        assert len(receiver.calls) == 1
