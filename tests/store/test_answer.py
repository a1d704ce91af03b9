"""Whoever waits for storage is told no in time, whatever storage does."""

from __future__ import annotations

from time import perf_counter

import pytest

from server.store import LOOK_S, Store, StoreUnavailable
from server.store.desk import Run
from server.store.engine import Op

PROMISED_S = 5
"""CONTRACT, section 4, point 5."""


class Silent:
    """An engine that never answers."""

    dialect = "sqlite"

    def submit(self, op: Op) -> None:
        pass


async def test_who_waits_for_storage_is_told_no_before_the_promised_time_is_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = Store(Silent())  # type: ignore[arg-type]
    begun = perf_counter()
    monkeypatch.setattr("server.store.perf_counter", lambda: begun)
    answer = store.submit(Run("SELECT 1", ()))

    last_look = begun + PROMISED_S - LOOK_S  # the next would be too late
    monkeypatch.setattr("server.store.perf_counter", lambda: last_look)

    with pytest.raises(StoreUnavailable):
        await answer
