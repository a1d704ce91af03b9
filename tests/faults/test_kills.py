"""kill -9 at any moment: nothing that was acknowledged is lost, and only what was on the wire may come twice."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults import runs

SEED = 20_260_101


async def test_killed_again_and_again_under_load_it_loses_nothing(tmp_path: Path):
    report = await runs.kills(tmp_path, seed=SEED, rounds=3)

    assert report.faults == []
    assert report.account.acknowledged > 50


@pytest.mark.parametrize("step", runs.STEPS)
async def test_killed_at_a_named_step_it_loses_nothing(tmp_path: Path, step: str):
    report = await runs.kills(tmp_path, seed=SEED, rounds=1, step=step)

    assert report.faults == []
    assert report.killed == 1


async def test_a_large_task_that_is_killed_goes_on_where_it_was(tmp_path: Path):
    report = await runs.one_large(tmp_path, seed=SEED, recipients=10_000, rounds=3)

    assert report.faults == []
    assert report.account.delivered == 10_000
    assert report.account.worst <= 64
