"""The settings, as types: what config.toml may say, its defaults and its bounds.

Reading the file and the environment into them, and what must hold between keys, is config.py's.
"""

from __future__ import annotations

import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from msgspec import Meta, Struct, field

from server.model import Priority

DEFAULT_FILE = Path(__file__).resolve().parent.parent / "config.toml"

Count = Annotated[int, Meta(ge=0, le=1_000_000_000)]
Positive = Annotated[int, Meta(ge=1, le=1_000_000_000)]
Seconds = Annotated[float, Meta(gt=0, le=86_400)]
Wait = Annotated[float, Meta(ge=0, le=86_400)]
Hours = Annotated[float, Meta(ge=0, le=87_600)]
Rate = Annotated[float, Meta(ge=0, le=1_000_000_000)]
Text = Annotated[str, Meta(min_length=1)]
Secret = Annotated[str, Meta(extra={"secret": True})]


class Group(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One table of the file. Its repr keeps the secrets out of logs and tracebacks."""

    def __repr__(self) -> str:
        fields = kinds(type(self)).items()
        values = (f"{name}={'…' if is_secret(kind) else repr(getattr(self, name))}" for name, kind in fields)
        return f"{type(self).__name__}({', '.join(values)})"


class Server(Group, frozen=True, kw_only=True):
    """Where the server listens, and what stands in front of it."""

    host: Text = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65_535)] = 5000  # 0: any free one
    shutdown_grace_s: Annotated[float, Meta(ge=0, le=3600)] = 30
    tls_cert: str = ""
    tls_key: str = ""
    trusted_proxies: list[str] = []


class StoreAt(Group, frozen=True, kw_only=True):
    """Where everything is kept."""

    url: Secret = "sqlite:data/tocsin.db"


class Metrics(Group, frozen=True, kw_only=True):
    """Who may read /metrics."""

    public: bool | None = None  # None: when server.host is loopback


class Queue(Group, frozen=True, kw_only=True):
    """How tasks are worked on, retried and removed."""

    workers: Annotated[int, Meta(ge=0, le=1000)] = 2
    express_workers: Annotated[int, Meta(ge=0, le=1000)] = 1
    lease_s: Annotated[float, Meta(ge=3, le=3600)] = 30
    max_attempts: Annotated[int, Meta(ge=1, le=1000)] = 5
    backoff_s: Wait = 2
    backoff_max_s: Wait = 300
    max_pending: Positive = 1_000_000
    retention_hours: Hours = 24
    rate_per_minute: Rate = 0


class Auth(Group, frozen=True, kw_only=True):
    """The key that exists from the start."""

    admin_key: Secret = ""


class Limits(Group, frozen=True, kw_only=True):
    """What one request, or one key, may ask for."""

    recipients: Positive = 100_000
    body_mib: Annotated[int, Meta(ge=1, le=1024)] = 32
    requests_per_minute: Count = 0


class Delivery(Group, frozen=True, kw_only=True):
    """How a task is sent."""

    concurrency: Annotated[int, Meta(ge=1, le=10_000)] = 64


class Events(Group, frozen=True, kw_only=True):
    """The log of events and its subscribers."""

    ring: Annotated[int, Meta(ge=16, le=16_777_216)] = 65_536
    stall_s: Seconds = 60
    retention_hours: Hours = 24
    connections: Positive = 5_000
    connections_per_key: Positive = 1_000


class Webhooks(Group, frozen=True, kw_only=True):
    """How completion webhooks are signed and where they may go."""

    secrets: list[Secret] = []
    allow: list[str] = []


class Channel(Group, frozen=True, kw_only=True):
    """One way out: [channels.NAME]."""

    url: Annotated[Secret, Meta(min_length=1)] = "outbox:data/outbox"
    rate_per_second: Rate = 0
    concurrency: Annotated[int, Meta(ge=1, le=10_000)] = 64
    timeout_s: Annotated[float, Meta(gt=0, le=600)] = 10
    fallback: str = ""
    body: str = ""


class Label(Group, frozen=True, kw_only=True):
    """A type's name for people."""

    fr: Text
    en: Text


class NotificationType(Group, frozen=True, kw_only=True):
    """One type of notification: [types.NAME]."""

    label: str | Label = ""
    priority: Priority = Priority.NORMALE
    channels: list[str] = []  # empty: every channel
    rate_per_minute: Rate = 0

    def label_in(self, langue: str) -> str:
        """The label for a reader of `langue`; French where there is no other."""
        if isinstance(self.label, str):
            return self.label
        return self.label.en if langue == "en" else self.label.fr


class Alerts(Group, frozen=True, kw_only=True):
    """When to raise an alert, and whom to tell."""

    failure_ratio: Annotated[float, Meta(gt=0, le=1)] = 0.2
    window_s: Seconds = 300
    min_tasks: Positive = 10
    notify: list[str] = []  # "CHANNEL:ADDRESS"


CHANNELS = {name: Channel() for name in ("email", "sms", "app")}
TYPES = {
    "meteo": NotificationType(label=Label(fr="Météo", en="Weather"), priority=Priority.HAUTE),
    "securite": NotificationType(label=Label(fr="Sécurité", en="Security"), priority=Priority.CRITIQUE),
    "sante": NotificationType(label=Label(fr="Santé", en="Health"), priority=Priority.HAUTE),
    "infra": NotificationType(label=Label(fr="Infrastructures", en="Infrastructure"), priority=Priority.NORMALE),
}


class Sections(Group, frozen=True, kw_only=True):
    """The whole file; a field left out has the default that config.toml shows."""

    server: Server = Server()
    store: StoreAt = StoreAt()
    metrics: Metrics = Metrics()
    queue: Queue = Queue()
    auth: Auth = Auth()
    limits: Limits = Limits()
    delivery: Delivery = Delivery()
    events: Events = Events()
    webhooks: Webhooks = Webhooks()
    channels: dict[str, Channel] = field(default_factory=lambda: dict(CHANNELS))
    types: dict[str, NotificationType] = field(default_factory=lambda: dict(TYPES))
    alerts: Alerts = Alerts()


class Settings(Sections, frozen=True, kw_only=True):
    """What `load` gives: the sections, and the file that they came from."""

    file: Path = DEFAULT_FILE
    base_dir: Path = DEFAULT_FILE.parent  # relative paths in the settings are relative to it
    variables: dict[tuple[str, ...], str] = {}  # key -> the variable that gave its value, or its table's

    def path(self, relative: str | Path) -> Path:
        """A path as the settings write it, made absolute."""
        return self.base_dir / Path(relative).expanduser()

    def place(self, *key: str) -> str:
        """Where the value of `key` came from, as errors begin: `FILE: channels.email.url`, or the variable's name."""
        return place(str(self.file), self.variables, key)


def place(file: str, variables: Mapping[tuple[str, ...], str], key: tuple[str, ...]) -> str:
    """`FILE: KEY`, or `VARIABLE` where the environment gave the value (`VARIABLE: REST` if it gave a whole table)."""
    for length in range(len(key), 0, -1):
        if variable := variables.get(key[:length]):
            return ": ".join(filter(None, (variable, ".".join(key[length:]))))
    return ": ".join(filter(None, (file, ".".join(key))))


# --- asking the types ---------------------------------------------------------------------------

_kinds: dict[type[Any], dict[str, Any]] = {}


def kinds(group: type[Any]) -> dict[str, Any]:
    """The keys of a table and their types."""
    if group not in _kinds:
        _kinds[group] = typing.get_type_hints(group, include_extras=True)
    return _kinds[group]


def is_group(kind: Any) -> bool:
    """Is it a table with fixed keys?"""
    return isinstance(kind, type) and issubclass(kind, Group)


def table_of(kind: Any) -> Any:
    """The type of the tables in a table with free names (channels, types); None for any other kind."""
    return typing.get_args(kind)[1] if typing.get_origin(kind) is dict else None


def is_secret(kind: Any) -> bool:
    """Is it, or does it list, a secret?"""
    if any(isinstance(mark, Meta) and mark.extra for mark in getattr(kind, "__metadata__", ())):
        return True
    return typing.get_origin(kind) is list and is_secret(typing.get_args(kind)[0])
