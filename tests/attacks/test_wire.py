"""Bytes on a socket: smuggling, targets and methods that are none, and clients that never finish."""

from __future__ import annotations

import asyncio
import json

import pytest
from aiohttp import web

from server.app import IDLE_S
from server.http import decode
from tests.attacks.siege import GOOD, Siege, parse
from tests.attacks.wire import CHUNKED, KEY, ODD, POST, REFUSED, SMUGGLED

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.usefixtures("unharmed")]


@pytest.mark.parametrize("name", REFUSED)
async def test_what_can_be_read_in_two_ways_ends_the_connection(siege: Siege, name: str) -> None:
    answers = await siege.raw(REFUSED[name] + SMUGGLED)
    assert [(answer.status, answer.code) for answer in answers] == [(400, "bad-request")]
    (answer,) = answers
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Content-Type"].startswith("application/problem+json")
    assert answer.headers["X-Request-ID"] in json.dumps(siege.lines())
    assert all(line["level"] in ("info", "warning") and "exception" not in line for line in siege.lines())


@pytest.mark.parametrize("name", ODD)
async def test_what_is_odd_is_answered_once_and_leads_nowhere_else(siege: Siege, name: str) -> None:
    request, status = ODD[name]
    (answer,) = await siege.raw(request + b"Connection: close\r\n\r\n")
    assert answer.status == status, answer.body
    assert answer.headers["X-Request-ID"] and answer.headers["X-Content-Type-Options"] == "nosniff"
    assert "evil.example" not in answer.headers.get("Location", "") + answer.body.decode()
    assert answer.headers.get("Location", "/").startswith("/")
    if status >= 400:
        assert answer.headers["Content-Type"].startswith("application/problem+json")
        said = json.loads(answer.body)
        assert (said["status"], said["request_id"]) == (status, answer.headers["X-Request-ID"])


async def test_a_client_that_names_no_host_is_not_told_this_machines_name(siege: Siege) -> None:
    for path in (b"/api/asyncapi.json", b"/api/docs"):
        (answer,) = await siege.raw(b"GET " + path + b" HTTP/1.0\r\n\r\n")
        assert (answer.status, answer.code) == (400, "bad-request")


async def test_requests_in_a_row_are_answered_in_their_order(siege: Siege) -> None:
    rows = [
        CHUNKED + b"2\r\n{}\r\n0\r\n\r\n",
        POST + b"Content-Length: 2\r\n\r\n{}",
        b"HEAD / HTTP/1.1\r\nHost: x\r\n\r\n",
    ]
    answers = [
        answer.status
        for row in (rows[:2], rows[1::-1])
        for answer in await siege.raw(b"".join(row) + SMUGGLED.replace(b"smuggled", b"last"))
    ]
    assert answers == [422, 422, 200] * 2


async def test_a_body_that_was_not_read_is_no_request(siege: Siege) -> None:
    for head, status in ((POST.replace(b"meteo", b"nowhere"), 404), (POST.replace(KEY, b""), 401)):
        answers = await siege.raw(
            head + b"Content-Length: %d\r\n\r\n" % len(SMUGGLED) + SMUGGLED + SMUGGLED[:-2] + b"X-Last: 1\r\n\r\n"
        )
        assert [answer.status for answer in answers] == [status, 200]


@pytest.mark.parametrize("path", [b"/api/notifications/meteo", b"/admin/login", b"/admin/api/keys"])
@pytest.mark.parametrize("rest", [b"zz\r\n{}\r\n0\r\n\r\n", b"2\r\n{}XX", b"2\r\n{", b""])
async def test_chunks_that_go_wrong_or_never_end_are_given_up(
    siege: Siege, monkeypatch: pytest.MonkeyPatch, path: bytes, rest: bytes
) -> None:
    monkeypatch.setattr(decode, "BODY_TIMEOUT_S", 0.1)
    head = CHUNKED.replace(b"/api/notifications/meteo", path).replace(b"\r\n\r\n", b"\r\nExpect: 100-continue\r\n\r\n")
    reader, writer = await asyncio.open_connection("127.0.0.1", siege.port)
    writer.write(head)
    await reader.readuntil(b"100 Continue\r\n\r\n")  # the handler waits for the body from here on
    writer.write(rest)
    (answer,) = parse(await reader.readuntil(b"}"))
    writer.close()
    assert answer.status == 400 and b"malformed-body" in answer.body


async def test_a_client_that_goes_away_half_way_is_no_bug(siege: Siege) -> None:
    server = siege.town.client.server.runner.server
    assert server
    for head in (CHUNKED, POST + b"Content-Length: 9999\r\n\r\n"):
        before = len(server.connections)
        reader, writer = await asyncio.open_connection("127.0.0.1", siege.port)
        writer.write(head.replace(b"\r\n\r\n", b"\r\nExpect: 100-continue\r\n\r\n", 1))
        await reader.readuntil(b"100 Continue\r\n\r\n")
        writer.write(b'{"titre": ')
        await writer.drain()
        writer.transport.abort()
        async with asyncio.timeout(60):
            while len(server.connections) > before:
                await asyncio.sleep(0)


async def test_slow_bodies_of_strangers_hold_up_nobodys_large_one(siege: Siege) -> None:
    slow = []
    for path in (b"/admin/login", b"/api/notifications/meteo"):
        for _ in range(6):
            reader, writer = await asyncio.open_connection("127.0.0.1", siege.port)
            writer.write(
                CHUNKED.replace(b"/api/notifications/meteo", path).replace(
                    b"\r\n\r\n", b"\r\nExpect: 100-continue\r\n\r\n"
                )
            )
            await reader.readuntil(b"100 Continue\r\n\r\n")
            writer.write(b"1\r\n{\r\n")
            slow.append(writer)
    async with asyncio.timeout(60):
        answer = await siege.post({**GOOD, "priorité": "x" * 400_000})
    assert (answer.status, answer.pointers) == (422, ["/priorité"])
    for writer in slow:
        writer.close()


async def test_a_stranger_may_say_little(siege: Siege) -> None:
    answer = await siege.post(b'{"key": "' + b"x" * 300_000 + b'"}', "/admin/login", X_API_Key="")
    assert (answer.status, answer.code) == (413, "too-large")
    assert "0,25 Mio" in answer.body.decode()


async def test_a_head_that_never_ends_is_cut_off() -> None:
    app = web.Application(handler_args={"keepalive_timeout": 0.2})
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    for said in (b"", b"GET / HTTP/1.1\r\nHost: x\r\n", b"GET / HTT"):
        reader, writer = await asyncio.open_connection(*runner.addresses[0])
        writer.write(said)
        async with asyncio.timeout(60):
            assert await reader.read() == b""
        writer.close()
    await runner.cleanup()


async def test_every_connection_has_its_time(siege: Siege) -> None:
    _, writer = await asyncio.open_connection("127.0.0.1", siege.port)
    writer.write(b"GET / HTTP/1.1\r\n")
    server = siege.town.client.server.runner.server
    assert server
    while not server.connections:
        await asyncio.sleep(0)
    assert {connection.keepalive_timeout for connection in server.connections} == {IDLE_S} == {75}
    writer.close()
