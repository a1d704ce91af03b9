"""Fixtures that every test may use."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests import stores
from tests.kit import Town, running

settings.register_profile("tocsin", deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
settings.load_profile("tocsin")


@pytest.fixture(params=["sqlite", "postgres"])
def both_engines(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run a test over both stores."""
    monkeypatch.setitem(stores.ENGINE, "name", request.param)
    engine: str = request.param
    return engine


@pytest.fixture
async def town(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Town]:
    """A running server with the shipped settings, over a store of its own."""
    async with running(tmp_path) as town:
        yield town
