"""Who is behind: something is heard all the while, frames follow each other, and what others left does no harm."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from aiohttp import ClientResponse

from server.log import SCAN
from server.model import Event, Role
from tests.api.http_kit import SECRETS
from tests.api.stream_kit import Desk, desk, event, frame, seqs

VIEWER = {"X-API-Key": SECRETS[Role.VIEWER]}


async def sse_frame(answer: ClientResponse) -> tuple[str | None, dict[str, Any]]:
    """The next frame of an SSE stream, and its id."""
    fields = {}
    async with asyncio.timeout(60):
        while line := (await answer.content.readline()).decode().rstrip("\n"):
            name, _, value = line.partition(": ")
            fields[name] = value
    return fields.get("id"), json.loads(fields["data"])


def hold_reads(kit: Desk, behind: int) -> Callable[[], bool]:
    """Have the store not answer who reads behind `behind` until `kit.shelf.answers` is set; was it asked?"""
    read, asked = kit.shelf.events_after, []
    kit.shelf.answers.clear()

    async def events_after(seq: int, limit: int) -> list[Event]:
        if seq < behind:
            return kit.shelf.events[seq : seq + limit]
        asked.append(seq)
        return await read(seq, limit)

    kit.shelf.events_after = events_after  # type: ignore[method-assign]
    return lambda: bool(asked)


async def test_while_storage_does_not_answer_something_is_heard_over_sse_too(tmp_path: Path) -> None:
    async with desk(tmp_path, ring=16, events=600) as kit:
        asked = hold_reads(kit, 0)
        answer = await kit.client.get("/api/events?since=10", headers=VIEWER)
        assert (await sse_frame(answer))[1]["kind"] == "hello"
        await kit.until(asked)

        hearing = asyncio.create_task(sse_frame(answer))
        await kit.turn(21)

        assert await hearing == ("10", {"kind": "events", "from": 11, "to": 10, "events": []})
        kit.shelf.answers.set()
        assert seqs([(await sse_frame(answer))[1]])[0] == 11
        answer.close()


async def test_a_heartbeat_carries_a_filtered_subscriber_along_while_it_catches_up(tmp_path: Path) -> None:
    async with desk(tmp_path, ring=16, events=SCAN + 600) as kit:
        asked = hold_reads(kit, SCAN)
        ws = await kit.open("since=0&type=none")
        await frame(ws)
        await kit.until(asked)

        hearing = asyncio.create_task(frame(ws))
        await kit.turn(21)

        assert await hearing == {"kind": "events", "from": 1, "to": SCAN, "events": []}
        kit.shelf.answers.set()
        await kit.until(lambda: not any(sub.serving for sub in kit.hub.subscribers))
        kit.commit(1, type="none")
        assert (await frame(ws))["from"] == SCAN + 1


async def test_between_two_frames_of_latest_something_is_heard(tmp_path: Path) -> None:
    async with desk(tmp_path, events=600) as kit:
        answer = await kit.client.get("/api/events?since=0&mode=latest&interval_ms=60000", headers=VIEWER)
        await sse_frame(answer)
        assert (await sse_frame(answer))[1]["to"] == 600

        hearing = asyncio.create_task(sse_frame(answer))
        await kit.turn(21)

        assert await hearing == ("600", {"kind": "events", "from": 601, "to": 600, "events": []})
        answer.close()


async def test_frames_shared_by_those_behind_follow_what_each_was_told(tmp_path: Path) -> None:
    """A heartbeat comes while one reads: its next frame begins later than that of another at the same place."""
    async with desk(tmp_path, ring=16, events=SCAN + 600) as kit:
        kit.shelf.events[SCAN] = event(SCAN + 1, type="rare")
        asked = hold_reads(kit, SCAN)
        ws = await kit.open("since=0&type=rare")
        await frame(ws)
        await kit.until(asked)
        hearing = asyncio.create_task(frame(ws))
        await kit.turn(21)
        assert (await hearing)["to"] == SCAN
        kit.shelf.answers.set()
        assert (await frame(ws))["from"] == SCAN + 1

        other = await kit.open("since=0&type=rare")
        await frame(other)
        found = await frame(other)
        assert (found["from"], seqs([found])) == (1, [SCAN + 1])


async def test_a_gap_follows_the_frame_before_though_nothing_of_what_lies_between_passed(tmp_path: Path) -> None:
    async with desk(tmp_path, ring=16, events=2 * SCAN) as kit:
        asked = hold_reads(kit, SCAN)
        ws = await kit.open("since=5&type=none")
        await frame(ws)
        await kit.until(asked)
        kit.shelf.trim(SCAN + 1001)
        kit.shelf.answers.set()
        assert await frame(ws) == {"kind": "gap", "from": 6, "to": SCAN + 1000}


@pytest.mark.parametrize("query", ["", "type=meteo"])
async def test_the_answer_to_a_place_ahead_of_the_log_is_not_kept_for_who_is_there_by_right(
    tmp_path: Path, query: str
) -> None:
    async with desk(tmp_path, events=100) as kit:
        bounds, looks = kit.shelf.bounds, asyncio.Event()

        async def slow() -> tuple[int, int]:
            found = await bounds()
            await looks.wait()
            return found

        kit.shelf.bounds = slow  # type: ignore[method-assign]
        stranger = await kit.open(f"since=105&{query}")
        await frame(stranger)
        await kit.until(lambda: any(sub.serving for sub in kit.hub.subscribers))
        kit.commit(3)
        looks.set()
        assert await frame(stranger) == {"kind": "gap", "from": 1, "to": 100}

        kit.commit(7, type="meteo")
        ws = await kit.open(f"since=105&{query}")
        await frame(ws)
        assert seqs([await frame(ws)]) == [106, 107, 108, 109, 110]


async def test_what_is_kept_for_those_behind_is_counted_with_the_filter_it_is_kept_under(tmp_path: Path) -> None:
    """A viewer that asks again and again, each time for something else, does not make the server grow."""
    with patch("server.api.fanout.CACHE_BYTES", 128 * 1024):
        async with desk(tmp_path, ring=2 * SCAN) as kit:
            kit.commit(1, type="rare")
            kit.commit(SCAN)
            ws = await kit.open()
            await frame(ws)
            for n in range(90):
                words = [f"{n}-{m}-{'x' * 20}" for m in range(99)]
                await ws.send_json({"action": "subscribe", "since": 0, "type": ["rare", *words]})
                assert seqs([await frame(ws)]) == [1]
            kept = [(place[0].type, body) for place, (_, body) in kit.hub._frames.items()]
            assert kept
            held = sum(sum(map(sys.getsizeof, [body, words, *words])) for words, body in kept)
            assert held < 128 * 1024
