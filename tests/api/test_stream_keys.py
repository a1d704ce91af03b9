"""A key or session that ends while a stream of its is still being opened: the stream ends too."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from server.api.turns import AT_ONCE
from server.http.auth import COOKIE
from server.model import Role
from tests.api.http_kit import SECRETS
from tests.api.stream_kit import Desk, close_code, desk, settle


@asynccontextmanager
async def in_the_queue(kit: Desk, opening: Any) -> AsyncIterator[asyncio.Task[Any]]:
    """`opening` while it waits for its turn behind many who came before; it comes at the end of the block."""
    rests: list[Callable[[], None]] = []
    with patch("server.api.turns.pause", lambda _, seconds, then: rests.append(then)):
        for _ in range(AT_ONCE):
            await kit.hub.turns.take()
        await kit.until(lambda: rests)
        task = asyncio.ensure_future(opening)
        await kit.until(lambda: kit.hub.turns._waiting)
        assert kit.hub._per_key
        yield task
        assert not kit.hub.subscribers, "it was to be waiting still"
    rests.pop()()


async def test_a_key_revoked_while_a_stream_is_being_opened_ends_it(tmp_path: Path) -> None:
    async with desk(tmp_path, rests=True) as kit:
        async with in_the_queue(kit, kit.open()) as opening:
            await kit.keyring.revoke("viewer")
        assert await close_code(await opening) == 1008


async def test_so_it_is_with_server_sent_events(tmp_path: Path) -> None:
    async with desk(tmp_path, rests=True) as kit:
        asked = kit.client.get("/api/events", headers={"X-API-Key": SECRETS[Role.VIEWER]})
        async with in_the_queue(kit, asked) as opening:
            await kit.keyring.revoke("viewer")
        async with asyncio.timeout(60):
            assert b'"hello"' in await (await opening).read()


@pytest.mark.parametrize("over", ["websocket", "sse"])
async def test_a_session_signed_out_while_a_stream_is_being_opened_ends_it(tmp_path: Path, over: str) -> None:
    async with desk(tmp_path, rests=True) as kit:
        cookie = await a_session(kit)
        own = {**cookie, "Origin": str(kit.client.make_url("/")).rstrip("/")}
        asked = (
            kit.client.ws_connect("/ws/events", headers=own)
            if over == "websocket"
            else kit.client.get("/api/events", headers=own)
        )
        async with in_the_queue(kit, asked) as opening:
            (session,) = kit.keyring._streaming.values()
            await kit.keyring.end(session)
        opened = await opening
        async with asyncio.timeout(60):
            if over == "websocket":
                assert await close_code(opened) == 1008
            else:
                assert b'"hello"' in await opened.read()


async def a_session(kit: Desk) -> dict[str, str]:
    """A new session's cookie header."""
    from server.http.auth import hash_of
    from server.model import Session

    token, now_ms = "a-session-of-the-tests", kit.clock.now_ms()
    session = Session(id=hash_of(token), key_id="viewer", created_ms=now_ms, expires_ms=now_ms + 3_600_000)
    await kit.keyring._store.add_session(session)
    return {"Cookie": f"{COOKIE}={token}"}


@pytest.mark.parametrize("path", ["/ws/events", "/api/events"])
async def test_who_goes_away_while_a_stream_is_being_opened_is_no_bug(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, path: str
) -> None:
    async with desk(tmp_path, rests=True) as kit:
        async with in_the_queue(kit, handshake(kit, path)) as opening:
            server = kit.client.server.runner.server
            assert server and len(server.connections) == 1
            (await opening).transport.abort()
            await kit.until(lambda: not server.connections)
        await kit.until(lambda: not kit.hub._per_key)
        await settle(200)
        assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == []


async def handshake(kit: Desk, path: str) -> asyncio.StreamWriter:
    """A client that has asked for a stream and not been answered."""
    _, writer = await asyncio.open_connection(kit.client.server.host, kit.client.server.port)
    writer.write(
        f"GET {path} HTTP/1.1\r\nHost: x\r\nX-API-Key: {SECRETS[Role.VIEWER]}\r\nConnection: Upgrade\r\n"
        "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n".encode()
    )
    await writer.drain()
    return writer


@pytest.mark.parametrize("path", ["/ws/events", "/api/events"])
async def test_nor_is_who_goes_away_at_the_moment_when_it_would_be_answered(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, path: str
) -> None:
    async with desk(tmp_path, rests=True) as kit:
        async with in_the_queue(kit, handshake(kit, path)) as opening:
            client = await opening
            server = kit.client.server.runner.server
            assert server
            (connection,) = server.connections
            kit.hub.turns._waiting[-1].set_result(None)
            connection.transport.abort()
            await kit.until(lambda: not server.connections)
        await settle()
        assert not kit.hub._per_key
        assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == []
        client.close()
