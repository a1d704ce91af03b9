"""A gateway that takes JSON: what it is asked, and what its answers mean."""

from __future__ import annotations

import asyncio
import base64
import json
import socket
from collections import Counter
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from notifiers import NotifierError, Refused, RetryLater, Sent, open_notifier
from notifiers.gateway import AFTER_MOST_S, retry_after_s
from tests.notifiers.post import message


class Operator:
    """The other side: keeps what it was sent, and answers as told."""

    def __init__(self) -> None:
        self.calls: list[web.Request] = []
        self.bodies: list[dict] = []
        self.answers: list = []  # used up one by one: a Response, "hang", "cut"; then 200
        self.released = asyncio.Event()
        self.url = ""

    async def handle(self, request: web.Request) -> web.StreamResponse:
        if request.method == "OPTIONS":
            return web.Response(status=401 if "Authorization" in request.headers else 204)
        self.calls.append(request)
        self.bodies.append(await request.json())
        answer = self.answers.pop(0) if self.answers else web.json_response({"id": f"sms-{len(self.calls)}"})
        if answer == "hang":
            await self.released.wait()
            return web.Response()
        if answer == "cut":
            request.transport.abort()
            return web.Response()
        return answer

    @property
    def got(self) -> Counter[str]:
        return Counter(body["to"] for body in self.bodies)


@pytest.fixture
async def operator():
    operator = Operator()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", operator.handle)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    operator.url = f"http://127.0.0.1:{site._server.sockets[0].getsockname()[1]}"
    yield operator
    operator.released.set()
    await runner.cleanup()


@asynccontextmanager
async def gateway(url: str, name: str = "sms", **settings):
    notifier = open_notifier(name, url, base_dir=Path(), **settings)
    try:
        yield notifier
    finally:
        await notifier.aclose()


async def test_everybody_gets_one_call(operator):
    async with gateway(f"{operator.url}/send", concurrency=8) as sms:
        outcomes = await asyncio.gather(*(sms.deliver(message(n)) for n in range(50)))

    assert operator.got == Counter({message(n).telephone.replace(" ", ""): 1 for n in range(50)})
    assert {outcome.reference for outcome in outcomes} == {f"sms-{n}" for n in range(1, 51)}


async def test_the_usual_body_says_everything(operator):
    async with gateway(f"{operator.url}/send") as sms:
        await sms.deliver(message(3))

    assert operator.bodies == [
        {
            "id": message(3).id,
            "to": "+33612345603",
            "name": "Zoé Müller",
            "recipient": "u3",
            "title": "Alerte « vents violents »",
            "text": "Restez chez vous.\n\nPréfecture",
            "type": "meteo",
            "label": "Météo",
            "priority": "HAUTE",
            "language": "fr",
        }
    ]
    (call,) = operator.calls
    assert call.headers["Idempotency-Key"] == message(3).id
    assert call.content_type == "application/json"
    assert "Authorization" not in call.headers
    assert "Accept-Encoding" not in call.headers


async def test_a_template_keeps_its_shape_whatever_the_values_are(operator):
    body = '{"to": "{telephone}", "n": 1, "on": true, "list": ["{titre}: {message}", {"who": "{nom} ({recipient})"}]}'
    evil = '"}], "to": "+33600000000", {telephone} \\'
    async with gateway(operator.url, body=body) as sms:
        await sms.deliver(message(1, titre=evil, message=evil, nom=evil))

    assert operator.bodies == [
        {"to": "+33612345601", "n": 1, "on": True, "list": [f"{evil}: {evil}", {"who": f"{evil} (u1)"}]}
    ]


async def test_placeholders_in_the_url_cannot_add_to_it(operator):
    url = f"{operator.url}/to/{{telephone}}/send?who={{recipient}}&key=a%2Bb"
    async with gateway(url, name="app") as app:
        await app.deliver(message(1, recipient="é&key=x#/../?"))

    (call,) = operator.calls
    assert call.path == "/to/+33612345601/send"
    assert dict(call.query) == {"who": "é&key=x#/../?", "key": "a+b"}
    assert app.needs == {"telephone"}


async def test_user_and_secret_go_as_a_header_not_in_the_url(operator):
    async with gateway(operator.url.replace("//", "//me:s%3A%2F%C3%A9@")) as sms:
        await sms.deliver(message())

    (call,) = operator.calls
    assert base64.b64decode(call.headers["Authorization"].removeprefix("Basic ")).decode() == "me:s:/é"


@pytest.mark.parametrize(
    "answer, outcome",
    [
        ({"status": 202, "headers": {"X-Message-Id": "m\t1"}}, Sent("m 1")),
        ({"status": 200, "text": "OK"}, Sent()),
        ({"status": 200, "text": '{"id": 42}'}, Sent("42")),
        ({"status": 200, "text": "[" * 60_000}, Sent()),
        ({"status": 200, "text": "?", "headers": {"Content-Encoding": "zstd"}}, Sent()),
        ({"status": 200, "text": '{"id": "' + "x" * 9000 + '"}'}, Sent("x" * 200)),
        ({"status": 400, "text": "bad\r\n\x1b[31mnumber"}, Refused("gateway_refused", "400", "bad [31mnumber")),
        ({"status": 404, "text": ""}, Refused("gateway_refused", "404", "Not Found")),
        ({"status": 401, "text": "no"}, Refused("login_refused", "401", "no")),
        ({"status": 302, "headers": {"Location": "/elsewhere"}}, Refused("gateway_refused", "302", "Found")),
        ({"status": 408, "text": "slow"}, RetryLater("timeout", "408", "slow")),
        ({"status": 429, "headers": {"Retry-After": "7"}}, RetryLater("busy", "429", "Too Many Requests", 7.0)),
        ({"status": 429, "text": "x" * 999}, RetryLater("busy", "429", "x" * 200)),
        ({"status": 500, "text": "oops"}, RetryLater("gateway_error", "500", "oops")),
        (
            {"status": 503, "text": "later", "headers": {"Retry-After": "120"}},
            RetryLater("busy", "503", "later", 120.0, transport=True),
        ),
        ({"status": 502, "text": ""}, RetryLater("gateway_error", "502", "Bad Gateway", transport=True)),
    ],
    ids=lambda value: str(value.get("status")) if isinstance(value, dict) else "",
)
async def test_the_status_decides(operator, answer, outcome):
    operator.answers.append(web.Response(**{"text": "", **answer} if "text" not in answer else answer))
    async with gateway(operator.url) as sms:
        assert await sms.deliver(message()) == outcome

    assert operator.got == Counter({"+33612345600": 1})


async def test_one_refused_of_fifty_costs_nobody_else_anything(operator):
    operator.answers = [web.Response(status=422, text="no such number")]
    async with gateway(operator.url, concurrency=1) as sms:
        outcomes = [await sms.deliver(message(n)) for n in range(50)]

    assert [n for n, outcome in enumerate(outcomes) if not isinstance(outcome, Sent)] == [0]
    assert set(operator.got.values()) == {1}
    assert len(operator.got) == 50


async def test_a_repeat_carries_the_same_key(operator):
    operator.answers = ["cut", web.Response(status=429)]
    async with gateway(operator.url) as sms:
        first, second, third = [await sms.deliver(message(at_ms=1_763_028_000_000 + n)) for n in range(3)]

    assert first == RetryLater("connection_lost", transport=True)
    assert isinstance(second, RetryLater)
    assert isinstance(third, Sent)
    assert {call.headers["Idempotency-Key"] for call in operator.calls} == {message().id}


async def test_an_answer_in_pieces_is_read_to_its_end():
    asked: list[bytes] = []

    async def piecemeal(reader, writer):
        while head := await reader.readuntil(b"\r\n\r\n"):
            asked.append(head)
            await reader.readexactly(int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0]))
            for piece in (
                b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
                b'8\r\n{"id": "\r\n',
                b"5\r\nsms7",
                b'"\r\n',
            ):
                writer.write(piece)
                for _ in range(50):
                    await asyncio.sleep(0)
            writer.write(b"1\r\n}\r\n0\r\n\r\n")

    connections = []

    async def connected(reader, writer):
        connections.append(writer)
        try:
            await piecemeal(reader, writer)
        except asyncio.IncompleteReadError:
            writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    try:
        async with gateway(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}") as sms:
            outcomes = [await sms.deliver(message(n)) for n in range(2)]
    finally:
        server.close()

    assert outcomes == [Sent("sms7")] * 2
    assert (len(asked), len(connections)) == (2, 1)  # what is read to its end can be used again


async def test_a_gateway_that_hangs_is_left_at_the_deadline(operator):
    operator.answers = ["hang"]
    async with gateway(operator.url, timeout_s=0.1) as sms:
        assert await sms.deliver(message()) == RetryLater("timeout", transport=True)
    async with gateway(operator.url) as sms:
        assert isinstance(await sms.deliver(message(1)), Sent)


async def test_nobody_at_the_port_is_out_of_reach(unused_tcp_port):
    async with gateway(f"http://127.0.0.1:{unused_tcp_port}") as sms:
        outcome = await sms.deliver(message())
        with pytest.raises(NotifierError, match="unreachable"):
            await sms.check()

    assert (outcome.reason, outcome.transport) == ("unreachable", True)


async def test_what_is_not_encrypted_is_no_https(operator):
    async with gateway(operator.url.replace("http:", "https:")) as sms:
        outcome = await sms.deliver(message())

    assert (outcome.reason, outcome.transport) == ("tls_failed", True)


async def test_what_is_no_http_is_no_crash():
    async def shout(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"220 mail.example.org ESMTP\r\n")
        writer.close()

    server = await asyncio.start_server(shout, "127.0.0.1", 0)
    try:
        async with gateway(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}") as sms:
            outcome = await sms.deliver(message())
    finally:
        server.close()

    assert outcome == RetryLater("gateway_error", detail="ClientResponseError", transport=True)


async def test_the_proxies_of_the_environment_are_not_used(operator, monkeypatch):
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{nobody.getsockname()[1]}")
        async with gateway(operator.url) as sms:
            assert isinstance(await sms.deliver(message()), Sent)


async def test_check_asks_without_sending(operator):
    async with gateway(operator.url) as sms:
        assert "answers" in await sms.check()
    async with gateway(operator.url.replace("//", "//me:hunter2@")) as sms:
        with pytest.raises(NotifierError, match="refused") as refused:
            await sms.check()

    assert "hunter2" not in str(refused.value)
    assert operator.bodies == []


@pytest.mark.parametrize(
    "headers, seconds",
    [
        ({}, None),
        ({"Retry-After": ""}, None),
        ({"Retry-After": "-1"}, None),
        ({"Retry-After": "soon"}, None),
        ({"Retry-After": "0"}, 0),
        ({"Retry-After": "9" * 400}, AFTER_MOST_S),
        ({"Retry-After": "Thu, 13 Nov 2025 10:01:00 GMT", "Date": "Thu, 13 Nov 2025 10:00:00 GMT"}, 60),
        ({"Retry-After": "Thu, 13 Nov 2025 09:00:00 GMT", "Date": "Thu, 13 Nov 2025 10:00:00 GMT"}, 0),
        ({"Retry-After": "Thu, 13 Nov 2025 10:01:00 GMT"}, 0),  # past, by our own clock
    ],
)
def test_retry_after_is_read_in_both_its_forms(headers, seconds):
    assert retry_after_s(headers) == seconds


@given(st.text(max_size=40))
def test_no_retry_after_is_a_crash(text):
    assert retry_after_s({"Retry-After": text}) is None or 0 <= retry_after_s({"Retry-After": text}) <= AFTER_MOST_S


@pytest.mark.parametrize(
    "name, url, body, needs",
    [
        ("sms", "https://h/x", "", {"telephone"}),
        ("email", "https://h/x", "", {"email"}),
        ("app", "https://h/x", "", set()),
        ("sms", "https://h/x", json.dumps({"to": "{recipient}"}), set()),
        ("app", "https://h/{email}", json.dumps(["{telephone}"]), {"email", "telephone"}),
    ],
)
def test_it_needs_what_its_placeholders_name(name, url, body, needs):
    assert open_notifier(name, url, body=body, base_dir=Path()).needs == needs
