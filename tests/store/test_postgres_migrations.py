"""Migrations on PostgreSQL: from any schema before to this one, all or nothing, never backwards."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest

from server.store import StoreRefused, open_store, schema
from tests.pg import fresh_database

NEWEST = schema.scripts()[-1][0]


class Database:
    """A database, seen beside the store."""

    def __init__(self, url: str, beside: asyncpg.Connection, folder: Path):
        self.url, self.beside, self.folder = url, beside, folder

    async def open(self, times: int = 1) -> None:
        """Start so many nodes at once, and stop them."""
        stores = [open_store(self.url, self.folder) for _ in range(times)]
        await asyncio.gather(*(store.open() for store in stores))
        await asyncio.gather(*(store.close() for store in stores))

    async def version(self) -> int:
        return int(await self.beside.fetchval("SELECT value FROM meta WHERE key = 'schema'"))

    async def tables(self) -> set[str]:
        rows = await self.beside.fetch("SELECT tablename FROM pg_tables WHERE schemaname = current_schema()")
        return {row[0] for row in rows}


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    url = await fresh_database()
    beside = await asyncpg.connect(url)
    yield Database(url, beside, tmp_path)
    await beside.close()


@pytest.mark.parametrize("have", range(NEWEST))
async def test_a_database_of_any_version_becomes_this_one_though_four_nodes_start_at_once(
    database: Database, have: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = schema.scripts()
    if have:
        with monkeypatch.context() as older:
            older.setattr(schema, "scripts", lambda: steps[:have])
            await database.open()
        assert await database.version() == have
        await database.beside.execute("INSERT INTO meta (key, value) VALUES ('mine', 'stays')")

    await database.open(times=4)

    assert await database.version() == NEWEST
    assert {"task", "webhook", "node"} <= await database.tables()
    kept = await database.beside.fetchval("SELECT value FROM meta WHERE key = 'mine'")
    assert kept == ("stays" if have else None)


async def test_a_newer_database_is_refused_and_left_as_it_is(database: Database) -> None:
    await database.open()
    await database.beside.execute("UPDATE meta SET value = '9999' WHERE key = 'schema'")

    with pytest.raises(StoreRefused, match="made by a newer Tocsin"):
        await database.open()

    assert await database.version() == 9999


async def test_a_migration_that_fails_leaves_nothing_behind(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    await database.open()
    before = await database.tables()
    steps = [*schema.scripts(), (NEWEST + 1, "CREATE TABLE halfway (n BIGINT); CREATE TABLE halfway (n BIGINT)")]
    with monkeypatch.context() as broken:
        broken.setattr(schema, "scripts", lambda: steps)
        with pytest.raises(asyncpg.DuplicateTableError):
            await database.open()

    assert await database.tables() == before
    await database.open()
    assert await database.version() == NEWEST
