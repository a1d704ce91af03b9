"""Nodes as real processes over one PostgreSQL: killed, stopped, asleep, cut off; the campaign does it for longer."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster import runs
from tests.cluster.kit import Postgres

SEED = 20_260_201


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    """A server of this file's own, which it may stop."""
    made = Postgres()
    yield made
    made.close()


async def test_each_of_many_tasks_is_done_once_and_told_at_every_node(tmp_path: Path, postgres: Postgres) -> None:
    report = await runs.once(tmp_path, postgres, seed=SEED, tasks=600, nodes=3)

    assert report.faults == []
    assert (report.account.acknowledged, report.account.repeated) == (600, 0)


async def test_a_rolling_restart_under_load_loses_and_repeats_nothing(tmp_path: Path, postgres: Postgres) -> None:
    report = await runs.rolling(tmp_path, postgres, seed=SEED, rounds=2)

    assert report.faults == []
    assert report.account.repeated == 0


async def test_a_node_that_is_killed_again_and_again_loses_nothing(tmp_path: Path, postgres: Postgres) -> None:
    report = await runs.kills(tmp_path, postgres, seed=SEED, rounds=4)

    assert report.faults == []
    assert report.takeover_s < 45


async def test_a_node_that_sleeps_beyond_its_lease_is_taken_over_from(tmp_path: Path, postgres: Postgres) -> None:
    report = await runs.asleep(tmp_path, postgres, seed=SEED, rounds=1)

    assert report.faults == []


async def test_a_database_that_goes_away_costs_time_and_nothing_else(tmp_path: Path, postgres: Postgres) -> None:
    how = ("fast", "immediate", "cut", "frozen")
    report = await runs.storage(tmp_path, postgres, seed=SEED, rounds=4, how=how)

    assert report.faults == []


async def test_one_node_may_serve_and_another_deliver(tmp_path: Path, postgres: Postgres) -> None:
    report = await runs.split(tmp_path, postgres, seed=SEED, tasks=20)

    assert report.faults == []
