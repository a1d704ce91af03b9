"""One SMTP connection, signed in and in hand for message after message.

aiosmtplib makes the connection (greeting, TLS, login); then `Wire` takes it over, since aiosmtplib waits for the reply
to every single command, and MAIL, RCPT and DATA may go out together where the server offers PIPELINING (RFC 2920): two
round trips per message in the place of four. The promise: each reply is matched to its own command, and a connection on
which that is not certain is cut. Which connection a message gets is smtp.py's.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import Callable

import aiosmtplib
from msgspec import Struct

from notifiers.base import Outcome, Refused, RetryLater, Sent, clip
from notifiers.mail import Letter

REPLY_BYTES = 32_768
REPLIES_AHEAD = 8
DONE, GO_ON = 2, 3  # a reply's first digit, which is all that decides (RFC 5321 section 4.3.2)
LOGIN_CODES = frozenset({530, 534, 535, 538})


class Reply(Struct, frozen=True):
    """What the server said to one command."""

    code: int
    text: str


class Lost(Exception):
    """The connection is gone, or can no longer be trusted."""

    def __init__(self, detail: str, *, body_sent: bool = False, code: str = ""):
        super().__init__(detail)
        self.detail = detail
        self.body_sent = body_sent  # the message itself was on its way: the server may have taken it
        self.code = code


class Wire(asyncio.Protocol):
    """A connection between two messages, or in the middle of one."""

    def __init__(self, transport: asyncio.Transport, extensions: frozenset[str], on_lost: Callable[[Wire], None]):
        self.alive = not transport.is_closing()
        self.used = False  # has carried a message
        self.idle_since = 0.0
        self.gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.pipelining = "pipelining" in extensions
        self.smtputf8 = "smtputf8" in extensions
        self._transport = transport
        self._on_lost = on_lost
        self._buffer = bytearray()
        self._lines: list[bytes] = []  # of a reply that is not complete yet
        self._replies: deque[Reply] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self._expecting = 0
        self._dirty = False  # the server still holds half an envelope
        transport.set_protocol(self)

    async def send(self, sender: str, letter: Letter) -> Outcome:
        """One message to one recipient. Raises Lost; the wire is cut then, as it is when cancelled."""
        if letter.smtputf8 and not self.smtputf8:
            return Refused("address_refused", detail="the server takes ASCII addresses alone (no SMTPUTF8)")
        options = " SMTPUTF8 BODY=8BITMIME" if letter.smtputf8 else ""
        commands = [
            (f"MAIL FROM:<{sender}>{options}\r\n".encode(), DONE, "message_refused"),
            (f"RCPT TO:<{letter.recipient}>\r\n".encode(), DONE, "address_refused"),
            (b"DATA\r\n", GO_ON, "message_refused"),
        ]
        if self._dirty:
            commands.insert(0, (b"RSET\r\n", DONE, "message_refused"))
        try:
            outcome, open_data = await self._envelope(commands)
            self._dirty = outcome is not None
            if outcome is None:
                # A line of the message that begins with a dot gets a second one (RFC 5321 section 4.5.2).
                return await self._body(letter.data.replace(b"\r\n.", b"\r\n..") + b".\r\n")
            if open_data:  # the server wants the message although it refused the recipient: RFC 2920 section 3.1
                self._write([b".\r\n"])
                await self._reply()
            return outcome
        except BaseException:
            self.cut()
            raise
        finally:
            self.used = True

    async def _envelope(self, commands: list[tuple[bytes, int, str]]) -> tuple[Outcome | None, bool]:
        """The first refusal, None if there was none; and whether the server now reads a message."""
        outcome: Outcome | None = None
        digit = 0
        if self.pipelining:
            self._write([command for command, _, _ in commands])
        for command, good, reason in commands:
            if not self.pipelining:
                self._write([command])
            reply = await self._reply()
            digit = reply.code // 100
            if digit == good:
                continue
            outcome = outcome or _fate(reply, reason)  # the first refusal is the cause of the others
            if not self.pipelining:
                break
        return outcome, digit == GO_ON

    async def _body(self, data: bytes) -> Outcome:
        try:
            self._write([data])
            reply = await self._reply()
            if reply.code // 100 == DONE:
                return Sent(reference=reply.text)
            return _fate(reply, "message_refused")
        except Lost as lost:
            raise Lost(lost.detail, body_sent=True, code=lost.code) from None

    def quit(self) -> None:
        """Say goodbye and hang up, without waiting for an answer."""
        if self.alive:
            self.alive = False
            self._transport.write(b"QUIT\r\n")
        self._transport.close()

    def cut(self) -> None:
        """Hang up at once."""
        self.alive = False
        self._transport.abort()

    def _write(self, commands: list[bytes]) -> None:
        if not self.alive:
            raise Lost("the connection was closed")
        self._expecting += len(commands)
        self._transport.write(b"".join(commands))

    async def _reply(self) -> Reply:
        while not self._replies:
            if not self.alive:
                raise Lost("the connection was closed")
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        self._expecting -= 1
        return self._replies.popleft()

    # --- asyncio.Protocol --------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """Cut what comes in into replies; anything that was not asked for ends the connection."""
        self._buffer += data
        while (end := self._buffer.find(b"\n")) >= 0:
            line = bytes(self._buffer[:end]).rstrip(b"\r")
            del self._buffer[: end + 1]
            self._lines.append(line[4:])
            if line[3:4] == b"-":
                continue
            code = int(line[:3]) if line[:3].isdigit() else 0
            text = b" ".join(self._lines).decode("utf-8", "replace")
            self._lines.clear()
            if code == 421 and len(self._replies) >= self._expecting:  # unasked: it hangs up; what it said before holds
                self.alive = False
                self._transport.close()
                break
            self._replies.append(Reply(code, clip(text)))
        if (
            len(self._replies) > min(self._expecting, REPLIES_AHEAD)
            or len(self._buffer) + sum(map(len, self._lines)) > REPLY_BYTES
            or len(self._lines) > REPLY_BYTES // 64
        ):
            self._replies.clear()
            self.cut()
        self._wake()

    def eof_received(self) -> bool:
        self.alive = False
        self._wake()
        return False  # close our side too

    def connection_lost(self, error: Exception | None) -> None:
        self.alive = False
        self._wake()
        if not self.gone.done():
            self.gone.set_result(None)
        self._on_lost(self)

    def _wake(self) -> None:
        if self._waiter and not self._waiter.done():
            self._waiter.set_result(None)


def _fate(reply: Reply, reason: str) -> Outcome:
    """What a reply that is not the good one means for this message. Raises Lost if it means nothing any more."""
    code = str(reply.code)
    if reply.code == 421:  # it hangs up
        raise Lost(reply.text, code=code)
    if 400 <= reply.code < 500:
        return RetryLater("busy", code, reply.text)
    if reply.code in LOGIN_CODES:
        return RetryLater("login_refused", code, reply.text, transport=True)
    if 500 <= reply.code < 600:
        return Refused(reason, code, reply.text)
    raise Lost("this is not SMTP")


class NoWire(Exception):
    """No connection came about: never the recipient's fault."""

    def __init__(self, outcome: RetryLater, *, crowded: bool = False):
        super().__init__(outcome.reason)
        self.outcome = outcome
        self.crowded = crowded  # the server has enough of our connections


async def connect(client: aiosmtplib.SMTP, on_lost: Callable[[Wire], None]) -> Wire:
    """Connect, encrypt and sign in as `client` says. Raises NoWire. The caller has the deadline."""
    wire: Wire | None = None
    try:
        await client.connect()
        if client.is_ehlo_or_helo_needed:
            await _say_hello(client)
        transport = client.transport
        if transport is None or not client.is_connected:
            raise aiosmtplib.SMTPServerDisconnected("the connection was closed")
        wire = Wire(transport, frozenset(client.esmtp_extensions), on_lost)  # type: ignore[arg-type]
        return wire
    except aiosmtplib.SMTPAuthenticationError as error:
        reason = "busy" if 400 <= error.code < 500 else "login_refused"
        raise NoWire(RetryLater(reason, str(error.code), clip(error.message), transport=True)) from None
    except aiosmtplib.SMTPResponseException as error:
        busy = 400 <= error.code < 500
        outcome = RetryLater("busy" if busy else "unreachable", str(error.code), clip(error.message), transport=True)
        raise NoWire(outcome, crowded=busy and isinstance(error, aiosmtplib.SMTPConnectResponseError)) from None
    except (ssl.SSLError, aiosmtplib.SMTPException, OSError) as error:
        raise NoWire(_why(error)) from None
    finally:
        if wire is None:  # refused, or the deadline came in the middle: the server need not hold it open
            client.close()


async def _say_hello(client: aiosmtplib.SMTP) -> None:
    """EHLO, or HELO to a server that knows no other (RFC 5321 section 3.2)."""
    try:
        await client.ehlo()
    except aiosmtplib.SMTPHeloError:
        if not client.is_connected:
            raise
        await client.helo()


def _why(error: Exception) -> RetryLater:
    """An exception of the connection's making as an outcome."""
    cause = error.__cause__ if isinstance(error.__cause__, OSError) else error
    if isinstance(cause, TimeoutError):
        return RetryLater("timeout", transport=True)
    if isinstance(cause, ssl.SSLError):
        return RetryLater("tls_failed", "", clip(getattr(cause, "verify_message", "") or cause.reason), transport=True)
    text = clip(cause.strerror or "") if isinstance(cause, OSError) and cause.strerror else clip(error)
    if isinstance(error, aiosmtplib.SMTPServerDisconnected):
        return RetryLater("connection_lost", "", text, transport=True)
    if "STARTTLS" in text:
        return RetryLater("tls_failed", "", text, transport=True)
    if "AUTH" in text or "auth" in text:
        return RetryLater("login_refused", "", text, transport=True)
    return RetryLater("unreachable", "", text, transport=True)
