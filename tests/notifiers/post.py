"""A real mail server that does as a test tells it, and messages to send through it."""

from __future__ import annotations

import asyncio
import ssl
from collections import Counter
from contextlib import asynccontextmanager
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default

from aiosmtpd.smtp import SMTP, AuthResult

from notifiers import Message


def message(n: int = 0, **changes) -> Message:
    """To recipient number `n`."""
    fields = {
        "id": f"0198c0de-0000-7000-8000-000000000000.{n}",
        "type": "meteo",
        "label": "Météo",
        "priority": "HAUTE",
        "titre": "Alerte « vents violents »",
        "message": "Restez chez vous.\n\nPréfecture",
        "recipient": f"u{n}",
        "nom": "Zoé Müller",
        "email": f"u{n}@mairie.fr",
        "telephone": f"+33 6 12 34 56 {n:02}",
        "langue": "fr",
        "at_ms": 1_763_028_000_000,
    }
    return Message(**{**fields, **changes})


class Post:
    """The mail server: whom it got letters for, and what it does to whom.

    `script[address]` is a list of answers, used up one by one at RCPT: a reply line, "hang", "cut", "cut at data"
    (after the 354), "cut after dot" and "hang after dot" (it took the letter and does not say so), "then LINE" (the
    reply after the letter), "eager LINE" (LINE at RCPT, and yet it asks for the letter at DATA).
    """

    def __init__(self, *, pipelining: bool = True):
        self.pipelining = pipelining
        self.script: dict[str, list[str]] = {}
        self.letters: list[tuple[str, EmailMessage]] = []  # (whom the envelope named, what was in it)
        self.raw: list[bytes] = []
        self.senders: set[str] = set()
        self.rcpts: list[str] = []
        self.connections = 0
        self.open: set[SMTP] = set()
        self.logins: list[tuple[bytes, bytes]] = []
        self.secret = b""
        self.for_nobody = b""  # what came after a 354 that a refused recipient got
        self.busy_beyond = 1_000_000  # connections
        self.most_per_connection = 1_000_000  # letters
        self.port = 0
        self.released = asyncio.Event()  # what hangs goes on then
        self.deserted = asyncio.Event()  # nobody is connected any more

    @property
    def got(self) -> Counter[str]:
        """How many letters each address was sent."""
        return Counter(address for address, _ in self.letters)

    def cut_all(self) -> None:
        """Hang up on everybody, as a restart would."""
        for server in list(self.open):
            server.transport.abort()

    def authenticate(self, server, session, envelope, mechanism, data) -> AuthResult:
        self.logins.append((data.login, data.password))
        return AuthResult(success=data.password == self.secret, handled=False)

    async def handle_EHLO(self, server, session, envelope, hostname, responses):
        session.host_name = hostname
        return [*responses[:-1], "250-PIPELINING", responses[-1]] if self.pipelining else responses

    async def handle_MAIL(self, server, session, envelope, address, options):
        session.carried = getattr(session, "carried", 0) + 1
        if session.carried > self.most_per_connection:
            return "421 4.7.0 too many messages on this connection"
        envelope.mail_from = address
        return "250 OK"

    async def handle_RCPT(self, server, session, envelope, address, options):
        self.rcpts.append(address)
        todo = self.script.get(address) or [""]
        act = todo.pop(0)
        session.act = act
        if act == "hang":
            await self.released.wait()
        if act.startswith("eager "):
            return act[6:]
        if act == "cut":
            server.transport.abort()
        if act[:1].isdigit():
            return act
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server, session, envelope):
        self.senders.add(envelope.mail_from)
        for address in envelope.rcpt_tos:
            self.letters.append((address, message_from_bytes(envelope.original_content, policy=default)))
            self.raw.append(envelope.original_content)
        if session.act == "cut after dot":
            server.transport.abort()
        if session.act == "hang after dot":
            await self.released.wait()
        if session.act.startswith("then "):
            return session.act[5:]
        return f"250 2.0.0 queued as {len(self.letters)}"


class Server(SMTP):
    """aiosmtpd, and what no handler of its can do."""

    def connection_made(self, transport):
        first = self.transport is None  # it is called again after STARTTLS
        super().connection_made(transport)
        post = self.event_handler
        if first:
            post.connections += 1
            post.open.add(self)
            self.turned_away = len(post.open) > post.busy_beyond

    def connection_lost(self, error):
        self.event_handler.open.discard(self)
        if not self.event_handler.open:
            self.event_handler.deserted.set()
        super().connection_lost(error)

    async def _handle_client(self):
        if self.turned_away:
            await self.push("421 4.7.0 too many connections")
            self.transport.close()
            return
        await super()._handle_client()

    async def smtp_DATA(self, arg):
        if getattr(self.session, "act", "") == "cut at data":
            await self.push("354 go on")
            self.transport.abort()
            return
        if getattr(self.session, "act", "").startswith("eager "):
            await self.push("354 go on")
            self.event_handler.for_nobody += await self._reader.readuntil(b".\r\n")
            await self.push("554 no valid recipients")
            return
        await super().smtp_DATA(arg)


@asynccontextmanager
async def serving(post: Post, *, tls: ssl.SSLContext | None = None, at_once: bool = False, login: bool = False):
    """`post` on a port of this machine. `tls`: STARTTLS is offered, or `at_once` required from the first byte."""
    loop = asyncio.get_running_loop()
    settings = {"hostname": "post.test", "enable_SMTPUTF8": True, "loop": loop}
    if tls and not at_once:
        settings |= {"tls_context": tls, "require_starttls": True}
    if login:
        settings |= {
            "authenticator": post.authenticate,
            "auth_required": not at_once,
            "auth_require_tls": tls is not None and not at_once,
        }
    server = await loop.create_server(lambda: Server(post, **settings), "127.0.0.1", 0, ssl=tls if at_once else None)
    post.port = server.sockets[0].getsockname()[1]
    try:
        yield post
    finally:
        post.released.set()
        server.close()
        post.cut_all()
        await server.wait_closed()
