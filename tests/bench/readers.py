"""The processes of the fan-out bench: those who read the stream in one, and the handle by which the bench has them.

A reader looks at no more than it must, so that what is measured is the server.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import sys
import time

KEY = "tocsin_key_of_the_bench_0123456789"


class Reader(asyncio.Protocol):
    """One subscriber that looks at no more than it must: the end of what came."""

    def __init__(self, crew: Crew) -> None:
        self.crew = crew
        self.buffer = b""  # the end of what came before: a number may lie across two pieces
        self.open = False
        self.seen = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.write(  # type: ignore[attr-defined]
            f"GET /ws/events HTTP/1.1\r\nHost: x\r\nX-API-Key: {KEY}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n".encode()
        )

    def data_received(self, data: bytes) -> None:
        if not self.open:
            self.buffer += data
            if b'"kind":"hello"' in self.buffer:
                self.open = True
                self.buffer = b""
                self.crew.one_more(self.crew.opened)
            return
        crew = self.crew
        if crew.timing:
            now = time.monotonic_ns()
            at = data.find(b'"ns":')
            while at >= 0:
                if len(stamp := data[at + 5 : at + 24]) == 19:
                    crew.late_ns.append(now - int(stamp))
                at = data.find(b'"ns":', at + 24)
        if self.seen is not crew.marker and (crew.marker in data or crew.marker in self.buffer + data[:64]):
            self.seen = crew.marker
            crew.one_more(crew.reached)
        self.buffer = data[-64:] if len(data) >= 64 else (self.buffer + data)[-64:]


class Crew:
    """All readers."""

    def __init__(self, n: int) -> None:
        self.n = n
        self.opened = [0]
        self.reached = [0]
        self.all = asyncio.Event()
        self.marker = b"?"
        self.timing = False
        self.late_ns: list[int] = []

    def one_more(self, count: list[int]) -> None:
        count[0] += 1
        if count[0] == self.n:
            self.all.set()


async def read(n: int, port: int) -> None:
    """The readers' process: connects, then waits for the number that its standard input names."""
    loop = asyncio.get_running_loop()
    crew = Crew(n)
    lines = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), os.fdopen(0, "rb"))
    await lines.readline()
    for start in range(0, n, 50):
        here = range(start, min(start + 50, n))
        await asyncio.gather(*(loop.create_connection(lambda: Reader(crew), "127.0.0.1", port) for _ in here))
    await crew.all.wait()
    print("open", flush=True)
    gc.freeze()
    while line := (await lines.readline()).decode().split():
        crew.all.clear()
        crew.reached[0] = 0
        crew.marker = b'"seq":%d,' % int(line[1])
        crew.timing = line[0] == "late"
        crew.late_ns.clear()
        print("ready", flush=True)
        await crew.all.wait()
        print(
            json.dumps(
                {"at": time.monotonic_ns(), "late": sorted(crew.late_ns)[:: max(1, len(crew.late_ns) // 10_000)]}
            )
        )
        sys.stdout.flush()


class Child:
    """A process of the bench."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    @classmethod
    async def start(cls, core: int, *arguments: object) -> Child:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.bench.fanout", str(core), *map(str, arguments),
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, limit=2**26,
        )  # fmt: skip
        return cls(process)

    def say(self, *words: object) -> None:
        assert self.process.stdin
        self.process.stdin.write((" ".join(map(str, words)) + "\n").encode())

    async def hear(self) -> str:
        assert self.process.stdout
        async with asyncio.timeout(40):
            return (await self.process.stdout.readline()).decode().strip()

    async def ask(self, *words: object) -> str:
        """Say, and hear what comes of it."""
        self.say(*words)
        return await self.hear()

    async def end(self) -> None:
        """Let it stop by itself."""
        assert self.process.stdin
        self.process.stdin.close()
        try:
            async with asyncio.timeout(10):
                await self.process.wait()
        except TimeoutError:
            self.process.kill()
            await self.process.wait()
