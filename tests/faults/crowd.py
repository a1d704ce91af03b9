"""A crowd of subscribers in a process of its own: `python -m tests.faults.crowd PORT KEY`, orders by standard input.

Orders and answers are JSON, one a line. A reader takes the WebSocket apart itself and looks at no more than it must,
since a thousand of them share a core with the test: of every frame whether it follows the one before and has as many
events as it says, and how old its first event is. Some decode every event as well and note its checksum. The dead shake
hands and never read.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import socket
import sys
import time
from collections import Counter
from datetime import datetime
from pathlib import Path
from typing import Any
from zlib import crc32

import msgspec
import uvloop

UPGRADE = (
    "GET /ws/events{query} HTTP/1.1\r\nHost: 127.0.0.1\r\nX-API-Key: {key}\r\nConnection: Upgrade\r\n"
    "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
EVENTS = b'{"kind":"events","from":'
PONG = b"\x8a\x80\0\0\0\0"
SMALL = 4096  # a dead one's receive buffer: the server's own is soon full


class Frame(msgspec.Struct):
    """An events frame, each event as it came."""

    events: list[msgspec.Raw]


class Reader(asyncio.Protocol):
    """One subscriber of every event."""

    __slots__ = ("crew", "last", "open", "reached", "rest", "since", "transport", "whole")

    def __init__(self, crew: Crew, since: int | None, *, whole: bool):
        self.crew, self.since, self.whole = crew, since, whole
        self.last = -1 if since is None else since
        self.open = self.reached = False
        self.rest = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: asyncio.Transport = transport  # type: ignore[assignment]
        query = "" if self.since is None else f"?since={self.since}"
        self.transport.write(UPGRADE.format(query=query, key=self.crew.key).encode())

    def data_received(self, data: bytes) -> None:
        if self.rest:
            data = self.rest + data
        if not self.open:
            head, found, rest = data.partition(b"\r\n\r\n")
            if not found:
                self.rest = data
                return
            self.open = True
            if not head.startswith(b"HTTP/1.1 101"):
                self.crew.fault(f"a handshake was answered {head[:40]!r}")
            data = rest
        while (here := len(data)) >= 2:
            size, at = data[1], 2
            if size == 126:
                size, at = int.from_bytes(data[2:4]), 4
            elif size == 127:
                size, at = int.from_bytes(data[2:10]), 10
            if here < at + size:
                break
            self.message(data[0] & 15, data, at, at + size)
            data = data[at + size :]
        self.rest = data

    def message(self, kind: int, data: bytes, at: int, end: int) -> None:
        """One message, `data[at:end]`."""
        if kind == 1 and data.startswith(EVENTS, at):
            comma = data.find(b",", at + 24)
            first = int(data[at + 24 : comma])
            to = data.find(b",", comma + 6)
            last = int(data[comma + 6 : to])
            if first != self.last + 1:
                self.crew.fault(f"a frame from {first} follows seq {self.last}")
            if data.count(b'"seq":', to, end) != last - first + 1:
                self.crew.fault(f"a frame {first} to {last} has other events")
            if last >= first:
                self.crew.told(first, data, to)
                if self.whole:
                    self.crew.keep(first, data[at:end])
            self.last = last
            if last >= self.crew.target and not self.reached:
                self.reached = True
                self.crew.one_more()
        elif kind == 1 and b'"kind":"hello"' in data[at:end]:
            if self.last < 0:
                self.last = json.loads(data[at:end])["seq"]
            self.crew.opened += 1
            if self.last >= self.crew.target and not self.reached:
                self.reached = True
                self.crew.one_more()
        elif kind == 9:
            self.transport.write(PONG)
        elif kind == 8:
            self.crew.fault(f"a reader was closed with {int.from_bytes(data[at : at + 2])}")
        else:
            self.crew.fault(f"a reader was told {data[at : min(end, at + 80)]!r}")

    def connection_lost(self, error: Exception | None) -> None:
        if self in self.crew.readers:
            self.crew.fault(f"a reader lost its connection: {error}")


class Crew:
    """All of them."""

    def __init__(self, port: int, key: str):
        self.port, self.key = port, key
        self.readers: set[Reader] = set()
        self.dead: list[socket.socket] = []
        self.cut: Counter[str] = Counter()  # how the dead ended
        self.faults: Counter[str] = Counter()
        self.late_ms: Counter[int] = Counter()
        self.at_ms: dict[int, float] = {}
        self.sums: dict[int, int] = {}
        self.opened = 0
        self.target = sys.maxsize
        self.missing = 0
        self.all = asyncio.Event()

    def fault(self, text: str) -> None:
        """Something was not as promised."""
        self.faults[text] += 1

    def told(self, first: int, data: bytes, after: int) -> None:
        """A frame has come that begins with event `first`: how old is that?"""
        at_ms = self.at_ms.get(first)
        if at_ms is None:
            at = data.find(b'"at":"', after) + 6
            at_ms = self.at_ms[first] = datetime.fromisoformat(data[at : at + 24].decode()).timestamp() * 1000
        self.late_ms[int(time.time() * 1000 - at_ms)] += 1

    def keep(self, first: int, frame: bytes) -> None:
        """Note the events of a frame; all who are told one must be told the same."""
        for seq, event in enumerate(msgspec.json.decode(frame, type=Frame).events, first):
            body = bytes(event)
            if not body.startswith(b'{"seq":%d,' % seq):
                self.fault(f"{body[:20]!r} in the place of {seq}")
            if self.sums.setdefault(seq, crc32(body)) != crc32(body):
                self.fault(f"{seq} was told in two ways")

    def one_more(self) -> None:
        """Somebody has come as far as was asked for."""
        self.missing -= 1
        if not self.missing:
            self.all.set()

    def aim(self, seq: int, readers: list[Reader]) -> None:
        """Wait for these to come to `seq`."""
        self.all.clear()
        self.target, self.missing = seq, len(readers)
        for reader in readers:
            reader.reached = False
            if reader.last >= seq and reader.open:
                reader.reached = True
                self.one_more()

    async def join(self, readers: list[Reader]) -> None:
        """Connect them, all at once."""
        loop = asyncio.get_running_loop()
        self.readers.update(readers)
        await asyncio.gather(*(loop.create_connection(lambda r=r: r, "127.0.0.1", self.port) for r in readers))

    def bury(self) -> None:
        """Read to their end those whom the server has cut off, and see how that was."""
        for sock in self.dead:
            said = b""
            sock.settimeout(60)
            try:
                while piece := sock.recv(1 << 20):
                    said = (said + piece)[-4:]
            except TimeoutError:
                self.fault("the server has not let go of one that read nothing")
            except OSError:
                said = b""
            sock.close()
            self.cut[str(int.from_bytes(said[2:])) if said[:2] == b"\x88\x02" else "reset"] += 1
        self.dead = []

    def die(self, *, little: bool) -> socket.socket:
        """One that never reads; where `little` comes for it its kernel takes all of it, the close too."""
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL)
        sock.connect(("127.0.0.1", self.port))
        sock.sendall(UPGRADE.format(query="?type=securite" if little else "", key=self.key).encode())
        return sock

    async def obey(self, order: dict[str, Any]) -> dict[str, Any]:
        """One order, and what came of it."""
        match order["do"]:
            case "open":
                readers = [Reader(self, None, whole=n < order["whole"]) for n in range(order["readers"])]
                for n in range(0, len(readers), 50):
                    await self.join(readers[n : n + 50])
                while self.opened < len(readers):
                    await asyncio.sleep(0.01)
            case "dead":
                self.dead = [self.die(little=n % 10 == 0) for n in range(order["dead"])]
            case "bury":
                await asyncio.to_thread(self.bury)
            case "late":
                late, self.late_ms = self.late_ms, Counter()
                return {"frames": late.total(), **{f"p{q}": quantile(late, q) for q in (50, 99, 100)}}
            case "until":
                self.aim(order["seq"], list(self.readers))
                await self.all.wait()
            case "back":  # all leave; they and some more come back at once behind a place that the log has had
                before, self.readers = self.readers, set()
                for reader in before:
                    reader.transport.abort()
                draw = random.Random(order["seed"])
                whole = [each.whole for each in before] + [False] * (order["readers"] - len(before))
                readers = [Reader(self, max(0, order["seq"] - draw.randrange(order["behind"])), whole=w) for w in whole]
                self.aim(order["seq"], readers)
                began = time.monotonic()
                await self.join(readers)
                await self.all.wait()
                return {"took_s": time.monotonic() - began}
        return {
            "faults": self.faults,
            "cut": self.cut,
        }


def quantile(counts: Counter[int], percent: float) -> int:
    """The value below or at which so many percent of what was counted lie."""
    left = counts.total() * percent / 100
    for value in sorted(counts):
        left -= counts[value]
        if left <= 0:
            return value
    return max(counts, default=0)


async def main(port: int, key: str, sums: str) -> None:
    """Do what standard input says; at its end leave the checksums in the file `sums`."""
    crew = Crew(port, key)
    lines = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), os.fdopen(0, "rb"))
    while line := await lines.readline():
        print(json.dumps(await crew.obey(json.loads(line))), flush=True)
    Path(sums).write_text(json.dumps(crew.sums), "utf-8")


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1]), sys.argv[2], sys.argv[3]))
