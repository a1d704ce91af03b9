"""Nodes that come to PostgreSQL by way of a PgBouncer in transaction mode: what README says of it."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest

from server.store import StoreRefused, open_store
from tests.cluster import runs
from tests.cluster.kit import Postgres
from tests.cluster.pgbouncer import KEEPS_STATEMENTS, Bouncer, find, version_of
from tests.pg import fresh_database

SEED = 20_260_305
NEEDS = "1.21 or later with max_prepared_statements"


def ways() -> list[str]:
    """What of README's ways this PgBouncer has; where there is none at all, the tests say so."""
    found = find()
    return ["statement_cache_size=0"] + ([NEEDS] if found and (version_of(found) or ()) >= KEEPS_STATEMENTS else [])


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    """A server of this file's own."""
    made = Postgres()
    yield made
    made.close()


@pytest.mark.parametrize("by", ways())
async def test_nodes_behind_a_pgbouncer_do_all_once_and_are_told_of_each_other_though_it_is_restarted(
    tmp_path: Path, postgres: Postgres, by: str
) -> None:
    options = {} if by == NEEDS else {"statement_cache_size": "0"}
    async with Bouncer(postgres.url, keeps_statements=by == NEEDS) as bouncer:

        async def restart(how: signal.Signals) -> None:
            await bouncer.stop(how)
            await bouncer.start()

        report = await runs.by_way(
            tmp_path,
            postgres,
            seed=SEED,
            way=lambda url: bouncer.url(url, **options),
            troubles=(lambda: restart(signal.SIGINT), lambda: restart(signal.SIGKILL)),
        )

    assert report.faults == []
    assert report.account.acknowledged > 50


async def test_a_pooler_that_keeps_no_prepared_statements_is_refused_at_the_start_with_what_it_needs(
    tmp_path: Path,
) -> None:
    direct = await fresh_database()
    async with Bouncer(direct, keeps_statements=False) as bouncer:
        with pytest.raises(StoreRefused, match=r"add \?statement_cache_size=0, or use PgBouncer 1\.21 or later"):
            await open_store(bouncer.url(direct), tmp_path).open()

        connection = await asyncpg.connect(direct)
        assert await connection.fetchval("SELECT to_regclass('meta')") is None, "nothing was written"
        await connection.close()


async def test_a_pooler_with_a_connection_for_each_client_is_taken_where_the_url_says_so(tmp_path: Path) -> None:
    direct = await fresh_database()
    async with Bouncer(direct, keeps_statements=False, mode="session") as bouncer:
        store = open_store(bouncer.url(direct, statement_cache_size="100"), tmp_path)
        await store.open()
        assert await store.keys() == []
        await store.close()
