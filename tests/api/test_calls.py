"""The calls of one task: how many are on the wire at once, and what becomes of those that wait for their turn."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from notifiers import Message, Outcome, Sent
from server.app import CHANNELS
from server.store.reads import Chunk
from server.store.writes import CHUNK
from tests.kit import jean, running

pytestmark = pytest.mark.usefixtures("both_engines")


async def test_what_waits_for_a_slow_channel_is_given_back_at_once(tmp_path: Path) -> None:
    async with running(tmp_path, CHANNELS__EMAIL__RATE_PER_SECOND="0.001") as town:
        email = town.service("email")
        task_id = await town.send("infra", [jean(number) for number in range(5)])
        await town.until(lambda: email.calls and town.app[CHANNELS]["email"].gate.waiting)

        await town.post("/admin/api/queue/pause")  # else it would be taken up again

        town.pool.stop(task_id, "drain")
        await town.until_status(task_id, "pending")

        assert len(email.calls) == 1
        assert [row["status"] for row in await town.deliveries(task_id)] == ["sent"] + ["waiting"] * 4


async def test_no_more_is_on_the_wire_or_not_yet_recorded_than_may_be_also_while_recipients_are_read_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path, DELIVERY__CONCURRENCY="2") as town:
        email, read, out = town.service("email"), town.store.chunk, []

        def answered(message: Message) -> Outcome:
            hand = town.pool.hands[message.id.rpartition(".")[0]]
            out.append(hand._on_wire + len(hand._unrecorded))
            if len(out) == CHUNK - 1:
                email.hold()  # the last call before recipients are read on
            return Sent()

        async def once_the_last_call_is_back(task_id: str, n: int) -> Chunk | None:
            email.release()
            await town.until(lambda: len(out) == n)
            for _ in range(20):  # who made it finds nobody left to call, and waits for more as well
                await asyncio.sleep(0)
            email.hold()
            return await read(task_id, n)

        email.hold()
        email.always(answered)
        monkeypatch.setattr(town.store, "chunk", once_the_last_call_is_back)
        task_id = await town.send("infra", [jean(number) for number in range(2 * CHUNK)])
        for answers in (0, CHUNK):
            await town.until(lambda answers=answers: len(out) == answers and len(email.calls) >= answers + 1)
            await town.until(lambda: not email._open.is_set())
            for _ in range(200):  # as many as may be are on the wire
                await asyncio.sleep(0)
            email.release()
        await town.until_status(task_id, "completed")

    assert (len(out), max(out)) == (2 * CHUNK, 2)
