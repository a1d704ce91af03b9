"""Power loss and a disk that says no: what was acknowledged is there, and what cannot be stored is not acknowledged."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import apsw
import pytest

from tests.faults.checkers import check_log, contents, verified
from tests.faults.harness import notice, people
from tests.faults.power import cut, on_disk
from tests.faults.vfs import Disk
from tests.kit import Town

SEED = 20_260_103
BODY = notice(people(2))


async def test_every_202_before_the_cut_is_there_behind_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("server.store.checkpoint.STEP_PAGES", 100)  # the log is written back again and again
    loss = await cut(tmp_path, seed=SEED, posts=240, cuts=30)

    assert (loss.lost, loss.faults) == ([], [])
    assert loss.acknowledged == 240
    assert loss.checkpoints > 2


async def test_the_same_checker_finds_what_a_lazy_store_loses(tmp_path: Path):
    loss = await cut(tmp_path, seed=SEED, posts=80, cuts=12, synchronous="NORMAL")

    assert loss.lost


@pytest.fixture
async def disk(request: pytest.FixtureRequest) -> AsyncIterator[Disk]:
    disk = Disk(f"disk-{request.node.name}")
    yield disk
    disk.unregister()


async def refused(town: Town) -> None:
    """A POST is answered 503."""
    answer = await town.post("/api/notifications/meteo", BODY)
    assert answer.status == 503, await answer.text()
    assert (await answer.json())["detail"]


@pytest.mark.parametrize(
    "where, error",
    [
        ("no_writes", apsw.FullError("disk full")),
        ("no_writes", apsw.IOError("write failed")),
        ("no_syncs", apsw.IOError("sync failed")),
    ],
    ids=["full", "failing", "sync"],
)
async def test_a_disk_that_says_no_is_a_503_and_then_all_goes_on(
    tmp_path: Path, disk: Disk, where: str, error: BaseException
):
    async with on_disk(tmp_path, disk) as town:
        before = [await town.send(recipients=people(3)) for _ in range(5)]
        await town.until_idle()
        service = town.service("email")
        service.hold()
        in_hand = await town.send(recipients=people(3))
        await service.arrived.wait()

        setattr(disk, where, error)
        for _ in range(3):
            await refused(town)
        service.release()  # its outcomes cannot be written now
        await refused(town)
        assert (await town.get("/api/health")).status == 200
        setattr(disk, where, None)

        after = [await town.send(recipients=people(3)) for _ in range(5)]
        await town.turn(2)
        for task_id in (*before, in_hand, *after):
            assert (await town.until_status(task_id, "completed", "failed"))["status"] == "completed"
        assert service.reached[:3] == ["u0", "u1", "u2"]
        assert len(service.calls) == 3 * 6
    assert disk.refused
    found = contents(tmp_path / "tocsin.db")
    assert found.faults + check_log(found) + await verified(tmp_path / "tocsin.db") == []


async def test_a_disk_that_cannot_be_read_is_a_503(tmp_path: Path, disk: Disk):
    async with on_disk(tmp_path, disk) as town:
        task_id = await town.send()
        await town.until_idle()
        disk.no_reads = apsw.IOError("read failed")
        statuses = {(await town.get(f"/api/queue/tasks/{task_id}")).status for _ in range(4)}
        disk.no_reads = None

        assert statuses <= {200, 503}  # 200: out of the page cache
        assert (await town.task(task_id))["status"] == "completed"
    assert await verified(tmp_path / "tocsin.db") == []
