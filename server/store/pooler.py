"""A pooler between a node and PostgreSQL, where many clients share few connections.

PgBouncer in transaction mode: 1.21 or later with `max_prepared_statements`, or any with `?statement_cache_size=0` in
the URL. The hint of new events then cannot be relied upon and the poll serves.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from server.store.engine import StoreRefused

POOLER = (
    "store.url: this pooler keeps no prepared statements; add ?statement_cache_size=0, or use PgBouncer 1.21 or later"
    " with max_prepared_statements; with pool_mode = session, add ?statement_cache_size=100"
)


def own_options(url: str) -> tuple[str, dict[str, int]]:
    """The URL without what is meant for asyncpg alone, and that."""
    parts = urlsplit(url)
    query = parse_qsl(parts.query, keep_blank_values=True)
    own = {name: int(value) for name, value in query if name == "statement_cache_size"}
    if not own:
        return url, {}
    return urlunsplit(parts._replace(query=urlencode([pair for pair in query if pair[0] not in own], safe="/"))), own


async def check(connection: Any, own: str) -> None:
    """Refuse a pooler that hands the names of prepared statements on as they are: it would go well until one of them is
    asked for on another of its connections. `own` is a word that nobody else uses.

    Not to be asked where the URL says how many to keep: that is believed.
    """
    async with connection.transaction():
        if await connection.fetchval("SELECT pg_backend_pid()") == connection.get_server_pid():
            return  # there is none
        looked = await connection.prepare("SELECT name FROM pg_prepared_statements", name=f"tocsin_{own}")
        if (looked.get_name(),) in [tuple(row) for row in await looked.fetch()]:
            raise StoreRefused(POOLER)
