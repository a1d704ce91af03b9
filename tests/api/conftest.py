"""Fixtures for tests that enter by the door."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests import stores
from tests.kit import Town, running


@pytest.fixture
async def pair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[Town, Town]]:
    """Two nodes of one cluster."""
    monkeypatch.setitem(stores.ENGINE, "name", "postgres")
    async with running(tmp_path, "a") as a, running(tmp_path, "b") as b:
        yield a, b
