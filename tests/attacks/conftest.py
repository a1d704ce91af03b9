"""One server per module of attacks: none of them may leave a trace, so the next finds it as it was."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
import uvloop

from tests.attacks.siege import Siege, besieged


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def siege(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Siege]:
    """A server that takes attacks."""
    async with besieged(tmp_path_factory.mktemp("siege")) as siege:
        yield siege


@pytest_asyncio.fixture(loop_scope="module")
async def unharmed(siege: Siege) -> AsyncIterator[None]:
    """After the test: nothing stored, no bug met, no secret said."""
    siege.forget()
    yield
    await siege.unharmed()


def pytest_asyncio_loop_factories(config: pytest.Config, item: pytest.Item) -> dict[str, Any]:
    """The event loop that the server runs on."""
    return {"uvloop": uvloop.new_event_loop}
