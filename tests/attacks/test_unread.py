"""A client that asks on and on and reads no answer: what waits for it in the server stays small."""

from __future__ import annotations

import asyncio
import json
import socket

from tests.kit import ADMIN_KEY, Town, jean

NOTICE = {"titre": "t", "message": "m", "utilisateurs": [jean()]}
BODY = json.dumps(NOTICE).encode()
ASKED = 500


async def test_answers_that_nobody_reads_do_not_pile_up(town: Town) -> None:
    await town.post("/admin/api/queue/pause")
    near = socket.socket()
    near.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    near.connect(("127.0.0.1", town.client.port))
    _, writer = await asyncio.open_connection(sock=near, limit=1024)
    server = town.client.server.runner.server
    assert server
    await town.until(lambda: any(_peer(each) == near.getsockname() for each in server.connections))
    (connection,) = [each for each in server.connections if _peer(each) == near.getsockname()]
    connection.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    head = f"X-API-Key: {ADMIN_KEY}\r\nContent-Type: application/json\r\nContent-Length: {len(BODY)}\r\n"
    request = f"POST /api/notifications/meteo HTTP/1.1\r\nHost: x\r\nIdempotency-Key: one\r\n{head}\r\n".encode() + BODY
    try:
        writer.write(request * ASKED)
        unread = connection.transport.get_write_buffer_size
        await town.until(lambda: connection.writing_paused)
        for _ in range(ASKED):  # another is answered as often as would be time for all of them
            assert (await town.post("/api/notifications/meteo", NOTICE, **{"Idempotency-Key": "two"})).status == 202
        assert 32 * 1024 < unread() < 128 * 1024
    finally:
        writer.transport.abort()
    assert (await town.json("/api/queue/stats"))["stats"]["total_enqueued"] == 2


def _peer(connection: object) -> object:
    transport = getattr(connection, "transport", None)
    return transport and transport.get_extra_info("peername")
