"""What is removed goes in slices: no transaction deletes more than a bounded number of rows."""

from __future__ import annotations

from pathlib import Path

import pytest

from server.api.context import STORE
from server.app import RETENTION
from server.http.front import FRONT
from server.store import desk
from server.store.desk import EmptyTrash
from tests.kit import Town, jean, running

pytestmark = pytest.mark.usefixtures("both_engines")


async def rows(town: Town, table: str) -> int:
    found = await town.app[STORE].snapshot(lambda tx: tx.all(f"SELECT COUNT(*) FROM {table}"))
    return int(found[0][0])


async def test_what_hangs_on_removed_tasks_goes_slice_by_slice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(desk, "SLICE", 50)
    async with running(tmp_path) as town:
        await town.send("infra", [jean(number) for number in range(120)])
        for _ in range(5):
            await town.send("infra", [jean(1), jean(2)])
        await town.until_idle()
        await town.post("/admin/api/queue/clear", {"hours": 0})
        assert (await rows(town, "trash"), await rows(town, "outcome")) == (6, 130)

        slices = 0
        before = await rows(town, "outcome")
        while await town.store.apply(EmptyTrash()):
            slices += 1
            now = await rows(town, "outcome")
            assert before - now <= 50
            before = now

        assert slices >= 3
        assert [await rows(town, table) for table in ("task", "chunk", "outcome", "trash")] == [0, 0, 0, 0]


async def test_a_sign_in_link_that_ran_out_unused_is_removed_by_itself(town: Town) -> None:
    await town.app[FRONT].keyring.new_once(town.own_key())
    assert await rows(town, "once") == 1

    async def gone() -> bool:
        town.clock.turn(61)
        return await rows(town, "once") == 0

    town.clock.turn(14 * 60)
    assert await rows(town, "once") == 1
    await town.until(gone)


async def test_old_tasks_and_events_are_removed_by_themselves_and_young_ones_stay(tmp_path: Path) -> None:
    async with running(tmp_path, QUEUE__RETENTION_HOURS="1", EVENTS__RETENTION_HOURS="2") as town:
        old = await town.send()
        await town.until_idle()
        town.clock.turn(3700)
        young = await town.send()
        await town.until_idle()

        async def gone() -> bool:
            return (await town.get(f"/api/queue/tasks/{old}")).status == 404

        town.clock.turn(61)
        await town.until(gone)
        assert (await town.task(young))["status"] == "completed"
        assert await rows(town, "event") > 0

        town.clock.turn(8000)
        town.clock.turn(61)

        async def trimmed() -> bool:
            town.clock.turn(61)
            oldest, _ = await town.store.bounds()
            return oldest > 4

        await town.until(trimmed)
        assert town.app[RETENTION]
