"""The guide in French is true: its calls are made, in its order, at a server as shipped, and its answers compared.

A call is a `bash` block with `curl`; the block behind it shows its answer (`json`, `http` with headers, or `text` for
what is not JSON). Ids, keys and times of the guide stand for those of this run, everything else is meant as written;
`"…"` stands for more of the same. Its commands, configurations and frames are read by what reads them in the product.
"""

from __future__ import annotations

import asyncio
import json
import re
import shlex
import tomllib
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec
import pytest

from notifiers import Message, Outcome, Refused, Sent
from server.api.frames import ErrorFrame, Events, GapFrame, Hello, Shutdown, Stats
from server.cli import parser
from server.config import load
from server.model import Role
from tests.api.hooks_support import SECRETS, Receiver, receiving, today
from tests.api.http_kit import TurnedClock
from tests.kit import ADMIN_KEY, Town

GUIDE = Path(__file__).resolve().parents[2] / "docs" / "guide.fr.md"
both = pytest.mark.usefixtures("both_engines")
BASE = "http://localhost:5000"
HOOK = "https://mairie.example/tocsin"
REFUSED_PHONE = "+33 6 00 00 00 00"
"""The guide says that the gateway refuses this one."""

MORE = "…"
UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}")
FORMS = (
    re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"),  # a time
    re.compile(r"tocsin_[\w-]{43}"),  # a key
)
OF_THIS_RUN = {"request_id", "node", "version", "next_cursor"}
COUNTED_BY_THIS_RUN = {"seq", "from", "to", "oldest", "oldest_pending_s", "latency_p50_ms", "latency_p95_ms", "lag"}


@dataclass
class Block:
    """One fenced block: its language, its text, the line it begins at, the status its heading names."""

    language: str
    text: str
    line: int
    status: int | None = None


@dataclass
class Call:
    """A `curl` line and the answer that the guide shows."""

    line: int
    method: str
    path: str
    headers: dict[str, str]
    body: str | None
    answer: Block

    @property
    def streams(self) -> bool:
        return self.path.startswith("/api/events")


def blocks(text: str) -> list[Block]:
    """The fenced blocks of a Markdown text."""
    found: list[Block] = []
    inside: Block | None = None
    status = None
    for number, line in enumerate(text.splitlines(), 1):
        if inside is not None:
            if line.startswith("```"):
                found.append(inside)
                inside = None
            else:
                inside.text += line + "\n"
        elif line.startswith("```"):
            inside, status = Block(line[3:].strip(), "", number, status), None
        elif heading := re.match(r"\*\*Réponse \((\d{3})\)", line):
            status = int(heading[1])
    return found


def commands(block: Block) -> Iterator[list[str]]:
    """The command lines of a `bash` block, in words."""
    for line in re.sub(r"\\\n", " ", block.text).split("\n\n") if "curl" in block.text else block.text.splitlines():
        words = shlex.split(line, comments=True)
        if words:
            yield words


def calls(found: list[Block]) -> list[Call]:
    """The calls of the guide, each with its answer."""
    made = []
    for block, following in zip(found, [*found[1:], Block("", "", 0)], strict=True):
        if block.language != "bash" or "curl" not in block.text:
            continue
        (words,) = commands(block)
        made.append(call_of(words, block.line, following))
    return made


def call_of(words: list[str], line: int, answer: Block) -> Call:
    """What `curl` would do."""
    call = Call(line, "", "", {}, None, answer)
    query: list[str] = []
    rest = iter(words[1:])
    for word in rest:
        match word:
            case "-X":
                call.method = next(rest)
            case "-H":
                name, _, value = next(rest).partition(":")
                call.headers[name.strip()] = value.strip()
            case "-G":
                call.method = "GET"
            case "-d" if call.method == "GET":
                query.append(next(rest))
            case "--data-urlencode":
                name, _, value = next(rest).partition("=")
                query.append(f"{name}={quote(value)}")
            case "-d":
                call.body = next(rest)
                call.headers.setdefault("Content-Type", "application/x-www-form-urlencoded")
            case "-i" | "-s" | "-N":
                continue
            case _:
                assert word.startswith(BASE), f"line {line}: {word}"
                call.path = word.removeprefix(BASE)
    call.path += "?" * bool(query) + "&".join(query)
    assert call.path.isascii(), f"line {line}: curl sends it as it is, and no server takes that: {call.path}"
    call.method = call.method or ("GET" if call.body is None else "POST")
    return call


@dataclass
class Reader:
    """Compares what the guide shows with what there is, and learns which id of this run an id of the guide is."""

    ids: dict[str, str] = field(default_factory=dict)

    def here(self, text: str) -> str:
        """The guide's words with the ids of this run."""
        return UUID.sub(lambda found: self.ids.get(found[0], found[0]), text)

    def compare(self, shown: Any, real: Any, where: str = "", name: str = "") -> list[str]:
        """What differs."""
        if name in OF_THIS_RUN and isinstance(shown, str) and isinstance(real, str):
            self._learn(shown, real)
            return []
        if name in COUNTED_BY_THIS_RUN and type(shown) in (int, float) and (real is None or type(real) in (int, float)):
            return []
        match shown, real:
            case dict(), dict():
                expected = shown.keys() - {MORE}
                wrong = [f"{where}/{key}: not there" for key in sorted(expected - real.keys())]
                if MORE not in shown:
                    wrong += [f"{where}/{key}: not in the guide" for key in sorted(real.keys() - expected)]
                for key in shown.keys() & real.keys():
                    wrong += self.compare(shown[key], real[key], f"{where}/{key}", key)
                return wrong
            case list(), list():
                return self._compare_lists(shown, real, where)
            case str(), str():
                return [] if self._alike(shown, real) else [f"{where}: {real!r}, in the guide {shown!r}"]
            case _:
                same = shown == real and (type(shown) is bool) == (type(real) is bool)
                return [] if same else [f"{where}: {real!r}, in the guide {shown!r}"]

    def _compare_lists(self, shown: list[Any], real: list[Any], where: str) -> list[str]:
        wanted = [each for each in shown if each != MORE]
        if len(real) < len(wanted) or (len(real) > len(wanted) and MORE not in shown):
            return [f"{where}: {len(real)} items, in the guide {len(wanted)}"]
        if wanted and shown[0] == MORE:
            real = real[-len(wanted) :]
        pairs = zip(wanted, real, strict=False)
        return [each for n, (one, two) in enumerate(pairs) for each in self.compare(one, two, f"{where}/{n}")]

    def _alike(self, shown: str, real: str) -> bool:
        if any(form.fullmatch(shown) and form.fullmatch(real) for form in FORMS):
            return True
        self._learn(shown, real)
        return self.here(shown) == real

    def _learn(self, shown: str, real: str) -> None:
        ours, theirs = UUID.findall(shown), UUID.findall(real)
        if len(ours) == len(theirs):
            self.ids |= {one: two for one, two in zip(ours, theirs, strict=True) if one not in self.ids}


@dataclass
class Answer:
    """What the server said."""

    status: int
    headers: dict[str, str]
    text: str


class Player:
    """Makes the guide's calls."""

    def __init__(self, town: Town, receiver: Receiver, keys: dict[str, str]):
        self.town = town
        self.reader = Reader()
        self._receiver = receiver
        self._keys = keys

    async def play(self, call: Call) -> list[str]:
        """Make a call; what differs from the guide. A GET is made again until it is as shown, or time is up."""
        if call.method != "GET" or call.streams:
            return self.wrong(call, await self.answer(call))
        wrong: list[str] = []

        async def as_shown() -> bool:
            wrong[:] = self.wrong(call, await self.answer(call))
            return not wrong

        try:
            async with asyncio.timeout(60):
                await self.town.until(as_shown)
        except TimeoutError:
            pass  # `wrong` says what it was
        return wrong

    async def answer(self, call: Call) -> Answer:
        headers = dict(call.headers)
        headers["X-API-Key"] = self._keys.get(headers.get("X-API-Key", ""), headers.get("X-API-Key", ""))
        path = self.reader.here(call.path)
        body = None if call.body is None else self.reader.here(call.body).replace(HOOK, self._receiver.url)
        async with self.town.client.request(
            call.method, path, data=body, headers={k: v for k, v in headers.items() if v}
        ) as response:
            said = dict(response.headers)
            if call.streams:
                return Answer(response.status, said, await self._frames(response, call.answer.text.count("data:")))
            text = await response.text()
            return Answer(response.status, said, text.replace(self._receiver.url, HOOK))

    async def _frames(self, response: Any, how_many: int) -> str:
        lines: list[str] = []
        while sum(line.startswith("data:") for line in lines) < how_many:
            lines.append((await response.content.readline()).decode().rstrip("\n"))
        return "\n".join(lines)

    def wrong(self, call: Call, answer: Answer) -> list[str]:
        shown = call.answer
        wrong = []
        if shown.status and answer.status != shown.status:
            wrong.append(f"{answer.status}, in the guide {shown.status}: {answer.text[:300]}")
        match shown.language:
            case "json":
                wrong += self.reader.compare(json.loads(shown.text), json.loads(answer.text))
            case "http":
                head, _, body = shown.text.partition("\n\n")
                first, *lines = head.splitlines()
                if f" {answer.status} " not in first + " ":
                    wrong.append(f"{answer.status}, in the guide {first}")
                real = {name.lower(): value for name, value in answer.headers.items()}
                for name, _, value in (line.partition(": ") for line in lines):
                    wrong += self.reader.compare(value, real.get(name.lower()), name)
                if body.strip():
                    wrong += self.reader.compare(json.loads(body), json.loads(answer.text))
            case "text" if call.streams:
                frames = [json.loads(line[5:]) for line in answer.text.splitlines() if line.startswith("data:")]
                ours = [json.loads(line[5:]) for line in shown.text.splitlines() if line.startswith("data:")]
                wrong += self.reader.compare(ours, frames)
            case "text":
                wrong += [f"not there: {line}" for line in shown.text.splitlines() if line not in answer.text]
            case other:
                wrong.append(f"expected the answer in a block of json, http or text, got {other!r}")
        return wrong


class GuidesClock(TurnedClock):
    """Stands at the day on which the guide plays, so that its dates stay ahead."""

    def now_ms(self) -> int:
        return super().now_ms() - TurnedClock().now_ms() + int(datetime(2026, 1, 15, 9, tzinfo=UTC).timestamp() * 1000)


@asynccontextmanager
async def playing(folder: Path) -> AsyncIterator[Player]:
    """The guide's server: as shipped, with a secret for webhooks, and a gateway that refuses one number."""
    clock = GuidesClock()
    hooks = {"WEBHOOKS__SECRETS": json.dumps(SECRETS), "WEBHOOKS__ALLOW": '["127.0.0.1"]'}
    async with receiving(clock) as receiver, today(folder, clock, **hooks) as town:

        def gateway(message: Message) -> Outcome:
            refused = message.telephone == REFUSED_PHONE
            return Refused("gateway_refused", "400") if refused else Sent()

        town.service("sms").always(gateway)
        keys = {
            "VOTRE_CLE": (await town.key(Role.OPERATOR, "Centrale météo"))["X-API-Key"],
            "CLE_LECTURE": (await town.key(Role.VIEWER, "Écran du poste"))["X-API-Key"],
            "CLE_ADMIN": ADMIN_KEY,
        }
        yield Player(town, receiver, keys)


@both
async def test_every_call_of_the_guide_answers_as_shown(tmp_path: Path) -> None:
    async with playing(tmp_path) as player:
        for call in calls(blocks(GUIDE.read_text(encoding="utf-8"))):
            wrong = await player.play(call)

            assert not wrong, f"line {call.line}: {call.method} {call.path}\n" + "\n".join(wrong)


def test_the_guide_names_every_route_that_people_call() -> None:
    from server.app import all_routes

    text = GUIDE.read_text(encoding="utf-8")
    not_told = {"/api/docs", "/admin/logout"}
    for route in all_routes():
        if route.hidden or route.page or route.path in not_told:
            continue
        path = re.escape(route.path).replace(r"\{id\}", "[^/\\s`]+").replace(r"\{type\}", "[^/\\s`]+")
        assert re.search(path, text), f"{route.method} {route.path}"


def test_its_commands_are_taken_by_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    seen = 0
    for block in blocks(GUIDE.read_text(encoding="utf-8")):
        if block.language != "bash" or "curl" in block.text:
            continue
        for words in commands(block):
            while words and "=" in words[0]:
                words = words[1:]
            if words[:2] == ["python", "run.py"]:
                seen += 1
                try:
                    parser().parse_args(words[2:])
                except SystemExit as end:
                    assert end.code == 0, f"line {block.line}: {words}: {capsys.readouterr().err}"
            else:
                assert words[0] in ("make", "export", "curl", "kill"), f"line {block.line}: {words}"
    assert seen


def test_its_configurations_are_taken(tmp_path: Path) -> None:
    secrets = {"WEBHOOK_SECRET": SECRETS[0], "SMS_URL": "https://user:secret@sms.example/"}
    tables = [block for block in blocks(GUIDE.read_text(encoding="utf-8")) if block.language == "toml"]
    for number, block in enumerate(tables):
        file = tmp_path / f"{number}.toml"
        file.write_text(block.text, encoding="utf-8")
        assert tomllib.loads(block.text)
        load(file, secrets)


def test_its_frames_are_frames() -> None:
    seen = 0
    for block in blocks(GUIDE.read_text(encoding="utf-8")):
        if block.language == "jsonl":
            for line in block.text.splitlines():
                seen += 1
                msgspec.json.decode(line, type=Hello | Events | Stats | GapFrame | Shutdown | ErrorFrame)
    assert seen


def test_the_reader_sees_what_differs() -> None:
    """The comparison itself can fail: else the tests above would say nothing."""
    reader = Reader()

    assert reader.compare({"a": 1}, {"a": 1}) == []
    assert reader.compare({"a": 1}, {"a": 2}) != []
    assert reader.compare({"a": 1}, {"a": True}) != []
    assert reader.compare({"a": 1}, {}) != []
    assert reader.compare({"a": 1}, {"a": 1, "b": 2}) != []
    assert reader.compare({"a": 1, "…": "…"}, {"a": 1, "b": 2}) == []
    assert reader.compare([1], [1, 2]) != []
    assert reader.compare(["…", 2], [1, 2]) == []
    assert reader.compare("pending", "failed") != []
    one, two, three = (f"01890000-0000-7000-8000-00000000000{n}" for n in range(3))
    assert reader.compare(one, two) == []
    assert reader.compare(f"/api/queue/tasks/{one}", f"/api/queue/tasks/{two}") == []
    assert reader.compare(one, three) != []
