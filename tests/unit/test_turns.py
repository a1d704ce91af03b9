"""Turns: one that is alone goes at once; of many a few go in a turn, in order, and rest between."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from server.api import turns as module
from server.api.turns import AT_ONCE, Turns, rest


async def test_a_few_go_at_once_and_the_others_in_order_after_a_rest(monkeypatch: pytest.MonkeyPatch):
    rests: list[Callable[[], None]] = []
    monkeypatch.setattr(module, "pause", lambda _, seconds, then: rests.append(then))
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


class Hands:
    """A clock and an event loop's queue that a test turns: each turn takes as long as it says."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self.now = 0.0
        self.queue: list[tuple[Callable[..., None], tuple[object, ...]]] = []
        monkeypatch.setattr(module, "perf_counter", lambda: self.now)

    def call_soon(self, call: Callable[..., None], *arguments: object) -> None:
        self.queue.append((call, arguments))

    def turn(self, seconds: float) -> None:
        self.now += seconds
        waiting, self.queue = self.queue, []
        for call, arguments in waiting:
            call(*arguments)


def test_a_rest_lasts_as_long_as_others_have_something_to_do(monkeypatch: pytest.MonkeyPatch):
    hands, over = Hands(monkeypatch), list[float]()
    rest(hands, 0.01, lambda: over.append(hands.now))  # type: ignore[arg-type]
    for _ in range(9):
        hands.turn(0.001)
    assert over == []
    hands.turn(0.001)
    assert over == [pytest.approx(0.01)]
    assert hands.queue == []


def test_a_rest_is_over_once_nobody_else_has_anything_to_do(monkeypatch: pytest.MonkeyPatch):
    hands, over = Hands(monkeypatch), list[float]()
    rest(hands, 0.01, lambda: over.append(hands.now))  # type: ignore[arg-type]
    hands.turn(0.001)
    hands.turn(0.00001)
    assert over == [pytest.approx(0.00101)]
