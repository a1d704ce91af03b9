"""An answer as one piece of bytes, for the request that comes most often.

aiohttp takes as long to put a response together, header by header, as we take to store a task. Where nothing about
an answer depends on the connection (HTTP/1.1, kept alive), its head is made of a constant part and a few lines, and
goes out with the body in one write. `Front.finish` says where that will do; elsewhere it goes out as any other.
"""

from __future__ import annotations

import asyncio
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter

JSON = "application/json; charset=utf-8"
MOST_UNREAD = 32 * 1024
"""Bytes of answers that may wait for a client on one connection."""


class Reply(web.StreamResponse):
    """A small JSON answer; `headers` are those beside the ones that all answers carry."""

    def __init__(self, body: bytes, status: int, headers: dict[str, str]):
        # The parent's own beginning is left out on purpose: it makes the header table that this class does without.
        self._body_bytes = body
        self._status = status
        self._more = headers
        self._piece = b""
        self._keep_alive = True
        self._body_length = len(body)
        self._transport: asyncio.Transport | None = None
        self._writer: AbstractStreamWriter | None = None

    def whole(self, head: bytes, request_id: str, at_s: int) -> None:
        """Make the piece: `head` is the constant part, lines that end in CR LF."""
        more = "".join([f"{name}: {value}\r\n" for name, value in self._more.items()])
        line = (
            f"{_status_line(self._status)}{more}X-Request-ID: {request_id}\r\nDate: {_date(at_s)}\r\n"
            f"Content-Length: {self._body_length}\r\n"
        )
        self._piece = b"%b%b\r\n%b" % (line.encode("latin-1"), head, self._body_bytes)

    def ordinary(self) -> web.Response:
        """The same as a response of aiohttp's."""
        return web.Response(body=self._body_bytes, status=self._status, headers={"Content-Type": JSON} | self._more)

    @property
    def prepared(self) -> bool:
        return bool(self._piece)

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        self._transport = request.transport
        self._writer = request.writer
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        transport = self._transport
        if transport is None or transport.is_closing():
            raise ConnectionResetError("the client has gone")
        transport.write(self._piece)
        if self._writer is not None and transport.get_write_buffer_size() > MOST_UNREAD:
            await self._writer.drain()  # the next request of this connection waits until its answers are read


@lru_cache(maxsize=16)
def _status_line(status: int) -> str:
    return f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n"


@lru_cache(maxsize=4)
def _date(at_s: int) -> str:
    return formatdate(at_s, usegmt=True)
