"""The stream of a whole server, over the real store: what is told is what was committed, over a restart too."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any
from unittest.mock import patch

import msgspec
import pytest
from aiohttp import ClientWebSocketResponse, WSMsgType

from server.api.frames import LogEvent
from server.api.stream import close_streams
from server.log import PAGE, Log
from server.views import TaskView
from tests.api.stream_kit import frame, read_to, seqs
from tests.kit import ADMIN_KEY, Town, running

both = pytest.mark.usefixtures("both_engines")


async def opened(town: Town, query: str) -> tuple[ClientWebSocketResponse, dict[str, Any]]:
    """A stream and its hello."""
    ws = await town.client.ws_connect(f"/ws/events?{query}", headers={"X-API-Key": ADMIN_KEY})
    return ws, await frame(ws)


@both
async def test_a_follower_goes_on_where_it_was_after_a_restart(tmp_path: Path):
    async with running(tmp_path) as town:
        ws, hello = await opened(town, "")
        for _ in range(3):
            await town.send()
        await town.until_idle()
        _, head = await town.store.bounds()
        seen = await read_to(ws, head)
        assert seqs(seen) == list(range(hello["seq"] + 1, head + 1))
        last = await opened(town, f"since={head}")
        await town.send()
        await town.until_idle()
        closing = asyncio.create_task(close_streams(town.app))
        rest = []
        while (message := await last[0].receive()).type is WSMsgType.TEXT:
            rest.append(msgspec.json.decode(message.data))
        assert rest[-1]["kind"] == "shutdown"
        assert last[0].close_code == 1001
        await ws.close()
        await closing
    since = max([head, *(each.get("to", 0) for each in rest)])

    async with running(tmp_path) as town:
        ws, hello = await opened(town, f"since={since}")
        await town.send("securite")
        await town.until_idle()
        oldest, newest = await town.store.bounds()
        assert hello["oldest"] == oldest
        after = await read_to(ws, newest)
        assert seqs(seen + rest + after) == list(range(seqs(seen)[0], newest + 1))
        stored = [msgspec.json.decode(each.body) for each in await town.store.events_after(0, 1000)]
        assert [each for batch in seen + rest + after for each in batch.get("events", ())] == stored


@both
async def test_events_are_as_documented(town: Town):
    ws, _ = await opened(town, "stats=1")
    await town.send()
    await town.post("/admin/api/queue/pause")
    await town.until_idle()
    _, head = await town.store.bounds()
    found = [each for batch in await read_to(ws, head) for each in batch.get("events", ())]
    for each in found:
        line = msgspec.convert(each, LogEvent)
        if line.event.value.startswith("task."):
            msgspec.convert(line.task, TaskView)
    assert [each["event"] for each in found][:2] == ["task.enqueued", "task.started"]
    assert "queue.paused" in [each["event"] for each in found]


@both
async def test_a_deleted_task_is_told(town: Town):
    task_id = await town.send()
    await town.until_ended(task_id)
    ws, _ = await opened(town, f"task_id={task_id}")
    await town.post("/admin/api/queue/clear", {"hours": 0})
    (deleted,) = (await frame(ws))["events"]
    assert deleted["event"] == "task.deleted"
    assert set(deleted["task"]) == {"id", "type", "status", "priority"}


@both
async def test_one_tasks_events_are_found_by_index_as_by_looking_at_all(tmp_path: Path):
    async with running(tmp_path, EVENTS__RING="16") as town:
        ids = [await town.send() for _ in range(100)]
        await town.until_idle()
        found: list[list[int]] = []
        for far in (Log.far, lambda *_: False):
            with patch.object(Log, "far", far), patch.object(town.store, "events_of", wraps=town.store.events_of) as of:
                ws, hello = await opened(town, f"since=0&task_id={ids[50]}")
                found.append([])
                while len(found[-1]) < 3:
                    found[-1] += seqs([await frame(ws)])
                await ws.close()
            assert of.called is (len(found) == 1)
        assert found[0] == found[1]
        assert hello["seq"] > PAGE + 16  # far enough
