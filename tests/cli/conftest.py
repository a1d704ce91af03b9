"""The command line against a running server: `cli(…)` runs a command in a thread, as its own process would."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import NamedTuple

import pytest

from server.cli import main
from tests.kit import ADMIN_KEY, Town


class Ran(NamedTuple):
    """What a command came to."""

    code: int
    out: str
    err: str


Cli = Callable[..., Awaitable[Ran]]


@pytest.fixture
def cli(town: Town, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Cli:
    """Run a command against `town`."""
    monkeypatch.setenv("TOCSIN_URL", str(town.client.make_url("/")))
    monkeypatch.setenv("TOCSIN_KEY", ADMIN_KEY)

    async def run(*arguments: str) -> Ran:
        capsys.readouterr()
        code = await asyncio.to_thread(main, arguments)
        return Ran(code, *capsys.readouterr())

    return run
