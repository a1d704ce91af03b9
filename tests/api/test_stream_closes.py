"""How a stream is refused, and how it ends: every status and close code of the contract."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from itertools import count
from pathlib import Path
from unittest.mock import Mock

import pytest
from aiohttp import ClientWebSocketResponse

from server.api.subscriber import Subscriber
from server.model import Role
from tests.api.http_kit import SECRETS
from tests.api.stream_kit import Desk, Raw, close_code, desk, frame, read_to, seqs, settle

VIEWER = {"X-API-Key": SECRETS[Role.VIEWER]}
both = pytest.mark.usefixtures("both_engines")


@pytest.fixture
async def kit(tmp_path: Path) -> AsyncIterator[Desk]:
    async with desk(tmp_path, events=20, stall_s=30) as kit:
        yield kit


OpenRaw = Callable[[], Awaitable[Raw]]


@pytest.fixture
async def raw_client(kit: Desk) -> AsyncIterator[OpenRaw]:
    """Opens raw clients, and hangs up in the end."""
    clients: list[Raw] = []

    async def open_raw() -> Raw:
        clients.append(await Raw.open(kit))
        return clients[-1]

    yield open_raw
    for client in clients:
        client.writer.transport.abort()  # type: ignore[attr-defined]
    await settle()


# --- refused ---------------------------------------------------------------------------------------


async def test_without_a_key_or_with_an_unknown_one_it_is_401(kit: Desk):
    assert (await kit.refused())[0] == 401
    assert (await kit.refused(**{"X-API-Key": "nobody"}))[0] == 401
    assert (await kit.client.get("/api/events")).status == 401


async def test_a_key_in_the_url_is_no_key(kit: Desk):
    for name in ("key", "api_key", "X-API-Key", "token"):
        assert (await kit.refused(f"{name}={SECRETS[Role.ADMIN]}"))[0] == 401
        assert (await kit.refused(f"{name}={SECRETS[Role.ADMIN]}", **VIEWER))[0] == 422


@pytest.mark.parametrize(
    ("query", "parameter"),
    [
        ("since=-1", "since"),
        ("since=x", "since"),
        ("since=1&since=2", "since"),
        ("mode=fast", "mode"),
        ("interval_ms=15", "interval_ms"),
        ("interval_ms=60001", "interval_ms"),
        ("status=done", "status"),
        ("type=%00", "type"),
        ("task_id=a%0Ab", "task_id"),
        ("priority=4", "priority"),
        ("stats=maybe", "stats"),
        ("sinse=4", "sinse"),
    ],
)
async def test_a_bad_parameter_is_422_and_named(kit: Desk, query: str, parameter: str):
    status, problem = await kit.refused(query, **VIEWER)
    assert (status, problem["errors"][0]["parameter"]) == (422, parameter)
    assert (await kit.client.get(f"/api/events?{query}", headers=VIEWER)).status == 422


async def test_a_bad_last_event_id_is_422(kit: Desk):
    answer = await kit.client.get("/api/events", headers=VIEWER | {"Last-Event-ID": "x7"})
    assert (answer.status, (await answer.json())["errors"][0]["parameter"]) == (422, "Last-Event-ID")


@both
async def test_a_cookie_counts_from_an_own_page_alone(kit: Desk):
    _, cookie = await signed_in(kit)
    own = str(kit.client.make_url("/")).rstrip("/")
    for foreign in ({}, {"Origin": "https://example.org"}, {"Origin": "null"}, {"Sec-Fetch-Site": "same-origin"}):
        assert (await kit.refused(**cookie, **foreign))[0] == 403, foreign
    for foreign in ({}, {"Origin": "https://example.org"}, {"Sec-Fetch-Site": "cross-site"}):
        assert (await kit.client.get("/api/events", headers=cookie | foreign)).status == 403, foreign
    ws = await kit.client.ws_connect("/ws/events", headers=cookie | {"Origin": own})
    assert (await frame(ws))["kind"] == "hello"
    answer = await kit.client.get("/api/events", headers=cookie | {"Sec-Fetch-Site": "same-origin"})
    assert answer.status == 200
    answer.close()


async def signed_in(kit: Desk) -> tuple[str, dict[str, str]]:
    """A new session's id and its cookie header."""
    from server.http.auth import COOKIE, hash_of
    from server.model import Session

    token = "a-session-of-the-tests"
    now_ms = kit.clock.now_ms()
    await kit.keyring._store.add_session(
        Session(id=hash_of(token), key_id="viewer", created_ms=now_ms, expires_ms=now_ms + 3_600_000)
    )
    return hash_of(token), {"Cookie": f"{COOKIE}={token}"}


async def test_too_many_of_one_key_are_429_and_too_many_in_all_503(tmp_path: Path):
    async with desk(tmp_path, connections=3, connections_per_key=2) as kit:
        open_ones = [await kit.open() for _ in range(2)]
        status, problem = await kit.refused(**VIEWER)
        assert (status, problem["code"]) == (429, "too-many-streams")
        await kit.open(role=Role.ADMIN)
        status, problem = await kit.refused(**{"X-API-Key": SECRETS[Role.OPERATOR]})
        assert (status, problem["code"]) == (503, "streams-full")
        assert (await kit.client.get("/api/events", headers={"X-API-Key": SECRETS[Role.OPERATOR]})).status == 503
        await open_ones[0].close()
        await kit.until(lambda: len(kit.hub.subscribers) == 2)
        assert (await frame(await kit.open()))["kind"] == "hello"


@pytest.mark.parametrize("lang", ["fr", "en"])
async def test_a_plain_get_at_the_websocket_is_told_where_else_it_can_go_and_takes_no_place(kit: Desk, lang: str):
    answer = await kit.client.get("/ws/events", headers=VIEWER | {"Accept-Language": lang})
    assert (answer.status, answer.headers["Upgrade"]) == (426, "websocket")
    assert "upgrade" in answer.headers["Connection"].lower()
    assert ((problem := await answer.json())["code"], "/api/events" in problem["detail"]) == ("upgrade-required", True)
    assert not kit.hub.subscribers


# --- ended -----------------------------------------------------------------------------------------


async def test_binary_is_1003(kit: Desk):
    ws = await kit.open()
    await ws.send_bytes(b"{}")
    assert await close_code(ws) == 1003


async def test_invalid_utf8_is_1007(kit: Desk, raw_client: OpenRaw):
    raw = await raw_client()
    raw.send(1, b'{"action":"\xff"}')
    assert await raw.close_code() == 1007
    assert await raw.gone()


async def test_a_command_of_4_kib_is_read_and_one_byte_more_is_1009(kit: Desk, raw_client: OpenRaw):
    raw = await raw_client()
    raw.send(1, b'{"action":"subscribe"}'.ljust(4096))
    raw.send(1, b'{"action":"nothing"}'.ljust(4096))
    await raw.receive()
    assert json.loads((await raw.receive())[1])["kind"] == "error"
    raw.send(1, b'{"action":"nothing"}'.ljust(4097))
    assert await raw.close_code() == 1009
    assert await raw.gone()


async def errors(ws: ClientWebSocketResponse, n: int) -> None:
    """Read until `n` errors have come."""
    while n:
        n -= (await frame(ws))["kind"] == "error"


async def test_100_commands_a_minute_are_heard_and_the_next_is_1008(kit: Desk):
    ws = await kit.open()
    for _ in range(2):
        for _ in range(100):
            await ws.send_str('{"action":"nothing"}')
        await errors(ws, 100)
        kit.clock.turn(60)
    for _ in range(101):
        await ws.send_str('{"action":"nothing"}')
    await errors(ws, 100)
    assert await close_code(ws) == 1008


async def test_a_flood_of_pings_is_1008(kit: Desk, raw_client: OpenRaw):
    raw = await raw_client()
    for _ in range(101):
        raw.send(9, b"are you there")
    assert await raw.close_code() == 1008


async def test_a_flood_of_pongs_that_answer_nothing_is_1008(kit: Desk, raw_client: OpenRaw):
    """Empty ones are six bytes each: thousands come in one turn of the event loop, and hold up everybody."""
    raw = await raw_client()
    for _ in range(101):
        raw.send(10, b"")
    assert await raw.close_code() == 1008


async def test_an_answer_to_a_ping_is_no_command_whatever_else_is_said_meanwhile(tmp_path: Path):
    async with desk(tmp_path, stall_s=2) as kit:
        raw = await Raw.open(kit)
        for _ in range(50):
            await kit.turn(1)
            while (await raw.receive())[0] != 9:
                pass
            for _ in range(2):
                raw.send(1, b"?")
            raw.send(10, b"")
            for _ in range(2):
                while b'"error"' not in (await raw.receive())[1]:
                    pass
        raw.send(1, b"?")  # the 101st command
        assert await raw.close_code() == 1008
        raw.writer.transport.abort()
        await kit.until(lambda: not kit.hub.subscribers)


@pytest.mark.parametrize(
    ("said", "code"),
    [
        ("no json", "malformed-command"),
        ("[1]", "malformed-command"),
        ("{}", "unknown-command"),
        ('{"action":"ping"}', "unknown-command"),
        ('{"action":"subscribe","since":-1}', "invalid-command"),
        ('{"action":"subscribe","mode":"fast"}', "invalid-command"),
        ('{"action":"subscribe","color":"red"}', "invalid-command"),
        ('{"action":"subscribe","status":["done"]}', "invalid-command"),
    ],
)
async def test_a_command_that_is_not_understood_is_answered_and_nothing_else_changes(kit: Desk, said: str, code: str):
    ws = await kit.open()
    await frame(ws)
    await ws.send_str(said)
    answer = await frame(ws)
    assert (answer["kind"], answer["code"]) == ("error", code)
    assert answer["message"]
    kit.commit()
    assert seqs([await frame(ws)]) == [21]


@both
async def test_a_revoked_key_is_1008_and_other_keys_live_on(kit: Desk):
    ws, other = await kit.open(), await kit.open(role=Role.ADMIN)
    answer = await kit.client.get("/api/events", headers=VIEWER)
    await kit.keyring.revoke("viewer")
    assert await close_code(ws) == 1008
    assert b"hello" in await answer.content.read()
    await frame(other)
    kit.commit()
    assert seqs([await frame(other)]) == [21]


@both
async def test_a_key_revoked_elsewhere_is_1008_within_5_seconds(kit: Desk):
    ws = await kit.open()
    await kit.keyring._store.revoke_key("viewer", kit.clock.now_ms())
    closed = asyncio.create_task(close_code(ws))
    kit.clock.turn(5)
    assert await closed == 1008


@both
async def test_a_session_that_ends_takes_its_own_streams_alone(kit: Desk):
    session_id, cookie = await signed_in(kit)
    own = str(kit.client.make_url("/")).rstrip("/")
    ws = await kit.client.ws_connect("/ws/events", headers=cookie | {"Origin": own})
    by_key = await kit.open()
    session = await kit.keyring._store.session(session_id)
    assert session
    await kit.keyring.end(session)
    assert await close_code(ws) == 1008
    await frame(by_key)
    kit.commit()
    assert seqs([await frame(by_key)]) == [21]


async def test_a_shutdown_is_announced_and_closes_with_1001(kit: Desk):
    ws = await kit.open()
    answer = await kit.client.get("/api/events", headers=VIEWER)
    await frame(ws)
    closing = asyncio.create_task(kit.hub.close())
    goodbye = await frame(ws)
    assert goodbye["kind"] == "shutdown"
    assert goodbye["retry_after_ms"] > 0
    assert await close_code(ws) == 1001
    text = (await answer.content.read()).decode()
    assert f"retry: {goodbye['retry_after_ms']}\n" in text
    assert '"kind":"shutdown"' in text
    await closing
    assert not kit.hub.subscribers
    status, problem = await kit.refused(**VIEWER)
    assert (status, problem["code"]) == (503, "draining")


async def test_a_shutdown_does_not_wait_for_the_dead(kit: Desk, raw_client: OpenRaw):
    raw = await raw_client()
    await kit.until(lambda: kit.hub.subscribers)
    async with asyncio.timeout(60):
        await kit.hub.close(wait_s=0.05)
    assert not kit.hub.subscribers
    assert await raw.gone()


async def test_who_reads_nothing_is_cut_off_with_1013(kit: Desk, raw_client: OpenRaw):
    """It answers no ping, so nothing shows that it reads; what it was sent it finds when it looks again."""
    raw = await raw_client()
    await kit.until(lambda: kit.hub.subscribers)
    await kit.turn(44)
    assert kit.hub.subscribers
    await kit.turn(3)
    await kit.until(lambda: all(sub.ended for sub in kit.hub.subscribers))
    assert await raw.close_code() == 1013
    await kit.turn(3)
    await kit.until(lambda: not kit.hub.subscribers)


async def test_a_full_socket_that_nobody_empties_is_cut_off(kit: Desk, raw_client: OpenRaw):
    raw = await raw_client()
    raw.writer.transport.pause_reading()  # type: ignore[attr-defined]
    await kit.until(lambda: kit.hub.subscribers)
    (sub,) = kit.hub.subscribers
    while not (sub.serving and sub.buffered()):
        kit.commit(10, titre="x" * 20_000)
        await settle(5)
    taken = -1
    while taken != (taken := sub._taken(0)):  # until its kernel, too, has room for no more
        kit.commit(10, titre="x" * 20_000)
        await settle(50)
    answer = await kit.client.get("/api/events", headers=VIEWER)
    assert answer.status == 200
    await kit.turn(34)
    assert sub not in kit.hub.subscribers
    assert kit.hub.cut_off == 1
    raw.writer.transport.abort()  # type: ignore[attr-defined]
    answer.close()


def test_a_buffer_that_fills_up_shows_no_reader():
    with socket.create_server(("127.0.0.1", 0)) as door, socket.socket() as peer:
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        peer.connect(door.getsockname())
        sock, _ = door.accept()
        with sock:
            waiting = count(1)
            transport = Mock(get_extra_info=lambda _: sock, is_closing=lambda: False)
            transport.get_write_buffer_size = lambda: next(waiting)
            sub = Subscriber(transport, Mock(), "websocket", key_id="k", session_id=None, lang="fr")
            sock.setblocking(False)
            with suppress(BlockingIOError):
                while True:
                    sock.send(bytes(10_000))
            assert not sub.stalled(0, 30)
            assert not sub.stalled(29, 30)
            assert sub.stalled(30, 30)
            taken = 0
            while taken < 100_000:
                taken += len(peer.recv(100_000))
            assert not sub.stalled(31, 30)


async def test_who_answers_pings_stays_for_good(kit: Desk):
    ws = await kit.open()
    await frame(ws)
    reading = asyncio.create_task(read_to(ws, 21))
    for _ in range(300):
        kit.clock.turn(1)
        await settle(30)
    kit.commit()
    frames = await reading
    assert seqs(frames) == [21]
    assert len(frames) > 10  # heartbeats


async def test_the_client_that_closes_is_answered_and_forgotten(kit: Desk, raw_client: OpenRaw):
    ws = await kit.open()
    await ws.close(code=1000)
    assert ws.close_code == 1000
    await kit.until(lambda: not kit.hub.subscribers)
    raw = await raw_client()
    await kit.until(lambda: kit.hub.subscribers)
    raw.writer.transport.abort()  # type: ignore[attr-defined]
    await kit.until(lambda: not kit.hub.subscribers)


async def test_an_sse_client_that_goes_is_forgotten(kit: Desk):
    answer = await kit.client.get("/api/events", headers=VIEWER)
    await kit.until(lambda: kit.hub.subscribers)
    answer.close()
    await settle()
    await kit.until(lambda: all(sub.is_closing() for sub in kit.hub.subscribers))
    await kit.turn(2)
    await kit.until(lambda: not kit.hub.subscribers)


async def test_one_that_leaves_before_it_has_read_all_does_not_end_the_heartbeats(kit: Desk, raw_client: OpenRaw):
    other = await kit.open("type=sante")
    await frame(other)
    raw = await raw_client()
    raw.writer.transport.pause_reading()  # type: ignore[attr-defined]
    await kit.until(lambda: len(kit.hub.subscribers) == 2)
    while not any(sub.buffered() for sub in kit.hub.subscribers):
        kit.commit(10, type="meteo", titre="x" * 2000)  # little: it may not wait for room with its close
    raw.send(8, b"\x03\xe8")
    await kit.until(lambda: kit.hub._dying)
    raw.writer.transport.resume_reading()  # type: ignore[attr-defined]
    async with asyncio.timeout(60):
        while await raw.reader.read(1 << 20):
            pass
    await kit.turn(24)
    assert not kit.hub._dying
    assert (await frame(other))["to"] == kit.log.head
