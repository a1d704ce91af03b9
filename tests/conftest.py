"""Fixtures that every test may use."""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests import stores
from tests.kit import Town, running

# The same examples in every run, however slow the machine; with TOCSIN_NIGHTLY set, others every time.
settings.register_profile(
    "tocsin", deadline=None, suppress_health_check=list(HealthCheck), database=None,
    derandomize=not os.environ.get("TOCSIN_NIGHTLY"),
)  # fmt: skip
settings.load_profile("tocsin")


@pytest.fixture(params=["sqlite", "postgres"])
def both_engines(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run a test over both stores."""
    monkeypatch.setitem(stores.ENGINE, "name", request.param)
    engine: str = request.param
    return engine


@pytest.fixture
def unused_tcp_port() -> Iterator[int]:
    """A port at which nobody answers, and that is given to nobody else meanwhile."""
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        yield nobody.getsockname()[1]


@pytest.fixture
async def town(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Town]:
    """A running server with the shipped settings, over a store of its own."""
    async with running(tmp_path) as town:
        yield town
