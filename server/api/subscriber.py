"""One subscriber's connection as the hub sees it, and the groups of those that read the same.

A Subscriber knows its socket's buffers, and from them whether anybody reads at the other end. What it is told, and
when, is the hub's affair.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress

from server.api.frames import Plan, Wire, chunk, closing, on_wire
from server.log import Cursor

try:
    from fcntl import ioctl
    from termios import TIOCOUTQ
except ImportError:  # not a Unix: the transport's own buffer has to do
    ioctl = None  # type: ignore[assignment]

LIMIT = 64 * 1024
"""Bytes that may wait in a live subscriber's transport; beyond it, it is served at its own pace."""
TCP_INFO: int | None = getattr(socket, "TCP_INFO", None)
ACKED = slice(120, 128)
"""Of Linux's struct tcp_info: tcpi_bytes_acked, what the peer's kernel has taken in all."""
SEND_BUFFER = 128 * 1024
"""Of the kernel, per connection: what a subscriber that reads nothing can take there."""


class Group:
    """The live subscribers that read the same: one frame is built for all of them."""

    __slots__ = ("all", "pacing", "plan", "scanned", "sent_at", "subs", "wire")

    def __init__(self, plan: Plan, wire: Wire) -> None:
        self.plan = plan
        self.wire = wire
        self.all = plan.filter.empty and not plan.interval_ms  # they are told of every event as it comes
        self.subs: set[Subscriber] = set()
        # of mode=latest alone:
        self.pacing: asyncio.Task[None] | None = None  # while there is something to tell
        self.scanned = 0  # seq; what lies behind it is still to be looked at
        self.sent_at = float("-inf")


class Subscriber:
    """One open stream."""

    __slots__ = (
        "_fd",
        "_finished",
        "_seen",
        "alive_at",
        "beat_at",
        "buffered",
        "cursor",
        "drain",
        "ended",
        "ended_at",
        "group",
        "is_closing",
        "key_id",
        "lang",
        "pinged",
        "pings",
        "plan",
        "serving",
        "session_id",
        "stats_seen",
        "told",
        "transport",
        "wire",
        "write",
    )

    def __init__(
        self, transport: asyncio.Transport, drain: Callable[[], Awaitable[None]], wire: Wire, *, key_id: str,
        session_id: str | None, lang: str,
    ) -> None:  # fmt: skip
        self.transport = transport
        self.drain = drain  # returns once the transport takes more
        self.write = transport.write
        self.buffered = transport.get_write_buffer_size
        self.is_closing = transport.is_closing
        self.wire = wire
        self.key_id = key_id
        self.session_id = session_id
        self.lang = lang
        self.plan: Plan
        self.told = 0  # the last seq it has been told of: its last frame's `to`
        self.group: Group | None = None  # while it is live
        self.serving: asyncio.Task[None] | None = None  # while it is catching up
        self.cursor: Cursor | None = None  # and where that stands: nothing up to there is kept from it
        self.stats_seen = -1  # -1: not asked for
        self.ended: int | None = None  # the close code
        self.ended_at = 0.0
        self.beat_at = 0.0
        self.alive_at = 0.0  # when something last showed that it reads
        self.pinged = False  # and nothing was heard since
        self.pings = 0  # not yet answered, each
        self._seen = 0
        self._finished: asyncio.Future[None] | None = None
        self._fd = -1
        sock = transport.get_extra_info("socket")
        if sock is not None:
            self._fd = sock.fileno()
            with suppress(OSError), socket.socket(fileno=socket.dup(self._fd)) as own:
                own.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)

    def is_open(self) -> bool:
        """May anything be written to it?"""
        return self.ended is None and not self.is_closing()

    # --- is anybody there ----------------------------------------------------------------------------

    def heard(self, now: float) -> None:
        """Something came from it."""
        self.alive_at = now
        self.pinged = False

    def stalled(self, now: float, stall_s: float) -> bool:
        """Has it read nothing for `stall_s`? To be asked about once a second.

        A full buffer that empties shows a reader, and so does an answer to a ping; with nothing on the way to it,
        there is nothing that it could have read. That a buffer fills up shows nothing.
        """
        buffered = self.buffered()
        reads = True
        if waiting := buffered + self._in_kernel():
            taken = self._taken(waiting)
            reads, self._seen = taken != self._seen, taken
        if reads and (buffered or not self.pinged):
            self.alive_at = now
        return now - self.alive_at >= stall_s

    def _in_kernel(self) -> int:
        """Bytes that its kernel has not yet acknowledged (tcp(7), SIOCOUTQ)."""
        if ioctl is None or self._fd < 0 or self.is_closing():
            return 0
        try:
            return int(struct.unpack("i", ioctl(self._fd, TIOCOUTQ, b"\0\0\0\0"))[0])
        except OSError:
            return 0

    def _taken(self, waiting: int) -> int:
        """A number that changes when its kernel takes something; `waiting` where nothing better is to be had."""
        if TCP_INFO is None or self._fd < 0 or self.is_closing():
            return waiting
        borrowed = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 0, self._fd)  # asks nothing of the kernel
        try:
            info = borrowed.getsockopt(socket.IPPROTO_TCP, TCP_INFO, ACKED.stop)
        except OSError:
            return waiting
        finally:
            borrowed.detach()
        return int.from_bytes(info[ACKED], sys.byteorder) if len(info) == ACKED.stop else waiting

    # --- its end ---------------------------------------------------------------------------------------

    async def finished(self) -> None:
        """Return once the stream is over (SSE, where no message says so)."""
        self._finished = asyncio.get_running_loop().create_future()
        await self._finished

    def finish(self) -> None:
        """Let `finished` return."""
        if self._finished and not self._finished.done():
            self._finished.set_result(None)

    def end(self, code: int, last: bytes, retry_after_ms: int | None, now: float) -> None:
        """Write the last frame and the close; whoever holds the connection ends it then."""
        self.ended, self.ended_at = code, now
        if not self.is_closing():
            data = b""
            if retry_after_ms is not None and self.wire != "websocket":
                retry = b"retry: %d\n" % retry_after_ms
                data = chunk(retry) if self.wire == "chunked" else retry
            if last:
                data += on_wire(self.wire, last)
            data += closing(self.wire, code)
            if data:
                self.write(data)
        self.finish()

    def cut(self) -> None:
        """It has had its time: end the connection, at once if the peer takes nothing."""
        if self.buffered():
            self.transport.abort()
        else:
            self.transport.close()  # what lies in the kernel still reaches the peer
