"""`tail`, and the clients in docs/examples: every event once and in order, over cut connections too."""

from __future__ import annotations

import asyncio
import fcntl
import importlib.util
import json
import os
import pty
import re
import signal
import struct
import sys
import termios
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession, ClientWSTimeout, WSServerHandshakeError, web
from aiohttp.test_utils import TestServer

from notifiers import Refused
from server.api.stream import HUB
from server.cli import main
from server.commands import remote
from server.commands.remote import Remote
from server.store.desk import Run
from tests.cli.conftest import Cli
from tests.kit import ADMIN_KEY, Town, jean, running

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "docs" / "examples"


@asynccontextmanager
async def process(town: Town, *command: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """A client in a process of its own."""
    environ = os.environ | {"TOCSIN_URL": str(town.client.make_url("/")).rstrip("/"), "TOCSIN_KEY": ADMIN_KEY}
    child = await asyncio.create_subprocess_exec(
        *command, env=environ, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    try:
        yield child
    finally:
        if child.returncode is None:
            child.kill()
        await child.communicate()


async def seen(child: asyncio.subprocess.Process, n: int) -> list[int]:
    """The numbers of the next `n` events that a client writes, one JSON a line."""
    assert child.stdout
    return [json.loads(await child.stdout.readline())["seq"] for _ in range(n)]


async def subscribed(town: Town) -> None:
    """Wait until somebody reads along."""
    await town.until(lambda: bool(town.app[HUB].subscribers))


def cut(town: Town) -> None:
    """Cut every subscriber's connection."""
    for sub in list(town.app[HUB].subscribers):
        sub.transport.abort()


async def test_it_shows_events_as_lines_without_colours_when_piped(town: Town, cli: Cli) -> None:
    town.service("email").will(Refused("address_refused", "550"))
    task_id = await town.send("meteo", [jean()], titre="Tempête [red]à l'ouest[/]")
    await town.until_idle()

    ran = await cli("tail", "--since", "0", "--count", "3")

    lines = ran.out.splitlines()
    assert (ran.code, len(lines)) == (0, 3)
    assert [line.split()[2] for line in lines] == ["enqueued", "started", "failed"]
    assert all("Tempête [red]à l'ouest[/]" in line and task_id in line for line in lines)
    assert "1 adresse refusée" in lines[2]
    assert "\x1b" not in ran.out


async def test_json_lines_are_the_events_that_pass_the_filter(town: Town, cli: Cli) -> None:
    await town.send("meteo", [jean()])
    urgent = await town.send("securite", [jean()])
    await town.until_idle()

    ran = await cli(
        "tail", "--since", "0", "--json", "--count", "2", "--type", "securite", "--priority", "critique",
        "--status", "processing", "--status", "completed", "--task", urgent,
    )  # fmt: skip

    events = [json.loads(line) for line in ran.out.splitlines()]
    assert [(event["event"], event["task"]["id"]) for event in events] == [
        ("task.started", urgent),
        ("task.completed", urgent),
    ]


async def test_what_is_past_retention_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path) as town:
        await town.send()
        await town.until_idle()
        await town.store.apply(Run("DELETE FROM event WHERE seq <= 2", ()))
    monkeypatch.setenv("TOCSIN_KEY", ADMIN_KEY)

    async with running(tmp_path) as town:
        url = str(town.client.make_url("/"))
        code = await asyncio.to_thread(main, ["tail", "--since", "1", "--count", "1", "--json", "--url", url])

    out, err = capsys.readouterr()
    assert (code, json.loads(out)["seq"]) == (0, 3)
    assert "events 2 to 2 are past retention" in err


async def test_it_comes_back_by_itself_without_a_gap_or_a_repeat(town: Town) -> None:
    async with process(town, sys.executable, str(ROOT / "run.py"), "tail", "--json", "--since", "0") as child:
        found: list[int] = []
        for _ in range(3):
            await town.send()
            found += await seen(child, 3)
            cut(town)
        await town.send()
        found += await seen(child, 3)

        assert found == list(range(1, 13))
        child.send_signal(signal.SIGINT)
        assert await child.wait() == 0


async def test_it_goes_on_with_another_log_whose_numbers_are_lower(tmp_path: Path, monkeypatch: Any) -> None:
    """As after a backup was put back: what is told there is new, though its numbers are not."""
    monkeypatch.setattr(remote, "wait_s", lambda attempt: 0.0)
    async with running(tmp_path) as town:
        await town.send()
        await town.until_idle()
        async with ClientSession() as session:
            frames = Remote(str(town.client.make_url("/")).rstrip("/"), ADMIN_KEY, session).frames([], 1000)
            async with asyncio.timeout(60), aclosing(frames):
                while (await anext(frames))["kind"] != "gap":
                    pass
                await town.send()
                found: list[int] = []
                while len(found) < 3:
                    found += [event["seq"] for event in (await anext(frames)).get("events", ())]
                assert found == [4, 5, 6]

                cut(town)
                await town.send()
                while len(found) < 6:
                    found += [event["seq"] for event in (await anext(frames)).get("events", ())]
                assert found == [4, 5, 6, 7, 8, 9]


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
async def test_a_proxy_that_finds_no_server_for_a_moment_does_not_end_it(monkeypatch: Any, status: int) -> None:
    """The handshake fails, and when it is asked why, the server is back."""
    monkeypatch.setattr(remote, "wait_s", lambda attempt: 0.0)
    tries = iter([200, status, 200])

    async def by_websocket(request: web.Request) -> web.StreamResponse:
        if (said := next(tries)) != 200:
            return web.Response(status=said)
        answer = web.WebSocketResponse()
        await answer.prepare(request)
        await answer.send_json({"kind": "hello", "seq": 1, "oldest": 1, "heartbeat_s": 20})
        await answer.close()
        return answer

    async def by_sse(request: web.Request) -> web.StreamResponse:
        return web.Response(content_type="text/event-stream")

    app = web.Application()
    app.router.add_get("/ws/events", by_websocket)
    app.router.add_get("/api/events", by_sse)
    async with TestServer(app) as server, ClientSession() as session:
        frames = Remote(str(server.make_url("/")).rstrip("/"), ADMIN_KEY, session).frames([])
        async with asyncio.timeout(60), aclosing(frames):
            assert [(await anext(frames))["kind"] for _ in range(2)] == ["hello", "hello"]


@pytest.mark.parametrize("flags", [[], ["--json"]])
async def test_a_locale_that_cannot_say_an_event_does_not_end_it(town: Town, flags: list[str]) -> None:
    await town.send(titre="Crue à Nîmes → abri 🌊")
    await town.until_idle()
    latin = ("/usr/bin/env", "PYTHONIOENCODING=latin-1", sys.executable, str(ROOT / "run.py"), "tail", "--since", "0")
    async with process(town, *latin, "--count", "2", *flags) as child:
        out, err = await child.communicate()

    assert (child.returncode, err) == (0, b"")
    if flags:
        events = [json.loads(line) for line in out.decode("utf-8").splitlines()]
        assert [event["task"]["titre"] for event in events] == ["Crue à Nîmes → abri 🌊"] * 2
    else:
        assert out.decode("latin-1").count("Crue à Nîmes ") == 2


class Terminal:
    """`tail` on a terminal, and what has come out on it."""

    def __init__(self) -> None:
        self.all = b""
        self._more = asyncio.Event()
        self.ours, self.its = pty.openpty()
        fcntl.ioctl(self.its, termios.TIOCSWINSZ, struct.pack("4H", 40, 200, 0, 0))
        asyncio.get_running_loop().add_reader(self.ours, self._read)

    def _read(self) -> None:
        self.all += os.read(self.ours, 65536)
        self._more.set()

    async def shows(self, pattern: str) -> str:
        """Wait until something that fits `pattern` has come out; that."""
        async with asyncio.timeout(60):
            while not (found := re.search(pattern, self.all.decode("utf-8", "replace"))):
                self._more.clear()
                await self._more.wait()
        return found[0]

    def lines(self) -> list[tuple[int, str]]:
        """The events shown: number and kind."""
        plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self.all.decode("utf-8", "replace"))
        found = re.findall(r"\d\d\d\d-\d\d-\d\dT[\d:.]+Z +(\d+) (\w+)", plain)
        return [(int(seq), kind) for seq, kind in found]

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self.ours)
        os.close(self.ours)
        os.close(self.its)


async def test_on_a_terminal_it_shows_colours_a_bar_per_task_and_comes_back(town: Town) -> None:
    email = town.service("email")
    email.will(Refused("address_refused", "550"))
    await town.send("meteo", [jean()], titre="Perdue")
    await town.send("securite", [jean()], titre="Autre type")
    await town.until_idle()
    terminal = Terminal()
    environ = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "CI")} | {
        "TERM": "xterm-256color", "TOCSIN_URL": str(town.client.make_url("")).rstrip("/"), "TOCSIN_KEY": ADMIN_KEY,
    }  # fmt: skip
    child = await asyncio.create_subprocess_exec(
        sys.executable, str(ROOT / "run.py"), "tail", "--since", "0", "--type", "meteo", env=environ,
        stdin=terminal.its, stdout=terminal.its, stderr=terminal.its,
    )  # fmt: skip
    try:
        assert re.search(r"\x1b\[1;31mfailed", await terminal.shows(r"\x1b\[[0-9;]*mfailed"))  # bold red
        await terminal.shows(r"\x1b\[36menqueued")  # cyan
        email.hold()
        task_id = await town.send("meteo", [jean(n) for n in range(3)], titre="En cours [b]")
        await terminal.shows(r"En cours \[b\].*[━╸╺].*0/3")
        cut(town)
        await subscribed(town)
        email.release()
        await town.until_status(task_id, "completed")
        await terminal.shows(r"\x1b\[32mcompleted")  # green
        child.send_signal(signal.SIGINT)
        assert await child.wait() == 0
        numbers = [seq for seq, _ in terminal.lines()]
        assert numbers == sorted(set(numbers))
        stored = [
            event.seq for event in await town.store.events_after(0, 100)
            if event.type == "meteo" and event.kind != "task.progress"
        ]  # fmt: skip
        assert numbers == stored  # the other type's are not shown; progress is what the bar says
        assert "Autre type" not in terminal.all.decode("utf-8", "replace")
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()
        terminal.close()


async def test_a_wrong_filter_is_said(cli: Cli) -> None:
    ran = await cli("tail", "--since", "-1")

    assert ran.code == 1
    assert "since" in ran.err


async def test_a_reader_that_has_seen_enough_ends_it_quietly(town: Town) -> None:
    command = f"{sys.executable} {ROOT / 'run.py'} tail --since 0 | head -1"
    await town.send()
    await town.until_idle()
    async with process(town, "/bin/bash", "-o", "pipefail", "-c", command) as child:
        ending = asyncio.create_task(child.communicate())
        while not ending.done():  # it notices when it writes again
            await town.send()
            await asyncio.wait({ending}, timeout=0.1)
        out, err = ending.result()

    assert b"enqueued" in out
    assert (child.returncode, err) == (0, b"")


def example() -> Any:
    """docs/examples/subscribe.py as a module."""
    spec = importlib.util.spec_from_file_location("subscribe", EXAMPLES / "subscribe.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


async def test_the_python_example_resumes(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[int] = []
    module = example()
    monkeypatch.setattr(module.random, "uniform", lambda low, high: low)
    following = asyncio.create_task(
        module.subscribe(
            str(town.client.make_url("/")).rstrip("/"), ADMIN_KEY, lambda event: found.append(event["seq"])
        )
    )
    await subscribed(town)
    await town.send()
    await town.until(lambda: len(found) == 3)

    cut(town)
    await town.send()
    await town.until(lambda: len(found) == 6)

    assert found == list(range(1, 7))
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)


@pytest.mark.parametrize("status", [429, 502, 503])
async def test_the_python_example_outlives_a_server_that_has_no_room_for_it(
    monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    """As behind a proxy while the server starts anew."""
    module = example()
    monkeypatch.setattr(module.random, "uniform", lambda low, high: 0)
    found: asyncio.Queue[int] = asyncio.Queue()
    tries = iter([status, 200])

    async def events(request: web.Request) -> web.StreamResponse:
        if (said := next(tries)) != 200:
            return web.Response(status=said)
        answer = web.WebSocketResponse()
        await answer.prepare(request)
        await answer.send_json({"kind": "events", "from": 1, "to": 1, "events": [{"seq": 1}]})
        await answer.receive()
        return answer

    app = web.Application()
    app.router.add_get("/ws/events", events)
    async with TestServer(app) as server:
        url = str(server.make_url("/")).rstrip("/")
        following = asyncio.create_task(module.subscribe(url, ADMIN_KEY, lambda event: found.put_nowait(event["seq"])))
        got = asyncio.create_task(found.get())
        await asyncio.wait({following, got}, timeout=60, return_when=asyncio.FIRST_COMPLETED)
        assert not following.done(), following.exception()
        assert got.result() == 1
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)


async def test_the_python_example_says_so_where_its_key_is_unknown(town: Town) -> None:
    with pytest.raises(WSServerHandshakeError, match="401"):
        await example().subscribe(str(town.client.make_url("/")).rstrip("/"), "unknown", print)


async def test_the_python_example_comes_back_from_a_server_that_vanished(monkeypatch: pytest.MonkeyPatch) -> None:
    """No end of the connection came: its machine lost power, or the way to it broke."""
    module = example()
    monkeypatch.setattr(module.random, "uniform", lambda low, high: 0)
    again, connected = asyncio.Event(), asyncio.Event()
    connect = module.aiohttp.ClientSession.ws_connect

    def impatient(self: ClientSession, url: str, **options: Any) -> Any:
        if options.pop("heartbeat", None):
            options["heartbeat"] = 0.01
        if "timeout" in options:
            options["timeout"] = ClientWSTimeout(ws_receive=0.01)
        return connect(self, url, **options)

    async def events(request: web.Request) -> web.StreamResponse:
        (again if connected.is_set() else connected).set()
        answer = web.WebSocketResponse(autoping=False)
        await answer.prepare(request)
        await again.wait()
        return answer

    monkeypatch.setattr(module.aiohttp.ClientSession, "ws_connect", impatient)
    app = web.Application()
    app.router.add_get("/ws/events", events)
    async with TestServer(app) as server:
        url = str(server.make_url("/")).rstrip("/")
        following = asyncio.create_task(module.subscribe(url, ADMIN_KEY, print))
        back = asyncio.create_task(again.wait())
        await asyncio.wait({following, back}, timeout=60, return_when=asyncio.FIRST_COMPLETED)
        assert not following.done(), following.exception()
        assert back.done()
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)


async def test_the_javascript_example_resumes(town: Town) -> None:
    async with process(town, "node", str(EXAMPLES / "subscribe.mjs")) as child:
        await subscribed(town)
        await town.send()
        found = await seen(child, 3)

        cut(town)
        await town.send()
        found += await seen(child, 3)

    assert found == list(range(1, 7))


def test_the_examples_are_short_and_stand_in_the_readme() -> None:
    readme = (ROOT / "README.md").read_text("utf-8")
    for name, language in (("subscribe.py", "python"), ("subscribe.mjs", "js")):
        text = (EXAMPLES / name).read_text("utf-8")
        assert len([line for line in text.splitlines() if line.strip()]) < 25
        assert f"```{language}\n{text}```" in readme
