"""Notifiers that break their promise: what one of them does to one recipient costs nobody else anything."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from notifiers import Message, Sent
from tests.kit import Town, jean, running


def cancelled(message: Message) -> Any:
    raise asyncio.CancelledError


@pytest.mark.parametrize("odd", [lambda message: None, lambda message: "ok", cancelled])
async def test_what_is_no_outcome_is_tried_again_and_never_taken_for_sent(
    town: Town, odd: Callable[[Message], Any]
) -> None:
    email = town.service("email")
    first: set[str] = set()

    def answer(message: Message) -> Any:
        if message.recipient == "u1" and not first:
            first.add(message.recipient)
            return odd(message)
        return Sent()

    email.always(answer)
    task_id = await town.send("infra", [jean(number) for number in range(4)])
    await town.until_idle()

    task = await town.task(task_id)
    assert (task["status"], task["progress"]["sent"]) == ("pending", 3)
    assert (await town.until_ended(task_id))["status"] == "completed"
    assert email.reached.count("u1") == 2
    assert len(email.calls) == 5


async def test_one_that_cannot_close_leaves_no_other_open(tmp_path: Path) -> None:
    closed: list[str] = []

    def closing(name: str, *, fails: bool) -> Callable[[], Awaitable[None]]:
        async def close() -> None:
            closed.append(name)
            if fails:
                raise RuntimeError("a defect")

        return close

    async with running(tmp_path) as town:
        for number, name in enumerate(("email", "sms", "app")):
            town.service(name).aclose = closing(name, fails=number == 0)  # type: ignore[method-assign]

    assert closed == ["email", "sms", "app"]
