"""A Message as an e-mail: headers, text and HTML, ready for the wire or a file.

The text is the source; the HTML is the same text, escaped. Everything but To, Date and Message-ID is the same for all
recipients of a task, so it is built once (`_rest`). Non-ASCII goes out as RFC 2047 words and an encoded body, which
every server takes; only a mailbox whose own name is not ASCII needs SMTPUTF8 (RFC 6532). Addresses are never encoded or
folded. Nothing with a control character gets into a header: it is refused.
"""

from __future__ import annotations

import re
from base64 import b64encode
from datetime import UTC, datetime
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime
from functools import lru_cache
from hashlib import blake2b
from html import escape

import idna
from msgspec import Struct

from notifiers.base import CONTROLS, Message, Refused, clip

DEFAULT_FROM = "Tocsin <tocsin@localhost>"
MAILBOX = re.compile(r"""[^\s@<>"(),:;\\\[\]\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]+\Z""")
PLAIN_WORDS = re.compile(r"[A-Za-z0-9!#$%&'*+/?^_`{|}~.,:;@()<>\[\]=\" -]*\Z")  # ASCII, printable
PLAIN_MOST = 60  # characters of a header's text left as they are; anything longer is folded as RFC 2047 words
LINE = 68  # what is left of 78 beside "From: " and " <>"
WORD_BYTES = 42  # of UTF-8 per RFC 2047 word: 56 characters of base64 in a word of 68 (75 are allowed)
ID_UNSAFE = re.compile(r"[^A-Za-z0-9._-]")

HTML = """\
<!DOCTYPE html>
<html lang="{langue}"><head><meta charset="utf-8"><title>{titre}</title></head>
<body style="margin:0;padding:24px;background:#f4f5f7;color:#16181d;font:16px/1.5 system-ui,sans-serif">
<div dir="auto" style="max-width:40em;margin:auto;padding:24px;background:#fff;border-top:6px solid {colour}">
<p style="margin:0;color:#5a6072;font-size:14px">{label}</p>
<h1 style="margin:4px 0 16px;font-size:22px;line-height:1.25">{titre}</h1>
<div style="white-space:pre-wrap">{text}</div>
</div></body></html>
"""
COLOURS = {"CRITIQUE": "#c4162a", "HAUTE": "#d9730d"}


class Address(Struct, frozen=True):
    """A mailbox as the wire wants it: domain in ASCII, and the name in front of it, if there is one."""

    nom: str
    mailbox: str
    domain: str

    @property
    def spec(self) -> str:
        return f"{self.mailbox}@{self.domain}"


class Letter(Struct, frozen=True):
    """An e-mail and its envelope."""

    id: str
    recipient: str  # the envelope's
    smtputf8: bool  # the mailbox itself is not ASCII: only a server that offers SMTPUTF8 can take it
    data: bytes


class NotAnAddress(ValueError):
    """This cannot stand in an envelope; the text says why and does not quote it."""


def address(text: str, nom: str = "") -> Address:
    """`jean@mairie.fr` (and a name) as an Address. Raises NotAnAddress."""
    mailbox, at, domain = text.rpartition("@")
    if not (at and MAILBOX.match(mailbox) and MAILBOX.match(domain)):
        raise NotAnAddress("not an e-mail address")
    if CONTROLS.search(nom):
        raise NotAnAddress("control characters in the name")
    if not domain.isascii():
        try:
            domain = idna.encode(domain, uts46=True).decode("ascii")
        except idna.IDNAError:
            raise NotAnAddress("no such domain can exist (IDNA)") from None
    return Address(nom.strip(), mailbox, domain)


def sender(text: str) -> Address:
    """`Mairie <alerte@mairie.fr>` or the bare address. Raises NotAnAddress."""
    found = re.fullmatch(r'\s*(?:"?([^"<>]*?)"?\s*<([^<>]*)>|([^<>]*?))\s*', text)
    if not found:
        raise NotAnAddress("not an e-mail address")
    nom, inner, bare = found.groups()
    made = address(inner or bare or "", nom or "")
    if not made.mailbox.isascii():
        raise NotAnAddress("expected ASCII before the @")
    return made


def compose(message: Message, origin: Address) -> Letter | Refused:
    """The e-mail to send for `message`. Refused if recipient or title cannot stand in one."""
    if not message.email:
        return Refused("no_address")
    try:
        to = address(message.email, message.nom)
    except NotAnAddress as error:
        return Refused("address_refused", detail=clip(error))
    if CONTROLS.search(message.titre):
        return Refused("message_refused", detail="control characters in the title")
    wide = not to.mailbox.isascii()
    when = format_datetime(datetime.fromtimestamp(message.at_ms // 1000, UTC))
    head = (
        f"To: {_mailbox(to)}\r\nDate: {when}\r\nMessage-ID: <{ID_UNSAFE.sub('_', message.id)}@{_id_domain(origin)}>\r\n"
    )
    rest = _rest(origin, message.titre, message.message, message.label, message.type, message.priority, message.langue)
    return Letter(message.id, to.spec, wide, head.encode() + rest)


def header_text(text: str) -> str:
    """`text` as an unstructured header's value, folded (RFC 2047, RFC 5322 section 2.2.3)."""
    if len(text) <= PLAIN_MOST and PLAIN_WORDS.match(text) and "=?" not in text and text == text.strip():
        return text
    return _words(text)


def _mailbox(who: Address) -> str:
    """As it stands in From and To."""
    if not who.nom:
        return who.spec
    if len(who.nom) <= PLAIN_MOST and PLAIN_WORDS.match(who.nom) and "=?" not in who.nom:
        nom = who.nom.replace("\\", "\\\\").replace('"', '\\"')
        nom = f'"{nom}"'
    else:
        nom = _words(who.nom)
    between = " " if len(nom) + len(who.spec) < LINE else "\r\n "  # an address too long for one line is never cut
    return f"{nom}{between}<{who.spec}>"


def _words(text: str) -> str:
    """RFC 2047 words, none of which cuts a character in two."""
    words: list[str] = []
    chunk = b""
    for character in text:
        more = character.encode("utf-8", "replace")
        if len(chunk) + len(more) > WORD_BYTES:
            words.append(_word(chunk))
            chunk = b""
        chunk += more
    return "\r\n ".join([*words, _word(chunk)])


def _word(chunk: bytes) -> str:
    return f"=?utf-8?b?{b64encode(chunk).decode('ascii')}?="


@lru_cache(maxsize=16)
def _id_domain(origin: Address) -> str:
    return f"tocsin.{origin.domain}"


@lru_cache(maxsize=64)
def _rest(origin: Address, titre: str, text: str, label: str, kind: str, priority: str, langue: str) -> bytes:
    """All that is the same for every recipient: the other headers and the body."""
    text = text.encode("utf-8", "replace").decode("utf-8")
    lines = CONTROLS_KEPT_OUT.sub("", text.replace("\r\n", "\n").replace("\r", "\n"))
    mime = EmailMessage(policy=SMTP)
    mime["Auto-Submitted"] = "auto-generated"
    if priority == "CRITIQUE":
        mime["X-Priority"] = "1"
        mime["Importance"] = "high"
    mime.set_content(f"{titre}\n\n{lines}\n", charset="utf-8", cte=_encoding(titre + lines))
    html = HTML.format(
        langue="en" if langue == "en" else "fr",
        colour=COLOURS.get(priority, "#2f6f9f"),
        label=escape(label or kind),
        titre=escape(titre),
        text="<br>".join(escape(line) for line in lines.split("\n")),
    )
    mime.add_alternative(html, subtype="html", charset="utf-8", cte=_encoding(html))
    del mime.get_payload()[1]["MIME-Version"]  # type: ignore[index,union-attr]  # the whole has it
    mime["Content-Language"] = "en" if langue == "en" else "fr"
    # "=_" stands in no quoted-printable and no base64 text, so no line of a body can be taken for the boundary.
    mime.set_boundary(f"=_tocsin_{blake2b(html.encode(), digest_size=12).hexdigest()}")
    head = f"From: {_mailbox(origin)}\r\nSubject: {header_text(titre)}\r\n"
    return head.encode("ascii") + mime.as_bytes()


CONTROLS_KEPT_OUT = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # all but tab and line feed


def _encoding(text: str) -> str:
    """Whichever is shorter; both keep every line under 78 characters."""
    return "quoted-printable" if len(text.encode()) - len(text) < len(text) / 6 else "base64"
