"""PostgreSQL fails over to a replica that lacks the last commits: nobody goes on as if they had happened."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import asyncpg
import pytest

from server.store import StoreUnavailable
from tests import stores
from tests.kit import ADMIN_KEY, Town, jean, running


async def fail_over(url: str, seq: int) -> None:
    """As if the database had come back without the events behind `seq`, to nodes that were cut off meanwhile."""
    beside = await asyncpg.connect(url)
    try:
        await beside.execute("DELETE FROM event WHERE seq > $1", seq)
        await beside.execute("UPDATE counter SET n = $1 WHERE name = 'seq'", seq)
        await beside.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
    finally:
        await beside.close()


async def until_answered(town: Town) -> None:
    """Wait until storage says yes again."""
    while True:
        try:
            return await town.store.touch_keys({})
        except StoreUnavailable:
            continue


async def test_events_after_a_failover_are_told_behind_a_gap_under_numbers_that_nobody_had(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(stores.ENGINE, "name", "postgres")
    async with running(tmp_path) as town:
        await town.until_status(await town.send("infra", [jean()]), "completed")
        kept = (await town.store.bounds())[1]
        await town.until_status(await town.send("infra", [jean()]), "completed")
        lost = (await town.store.bounds())[1]
        async with town.client.ws_connect(f"/ws/events?since={lost}", headers={"X-API-Key": ADMIN_KEY}) as ws:
            assert (await ws.receive_json())["kind"] == "hello"

            await fail_over(await stores.store_url(tmp_path), kept)
            await until_answered(town)
            task_id = await town.send("infra", [jean()])

            frames: list[dict[str, Any]] = []
            while not frames or frames[-1]["events"][-1]["event"] != "task.completed":
                frame = await ws.receive_json(timeout=60)
                if frame["kind"] == "gap":
                    assert not frames, "it is told first"
                    assert (frame["from"], frame["to"]) == (lost + 1, lost + 1)
                elif frame["kind"] == "events" and frame["events"]:
                    frames.append(frame)
            events = [event for frame in frames for event in frame["events"]]
            assert [event["task"]["id"] for event in events] == [task_id] * 3
            assert [event["seq"] for event in events] == [lost + 2, lost + 3, lost + 4]
