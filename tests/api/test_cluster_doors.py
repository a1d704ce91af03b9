"""Behind a balancer no node is special: what one was told, any other knows."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from notifiers import Refused
from server.app import WEBHOOKS
from server.http.auth import new_key
from server.http.front import FRONT
from server.model import Role
from tests import stores
from tests.api.hooks_support import SECRETS, TodaysClock, receiving, turn_until
from tests.kit import ADMIN_KEY, Town, jean, running
from tests.pg import holding
from tests.stores import store_url

Pair = tuple[Town, Town]
BODY = {"titre": "alerte", "message": "Tempête prévue", "utilisateurs": [jean()]}


async def test_an_idempotency_key_is_known_at_every_node(pair: Pair) -> None:
    a, b = pair
    first = await a.post("/api/notifications/meteo", BODY, **{"Idempotency-Key": "k1"})

    again = await b.post("/api/notifications/meteo", BODY, **{"Idempotency-Key": "k1"})
    other = await b.post("/api/notifications/meteo", BODY | {"titre": "autre"}, **{"Idempotency-Key": "k1"})

    assert (first.status, again.status, other.status) == (202, 202, 422)
    assert again.headers["Idempotent-Replayed"] == "true"
    assert await again.json() == await first.json()


async def test_the_same_key_at_two_nodes_at_once_makes_one_task(pair: Pair) -> None:
    posts = [
        node.post("/api/notifications/meteo", BODY, **{"Idempotency-Key": f"k{number}"})
        for number in range(10)
        for node in pair
    ]
    answers = await asyncio.gather(*posts)

    assert {answer.status for answer in answers} <= {202, 409}
    made = {(await answer.json())["task_id"] for answer in answers if answer.status == 202}
    assert len(made) == 10


async def test_while_a_key_is_in_hand_at_one_node_another_says_so_and_afterwards_gives_the_same_answer(
    pair: Pair, tmp_path: Path
) -> None:
    a, b = pair
    path, key = "/api/notifications/meteo", {"Idempotency-Key": "k1"}
    seq = "SELECT n FROM counter WHERE name = 'seq' FOR UPDATE"  # what the first needs to commit

    async with holding(await store_url(tmp_path), seq) as until_waiting:
        first = asyncio.create_task(a.post(path, BODY, **key))
        await until_waiting("WITH taken AS", 1)
        meanwhile = [await b.post(path, body, **key) for body in (BODY, BODY | {"titre": "autre"})]
        assert not first.done()
    answered, again, other = (
        await first,
        await b.post(path, BODY, **key),
        await b.post(path, BODY, **{"Idempotency-Key": "k2"}),
    )

    assert [(answer.status, (await answer.json())["code"]) for answer in meanwhile] == [
        (409, "idempotency-in-hand")
    ] * 2
    assert (answered.status, again.status, other.status) == (202, 202, 202)
    assert "Idempotent-Replayed" not in answered.headers and again.headers["Idempotent-Replayed"] == "true"
    assert await answered.json() == await again.json() != await other.json()


async def test_a_pause_at_one_node_stops_all_and_a_resume_at_another_lets_them_go_on(pair: Pair) -> None:
    a, b = pair
    services = [node.service("email") for node in pair]
    assert (await a.post("/admin/api/queue/pause", {})).status == 200
    await b.until(lambda: b.pool._paused)  # it has been told
    ids = [await node.send() for node in pair for _ in range(3)]
    for node in pair:
        node.clock.turn(15)
        assert (await node.json("/api/queue/stats"))["stats"]["paused"]
    assert [service.calls for service in services] == [[], []]

    assert (await b.post("/admin/api/queue/resume", {})).status == 200
    for task_id in ids:
        await b.until_status(task_id, "completed")


async def test_a_key_revoked_at_one_node_closes_sockets_at_another_within_5_seconds(pair: Pair) -> None:
    a, b = pair
    made = await (await b.post("/admin/api/keys", {"name": "k", "role": "viewer"})).json()
    async with b.client.ws_connect("/ws/events", headers={"X-API-Key": made["key"]}) as socket:
        assert (await socket.receive_json())["kind"] == "hello"
        assert (await a.client.delete(f"/admin/api/keys/{made['id']}", headers={"X-API-Key": ADMIN_KEY})).status < 300

        b.clock.turn(5)
        await socket.receive(timeout=60)
        assert socket.close_code == 1008
    assert (await b.client.get("/api/queue/stats", headers={"X-API-Key": made["key"]})).status == 401


async def test_a_session_begun_at_one_node_holds_at_another_and_ends_for_both(pair: Pair) -> None:
    a, b = pair
    signed_in = await a.client.post("/admin/login", json={"key": ADMIN_KEY})
    cookie = {"Cookie": signed_in.headers["Set-Cookie"].partition(";")[0]}
    assert (await b.client.get("/api/queue/stats", headers=cookie)).status == 200

    own = str(b.client.make_url("/")).rstrip("/")
    assert (await b.client.post("/admin/logout", headers=cookie | {"Origin": own})).status < 400
    a.clock.turn(5)

    async def ended() -> bool:
        return (await a.client.get("/api/queue/stats", headers=cookie)).status == 401

    await a.until(ended)


async def test_a_sign_in_link_made_at_one_node_opens_another_once(pair: Pair) -> None:
    a, b = pair
    link = f"/admin/login?once={await a.app[FRONT].keyring.new_once(a.own_key())}"

    opened = await b.client.get(link, allow_redirects=False)
    again = [await node.client.get(link, allow_redirects=False) for node in pair]

    assert (opened.status, opened.headers["Location"]) == (303, "/admin/queue")
    assert [answer.status for answer in again] == [401, 401]
    cookie = {"Cookie": opened.headers["Set-Cookie"].partition(";")[0]}
    assert (await a.client.get("/api/queue/stats", headers=cookie)).status == 200


async def test_a_sign_in_link_opens_one_of_two_nodes_that_are_asked_at_the_same_time(
    pair: Pair, tmp_path: Path
) -> None:
    a, _ = pair
    link = f"/admin/login?once={await a.app[FRONT].keyring.new_once(a.own_key())}"

    async with holding(await store_url(tmp_path), "SELECT 1 FROM once FOR UPDATE") as until_waiting:
        asking = [asyncio.create_task(node.client.get(link, allow_redirects=False)) for node in pair]
        await until_waiting("DELETE FROM once", 2)
    answers = await asyncio.gather(*asking)

    assert sorted(answer.status for answer in answers) == [303, 401]


async def test_a_sign_in_link_with_a_key_made_a_moment_ago_opens_a_node_that_has_not_heard_of_it(pair: Pair) -> None:
    a, b = pair
    key, _ = new_key("m", Role.VIEWER, a.clock.now_ms())
    await a.app[FRONT].keyring.add(key)
    link = f"/admin/login?once={await a.app[FRONT].keyring.new_once(key)}"

    assert (await b.client.get(link, allow_redirects=False)).status == 303


async def test_what_is_done_at_one_node_stands_in_the_audit_log_of_every_node(pair: Pair) -> None:
    a, b = pair
    task_id = await a.send()
    await b.post("/admin/api/queue/pause", {})

    seen = [[(e["action"], e["target"]) for e in (await node.json("/admin/api/audit"))["entries"]] for node in pair]
    assert seen[0] == seen[1]
    assert any(task_id == target for _, target in seen[0])


async def test_what_is_critique_is_begun_though_every_node_is_busy(pair: Pair) -> None:
    a, b = pair
    services = [node.service("email") for node in pair]
    for service in services:
        service.hold()
    for _ in range(4):  # two workers each
        await a.send("infra", priorite="NORMALE")
    await a.until(lambda: sum(len(service.calls) for service in services) == 4)

    urgent = [await node.send("securite", priorite="CRITIQUE") for node in (a, a)]

    await a.until(lambda: sum(len(service.calls) for service in services) == 6)
    for task_id in urgent:
        assert (await b.task(task_id))["status"] == "processing"
    for service in services:
        service.release()


async def test_a_webhook_is_called_by_one_node_and_by_another_once_that_one_is_dead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(stores.ENGINE, "name", "postgres")
    async with receiving(TodaysClock()) as receiver, AsyncExitStack() as stack:
        hooks = {"WEBHOOKS__SECRETS": f'["{SECRETS[0]}"]', "WEBHOOKS__ALLOW": '["127.0.0.1"]'}
        nodes = [await stack.enter_async_context(running(tmp_path, name, **hooks)) for name in "ab"]
        await nodes[0].send(webhook_url=receiver.url)
        await receiver.until_called(1)
        await nodes[0].until_idle()
        assert len(receiver.calls) == 1

        receiver.hold()
        await nodes[0].send(webhook_url=receiver.url)
        await receiver.until_called(2)
        dead = next(node for node in nodes if node.app[WEBHOOKS].on_wire)
        alive = next(node for node in nodes if node is not dead)
        for call in dead.app[WEBHOOKS]._calls:
            call.cancel()
        receiver.release()
        await turn_until(alive, lambda: len(receiver.calls) == 3, step_s=5)

    assert receiver.calls[1].headers["webhook-id"] == receiver.calls[2].headers["webhook-id"]


async def test_an_alert_is_raised_and_told_once_by_all_nodes_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(stores.ENGINE, "name", "postgres")
    eager = {"ALERTS__MIN_TASKS": "3", "ALERTS__FAILURE_RATIO": "0.5", "ALERTS__NOTIFY": '["sms:+33612345678"]'}
    async with running(tmp_path, "a", **eager) as a, running(tmp_path, "b", **eager) as b:
        phones = [node.service("sms") for node in (a, b)]
        for node in (a, b):
            node.service("email").always(lambda message: Refused("address_refused", "550"))
        for node in (a, b, a, b):
            await node.until_status(await node.send(), "failed")
        await a.until(lambda: sum(len(phone.calls) for phone in phones) >= 1)
        for node in (a, b):
            await turn_until(node, lambda: True)
        stats = [(await node.json("/api/queue/stats"))["stats"]["alerts"] for node in (a, b)]
        kinds = [event.kind for event in await a.store.events_after(0, 1000)]

    assert stats[0] == stats[1] and len(stats[0]) == 1
    assert kinds.count("alert.raised") == 1
    assert sum(len(phone.calls) for phone in phones) == 1


async def test_three_nodes_that_start_at_once_on_an_empty_store_make_one_admin_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(stores.ENGINE, "name", "postgres")
    await store_url(tmp_path)
    async with AsyncExitStack() as stack:
        starts = [stack.enter_async_context(running(tmp_path, name, AUTH__ADMIN_KEY="")) for name in "abc"]
        nodes = await asyncio.gather(*starts)
        made = [node.app[FRONT].keyring.first for node in nodes if node.app[FRONT].keyring.first]
        keys = await nodes[0].store.keys()
        assert len(made) == len(keys) == 1
        for node in nodes:
            answer = await node.client.get("/api/queue/stats", headers={"X-API-Key": made[0].secret})
            assert answer.status == 200
