"""E-mail: deliveries/s through a mail server beside bare aiosmtplib with as many connections; a CRITIQUE behind many.

The mail server is a process of its own on the load's core and does as little as it may: it takes a message and says so.

    python -m tests.bench.smtp
"""

from __future__ import annotations

import asyncio
import sys
from email.message import EmailMessage
from email.policy import SMTP
from time import perf_counter

import aiosmtplib
import uvloop

from tests.bench.drain import fresh, until_completed
from tests.bench.kit import LOAD_CORE, Process, Row, median, notification, on_core, row
from tests.bench.load import flood, request

CONNECTIONS = 16


class Mail(asyncio.Protocol):
    """One connection of the mail server; it answers the moment a line is whole."""

    first: float = 0.0
    marked: float = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: asyncio.Transport = transport  # type: ignore[assignment]
        self.buffer = b""
        self.in_data = False
        self.transport.write(b"220 sink\r\n")

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        while True:
            if self.in_data:
                at = self.buffer.find(b"\r\n.\r\n")
                if at < 0:
                    return
                if b"X-Priority: 1" in self.buffer[:at] and not Mail.marked:
                    Mail.marked = perf_counter()
                    print(f"critique {Mail.marked}", flush=True)
                self.buffer = self.buffer[at + 5 :]
                self.in_data = False
                self.transport.write(b"250 taken\r\n")
                continue
            line, end, rest = self.buffer.partition(b"\r\n")
            if not end:
                return
            self.buffer = rest
            word = line[:4].upper()
            if word == b"DATA":
                self.in_data = True
                self.transport.write(b"354 go on\r\n")
            elif word == b"EHLO":
                self.transport.write(b"250-sink\r\n250-PIPELINING\r\n250-SMTPUTF8\r\n250 8BITMIME\r\n")
            elif word == b"QUIT":
                self.transport.write(b"221 bye\r\n")
                self.transport.close()
            else:
                self.transport.write(b"250 ok\r\n")


async def serve() -> None:
    server = await asyncio.get_running_loop().create_server(Mail, "127.0.0.1", 0)
    print(f"sink: http://127.0.0.1:{server.sockets[0].getsockname()[1]}/", flush=True)
    await server.serve_forever()


async def bare(port: int, messages: int) -> float:
    """Messages/s by aiosmtplib alone over kept connections, the message composed beforehand."""
    made = EmailMessage()
    made["From"] = "tocsin@example.org"
    made["Subject"] = "Alerte orange : vents violents"
    made.set_content("Restez chez vous. " * 14)
    made.add_alternative("<p>Restez chez vous.</p>" * 14, subtype="html")
    message = made.as_bytes(policy=SMTP)
    left = iter(range(messages))

    async def sender() -> None:
        client = aiosmtplib.SMTP(
            hostname="127.0.0.1", port=port, local_hostname="bench", use_tls=False, start_tls=False
        )
        await client.connect()
        for n in left:
            await client.sendmail("tocsin@example.org", [f"jean.dupont{n}@example.org"], message)
        await client.quit()

    began = perf_counter()
    await asyncio.gather(*(sender() for _ in range(CONNECTIONS)))
    return messages / (perf_counter() - began)


async def ours(port: int, messages: int) -> float:
    """Deliveries/s of one task through the smtp channel."""
    url = f"smtp://127.0.0.1:{port}?from=tocsin@example.org&tls=none"
    with fresh(CHANNELS__EMAIL__URL=url, CHANNELS__EMAIL__CONCURRENCY=str(CONNECTIONS)) as server:
        body = request("POST", "/api/notifications/meteo", notification(messages, 600))
        await flood(server.port, request("POST", "/api/notifications/meteo", notification(50)), connections=1, count=1)
        until_completed(server, 1)
        server.pause()
        await flood(server.port, body, connections=1, count=1)
        server.pause(paused=False)
        began = perf_counter()
        return messages / (await asyncio.to_thread(until_completed, server, 2) - began)


async def behind_a_crowd(sink: Process, crowd: int) -> float:
    """Seconds from the POST of a CRITIQUE to its first message, behind `crowd` recipients at 50/s."""
    url = f"smtp://127.0.0.1:{sink.port}?from=tocsin@example.org&tls=none"
    with fresh(CHANNELS__EMAIL__URL=url, CHANNELS__EMAIL__RATE_PER_SECOND="50") as server:
        await flood(
            server.port, request("POST", "/api/notifications/infra", notification(crowd)), connections=1, count=1
        )
        await asyncio.sleep(2)
        urgent = request("POST", "/api/notifications/securite", notification(1))
        began = perf_counter()
        await flood(server.port, urgent, connections=1, count=1)
        assert sink.process.stdout
        line = await asyncio.wait_for(asyncio.to_thread(sink.process.stdout.readline), 30)
        return float(line.split()[1]) - began


async def run(quick: bool = False) -> list[Row]:
    """All figures of e-mail."""
    messages = 1000 if quick else 4000
    pairs = []
    with Process([sys.executable, "-m", "tests.bench.smtp"], core=LOAD_CORE) as sink:
        for _ in range(1 if quick else 3):
            with on_core(0):
                limit = await bare(sink.port, messages)
            pairs.append((await ours(sink.port, messages), limit))
        mine, limit = (median(side) for side in zip(*pairs, strict=True))
        name = f"deliveries by e-mail, {CONNECTIONS} connections"
        rows = [row(name, mine, "deliveries/s", limit, ">= 0.85 of it", "bare: aiosmtplib, one message composed once")]
        crowd = 20_000 if quick else 100_000
        waited = await behind_a_crowd(sink, crowd)
        rows.append(row(f"CRITIQUE behind {crowd:,} recipients at 50/s, first delivery", waited, "s", None, "< 1"))
        return rows


if __name__ == "__main__":
    uvloop.run(serve())
