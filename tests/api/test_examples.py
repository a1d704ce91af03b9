"""The client examples of the README are whole, the same there as in their files, and outlive a server that says no."""

from __future__ import annotations

import asyncio
import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from tests.kit import ADMIN_KEY, Town, jean

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "docs" / "examples"


@pytest.mark.parametrize("name", ["subscribe.py", "subscribe.mjs"])
def test_the_readme_shows_the_example_as_it_is(name: str) -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")

    (shown,) = re.findall(rf"`docs/examples/{re.escape(name)}`\]\([^)]+\)\):\n\n```\w+\n(.*?)```", readme, re.DOTALL)

    assert shown == (EXAMPLES / name).read_text(encoding="utf-8")


async def test_the_python_subscriber_outlives_a_server_that_is_shutting_down(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = importlib.util.spec_from_file_location("subscribe", EXAMPLES / "subscribe.py")
    assert spec and spec.loader
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    monkeypatch.setattr(example.random, "uniform", lambda low, high: 0)
    refused = asyncio.Event()
    knocks = 0

    async def door(request: web.Request) -> web.StreamResponse:
        nonlocal knocks
        knocks += 1
        if knocks == 1:
            refused.set()
            raise web.HTTPServiceUnavailable()  # as a draining server answers, or the balancer in front of it
        raise web.HTTPTemporaryRedirect(town.client.make_url(request.path_qs))

    app = web.Application()
    app.router.add_get("/ws/events", door)
    seen: list[dict[str, Any]] = []
    arrived = asyncio.Event()

    def handle(event: dict[str, Any]) -> None:
        seen.append(event)
        arrived.set()

    await town.send("infra", [jean(1)])
    async with TestServer(app) as front:
        following = asyncio.create_task(
            example.subscribe(str(front.make_url("/")).rstrip("/"), ADMIN_KEY, handle, since=0)
        )
        await refused.wait()
        arriving = asyncio.create_task(arrived.wait())
        await asyncio.wait({following, arriving}, return_when=asyncio.FIRST_COMPLETED)
        arriving.cancel()
        following.cancel()

    assert seen and seen[0]["event"] == "task.enqueued"
