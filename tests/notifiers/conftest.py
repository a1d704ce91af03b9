"""What holds sockets is tried on both event loops: asyncio's own, and uvloop, which the server runs on."""

from __future__ import annotations

import asyncio

import uvloop


def pytest_asyncio_loop_factories(config, item):
    if item.path.name in ("test_smtp.py", "test_gateway.py"):
        return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
    return {"uvloop": uvloop.new_event_loop}
