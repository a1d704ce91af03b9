"""A whole server under attack: what it answers to the byte, what it stored of it, and what it said in its log.

Attacks enter by the door: `ask` through a client, `raw` as bytes on a socket. `unharmed` is what must hold after each.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import io
import json
import logging
import re
import warnings
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from multidict import CIMultiDict
from yarl import URL

from server.logs import JsonLines
from server.model import Role
from tests.kit import ADMIN_KEY, Town, running

JSON = {"Content-Type": "application/json"}
GOOD: dict[str, Any] = {
    "titre": "alerte",
    "message": "Tempête prévue",
    "utilisateurs": [{"id": "u1", "nom": "Jean Dupont", "email": "jean.dupont@example.org"}],
}
ENVIRON = {
    "LIMITS__BODY_MIB": "1",
    "QUEUE__WORKERS": "0",
    "QUEUE__EXPRESS_WORKERS": "0",
    "WEBHOOKS__SECRETS": '["whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"]',
}
CLOSES_S = 60
"""Seconds, of real time, in which the server must have closed a connection that it will not serve."""


@dataclass
class Answer:
    """One answer as it came over the wire."""

    status: int
    headers: CIMultiDict[str] = field(default_factory=CIMultiDict)
    body: bytes = b""

    @property
    def code(self) -> str:
        """The problem's stable code, "" where the answer is none."""
        if "json" not in self.headers.get("Content-Type", ""):
            return ""
        said = json.loads(self.body)
        return str(said.get("code", "")) if isinstance(said, dict) else ""

    @property
    def pointers(self) -> list[str]:
        """Where the answer finds fault, in its order."""
        return [each.get("pointer", each.get("parameter")) for each in json.loads(self.body)["errors"]]


def parse(data: bytes) -> list[Answer]:
    """All answers in what came over one connection; raises ValueError for what is none."""
    answers = []
    while data:
        if data.startswith(b"HTTP/1.1 100 "):
            data = data.partition(b"\r\n\r\n")[2]
            continue
        head, end, data = data.partition(b"\r\n\r\n")
        if not end or not (status := re.match(rb"HTTP/1\.[01] (\d{3}) ", head)):
            raise ValueError(f"no answer: {head[:100]!r}")
        headers: CIMultiDict[str] = CIMultiDict()
        for line in head.decode("latin-1").split("\r\n")[1:]:
            name, _, value = line.partition(": ")
            headers.add(name, value)
        answer = Answer(int(status[1]), headers)
        if headers.get("Transfer-Encoding") == "chunked":
            while True:
                size, _, data = data.partition(b"\r\n")
                length = int(size, 16)
                answer.body += data[:length]
                data = data[length + 2 :]
                if not length:
                    break
        elif "Content-Length" in headers:
            length = int(headers["Content-Length"])
            answer.body, data = data[:length], data[length:]
        elif answer.status not in (101, 204, 304):
            answer.body, data = data, b""
        answers.append(answer)
    return answers


class Siege:
    """A running server, its keys, and everything it has logged."""

    def __init__(self, town: Town, log: io.StringIO):
        self.town = town
        self.keys: dict[Role, str] = {Role.ADMIN: ADMIN_KEY}
        self.secrets = [ADMIN_KEY, "jean.dupont@example.org"]
        """What must never stand in the log; tests add their own."""
        self._log = log
        self._enqueued = 0
        self.port: int = town.client.port

    @property
    def origin(self) -> str:
        """The server as a browser names it."""
        return f"http://127.0.0.1:{self.port}"

    def key(self, role: Role = Role.ADMIN) -> dict[str, str]:
        """The header of a key with `role`."""
        return {"X-API-Key": self.keys[role]}

    async def ask(self, method: str, path: str, body: bytes | None = None, **headers: str) -> Answer:
        """One request, its path as it is; header names with `_` for `-`; with the admin's key unless one is given."""
        given = CIMultiDict({name.replace("_", "-"): value for name, value in headers.items()})
        if "X-API-Key" not in given and "Cookie" not in given:
            given["X-API-Key"] = ADMIN_KEY
        if given.get("X-API-Key") == "":
            del given["X-API-Key"]
        data = io.BytesIO(body) if body else body
        async with (
            asyncio.timeout(CLOSES_S),
            self.town.client.request(
                method, URL(path, encoded=True), data=data, headers=given, allow_redirects=False
            ) as answer,
        ):
            return Answer(answer.status, CIMultiDict(answer.headers), await answer.read())

    async def post(self, body: Any, path: str = "/api/notifications/meteo", **headers: str) -> Answer:
        """POST a body: bytes as they are, anything else as JSON."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        return await self.ask("POST", path, data, **{"Content_Type": "application/json", **headers})

    async def bytes(self, *pieces: bytes, until: bytes | None = None) -> bytes:
        """Send `pieces`, and read until the server closes (or has said `until`)."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        said = b""
        try:
            async with asyncio.timeout(CLOSES_S):
                for piece in pieces:
                    writer.write(piece)
                    await writer.drain()
                while until is None or until not in said:
                    some = await reader.read(65_536)
                    if not some:
                        break
                    said += some
        except ConnectionError:
            pass  # it closed before it had read everything: what it said counts
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()
        return said

    async def raw(self, *pieces: bytes) -> list[Answer]:
        """Send `pieces` on one connection; all answers until the server closes it."""
        return parse(await self.bytes(*pieces))

    def lines(self) -> list[dict[str, Any]]:
        """Everything logged so far; raises ValueError where a line is not one JSON object."""
        text = self._log.getvalue()
        assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", text), text[-2000:]
        return [json.loads(line) for line in text.split("\n") if line]

    def forget(self) -> None:
        """Begin the log anew."""
        self._log.seek(0)
        self._log.truncate()

    async def unharmed(self) -> None:
        """No row was written, no bug was met, and nothing secret was said."""
        stats = (await self.town.json("/api/queue/stats"))["stats"]
        assert (stats["total_enqueued"], stats["total_tasks"], stats["current_queue_size"]) == (0, 0, 0)
        assert (await self.town.json("/api/queue/tasks?limit=1"))["tasks"] == []
        self.discreet()

    def discreet(self) -> None:
        """No bug was met, and nothing secret was said."""
        lines = self.lines()
        assert not [line for line in lines if line["level"] in ("error", "critical")], lines
        text = self._log.getvalue()
        assert not [secret for secret in self.secrets if secret in text], text
        self.forget()


@asynccontextmanager
async def besieged(folder: Path, **environ: str) -> AsyncIterator[Siege]:
    """A server to attack, one key per role, and its log as `run.py serve` would write it."""
    log = io.StringIO()
    handler = logging.StreamHandler(log)
    handler.setFormatter(JsonLines())
    root, library = logging.getLogger(), logging.getLogger("aiohttp")
    before = root.level, library.level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    library.setLevel(logging.WARNING)
    try:
        async with running(folder, **(ENVIRON | environ)) as town:
            siege = Siege(town, log)
            for role in (Role.VIEWER, Role.OPERATOR):
                siege.keys[role] = (await town.key(role))["X-API-Key"]
                siege.secrets.append(siege.keys[role])
            yield siege
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ResourceWarning)  # of connections that were cut on purpose
                gc.collect()
    finally:
        root.removeHandler(handler)
        root.setLevel(before[0])
        library.setLevel(before[1])
