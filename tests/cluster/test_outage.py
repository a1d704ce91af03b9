"""Storage goes away for a while, step by step: what is in hand waits for it, and nobody alive is taken for dead."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from server.store import StoreUnavailable
from server.store.engine import Op
from server.store.verify import verify
from server.store.writes import Claim, Renew, Sweep
from tests.kit import Town, jean


@pytest_asyncio.fixture(autouse=True)
async def whole(town: Town) -> AsyncIterator[None]:
    """Whatever was away: afterwards the store is whole."""
    yield
    assert await verify(town.store) == []


async def test_a_task_whose_recipients_cannot_be_read_goes_on_when_they_can(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = town.service("email")
    chunk, refusals = town.store.chunk, [1, 2, 3]

    async def failing(task_id: str, n: int) -> Any:
        if refusals:
            refusals.pop()
            raise StoreUnavailable("away")
        return await chunk(task_id, n)

    monkeypatch.setattr(town.store, "chunk", failing)
    task_id = await town.send("infra", [jean(number) for number in range(700)])

    async def ended() -> bool:
        town.clock.turn(0.2)
        return bool((await town.task(task_id))["status"] == "completed")

    await town.until(ended)
    assert not refusals
    assert len(service.reached) == len(set(service.reached)) == 700
    assert (await town.task(task_id))["attempts"] == 1


async def test_once_storage_is_back_the_living_have_a_moment_before_anyone_is_taken_for_dead(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    apply = town.store.apply
    sweeps: list[tuple[float, bool]] = []

    async def watched(op: Op) -> Any:
        if isinstance(op, Sweep):
            sweeps.append((town.clock.monotonic(), op.patient))
            if len(sweeps) == 1:
                raise StoreUnavailable("away")
        return await apply(op)

    def not_patient_any_more() -> bool:
        town.clock.turn(0.5)
        return len(sweeps) > 1 and not sweeps[-1][1]

    monkeypatch.setattr(town.store, "apply", watched)
    await town.until(not_patient_any_more)

    (away, _), *following = sweeps
    assert len(following) >= 2
    assert all(patient == (at < away + 3) for at, patient in following)


async def test_a_renewal_that_failed_is_made_up_for_at_once(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    service = town.service("email")
    service.hold()
    apply = town.store.apply
    renewals: list[float] = []

    async def watched(op: Op) -> Any:
        if isinstance(op, Renew):
            renewals.append(town.clock.monotonic())
            if len(renewals) == 1:
                raise StoreUnavailable("away")
        return await apply(op)

    monkeypatch.setattr(town.store, "apply", watched)
    task_id = await town.send("infra")
    await town.until(lambda: task_id in town.pool.hands)

    def renewed_twice() -> bool:
        town.clock.turn(0.5)
        return len(renewals) == 2

    await town.until(renewed_twice)

    assert renewals[1] - renewals[0] <= 3
    service.release()
    assert (await town.until_status(task_id, "completed"))["progress"]["sent"] == 1


async def test_a_defect_in_a_claim_does_not_end_claiming(
    town: Town, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    apply = town.store.apply
    defects = [RuntimeError("a defect")]

    async def watched(op: Op) -> Any:
        if isinstance(op, Claim) and defects:
            raise defects.pop()
        return await apply(op)

    await town.post("/admin/api/queue/pause")  # else it could be taken as it is stored, without a claim
    task_id = await town.send("infra")
    monkeypatch.setattr(town.store, "apply", watched)
    await town.post("/admin/api/queue/resume")

    async def ended() -> bool:
        town.clock.turn(0.5)
        return bool((await town.task(task_id))["status"] == "completed")

    await town.until(ended)
    assert "a defect" in caplog.text
