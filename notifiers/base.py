"""What every notifier is: it takes a Message and answers with an Outcome.

The promise: `deliver` answers with a value, never with an exception, and within the channel's `timeout_s` in all. Only
the notifier knows its protocol, so only it decides between "later" and "never"; nobody above guesses from text. What
follows from an outcome (back-off, fallback, breaker) is left to the server, and so are the sentences for people.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Protocol

from msgspec import Struct

REASONS = (
    "address_refused",  # this recipient cannot be reached at this address, now or later
    "message_refused",  # the other side does not want this message
    "timeout",  # nothing final within timeout_s
    "connection_lost",  # cut in the middle: whether it arrived is not known
    "unreachable",  # no connection came about
    "busy",  # the other side, or we ourselves, cannot take more just now
    "gateway_error",  # an HTTP gateway failed (5xx, or no HTTP at all)
    "gateway_refused",  # an HTTP gateway said no (4xx, 3xx)
    "login_refused",  # user or secret are not accepted: the operator's concern, not the recipient's
    "tls_failed",  # no encryption, or a certificate that is not to be trusted
    "service_refused",  # a service behind Apprise said no, without saying why
    "no_address",  # the recipient has no address of the kind that is needed
    "disk_error",  # the outbox cannot be written
    "internal",  # a defect of ours
)
"""Every `reason` that an outcome may carry; the catalogue has a sentence for each."""

DETAIL_CHARS = 200
CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
"""What has no business in a header, an address or a log line."""


class Message(Struct, frozen=True, kw_only=True):
    """What one recipient is to be told."""

    id: str  # stable per task and recipient: the same at every attempt, so the other side can drop a repeat
    type: str
    label: str  # of the type, in the recipient's language
    priority: str  # CRITIQUE | HAUTE | NORMALE
    titre: str
    message: str
    recipient: str  # the recipient's id
    nom: str
    email: str | None
    telephone: str | None
    langue: str  # fr | en
    at_ms: int  # epoch; when this attempt begins


class Sent(Struct, frozen=True):
    """Handed over; the other side has answered for it."""

    reference: str = ""  # the other side's own id, if it gave one


class RetryLater(Struct, frozen=True):
    """Not this time."""

    reason: str
    code: str = ""  # the protocol's own: "451", "429"
    detail: str = ""  # the other side's own words, bounded
    after_s: float | None = None  # asked for by the other side
    transport: bool = False  # the service itself is out of reach, whoever is to be told: counts for the circuit breaker


class Refused(Struct, frozen=True):
    """Never, by this way."""

    reason: str
    code: str = ""
    detail: str = ""


Outcome = Sent | RetryLater | Refused


class BadBody(ValueError):
    """The channel's `body`, and not its URL, cannot be used; one readable line says what is expected."""


class NotifierError(Exception):
    """`check` found that the channel does not work; the text says why, without any secret."""


class Notifier(Protocol):
    """One way out of the house."""

    needs: frozenset[str]
    """The recipient's fields ("email", "telephone") without which nobody can be reached."""

    async def deliver(self, message: Message) -> Outcome:
        """Try once; what came of it, within timeout_s."""

    async def check(self) -> str:
        """Try the way without sending anything; a short sentence. Raises NotifierError."""

    async def aclose(self) -> None:
        """Let go of connections and threads. No delivery may be under way."""


class Spec(Struct, frozen=True, kw_only=True):
    """What a notifier is opened with: the settings of its channel."""

    name: str
    url: str
    body: str
    timeout_s: float
    concurrency: int
    base_dir: Path

    def __repr__(self) -> str:
        return f"Spec(name={self.name!r}, url=…)"  # a URL holds secrets


def clip(text: object) -> str:
    """The other side's words as they may be kept: one line, no control characters, at most 200 characters."""
    return " ".join(CONTROLS.sub(" ", str(text)[: DETAIL_CHARS * 4]).split())[:DETAIL_CHARS]
