"""The far ends: a small real mail server and an SMS gateway, which write down every message they take.

Each taken message is noted with its id and with the life of the server under test in which its connection was made,
before it is answered for. So a repeat can be laid at the door of the one kill that explains it, or of none.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from msgspec import Struct

_message_id = re.compile(rb"^message-id:\s*<([^@>]+)@", re.IGNORECASE | re.MULTILINE)


class Taken(Struct, frozen=True):
    """One message that a sink has taken."""

    id: str  # "<task>.<n>"
    address: str
    life: int  # of the server, counted from 0
    at: float  # perf_counter()


class Sink:
    """What both kinds of sink share: the list, and ways to wait for it and to act in the middle of it."""

    def __init__(self) -> None:
        self.taken: list[Taken] = []
        self.lives: defaultdict[str, list[int]] = defaultdict(list)  # by message id
        self.life = 0
        self.sessions: set[object] = set()
        self.port = 0
        self.on_taken: Callable[[Taken], None] | None = None
        """Called with a message that is taken and not yet answered for."""
        self.delay_s = 0.0  # between taking a message and answering for it
        self._news = asyncio.Event()

    def take(self, message_id: str, address: str, life: int) -> None:
        """Note one message."""
        taken = Taken(message_id, address, life, time.perf_counter())
        self.taken.append(taken)
        self.lives[message_id].append(life)
        self._news.set()
        if self.on_taken:
            self.on_taken(taken)

    def reached(self, task_id: str) -> int:
        """How many recipients of a task have the message."""
        return sum(1 for each in self.lives if each.startswith(task_id))

    async def until(self, holds: Callable[[], bool], within_s: float = 60) -> None:
        """Return once `holds()`, looked at whenever a message comes or a connection ends. Raises TimeoutError."""
        async with asyncio.timeout(within_s):
            while not holds():
                self._news.clear()
                await self._news.wait()

    async def more(self, count: int, within_s: float = 60) -> None:
        """Return once `count` more messages than now have been taken."""
        enough = len(self.taken) + count
        await self.until(lambda: len(self.taken) >= enough, within_s)

    async def next_life(self) -> None:
        """The server is dead: read what it still had on the wire, then count its next life."""
        await self.until(lambda: not self.sessions)
        self.life += 1

    def gone(self, session: object) -> None:
        """A connection has ended."""
        self.sessions.discard(session)
        self._news.set()


class _Mail(asyncio.Protocol):
    """One SMTP connection (RFC 5321 as far as a client that sends needs it; pipelining too)."""

    def __init__(self, sink: Sink):
        self._sink = sink
        self._life = sink.life
        self._buffer = b""
        self._body: list[bytes] | None = None
        self._address = ""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: asyncio.Transport = transport  # type: ignore[assignment]
        self._sink.sessions.add(self)
        self._say("220 sink.test ESMTP")

    def connection_lost(self, error: Exception | None) -> None:
        self._sink.gone(self)

    def _say(self, line: str) -> None:
        if not self._transport.is_closing():
            self._transport.write(line.encode() + b"\r\n")

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while True:
            if self._body is not None:
                end = self._buffer.find(b"\r\n.\r\n")
                if end < 0:
                    return
                letter, self._buffer = self._buffer[:end], self._buffer[end + 5 :]
                self._body = None
                self._letter(letter)
                continue
            line, found, rest = self._buffer.partition(b"\r\n")
            if not found:
                return
            self._buffer = rest
            self._command(line.decode("utf-8", "replace"))

    def _command(self, line: str) -> None:
        match line[:4].upper():
            case "EHLO":
                self._say("250-sink.test\r\n250-PIPELINING\r\n250-SMTPUTF8\r\n250 8BITMIME")
            case "RCPT":
                self._address = line.partition("<")[2].partition(">")[0]
                self._say("250 ok")
            case "DATA":
                self._body = []
                self._say("354 go on")
            case "QUIT":
                self._say("221 bye")
                self._transport.close()
            case _:  # HELO, MAIL, RSET, NOOP
                self._say("250 ok")

    def _letter(self, letter: bytes) -> None:
        found = _message_id.search(letter)
        self._sink.take(found[1].decode() if found else "", self._address, self._life)
        if self._sink.delay_s:
            asyncio.get_running_loop().call_later(self._sink.delay_s, self._say, "250 taken")
        else:
            self._say("250 taken")


class _Sms(asyncio.Protocol):
    """One connection of an HTTP gateway: a JSON POST per message, its Idempotency-Key noted."""

    def __init__(self, sink: Sink):
        self._sink = sink
        self._life = sink.life
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: asyncio.Transport = transport  # type: ignore[assignment]
        self._sink.sessions.add(self)

    def connection_lost(self, error: Exception | None) -> None:
        self._sink.gone(self)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            lines = self._buffer[:end].decode("latin-1").split("\r\n")[1:]
            headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
            whole = end + 4 + int(headers["content-length"])
            if len(self._buffer) < whole:
                return
            body, self._buffer = json.loads(self._buffer[end + 4 : whole]), self._buffer[whole:]
            self._sink.take(headers["idempotency-key"], body["to"], self._life)
            if self._sink.delay_s:
                asyncio.get_running_loop().call_later(self._sink.delay_s, self._answer)
            else:
                self._answer()

    def _answer(self) -> None:
        if not self._transport.is_closing():
            self._transport.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}")


@asynccontextmanager
async def _serving(protocol: Callable[[Sink], asyncio.Protocol]) -> AsyncIterator[Sink]:
    sink = Sink()
    server = await asyncio.get_running_loop().create_server(lambda: protocol(sink), "127.0.0.1", 0, backlog=512)
    sink.port = server.sockets[0].getsockname()[1]
    try:
        yield sink
    finally:
        server.close()
        for session in list(sink.sessions):
            session._transport.abort()  # type: ignore[attr-defined]
        await sink.until(lambda: not sink.sessions, 5)


def mail() -> AbstractAsyncContextManager[Sink]:
    """A mail server on a port of this machine."""
    return _serving(_Mail)


def gateway() -> AbstractAsyncContextManager[Sink]:
    """An SMS gateway on a port of this machine."""
    return _serving(_Sms)
