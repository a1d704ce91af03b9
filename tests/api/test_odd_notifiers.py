"""Notifiers that break their promise: what one of them does to one recipient costs nobody else anything."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from notifiers import Message, Sent
from tests.kit import Town, jean


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
