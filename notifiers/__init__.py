"""How a message leaves the house: the one registry of notifiers, and the words they share with the server.

A new kind of channel is one file beside this one and one line in `KINDS`. Nothing here imports anything of `server`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from notifiers.base import REASONS, BadBody, Message, Notifier, NotifierError, Outcome, Refused, RetryLater, Sent, Spec
from notifiers.bridge import open_bridge
from notifiers.gateway import open_gateway
from notifiers.null import open_null
from notifiers.outbox import open_outbox
from notifiers.smtp import open_smtp

__all__ = [
    "REASONS",
    "BadBody",
    "Message",
    "Notifier",
    "NotifierError",
    "Outcome",
    "Refused",
    "RetryLater",
    "Sent",
    "open_notifier",
]

KINDS: dict[str, Callable[[Spec], Notifier]] = {
    "outbox": open_outbox,
    "smtp": open_smtp,
    "smtps": open_smtp,
    "https": open_gateway,
    "http": open_gateway,
    "apprise": open_bridge,
    "null": open_null,
}


def open_notifier(
    name: str, url: str, *, body: str = "", timeout_s: float = 10, concurrency: int = 64, base_dir: Path
) -> Notifier:
    """The notifier for a channel's URL; it connects to nothing yet.

    Raises ValueError (BadBody, if that is the trouble) with one readable line, which never quotes the URL: it holds a
    secret.
    """
    scheme, colon, _ = url.partition(":")
    opener = KINDS.get(scheme.lower()) if colon else None
    if opener is None:
        raise ValueError(f"expected {', '.join(f'{kind}:' for kind in KINDS)} at its beginning")
    return opener(Spec(name=name, url=url, body=body, timeout_s=timeout_s, concurrency=concurrency, base_dir=base_dir))
