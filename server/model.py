"""The words of Tocsin, and the rules that need no I/O.

Task, recipient, outcome, event, status, priority: each is one type here, and
the legal moves of a task are one table. What a sender may post is a type too
(`NewNotification`): it validates, and the API document is derived from it.
"""

from __future__ import annotations

from datetime import UTC, datetime
from enum import IntEnum, StrEnum
from functools import lru_cache
from typing import Annotated, Any

from msgspec import Meta, Struct, field

DAY_MS = 86_400_000
MAX_CRASHES = 3
"""A task that was in hand, without progress, at this many crashes is given up."""


class Status(StrEnum):
    """Where a task stands."""

    PENDING = "pending"
    PROCESSING = "processing"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Priority(IntEnum):
    """How urgent; the smaller goes first."""

    CRITIQUE = 1
    HAUTE = 2
    NORMALE = 3


MOVES: dict[Status, frozenset[Status]] = {
    Status.PENDING: frozenset({Status.PROCESSING, Status.CANCELLED, Status.FAILED}),
    Status.PROCESSING: frozenset({Status.COMPLETED, Status.FAILED, Status.PENDING, Status.CANCELLED}),
    Status.COMPLETED: frozenset(),
    Status.FAILED: frozenset({Status.PENDING}),  # "retry" on the page
    Status.CANCELLED: frozenset({Status.PENDING}),
}
ENDED = frozenset({Status.COMPLETED, Status.FAILED, Status.CANCELLED})


def may_move(before: Status, after: Status) -> bool:
    """Is `before` → `after` one of the legal moves?"""
    return after in MOVES[before]


class Role(IntEnum):
    """What a key may do; each role may do all that a smaller one may."""

    VIEWER = 1
    OPERATOR = 2
    ADMIN = 3


# --- what a sender posts ---------------------------------------------------------------------

NO_CONTROLS = r"^[^\x00-\x1f\x7f-\x9f\u2028\u2029]*\Z"
Line = Annotated[str, Meta(pattern=NO_CONTROLS)]
Email = Annotated[
    str,
    Meta(
        max_length=320, pattern=r"^[^\s@<>\"(),:;\\\[\]\x00-\x1f\x7f-\x9f]+@[^\s@<>\"(),:;\\\[\]\x00-\x1f\x7f-\x9f]+\Z"
    ),
]
Phone = Annotated[str, Meta(max_length=32, pattern=r"^\+ *[1-9](?: *[0-9]){6,14} *\Z")]


class Preferences(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, gc=False):
    """How a recipient wants to be reached."""

    canal_prefere: Annotated[str, Meta(min_length=1, max_length=64, pattern=NO_CONTROLS)] = "email"
    actif: bool = True


DEFAULT_PREFERENCES = Preferences()


class Person(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, gc=False):
    """A recipient as stored: checked when posted (Recipient), so not again at every reading."""

    id: str
    nom: str
    email: str | None = None
    telephone: str | None = None
    langue: str = "fr"
    preferences: Preferences = DEFAULT_PREFERENCES

    def has(self, needs: frozenset[str]) -> bool:
        """Does this recipient carry every field named in `needs`?"""
        return not needs or all(getattr(self, need) for need in needs)  # most need nothing: spare the generator


class Recipient(Person, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One person to reach (`utilisateurs[]`), as posted."""

    id: Annotated[str, Meta(min_length=1, max_length=200, pattern=NO_CONTROLS)]
    nom: Annotated[str, Meta(min_length=1, max_length=200, pattern=NO_CONTROLS)]
    email: Email | None = None
    telephone: Phone | None = None
    langue: Annotated[str, Meta(pattern=r"^(?:fr|en)\Z")] = "fr"


class NewNotification(Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """The body of `POST /api/notifications/{type}`."""

    titre: Annotated[str, Meta(min_length=1, max_length=200, pattern=NO_CONTROLS)]
    message: Annotated[str, Meta(min_length=1, max_length=10_000, pattern=r"^[^\x00]*\Z")]
    utilisateurs: Annotated[list[Recipient], Meta(min_length=1)]
    priorite: Annotated[str, Meta(pattern=r"^(?ai:critique|haute|normale|[123])\Z")] | None = None
    planifiee_a: Annotated[datetime, Meta(tz=True)] | None = None
    expire_a: Annotated[datetime, Meta(tz=True)] | None = None
    webhook_url: Annotated[str, Meta(max_length=2048, pattern=r"^https?://[^\s\x00-\x1f\x7f]+\Z")] | None = None


def parse_priority(text: str) -> Priority:
    """`CRITIQUE`, `haute`, `"3"` … as a Priority. Raises ValueError for anything else."""
    word = text.upper()
    if word in ("1", "2", "3"):
        return Priority(int(word))
    if word in Priority.__members__:
        return Priority[word]
    raise ValueError(text)


# --- what became of it -----------------------------------------------------------------------


class Failure(Struct, frozen=True, omit_defaults=True, gc=False):
    """Why a task failed, as data; `i18n.failure_text` makes the sentence of it."""

    kind: str  # unreached | expired | crashed
    unreached: int = 0
    total: int = 0
    reasons: list[tuple[str, str, int]] = []  # (reason word, protocol code or "", how many), most frequent first


class NotificationTask(Struct, frozen=True, kw_only=True, gc=False):
    """One notification on its way to its recipients: the unit that is queued, shown and retried."""

    id: str  # UUIDv7: sorts by creation
    type: str
    status: Status
    priority: Priority
    titre: str
    message: str
    total: int  # recipients, without duplicates
    skipped: int = 0  # recipients with preferences.actif = false
    doublons: int = 0  # posted twice, sent to once
    sent: int = 0  # recipients reached
    failed: int = 0  # recipients refused or given up in this run
    attempts: int = 0  # rounds begun in this run
    run: int = 1  # an operator's retry begins a new one
    created_ms: int = 0
    started_ms: int | None = None
    ended_ms: int | None = None
    place_ms: int = 0  # its place in the queue among equals: when it (re-)entered it
    due_ms: int = 0  # not before; 0 once it is due
    planned_ms: int | None = None
    expires_ms: int | None = None
    lease_ms: int | None = None  # while PROCESSING: a silent owner loses it then
    fence: int = 0  # +1 per claim and cancel; every later write must name it
    crashes: int = 0  # in hand at so many crashes since the last recorded outcome
    node: str | None = None
    failure: Failure | None = None
    webhook_url: str | None = None
    key_id: str | None = None  # who posted it

    @property
    def left(self) -> int:
        """Recipients without a final outcome."""
        return self.total - self.skipped - self.sent - self.failed


class Wait(Struct, frozen=True):
    """Exponential back-off with a ceiling (`queue.backoff_s`, `queue.backoff_max_s`)."""

    base_s: float
    max_s: float


def wait_s(attempt: int, policy: Wait, spread: float) -> float:
    """Seconds before round `attempt + 1`; `spread` in 0..1 (full jitter: AWS Architecture Blog, 2015)."""
    return spread * min(policy.max_s, policy.base_s * 2.0 ** min(attempt - 1, 32))


# --- deliveries: recipients beside their outcomes --------------------------------------------


class Word(StrEnum):
    """What one attempt came to."""

    SENT = "sent"
    RETRY_LATER = "retry_later"
    REFUSED = "refused"


class Outcome(Struct, frozen=True, kw_only=True, gc=False):
    """One attempt to reach one recipient, as recorded."""

    n: int  # the recipient's ordinal in its task, from 0
    run: int
    round: int = 1  # the task's round (`attempts`) in which it was made
    attempt: int  # per recipient and run, from 1
    channel: str
    word: Word
    reason: str = ""  # a word of the catalogue: "address_refused", "timeout" …
    code: str = ""  # the protocol's own: "550", "429" …
    detail: str = ""  # the other side's own text, bounded
    reference: str = ""  # the id the other side gave
    at_ms: int = 0
    took_ms: int = 0


class Standing(StrEnum):
    """Where a recipient stands in its task (`deliveries[].status`)."""

    WAITING = "waiting"
    SENT = "sent"
    REFUSED = "refused"
    GAVE_UP = "gave_up"
    SKIPPED = "skipped"
    CANCELLED = "cancelled"
    EXPIRED = "expired"


class Delivery(Struct, frozen=True, kw_only=True):
    """A recipient and what is known of reaching it: the fold of its outcomes."""

    n: int
    recipient: Person
    standing: Standing
    channel: str  # to be tried next, or the one that was tried last
    attempts: int  # in this run
    last: Outcome | None = None


def chain(first: str, fallbacks: dict[str, str]) -> list[str]:
    """The channels to try for one recipient, in order; a loop of fallbacks ends where it closes."""
    names: list[str] = []
    name = first
    while name and name not in names:
        names.append(name)
        name = fallbacks.get(name, "")
    return names


def stand(
    n: int, recipient: Person, channels: list[str], outcomes: list[Outcome], run: int, max_attempts: int
) -> Delivery:
    """Fold one recipient's outcomes (of all runs, oldest first) into where it stands while its task goes on.

    `channels` are the usable ones in the order to try them. `sent` holds for every run; anything else counts in
    its own run alone. A permanent refusal moves on to the next channel, which always gets one try.
    """
    if not recipient.preferences.actif:
        return Delivery(
            n=n, recipient=recipient, standing=Standing.SKIPPED, channel=channels[0] if channels else "", attempts=0
        )
    attempts = 0
    last = sent = None
    refused: set[str] = set()
    for outcome in outcomes:
        if outcome.word is Word.SENT:
            sent = outcome
        if outcome.run == run:
            attempts += 1
            last = outcome
            if outcome.word is Word.REFUSED:
                refused.add(outcome.channel)
    if sent:
        return Delivery(
            n=n, recipient=recipient, standing=Standing.SENT, channel=sent.channel, attempts=max(attempts, 1), last=sent
        )
    open_channels = [name for name in channels if name not in refused]
    if not open_channels:
        standing, channel = Standing.REFUSED, last.channel if last else (channels[0] if channels else "")
    else:
        channel = open_channels[0]
        fresh = last is None or last.word is Word.REFUSED
        standing = Standing.WAITING if fresh or attempts < max_attempts else Standing.GAVE_UP
    return Delivery(n=n, recipient=recipient, standing=standing, channel=channel, attempts=attempts, last=last)


def settled(standing: Standing, task: NotificationTask) -> Standing:
    """Where a recipient stands in the end: one still waiting when its task ended shares the task's fate."""
    if standing is not Standing.WAITING or task.status not in ENDED:
        return standing
    if task.status is Status.CANCELLED:
        return Standing.CANCELLED
    if task.failure and task.failure.kind == "expired":
        return Standing.EXPIRED
    return Standing.GAVE_UP


def mask(address: str) -> str:
    """`jean.dupont@mairie.fr` → `j…t@mairie.fr`, `+33612345678` → `+33…78`: enough to recognise, not to use."""
    name, at, domain = address.partition("@")
    if at:
        return f"{name[0]}…{name[-1]}@{domain}" if len(name) > 2 else f"…@{domain}"
    return f"{address[:3]}…{address[-2:]}" if len(address) > 6 else "…"


# --- events ----------------------------------------------------------------------------------


class EventKind(StrEnum):
    """What can happen, as subscribers are told."""

    ENQUEUED = "task.enqueued"
    STARTED = "task.started"
    PROGRESS = "task.progress"
    RETRY_SCHEDULED = "task.retry_scheduled"
    COMPLETED = "task.completed"
    FAILED = "task.failed"
    CANCELLED = "task.cancelled"
    DELETED = "task.deleted"
    PAUSED = "queue.paused"
    RESUMED = "queue.resumed"
    ALERT_RAISED = "alert.raised"
    ALERT_CLEARED = "alert.cleared"


class Event(Struct, frozen=True, gc=False):
    """One committed line of the log. `body` is its JSON, encoded once: `{"seq":…,"event":…,"at":…,"task":{…}}`."""

    seq: int
    at_ms: int
    kind: str
    task_id: str  # "" for events of the queue itself; so are type and status, and priority 0
    type: str
    status: str
    priority: int
    body: bytes


@lru_cache(maxsize=4096)
def _second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")


@lru_cache(maxsize=4096)
def iso(ms: int) -> str:
    """Epoch milliseconds as RFC 3339 in UTC, `2025-11-13T10:00:00.123Z`."""
    return f"{_second(ms // 1000)}.{ms % 1000:03d}Z"


def iso_or_none(ms: int | None) -> str | None:
    """`iso(ms)`, None for None or 0."""
    return iso(ms) if ms else None


def to_ms(when: datetime) -> int:
    """An aware datetime as epoch milliseconds."""
    return int(when.timestamp() * 1000)


class ApiKey(Struct, frozen=True, kw_only=True):
    """A key as stored: the key itself is known only as its hash."""

    id: str
    name: str
    role: Role
    hash: str  # SHA-256 of the key, hex: keys are 256 random bits, so a slow hash would protect nothing
    created_ms: int
    used_ms: int | None = None
    revoked_ms: int | None = None


class Session(Struct, frozen=True, kw_only=True):
    """A browser's signed-in session; `id` is the SHA-256 (hex) of the cookie's value."""

    id: str
    key_id: str
    created_ms: int
    expires_ms: int


class AuditEntry(Struct, frozen=True, kw_only=True, gc=False):
    """Who did what, when, from where."""

    at_ms: int
    key_id: str
    key_name: str
    action: str  # send, cancel, retry, clear, pause, resume, key.add, key.revoke, sign-in …
    target: str = ""  # task id, key id, or a filter in words
    address: str = ""  # of the client
    detail: dict[str, Any] = field(default_factory=dict)
    id: int = 0  # given by the store
