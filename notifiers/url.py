"""What notifiers read out of a channel's URL, without ever repeating it: it holds a secret.

Every error is a ValueError with one line that says what is expected and quotes nothing that may be part of a secret.
"""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import SplitResult, quote, unquote, urlsplit

from msgspec import Struct

from notifiers.base import CONTROLS, Message

PLACEHOLDER = re.compile(r"\{([A-Za-z0-9_]+)\}")
AUTHORITY = "expected user:secret@host:port, with / ? # @ in the secret written as %2F %3F %23 %40"


class Place(Struct, frozen=True):
    """Where a service is, and as whom to enter."""

    host: str
    port: int | None
    user: str
    secret: str

    def __repr__(self) -> str:
        return f"Place(host={self.host!r}, port={self.port!r}, …)"


def split(url: str) -> tuple[SplitResult, Place]:
    """A URL and its percent-decoded authority. Raises ValueError."""
    if CONTROLS.search(url) or url != url.strip():
        raise ValueError("expected a URL without control characters or spaces around it")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        raise ValueError(AUTHORITY) from None
    try:
        host.encode("idna")  # what cannot be, no look-up takes
    except UnicodeError:
        raise ValueError("expected a host name with 1 to 63 characters between its dots") from None
    if not host or parts.fragment or " " in host:
        raise ValueError(AUTHORITY)
    user, secret = unquote(parts.username or ""), unquote(parts.password or "")
    if CONTROLS.search(user + secret):
        raise ValueError("expected user and secret without control characters")
    return parts, Place(host, port, user, secret)


def options(query: str, allowed: frozenset[str]) -> dict[str, str]:
    """`from=…&tls=…`, percent-decoded; a plus is a plus. Raises ValueError for anything else, and for repeats."""
    found: dict[str, str] = {}
    for pair in filter(None, query.split("&")):
        key, equals, value = pair.partition("=")
        if key not in allowed or key in found or not equals:
            raise ValueError(f"expected at most once each: {', '.join(f'{name}=' for name in sorted(allowed))}")
        found[key] = unquote(value)
    return found


def is_loopback(host: str) -> bool:
    """Is this machine meant, whatever a resolver says?"""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def placeholders(text: str, known: frozenset[str], *, secret: bool = False) -> frozenset[str]:
    """The names in braces. Raises ValueError if one is unknown: a misspelt one would go out as it stands."""
    found = frozenset(PLACEHOLDER.findall(text))
    for name in sorted(found - known):
        quoted = "" if secret else f" {{{name[:40]}}}"
        raise ValueError(f"unknown placeholder{quoted}; known: {', '.join(sorted(known))}; a brace in a URL is %7B")
    return found


def values(message: Message) -> dict[str, str]:
    """What placeholders stand for; `id` is the message's."""
    return {
        "id": message.id,
        "recipient": message.recipient,
        "nom": message.nom,
        "telephone": (message.telephone or "").replace(" ", ""),
        "email": message.email or "",
        "titre": message.titre,
        "message": message.message,
        "type": message.type,
        "label": message.label,
        "priority": message.priority,
        "langue": message.langue,
    }


def fill(text: str, known: dict[str, str]) -> str:
    """`text` with its placeholders replaced, once: what a value brings along stays as it is."""
    return PLACEHOLDER.sub(lambda found: known.get(found[1], found[0]), text)


def fill_quoted(url: str, known: dict[str, str]) -> str:
    """The same in a URL: no value can add a part to it."""
    return fill(url, {name: quote(value, safe="", errors="replace") for name, value in known.items()})
