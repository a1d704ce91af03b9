"""Turns: one that is alone goes at once; of many a few go in a turn, in order, and rest between."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from unittest.mock import Mock

import pytest

from server.api.turns import AT_ONCE, Turns


async def test_a_few_go_at_once_and_the_others_in_order_after_a_rest(monkeypatch: pytest.MonkeyPatch):
    rests: list[Callable[[], None]] = []
    loop = asyncio.get_running_loop()
    monkeypatch.setattr(
        "server.api.turns.asyncio.get_running_loop",
        lambda: Mock(
            call_soon=loop.call_soon, call_later=lambda _, go: rests.append(go), create_future=loop.create_future
        ),
    )
    turns, gone = Turns(), list[int]()

    async def work(n: int) -> None:
        await turns.take()
        gone.append(n)

    async def until_rest() -> None:
        while not rests:
            await asyncio.sleep(0)

    tasks = [asyncio.ensure_future(work(n)) for n in range(2 * AT_ONCE + 1)]
    await until_rest()
    assert gone == list(range(AT_ONCE))
    tasks[AT_ONCE].cancel()  # takes nobody's turn
    await asyncio.sleep(0)
    rests.pop()()
    await until_rest()
    assert gone == [*range(AT_ONCE), *range(AT_ONCE + 1, 2 * AT_ONCE + 1)]
    rests.pop()()
    await work(99)
    assert gone[-1] == 99
