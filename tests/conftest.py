"""Fixtures that every test may use."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.kit import Town, running

settings.register_profile("tocsin", deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
settings.load_profile("tocsin")


@pytest.fixture
async def town(tmp_path: Path) -> AsyncIterator[Town]:
    """A running server with the shipped settings, over a store of its own."""
    async with running(tmp_path) as town:
        yield town
