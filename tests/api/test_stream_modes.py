"""What a subscriber can ask for: from where, which events, how often, with statistics; by WebSocket and by SSE."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiohttp import ClientResponse

from server.api import frames
from server.api.asyncapi import FRAMES, asyncapi
from server.api.live import FEW
from server.model import EventKind, Role
from tests.api.http_kit import SECRETS
from tests.api.stream_kit import Desk, desk, frame, read_to, seqs, settle

VIEWER = {"X-API-Key": SECRETS[Role.VIEWER]}


@pytest.fixture
async def kit(tmp_path: Path) -> AsyncIterator[Desk]:
    async with desk(tmp_path, ring=64, events=100) as kit:
        yield kit


async def test_the_first_frame_is_hello(kit: Desk):
    assert await frame(await kit.open()) == {
        "kind": "hello", "seq": 100, "oldest": 1, "node": "n1", "version": "1", "heartbeat_s": 20,
    }  # fmt: skip


async def test_without_since_it_begins_now(kit: Desk):
    ws = await kit.open()
    hello = await frame(ws)
    kit.commit(3)
    events = await frame(ws)
    assert (events["from"], events["to"]) == (hello["seq"] + 1, 103)
    assert seqs([events]) == [101, 102, 103]


async def test_frames_follow_each_other_from_the_oldest_to_now(kit: Desk):
    kit.commit(1000)
    ws = await kit.open("since=0")
    await frame(ws)
    kit.commit(7)
    found = await read_to(ws, 1107)
    assert seqs(found) == list(range(1, 1108))
    assert [each["from"] for each in found] == [1] + [each["to"] + 1 for each in found[:-1]]


async def test_a_filter_lets_through_what_matches_every_part(kit: Desk):
    ws = await kit.open("type=meteo&type=infra&status=failed&priority=critique&priority=2&since=0")
    await frame(ws)
    kit.commit(400)
    last = kit.commit(1, type="meteo", status="failed", priority=1)
    expected = [
        each.seq
        for each in kit.shelf.events
        if each.type in ("meteo", "infra") and each.status == "failed" and each.priority in (1, 2)
    ]
    assert seqs(await read_to(ws, last[0].seq)) == expected
    assert len(expected) > 5


async def test_events_of_the_queue_come_where_no_task_is_asked_for(kit: Desk):
    plain, one_task = await kit.open(), await kit.open("task_id=task-1")
    await frame(plain), await frame(one_task)
    kit.commit(task_id="", kind=EventKind.PAUSED)
    kit.commit(task_id="task-1")
    assert (await frame(plain))["events"][0]["event"] == "queue.paused"
    assert (await frame(one_task))["events"][0]["seq"] == 102


async def test_few_are_told_of_every_commit_at_once(kit: Desk):
    ws = await kit.open()
    await frame(ws)
    for _ in range(5):
        kit.commit(2)
    assert kit.hub.live.settled == kit.log.head
    assert [seqs([await frame(ws)]) for _ in range(5)] == [[n, n + 1] for n in range(101, 111, 2)]


async def test_what_is_committed_while_the_telling_of_many_rests_is_one_frame(
    kit: Desk, monkeypatch: pytest.MonkeyPatch
):
    rests: list[Callable[[], None]] = []
    crowd = [await kit.open() for _ in range(FEW + 1)]
    for ws in crowd:
        await frame(ws)
    monkeypatch.setattr("server.api.live.rest", lambda _, seconds, then: rests.append(then))
    for _ in range(5):  # in one turn of the event loop
        kit.commit(2)
    assert [seqs([await frame(ws)]) for ws in crowd] == [list(range(101, 111))] * len(crowd)
    await kit.until(lambda: rests)
    for _ in range(5):  # in a turn each
        kit.commit()
        await asyncio.sleep(0)
    rests.pop()()
    assert [seqs([await frame(ws)]) for ws in crowd] == [list(range(111, 116))] * len(crowd)


async def test_a_frame_has_a_size_that_a_client_can_take(kit: Desk):
    ws = await kit.open("since=0")
    await frame(ws)
    kit.commit(60, titre="x" * 9_000)
    kit.commit(600)
    found = await read_to(ws, 760)
    assert seqs(found) == list(range(1, 761))
    assert max(len(each["events"]) for each in found) <= 256
    assert max(len(json.dumps(each)) for each in found) < 80_000


async def test_a_gap_tells_what_is_gone(kit: Desk):
    kit.commit(200)
    kit.shelf.trim(151)
    kit.log.trimmed(151)
    ws = await kit.open("since=20")
    assert (await frame(ws))["oldest"] == 151
    assert await frame(ws) == {"kind": "gap", "from": 21, "to": 150}
    assert seqs(await read_to(ws, 300)) == list(range(151, 301))


async def test_a_since_of_another_log_is_a_gap_over_everything(kit: Desk):
    ws = await kit.open("since=5000")
    assert (await frame(ws))["seq"] == 100
    assert await frame(ws) == {"kind": "gap", "from": 1, "to": 100}
    kit.commit()
    assert seqs([await frame(ws)]) == [101]


async def test_subscribe_replaces_filter_mode_and_place(kit: Desk):
    ws = await kit.open("type=none")
    await frame(ws)
    await ws.send_json({"action": "subscribe", "since": 90, "priority": ["HAUTE", 1], "type": "meteo"})
    kit.commit(30)
    last = kit.commit(1, type="meteo", priority=2)[0].seq
    wanted = [
        each.seq for each in kit.shelf.events if each.seq > 90 and each.type == "meteo" and each.priority in (1, 2)
    ]
    assert seqs(await read_to(ws, last)) == wanted
    await ws.send_json({"action": "subscribe", "since": "0"})
    assert seqs(await read_to(ws, last)) == list(range(1, last + 1))
    await ws.send_json({"action": "subscribe"})
    await kit.until(lambda: all(sub.group for sub in kit.hub.subscribers))
    await settle()
    kit.commit()
    assert seqs([await frame(ws)]) == [last + 1]


# --- mode=latest -----------------------------------------------------------------------------------


async def test_latest_shows_the_newest_state_of_each_task_once_per_interval(kit: Desk):
    ws = await kit.open("mode=latest&interval_ms=200")
    await frame(ws)
    kit.commit(1, task_id="a")
    assert seqs([await frame(ws)]) == [101]  # at once: nothing was sent for a while
    for task_id in ("a", "b", "a", "", "b", ""):
        kit.commit(1, task_id=task_id)
        await settle()
    waiting = asyncio.create_task(frame(ws))
    await settle()
    kit.clock.turn(0.19)
    await settle()
    assert not waiting.done()
    kit.clock.turn(0.02)
    shown = await waiting
    assert seqs([shown]) == [104, 105, 106, 107]
    assert (shown["from"], shown["to"]) == (102, 107)


async def test_latest_ends_with_the_states_that_every_event_would_give(kit: Desk):
    pairs = [
        (await kit.open(query), await kit.open(query + "&mode=latest&interval_ms=50")) for query in ("", "type=meteo")
    ]
    for ws in (socket for pair in pairs for socket in pair):
        await frame(ws)
    reading = []
    for n in range(40):
        kit.commit(kit.draw.randrange(1, 90))
        await settle(3)
        if n % 3 == 0:
            kit.clock.turn(0.05)
    last = kit.commit(1, type="meteo")[0].seq
    for ws in (socket for pair in pairs for socket in pair):
        reading.append(asyncio.create_task(read_to(ws, last)))
    while not all(task.done() for task in reading):
        kit.clock.turn(0.05)
        await settle(3)
    for every, latest in zip(reading[::2], reading[1::2], strict=True):
        assert states(every.result()) == states(latest.result())
        assert len(seqs(latest.result())) < len(seqs(every.result()))


def states(found: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The last that was said of each task."""
    return {each["task"]["id"]: each for batch in found for each in batch["events"] if "task" in each}


async def test_latest_catches_up_by_newest_states_alone(kit: Desk):
    kit.commit(3000)
    ws = await kit.open("since=0&mode=latest")
    await frame(ws)
    shown = await frame(ws)
    assert (shown["from"], shown["to"]) == (1, 3100)
    assert len(shown["events"]) == 12


# --- statistics, heartbeat -------------------------------------------------------------------------


async def test_statistics_come_at_once_and_on_change_at_most_four_a_second(kit: Desk):
    ws, without = await kit.open("stats=1&type=none"), await kit.open("type=none")
    await frame(ws), await frame(without)
    assert await frame(ws) == {"kind": "stats", "stats": {"total_tasks": 0}}
    waiting = asyncio.create_task(frame(ws))
    for n in range(10):
        kit.stats = {"total_tasks": n + 1}
        kit.commit()
        await settle()
    assert not waiting.done()
    kit.clock.turn(0.25)
    assert (await waiting)["stats"] == {"total_tasks": 10}
    late = await kit.open("stats=1")
    await frame(late)
    assert (await frame(late))["stats"] == {"total_tasks": 10}
    kit.commit()  # an event that changes no figure
    silent = asyncio.create_task(frame(without))
    await kit.turn(1, 0.25)
    assert not silent.done()
    silent.cancel()


async def test_statistics_go_on_after_a_look_at_them_failed(kit: Desk, caplog: pytest.LogCaptureFixture):
    ws = await kit.open("stats=1&type=none")
    await frame(ws), await frame(ws)
    kit.stats = {"total_tasks": object()}  # nothing that could be sent
    kit.commit()
    await kit.turn(0.25)
    assert "statistics" in caplog.text
    kit.stats = {"total_tasks": 2}
    kit.commit()
    waiting = asyncio.create_task(frame(ws))
    await kit.turn(1)
    assert (await waiting)["stats"] == {"total_tasks": 2}


async def test_a_heartbeat_carries_a_filtered_subscriber_along(kit: Desk):
    ws = await kit.open("type=none")
    await frame(ws)
    kit.commit(50)
    waiting = asyncio.create_task(frame(ws))
    await kit.turn(21)
    assert await waiting == {"kind": "events", "from": 101, "to": 150, "events": []}
    waiting = asyncio.create_task(frame(ws))
    await kit.turn(21)
    assert await waiting == {"kind": "events", "from": 151, "to": 150, "events": []}
    kit.commit(1, type="none")
    assert (await frame(ws))["from"] == 151


# --- SSE -------------------------------------------------------------------------------------------


async def lines(answer: ClientResponse) -> list[tuple[str, str]]:
    """The next event of an SSE stream, as its fields."""
    found = []
    async with asyncio.timeout(60):
        while line := (await answer.content.readline()).decode().rstrip("\n"):
            name, _, value = line.partition(": ")
            found.append((name, value))
    return found


async def test_sse_carries_the_same_frames_with_their_place_as_id(kit: Desk):
    answer = await kit.client.get("/api/events?since=98", headers=VIEWER)
    assert answer.headers["Content-Type"].startswith("text/event-stream")
    assert answer.headers["X-Accel-Buffering"] == "no"
    first = dict(await lines(answer))
    assert json.loads(first["data"])["kind"] == "hello"
    assert (first["id"], first["retry"]) == ("98", "2000")
    ws = await kit.open("since=98")
    await frame(ws)
    for _ in range(3):
        shown = dict(await lines(answer))
        same = await frame(ws)
        assert json.loads(shown["data"]) == same
        assert int(shown["id"]) == same["to"]
        kit.commit(2)
    answer.close()


async def test_last_event_id_goes_before_since(kit: Desk):
    answer = await kit.client.get("/api/events?since=3", headers=VIEWER | {"Last-Event-ID": "95"})
    await lines(answer)
    assert seqs([json.loads(dict(await lines(answer))["data"])]) == [96, 97, 98, 99, 100]
    answer.close()


async def test_sse_speaks_http_1_0_too(kit: Desk):
    reader, writer = await asyncio.open_connection(kit.client.server.host, kit.client.server.port)
    writer.write(f"GET /api/events?since=99 HTTP/1.0\r\nX-API-Key: {SECRETS[Role.VIEWER]}\r\n\r\n".encode())
    head = await reader.readuntil(b"\r\n\r\n")
    assert b"chunked" not in head.lower()
    assert (await reader.readuntil(b"\n\n")).startswith(b"retry: 2000\nid: 99\ndata: {")
    assert (await reader.readuntil(b"\n\n")).startswith(b'id: 100\ndata: {"kind":"events","from":100,"to":100,')
    writer.transport.abort()
    await settle()


# --- the document ----------------------------------------------------------------------------------


def test_every_frame_that_is_sent_is_one_of_the_document():
    document = asyncapi()
    assert document["asyncapi"].startswith("3.")
    assert set(document["channels"]["websocket"]["messages"]) == {*FRAMES, "subscribe"}
    schemas = json.dumps(document)
    for name in (found.split('"')[0] for found in schemas.split("#/components/schemas/")[1:]):
        assert name in document["components"]["schemas"]


async def test_frames_decode_as_the_documents_types(kit: Desk):
    kit.shelf.trim(11)
    kit.log.trimmed(11)
    kit.commit(300)
    ws = await kit.open("since=1&stats=1")
    await ws.send_str("?")
    kinds = msgspec.json.Decoder(
        frames.Hello | frames.Events | frames.Stats | frames.GapFrame | frames.Shutdown | frames.ErrorFrame
    )
    seen = set()
    while len(seen) < 5:
        seen.add(type(kinds.decode(await ws.receive_str(timeout=60))))
    assert frames.Shutdown not in seen
