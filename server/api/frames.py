"""What travels on the event stream: the frames and commands as types, and their bytes on either wire.

The AsyncAPI document (asyncapi.py) is made from these types. A frame of events is joined from bodies that the store
encoded once; it is never encoded again. Nothing here knows who reads.
"""

from __future__ import annotations

from enum import StrEnum
from struct import pack
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct, field

from server.log import Filter
from server.model import NO_CONTROLS, Event, EventKind, Status, parse_priority
from server.views import TaskView

LIVE_MS = 16
"""The shortest `interval_ms`: a screen shows no more."""

Words = Annotated[list[Annotated[str, Meta(max_length=64, pattern=NO_CONTROLS)]], Meta(max_length=100)]
PriorityWord = Annotated[str, Meta(pattern=r"^(?ai:critique|haute|normale|[123])\Z")]
Interval = Annotated[int, Meta(ge=LIVE_MS, le=60_000)]
Seq = Annotated[int, Meta(ge=0, le=2**53)]


class Mode(StrEnum):
    """What a subscriber wants to see."""

    EVENTS = "events"
    LATEST = "latest"


class StreamQuery(Struct, frozen=True, forbid_unknown_fields=True):
    """What to read of the event log: where from, which events, and how.

    `since` is the last `seq` already seen (absent: from now on; 0: from the oldest kept). Of `type`, `status`,
    `task_id` and `priority` each given one must hold. `mode=latest` gives at most one frame per `interval_ms`, in it
    only the newest state of each task. `stats=1` adds the statistics, on change.
    """

    since: Seq | None = None
    type: Words = []
    status: Annotated[list[Status], Meta(max_length=100)] = []
    task_id: Words = []
    priority: Annotated[list[PriorityWord], Meta(max_length=100)] = []
    mode: Mode = Mode.EVENTS
    interval_ms: Interval = 100
    stats: bool = False

    def plan(self) -> Plan:
        """The part that subscribers can share."""
        only = Filter(
            frozenset(self.type),
            frozenset(status.value for status in self.status),
            frozenset(self.task_id),
            frozenset(int(parse_priority(word)) for word in self.priority),
        )
        return Plan(only, self.interval_ms if self.mode is Mode.LATEST else 0)


class Plan(Struct, frozen=True):
    """What a subscriber reads: filter, and the pace of `mode=latest` in ms (0: `mode=events`)."""

    filter: Filter
    interval_ms: int = 0


class Subscribe(StreamQuery, frozen=True, tag_field="action", tag="subscribe"):
    """A command of a WebSocket client: replaces its filter, mode and place in the log."""


# --- from the server -------------------------------------------------------------------------------


class DeletedTask(Struct, frozen=True):
    """What is left to say of a task that was deleted."""

    id: str
    type: str
    status: Status
    priority: str


TASKS = (TaskView, DeletedTask)
"""What `task` may be: all of it, or, with `task.deleted`, the rest. (One type cannot name two that are alike.)"""


class LogEvent(Struct, frozen=True, omit_defaults=True):
    """One line of the log. `task.*` carry `task`, `queue.*` carry `by`, `alert.*` carry `alert`."""

    seq: int
    event: EventKind
    at: str
    task: Any = None  # TASKS
    by: str | None = None
    alert: dict[str, Any] | None = None


class Hello(Struct, frozen=True, tag_field="kind", tag="hello"):
    """The first frame. Without `since`, the stream begins behind `seq`. Something is heard every `heartbeat_s`."""

    seq: int
    oldest: int
    node: str
    version: str
    heartbeat_s: int


class Events(Struct, frozen=True, tag_field="kind", tag="events"):
    """What passed the filter between `from` and `to`; go on with `since` = `to`.

    `from` follows the `to` of the frame before. A frame without events is a heartbeat (`to` = `from` - 1 where
    nothing happened at all).
    """

    first: int = field(name="from")
    to: int
    events: list[LogEvent]


class Stats(Struct, frozen=True, tag_field="kind", tag="stats"):
    """The statistics of `GET /api/queue/stats`, with `stats=1` alone; on change, at most 4 a second."""

    stats: Any  # a dict, or msgspec.Raw


class GapFrame(Struct, frozen=True, tag_field="kind", tag="gap"):
    """These events are past retention: read the list anew, then go on."""

    first: int = field(name="from")
    to: int


class Shutdown(Struct, frozen=True, tag_field="kind", tag="shutdown"):
    """The server stops; the close (1001) follows. Come back after `retry_after_ms`."""

    retry_after_ms: int


class ErrorFrame(Struct, frozen=True, tag_field="kind", tag="error"):
    """A command was not understood; the subscription goes on as it was."""

    code: str
    message: str


encode = msgspec.json.Encoder().encode
HEARTBEAT = b'{"kind":"events","from":%d,"to":%d,"events":[]}'


def events_frame(first: int, last: int, events: list[Event]) -> bytes:
    """An Events frame, from bodies that are encoded already."""
    head = b'{"kind":"events","from":%d,"to":%d,"events":[' % (first, last)
    return b"".join((head, b",".join([event.body for event in events]), b"]}"))


# --- on the wire -----------------------------------------------------------------------------------

Wire = Literal["websocket", "chunked", "plain"]
"""WebSocket; SSE over HTTP/1.1; SSE over HTTP/1.0."""

PING = b"\x89\x00"


def on_wire(wire: Wire, payload: bytes, to: int | None = None) -> bytes:
    """A frame as it goes into the socket; `to` becomes the SSE id."""
    if wire == "websocket":
        return _ws_head(len(payload)) + payload
    data = b"data: " + payload + b"\n\n" if to is None else b"id: %d\ndata: %b\n\n" % (to, payload)
    return chunk(data) if wire == "chunked" else data


def events_on_wire(wire: Wire, first: int, last: int, events: list[Event]) -> bytes:
    """An Events frame as it goes into the socket."""
    if len(events) == 1 and wire == "websocket":  # most frames are so
        body = events[0].body
        head = b'{"kind":"events","from":%d,"to":%d,"events":[' % (first, last)
        size = len(head) + len(body) + 2
        ws = pack("!BBH", 0x81, 126, size) if 126 <= size < 65536 else _ws_head(size)
        return b"".join((ws, head, body, b"]}"))  # copied once
    return on_wire(wire, events_frame(first, last, events), last)


def _ws_head(size: int) -> bytes:
    """RFC 6455, 5.2: a text frame of `size` bytes, not masked, as a server's are."""
    if size < 126:
        return pack("!BB", 0x81, size)
    if size < 65536:
        return pack("!BBH", 0x81, 126, size)
    return pack("!BBQ", 0x81, 127, size)


def chunk(data: bytes) -> bytes:
    """RFC 9112, 7.1."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def closing(wire: Wire, code: int) -> bytes:
    """The last bytes of a stream that the server ends."""
    if wire == "websocket":
        return pack("!BBH", 0x88, 2, code)
    return b"0\r\n\r\n" if wire == "chunked" else b""
