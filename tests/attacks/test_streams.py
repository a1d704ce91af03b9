"""The event stream and every query string: commands, frames, handshakes, cursors that are none."""

from __future__ import annotations

import asyncio
import json
import struct
from typing import Any

import pytest
from aiohttp import WSMsgType

from server.api.stream import HUB
from server.model import Role
from tests.attacks.siege import Siege, parse
from tests.attacks.wire import KEY, SMUGGLED

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.usefixtures("unharmed")]

UPGRADE = (
    b"GET /ws/events HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)

COMMANDS: list[tuple[str, str]] = [
    ("", "malformed-command"), ("x", "malformed-command"), ("[]", "malformed-command"), ("null", "malformed-command"),
    ("3", "malformed-command"), ('"subscribe"', "malformed-command"), ('{"action":"subscribe"', "malformed-command"),
    ("[" * 4000, "malformed-command"), ('{"a":' * 800, "malformed-command"), ('{"action":"\\ud800"}',
    "malformed-command"),
    ('{"action":NaN}', "malformed-command"), ('{"action":"subscribe","since":1e999}', "malformed-command"),
    ("{} {}", "malformed-command"), ("\ufeff{}", "malformed-command"),
    ("{}", "unknown-command"), ('{"action":null}', "unknown-command"), ('{"action":["subscribe"]}', "unknown-command"),
    ('{"action":"unsubscribe"}', "unknown-command"), ('{"action":"SUBSCRIBE"}', "unknown-command"),
    ('{"action":{"$ne":1}}', "unknown-command"), ('{"Action":"subscribe"}', "unknown-command"),
    *(
        ('{"action":"subscribe",' + more + "}", "invalid-command")
        for more in (
            '"since":-1', '"since":"x"', '"since":1.5', '"since":9007199254740993', '"since":[0]',
            '"since":true', '"since":{}', '"type":{}', '"type":[["x"]]', '"type":"' + "x" * 65 + '"',
            '"status":"all"', '"status":["pending","x"]', '"status":[null]', '"priority":"0"', '"priority":"CRİTİQUE"',
            '"priority":"URGENT"', '"priority":[1.5]', '"mode":"all"', '"mode":["latest"]', '"interval_ms":0',
            '"interval_ms":15',
            '"interval_ms":60001', '"interval_ms":"x"', '"stats":"maybe"', '"stats":2', '"key":"x"', '"X-API-Key":"x"',
            '"action2":1', '"__proto__":{}', '"task_id":[' + ",".join(['"x"'] * 101) + "]",
        )
    ),
]  # fmt: skip


async def test_a_command_that_is_none_gets_an_error_and_the_stream_goes_on(siege: Siege) -> None:
    for language, commands in (("en", COMMANDS[::2]), ("fr", COMMANDS[1::2])):
        headers = siege.key(Role.VIEWER) | {"Accept-Language": language}
        async with siege.town.client.ws_connect("/ws/events", headers=headers) as ws:
            assert (await ws.receive_json(timeout=60))["kind"] == "hello"
            for command, code in commands:
                await ws.send_str(command)
                said = await ws.receive_json(timeout=60)
                assert (said["kind"], said.get("code")) == ("error", code), (command, said)


def framed(
    opcode: int, payload: bytes = b"", *, fin: int = 0x80, masked: bool = True, length: int | None = None
) -> bytes:
    """A WebSocket frame, as wrong as asked for."""
    size = len(payload) if length is None else length
    head = bytes([fin | opcode])
    mask = 0x80 if masked else 0
    if size < 126:
        head += bytes([mask | size])
    elif size < 65536:
        head += bytes([mask | 126]) + struct.pack("!H", size)
    else:
        head += bytes([mask | 127]) + struct.pack("!Q", size)
    return head + (b"\0\0\0\0" if masked else b"") + payload


FRAMES: dict[str, tuple[bytes, tuple[int, ...]]] = {
    "binary": (framed(2, b"x"), (1003,)),
    "invalid UTF-8": (framed(1, b"\xff"), (1007,)),
    "a surrogate": (framed(1, b"\xed\xa0\x80"), (1007,)),
    "over 4 KiB": (framed(1, b" " * 5000), (1009,)),
    "over 4 KiB in parts": (framed(1, b" " * 3000, fin=0) + framed(0, b" " * 3000), (1009,)),
    "a length of 2^63": (framed(1, b"", length=2**63 - 1), (1009,)),
    "a length with its highest bit": (framed(1, b"", length=2**64 - 1), (1002, 1009)),
    "a gigabyte announced": (framed(1, b"x", length=2**30), (1009,)),
    "reserved bits": (framed(1, b"{}", fin=0xF0), (1002,)),
    "compressed without saying so": (framed(1, b"{}", fin=0xC0), (1002,)),
    "an unknown opcode": (framed(3, b"x"), (1002,)),
    "an unknown control opcode": (framed(11, b"x"), (1002,)),
    "a continuation of nothing": (framed(0, b"x"), (1002,)),
    "a new message within one": (framed(1, b"x", fin=0) + framed(1, b"y"), (1002,)),
    "a ping in parts": (framed(9, b"x", fin=0), (1002,)),
    "a ping of 126 bytes": (framed(9, b"x" * 126), (1002,)),
    "a close of one byte": (framed(8, b"x"), (1002,)),
    "a close with a code that is none": (framed(8, struct.pack("!H", 999)), (1002,)),
    "a close with 1005": (framed(8, struct.pack("!H", 1005)), (1000, 1002)),
    "a close that is no UTF-8": (framed(8, struct.pack("!H", 1000) + b"\xff"), (1002, 1007)),
    "a request in the place of a frame": (SMUGGLED, (1002, 1009)),
}  # fmt: skip


@pytest.mark.parametrize("name", FRAMES)
async def test_a_frame_that_is_none_ends_the_stream_with_its_code(siege: Siege, name: str) -> None:
    sent, codes = FRAMES[name]
    said = await siege.bytes(UPGRADE + KEY + b"\r\n", sent, until=b"\x88")  # nothing before a close has this byte
    head, _, frames = said.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 101 ") and b"hello" in frames
    code = None
    while frames:
        opcode, size = frames[0] & 15, frames[1]
        start = 4 if size == 126 else 2
        size = struct.unpack("!H", frames[2:4])[0] if size == 126 else size
        if opcode == 8:
            code = struct.unpack("!H", frames[start : start + 2])[0]
        frames = frames[start + size :]
    assert code in codes


HANDSHAKES: dict[str, tuple[bytes, int]] = {
    "no key": (UPGRADE, 401),
    "a wrong key": (UPGRADE + b"X-API-Key: no\r\n", 401),
    "a key in a protocol": (UPGRADE + b"Sec-WebSocket-Protocol: " + KEY.partition(b": ")[2], 401),
    "no upgrade": (b"GET /ws/events HTTP/1.1\r\nHost: x\r\n" + KEY, 426),
    "another version": (UPGRADE.replace(b": 13", b": 99") + KEY, 400),
    "no nonce": (UPGRADE.replace(b"Sec-WebSocket-Key", b"X-Nothing") + KEY, 400),
    "a nonce that is none": (UPGRADE.replace(b"dGhlIHNhbXBsZSBub25jZQ==", b"short") + KEY, 400),
    "another upgrade": (UPGRADE.replace(b": websocket", b": h2c") + KEY, 426),
    "a bad query": (UPGRADE.replace(b"/events ", b"/events?since=x ") + KEY, 422),
    "an unknown parameter": (UPGRADE.replace(b"/events ", b"/events?key=x ") + KEY, 422),
    "a post": (UPGRADE.replace(b"GET", b"POST") + KEY, 405),
    "a cookie that is none": (UPGRADE + b"Cookie: tocsin_session=x\r\nOrigin: http://x\r\n", 401),
}


@pytest.mark.parametrize("name", HANDSHAKES)
async def test_a_handshake_that_is_none_is_answered_as_a_request(siege: Siege, name: str) -> None:
    request, status = HANDSHAKES[name]
    (answer,) = parse(await siege.bytes(request + b"\r\n", until=b'request_id":"'))
    assert answer.status == status


QUERIES: dict[str, list[str]] = {
    "/api/queue/tasks": [
        "limit=0", "limit=501", "limit=-1", "limit=1e3", "limit=%2B5", "limit=0x10", "limit=1_0", "limit=%D9%A5",
        "limit=",
        "limit=true", "limit=null", "limit=" + "9" * 100, "limit=1&limit=2", "status=all", "status=PENDING", "status=",
        "status=pending%00", "status=pending,failed", "status[]=pending", "priority=0", "priority=CR%C4%B0T%C4%B0QUE",
        "priority=", "since=hier", "since=2025-01-01", "since=2025-01-01T00:00:00", "until=null",
        "since=2025-13-01T00:00:00Z", "q=%00", "q=" + "x" * 201, "type=" + "x" * 65, "type=%00", "type=%0A",
        "&".join(f"type=t{n}" for n in range(101)), "cursor=x", "cursor=", "cursor=0", "cursor=%00",
        "cursor=01890000-0000-7000-8000-00000000000g", "cursor=01890000-0000-7000-8000-000000000000%0a",
        "cursor=' OR 1=1 --", "cursor=../../x", "page=2", "offset=1", "sort=key", "fields=key_id", "callback=alert",
        "_method=DELETE", "Limit=5", "x" * 3000 + "=1", "%00=1", "=", "=1", "limit",
        "&".join(f"a{n}=1" for n in range(500)),
    ],
    "/api/queue/tasks/01890000-0000-7000-8000-000000000000/deliveries": [
        "status=failed", "cursor=-1", "cursor=1e3", "cursor=9999999999", "cursor=%D9%A5", "limit=0", "q=%00",
        "cursor=1.0",
    ],
    "/api/queue/tasks/01890000-0000-7000-8000-000000000000/events": [
        "cursor=x", "cursor=-1", "cursor=" + "9" * 19, "limit=501", "since=0",
    ],
    "/admin/api/audit": ["cursor=x", "cursor=" + "9" * 19, "limit=0", "cursor=1&cursor=2", "cursor=null", "cursor=0x1"],
    "/api/events": ["since=-1", "since=x", "since=9007199254740993", "interval_ms=1", "mode=x", "stats=2", "status=x",
    "key=x",
                    "priority=CR%C4%B0T%C4%B0QUE", "&".join(["task_id=x"] * 101)],
    "/api/queue/stats": ["x=1", "key=x"],
    "/admin/api/keys": ["role=admin"],
    "/api/notifications/types": ["limit=1"],
}  # fmt: skip


async def test_a_query_is_held_to_its_parameters(siege: Siege) -> None:
    found = []
    for path, queries in QUERIES.items():
        for query in queries:
            try:
                answer = await siege.ask("GET", f"{path}?{query.replace(' ', '%20')}")
            except TimeoutError:  # a stream began
                found.append((path, query))
                continue
            if (answer.status, answer.code) != (422, "invalid-query"):
                found.append((path, query))
            else:
                assert all(each["parameter"] is not None for each in json.loads(answer.body)["errors"])
    assert found == []
    for query in ("cursor=00000000-0000-0000-0000-000000000000", "cursor=ffffffff-ffff-ffff-ffff-ffffffffffff",
    "q=%ff%ED%A0%80",
                  "since=0001-01-01T00:00:00%2B23:59", "until=9999-12-31T23:59:59-12:00", "q=%25_%5C'%22",
                  "type=' OR 1=1"):  # fmt: skip
        assert (await siege.ask("GET", f"/api/queue/tasks?{query.replace(' ', '%20')}")).status == 200, query
    for cursor in ("0", "9" * 18):
        assert (await siege.ask("GET", f"/admin/api/audit?cursor={cursor}")).status == 200


@pytest.mark.parametrize("said", ["x", "-1", "1.5", "9007199254740993", "0x1", "null", "1,2", "é", "9" * 5000])
async def test_a_last_event_id_that_is_none_is_refused(siege: Siege, said: str) -> None:
    answer = await siege.ask("GET", "/api/events", Last_Event_ID=said)
    assert (answer.status, answer.pointers) == (422, ["Last-Event-ID"])


async def test_streams_beyond_the_keys_share_are_refused_and_places_come_back(siege: Siege) -> None:
    hub = siege.town.app[HUB]
    made = await siege.post({"name": "many", "role": "viewer"}, "/admin/api/keys")
    key: dict[str, Any] = {"X-API-Key": json.loads(made.body)["key"]}
    siege.secrets.append(key["X-API-Key"])
    await siege.town.until(lambda: not hub.subscribers)  # those of the tests before have gone
    sockets = [await siege.town.client.ws_connect("/ws/events", headers=key) for _ in range(3)]
    await siege.town.until(lambda: len(hub.subscribers) == 3)
    await siege.ask("DELETE", "/admin/api/keys/" + json.loads(made.body)["id"])
    for ws in sockets:
        while (message := await ws.receive(timeout=60)).type is WSMsgType.TEXT:
            pass
        assert (message.type, ws.close_code) == (WSMsgType.CLOSE, 1008)
    async with asyncio.timeout(60):
        while hub.subscribers:
            await asyncio.sleep(0)


@pytest.mark.parametrize(
    "key", ["", "x", "é" * 24, "\u2028", "dGhlIHNhbXBsZSBub25jZQ", "dGhlIHNhbXBsZSBub25jZQ==é", "=" * 24]
)
@pytest.mark.parametrize("version", ["13", "é", "0", "13, 13"])
async def test_a_handshake_that_is_none_is_a_bad_request(siege: Siege, unharmed: None, key: str, version: str) -> None:
    (answer,) = await siege.raw(
        f"GET /ws/events HTTP/1.1\r\nHost: x\r\nX-API-Key: {siege.keys[Role.VIEWER]}\r\nUpgrade: websocket\r\n"
        f"Connection: upgrade, close\r\nSec-WebSocket-Version: {version}\r\nSec-WebSocket-Key: {key}\r\n\r\n".encode()
    )
    assert (answer.status, answer.code) == (400, "bad-request")


@pytest.mark.parametrize("given", ["253402300800", "1e12", "9" * 300, "nan", "-1e300", "-62135596801"])
@pytest.mark.parametrize("name", ["since", "until"])
async def test_a_moment_that_no_calendar_has_is_a_bad_parameter(
    siege: Siege, unharmed: None, name: str, given: str
) -> None:
    answer = await siege.ask("GET", f"/api/queue/tasks?{name}={given}")
    assert (answer.status, answer.code, answer.pointers) == (422, "invalid-query", [name])
