"""Apprise, to a real endpoint: one call per recipient, and every way of failing is an outcome."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from collections import Counter
from contextlib import asynccontextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import apprise
import pytest

from notifiers import Refused, RetryLater, Sent, open_notifier
from tests.notifiers.post import message


class Endpoint(ThreadingHTTPServer):
    """Takes what Apprise's json:// sends."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.calls: list[tuple[str, dict]] = []
        self.status: dict[str, int] = {}  # by path
        self.released = threading.Event()

    @property
    def port(self) -> int:
        return self.server_address[1]


class Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.calls.append((self.path, body))
        if self.path == "/hang":
            self.server.released.wait(60)
        self.send_response(self.server.status.get(self.path, 200))
        self.end_headers()

    def log_message(self, *args) -> None:
        pass


@pytest.fixture
def endpoint():
    endpoint = Endpoint()
    thread = threading.Thread(target=endpoint.serve_forever, args=(0.01,))
    thread.start()
    yield endpoint
    endpoint.released.set()
    endpoint.shutdown()
    thread.join()
    endpoint.server_close()


@asynccontextmanager
async def bridge(url: str, **settings):
    notifier = open_notifier("app", f"apprise:{url}", base_dir=Path(), **settings)
    try:
        yield notifier
    finally:
        await notifier.aclose()


async def test_everybody_gets_one_call_at_their_own_address(endpoint):
    async with bridge(f"json://127.0.0.1:{endpoint.port}/{{id}}", concurrency=8) as app:
        outcomes = await asyncio.gather(*(app.deliver(message(n)) for n in range(30)))

    assert outcomes == [Sent()] * 30
    assert Counter(path for path, _ in endpoint.calls) == Counter({f"/u{n}": 1 for n in range(30)})


async def test_text_arrives_as_it_was_written(endpoint):
    text = "<b>x</b> & {{7*7}} \\n :smile: *a*\nß 🎉"
    async with bridge(f"json://127.0.0.1:{endpoint.port}/x") as app:
        await app.deliver(message(titre="<i>Alerte</i> « é »", message=text, priority="CRITIQUE"))

    ((_, body),) = endpoint.calls
    assert (body["title"], body["message"], body["type"]) == ("<i>Alerte</i> « é »", text, "warning")


async def test_an_address_cannot_add_to_the_url(endpoint):
    async with bridge(f"json://127.0.0.1:{endpoint.port}/a/{{id}}/{{telephone}}/?method=post") as app:
        assert await app.deliver(message(1, recipient="x?method=put&y=/../#é")) == Sent()

    ((path, _),) = endpoint.calls
    assert path.startswith("/a/x%3Fmethod")
    assert app.needs == {"telephone"}


@pytest.mark.parametrize(
    "status, outcome",
    [
        (400, Refused("service_refused", "400")),
        (404, Refused("service_refused", "404")),
        (429, RetryLater("busy", "429")),
        (500, RetryLater("service_refused", "500")),
        (503, RetryLater("service_refused", "503", transport=True)),
    ],
)
async def test_what_the_service_answered_decides(endpoint, status, outcome):
    endpoint.status["/u1"] = status
    async with bridge(f"json://127.0.0.1:{endpoint.port}/{{id}}") as app:
        outcomes = await asyncio.gather(*(app.deliver(message(n)) for n in range(3)))

    assert outcomes == [Sent(), outcome, Sent()]
    assert Counter(path for path, _ in endpoint.calls) == Counter({"/u0": 1, "/u1": 1, "/u2": 1})


async def test_nobody_at_the_port_is_out_of_reach(unused_tcp_port):
    async with bridge(f"json://127.0.0.1:{unused_tcp_port}/x") as app:
        assert await app.deliver(message()) == RetryLater("unreachable", transport=True)


async def test_hanging_threads_are_left_but_counted(endpoint):
    async with bridge(f"json://127.0.0.1:{endpoint.port}/hang?rto=60", timeout_s=0.3, concurrency=2) as app:
        app._service = lambda url: apprise.Apprise.instantiate(url)  # with the patience of the URL, not ours
        outcomes = await asyncio.gather(*(app.deliver(message(n)) for n in range(3)))
        assert Counter(outcome.reason for outcome in outcomes) == {"timeout": 2, "busy": 1}
        assert await app.deliver(message(4)) == RetryLater("busy", transport=True)

        endpoint.released.set()
        for _ in range(2):
            await asyncio.wait_for(app._places.acquire(), 60)  # both places are free again
        for _ in range(2):
            app._places.release()
        app._timeout_s = 60
        assert await app.deliver(message(5)) == Sent()

    assert len(endpoint.calls) == 3


@pytest.mark.parametrize("error", [RuntimeError, SystemExit])
async def test_what_a_plugin_raises_is_an_outcome_and_keeps_the_secret(endpoint, monkeypatch, error):
    def fail(self, *args, **kwargs):
        raise error("json://me:hunter2@host")

    async with bridge(f"json://me:hunter2@127.0.0.1:{endpoint.port}/x", timeout_s=60) as app:
        monkeypatch.setattr(apprise.Apprise, "notify", fail)
        assert await app.deliver(message()) == RetryLater("internal", detail=error.__name__)


async def test_the_log_of_apprise_stays_inside(endpoint):
    heard: list[logging.LogRecord] = []
    ear = logging.Handler()
    ear.emit = heard.append
    logging.getLogger().addHandler(ear)
    endpoint.status["/x"] = 500
    async with bridge(f"json://me:hunter2@127.0.0.1:{endpoint.port}/x") as app:
        await app.deliver(message())
    logging.getLogger().removeHandler(ear)

    assert [record for record in heard if record.name == "apprise"] == []


async def test_check_says_how_little_it_can_know(endpoint):
    async with bridge(f"json://127.0.0.1:{endpoint.port}/{{email}}") as app:
        assert "Apprise" in await app.check()

    assert endpoint.calls == []
