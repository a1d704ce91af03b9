"""Several nodes over one PostgreSQL: one queue, one log, nobody told twice."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from notifiers import Sent
from server.store.cluster import TakeDuty
from tests.kit import ADMIN_KEY, Town, jean


async def test_each_task_is_done_by_one_node_once(pair: tuple[Town, Town]) -> None:
    a, b = pair
    services = [node.service("email") for node in pair]
    posts = [node.send("infra", [jean(number), jean(number + 1000)]) for number in range(150) for node in pair]
    ids = await asyncio.gather(*posts)

    await a.until_idle()

    reached = [call.id for service in services for call in service.calls]
    assert len(reached) == len(set(reached)) == 2 * len(ids)
    assert all(service.calls for service in services), "both nodes work"
    stats = (await b.json("/api/queue/stats"))["stats"]
    assert stats["tasks_by_status"]["completed"] == len(ids)


async def test_a_subscriber_at_one_node_sees_what_happens_at_the_other_without_a_gap(pair: tuple[Town, Town]) -> None:
    a, b = pair
    seen: list[dict[str, Any]] = []
    async with a.client.ws_connect("/ws/events?since=0", headers={"X-API-Key": ADMIN_KEY}) as socket:
        ids = await asyncio.gather(*(node.send("infra", [jean(number)]) for number in range(40) for node in (b, a, b)))
        ended: set[str] = set()
        while len(ended) < len(ids):
            frame = await socket.receive_json(timeout=60)
            for event in frame.get("events", []):
                seen.append(event)
                if event["event"] == "task.completed":
                    ended.add(event["task"]["id"])

    seqs = [event["seq"] for event in seen]
    assert seqs == list(range(seqs[0], seqs[0] + len(seqs)))
    assert ended == set(ids)


async def test_a_cancel_at_one_node_stops_the_calls_of_the_other(pair: tuple[Town, Town], tmp_path: Path) -> None:
    a, b = pair
    services = {node.pool.node: node.service("email") for node in pair}
    for service in services.values():
        service.hold()
    task_id = await a.send("infra", [jean(number) for number in range(200)])
    await a.until(lambda: task_id in a.pool.hands or task_id in b.pool.hands)
    owner, other = (a, b) if task_id in a.pool.hands else (b, a)

    cancelling = asyncio.create_task(other.post(f"/api/queue/tasks/{task_id}/cancel"))
    await owner.until(lambda: owner.pool.hands[task_id].stopped == "cancelled")
    while not cancelling.done():
        other.clock.turn(0.1)
        await asyncio.sleep(0)
    assert (await cancelling).status == 200
    called = len(services[owner.pool.node].calls)

    services[owner.pool.node].release()
    await owner.until(lambda: not owner.pool.hands)
    assert len(services[owner.pool.node].calls) == called < 200
    assert services[other.pool.node].calls == []


async def test_a_silent_nodes_task_is_taken_over_and_its_late_writes_are_refused(pair: tuple[Town, Town]) -> None:
    a, b = pair
    services = {node.pool.node: node.service("email") for node in pair}
    for service in services.values():
        service.hold()
    task_id = await a.send("infra", [jean(1)])
    await a.until_status(task_id, "processing")
    await a.until(lambda: task_id in a.pool.hands or task_id in b.pool.hands)
    sleeper, other = (a, b) if task_id in a.pool.hands else (b, a)
    fence = sleeper.pool.hands[task_id].task.fence
    await sleeper.lose_leases()

    other.clock.turn(11)

    def taken_up() -> bool:  # by whichever node is first
        return any(task_id in node.pool.hands and node.pool.hands[task_id].task.fence > fence for node in pair)

    await other.until(taken_up)
    for service in services.values():
        service.always(lambda message: Sent())
    for service in services.values():
        service.release()
    task = await other.until_status(task_id, "completed")
    assert task["progress"]["sent"] == 1


async def test_the_nodes_know_each_other_and_share_a_channels_rate(pair: tuple[Town, Town]) -> None:
    a, _ = pair
    for node in pair:
        node.clock.turn(6)

    async def both_seen() -> bool:
        return len((await a.json("/api/queue/stats"))["stats"]["nodes"]) == 2

    await a.until(both_seen)
    nodes = (await a.json("/api/queue/stats"))["stats"]["nodes"]
    assert [node["name"] for node in nodes] == ["a", "b"]


async def test_a_duty_is_one_nodes_at_a_time(pair: tuple[Town, Town]) -> None:
    a, b = pair

    async def take(node: Town, for_ms: int) -> bool:
        held: bool = await node.store.apply(TakeDuty("sweeping", node.pool.node, node.clock.now_ms(), for_ms))
        return held

    assert [await take(a, 60_000), await take(b, 60_000), await take(a, 0)] == [True, False, True]
    assert await take(b, 60_000)


async def test_a_key_made_at_one_node_opens_the_other(pair: tuple[Town, Town]) -> None:
    a, b = pair
    made = await (await a.post("/admin/api/keys", {"name": "k", "role": "viewer"})).json()
    b.clock.turn(3)

    async def known() -> bool:
        return (await b.client.get("/api/queue/stats", headers={"X-API-Key": made["key"]})).status == 200

    await b.until(known)


async def test_ten_nodes_may_start_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from server.store import open_store
    from tests.pg import fresh_database

    url = await fresh_database()
    stores = [open_store(url, tmp_path) for _ in range(10)]
    await asyncio.gather(*(store.open() for store in stores))
    try:
        assert [await store.bounds() for store in stores] == [(1, 0)] * 10
    finally:
        await asyncio.gather(*(store.close() for store in stores))
