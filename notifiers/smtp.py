"""`smtp://` and `smtps://`: e-mail through a mail server, one message per recipient.

Connections are kept and shared, at most `concurrency` of them; idle ones are closed after a while. One that the server
closed while it was idle is replaced without a word, since nothing was sent on it. The deadline is for a message as a
whole, from waiting for a connection to the last reply. A cut after the message itself has left is "later": if it had
arrived after all, the next one carries the same Message-ID. Certificates are checked against the system's authorities
(OpenSSL reads SSL_CERT_FILE for others).
"""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
from collections import deque
from collections.abc import Callable

import aiosmtplib

from notifiers.base import Message, NotifierError, Outcome, RetryLater, Spec, clip
from notifiers.mail import DEFAULT_FROM, Address, Letter, NotAnAddress, compose, sender
from notifiers.url import Place, is_loopback, options, split
from notifiers.wire import Lost, NoWire, Wire, connect

IDLE_S = 30.0
CROWDED_S = 30.0  # after the server refused one connection more, for so long no more are tried than there were


class Smtp:
    """A mail server and the connections to it."""

    needs = frozenset({"email"})

    def __init__(self, place: Place, tls: str, origin: Address, timeout_s: float, concurrency: int):
        """`tls` is "tls" (from the first byte), "starttls" (required) or "none"."""
        self._place = place
        self._port = place.port or {"tls": 465, "starttls": 587}.get(tls, 25)
        self._tls = tls
        self._origin = origin
        self._timeout_s = timeout_s
        self._most = self._limit = concurrency
        self._context: asyncio.Task[ssl.SSLContext] | None = None
        self._wires: set[Wire] = set()
        self._connecting = 0
        self._idle: list[Wire] = []  # the one used last is at the end, and goes first
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._timers: dict[str, asyncio.TimerHandle] = {}

    async def deliver(self, message: Message) -> Outcome:
        letter = compose(message, self._origin)
        if not isinstance(letter, Letter):
            return letter
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._send(letter)
        except TimeoutError:
            return RetryLater("timeout", transport=True)
        except NoWire as none:
            return none.outcome

    async def check(self) -> str:
        try:
            async with asyncio.timeout(self._timeout_s):
                wire = await self._connect()
        except TimeoutError:
            raise NotifierError(f"{self._place.host}:{self._port}: no answer within {self._timeout_s:g} s") from None
        except NoWire as none:
            why = " ".join(
                filter(None, (none.outcome.reason.replace("_", " "), none.outcome.code, none.outcome.detail))
            )
            raise NotifierError(f"{self._place.host}:{self._port}: {why}") from None
        wire.quit()
        how = {"tls": "TLS", "starttls": "STARTTLS"}.get(self._tls, "no encryption")
        return f"{self._place.host}:{self._port} answers, {how}, {'signed in' if self._place.user else 'no login'}"

    async def aclose(self) -> None:
        for timer in self._timers.values():
            timer.cancel()
        gone = [wire.gone for wire in self._wires]
        for wire in [*self._wires]:
            wire.quit()
        if gone:
            await asyncio.wait(gone, timeout=1)
        for wire in [*self._wires]:
            wire.cut()
        if self._context:
            await asyncio.gather(self._context, return_exceptions=True)

    async def _send(self, letter: Letter) -> Outcome:
        while True:
            wire = await self._take()
            was_used = wire.used
            try:
                return await wire.send(self._origin.spec, letter)
            except Lost as lost:
                if was_used and not lost.body_sent:
                    # Closed while it was idle, or it has carried as many as it may: the other idle ones are no better.
                    for idle in self._idle:
                        idle.quit()
                    self._idle.clear()
                    continue
                if lost.code:
                    return RetryLater("busy", lost.code, clip(lost.detail), transport=True)
                return RetryLater("connection_lost", detail=clip(lost.detail), transport=True)
            finally:
                self._give(wire)

    # --- the connections ---------------------------------------------------------------------------

    async def _take(self) -> Wire:
        """An idle connection, a new one, or the next that is free. Raises NoWire."""
        while True:
            while self._idle:
                wire = self._idle.pop()
                if wire.alive:
                    return wire
            if len(self._wires) + self._connecting < self._limit:
                try:
                    return await self._connect()
                except NoWire as none:
                    if not (none.crowded and (self._wires or self._connecting)):
                        raise
                    self._limit = len(self._wires) + self._connecting
                    self._after("crowded", CROWDED_S, self._uncrowd)
                    continue
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append(turn)
            try:
                await turn
            except BaseException:
                if turn.done() and not turn.cancelled():
                    self._wake()  # it was this one's turn: the next may have it
                raise

    async def _connect(self) -> Wire:
        self._connecting += 1
        wire: Wire | None = None
        try:
            context = None if self._tls == "none" else await self._trusted()
            place = self._place
            wire = await connect(
                aiosmtplib.SMTP(
                    hostname=place.host, port=self._port, username=place.user or None, password=place.secret or None,
                    use_tls=self._tls == "tls", start_tls=self._tls == "starttls", tls_context=context, timeout=None,
                    local_hostname=_own_name(self._origin.domain),
                ),
                self._lost,
            )  # fmt: skip
            self._wires.add(wire)
            return wire
        finally:
            self._connecting -= 1
            if wire is None:
                self._wake()

    async def _trusted(self) -> ssl.SSLContext:
        """Whom to trust, read from disk once for all; what could not be read is read again for the next who asks."""
        reading = self._context
        if reading is None or (reading.done() and (reading.cancelled() or reading.exception())):
            reading = asyncio.create_task(asyncio.to_thread(ssl.create_default_context), name="smtp-tls")
            self._context = reading
        try:
            return await asyncio.shield(reading)
        except OSError as error:
            raise NoWire(RetryLater("tls_failed", detail=clip(error.strerror or str(error)), transport=True)) from None

    def _give(self, wire: Wire) -> None:
        if wire.alive:
            wire.idle_since = asyncio.get_running_loop().time()
            self._idle.append(wire)
            self._after("idle", IDLE_S, self._sweep)
            self._wake()

    def _lost(self, wire: Wire) -> None:
        self._wires.discard(wire)
        if wire in self._idle:
            self._idle.remove(wire)
        self._wake()

    def _wake(self) -> None:
        """Whoever waits longest looks again."""
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return

    def _sweep(self) -> None:
        """Hang up on what has been idle for long."""
        now = asyncio.get_running_loop().time()
        stay = [wire for wire in self._idle if now - wire.idle_since < IDLE_S]
        for wire in self._idle:
            if wire not in stay:
                wire.quit()
        self._idle = stay
        if stay:
            self._after("idle", stay[0].idle_since + IDLE_S - now, self._sweep)

    def _uncrowd(self) -> None:
        self._limit = self._most
        self._wake()

    def _after(self, what: str, seconds: float, act: Callable[[], None]) -> None:
        """Call `act` in so many seconds, once, however often this is asked for."""
        if what not in self._timers:

            def due() -> None:
                del self._timers[what]
                act()

            self._timers[what] = asyncio.get_running_loop().call_later(seconds, due)


def _own_name(domain: str) -> str:
    """What to say in EHLO: this machine's name, without asking the DNS."""
    name = re.sub(r"[^A-Za-z0-9.-]", "-", socket.gethostname()) or "localhost"
    return name if "." in name or "." not in domain else f"{name}.{domain}"


def open_smtp(spec: Spec) -> Smtp:
    """`smtp://user:secret@host:587?from=…&tls=starttls|none` or `smtps://…`. Raises ValueError."""
    parts, place = split(spec.url)
    if parts.path not in ("", "/"):
        raise ValueError("expected nothing after the host but ?from=…&tls=…")
    wanted = options(parts.query, frozenset({"from", "tls"}))
    local = is_loopback(place.host)
    if parts.scheme.lower() == "smtps":
        tls = "tls"
        if wanted.get("tls", "tls") != "tls":
            raise ValueError("smtps:// is encrypted from the first byte: expected no tls=")
    else:
        tls = wanted.get("tls", "none" if local else "starttls")
        if tls not in ("starttls", "none"):
            raise ValueError("expected tls=starttls or tls=none")
    origin = wanted.get("from") or (place.user if "@" in place.user else "") or (DEFAULT_FROM if local else "")
    if not origin:
        raise ValueError("expected from=ADDRESS, as in ?from=alerte@mairie.fr")
    try:
        return Smtp(place, tls, sender(origin), spec.timeout_s, spec.concurrency)
    except NotAnAddress:
        raise ValueError("expected an e-mail address in from=, as in from=Mairie <alerte@mairie.fr>") from None
