"""What is kept of the statements that were put together."""

from __future__ import annotations

from server.model import Priority
from server.store.postgres import _dialect
from server.store.reads import TaskFilter, on_engine, page_sql


def test_however_many_filters_are_asked_for_what_is_kept_of_them_is_bounded() -> None:
    for limit in range(1, 501):
        for types in range(4):
            only = TaskFilter(type=("meteo",) * types, priority=(Priority.HAUTE,))
            rows, _, _, _ = page_sql(only, None, None, limit)
            _dialect(on_engine(rows, "postgres"))

    assert _dialect.cache_info().currsize <= 1024
