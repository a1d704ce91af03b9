"""The event stream over WebSocket (`GET /ws/events`): handshake, commands, closes. What is sent is the hub's affair.

aiohttp's defaults that bite are off: no compression, small messages, no time-out of its own. Pings come from the hub.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, cast

import msgspec
from aiohttp import WSCloseCode, WSMsgType, web

from server.api.fanout import Hub
from server.api.frames import ErrorFrame, StreamQuery, Subscribe, on_wire
from server.api.subscriber import Subscriber
from server.http.auth import KEY, SESSION
from server.http.complaints import query_complaints
from server.http.front import FRONT
from server.http.problems import BadRequest, UpgradeRequired, sentence
from server.i18n import lang, text

COMMAND_BYTES = 4096
COMMANDS_PER_MINUTE = 100
EXAMPLE = '{"action":"subscribe","since":0}'
KNOWN = "subscribe"

_LISTS = {"type", "status", "task_id", "priority"}


def expect_upgrade(request: web.Request) -> None:
    """Raise UpgradeRequired for a plain GET, which is to be told where it gets the same; BadRequest for a key of no
    handshake."""
    options = request.headers.get("Connection", "").lower()
    if request.headers.get("Upgrade", "").strip().lower() != "websocket" or "upgrade" not in options:
        raise UpgradeRequired()
    if not request.headers.get("Sec-WebSocket-Key", "").isascii():  # aiohttp would stumble over it
        raise BadRequest()


async def serve(request: web.Request, hub: Hub, query: StreamQuery) -> web.WebSocketResponse:
    """One WebSocket subscriber, from its handshake to its end."""
    key, session = request[KEY], request.get(SESSION)
    with hub.admitted(key.id):
        await hub.turns.take()
        answer = web.WebSocketResponse(
            compress=False, max_msg_size=COMMAND_BYTES + 1, autoping=False, autoclose=False, timeout=2, writer_limit=0
        )
        writer = await answer.prepare(request)
        transport = request.transport
        if transport is None or transport.is_closing():
            return answer
        sub = Subscriber(
            cast(Any, transport), writer.drain, "websocket", key_id=key.id, session_id=session.id if session else None,
            lang=lang(request),
        )  # fmt: skip
        sub.write(on_wire("websocket", hub.hello()))
        hub.add(sub, query.plan(), query.since, query.stats)
        if not request.app[FRONT].keyring.lives(key, session):
            hub.end(sub, WSCloseCode.POLICY_VIOLATION)
        try:
            await _listen(answer, hub, sub)
        finally:
            await hub.remove(sub)
    return answer


async def _listen(answer: web.WebSocketResponse, hub: Hub, sub: Subscriber) -> None:
    """Take commands until the connection is over."""
    flood = Flood(hub.clock.monotonic)
    while True:
        message = await answer.receive()
        sub.heard(hub.clock.monotonic())
        match message.type:
            case WSMsgType.PONG if sub.pings:
                sub.pings -= 1
            case WSMsgType.CLOSE:
                if sub.ended is None:
                    await answer.close(code=_echo(message.data), drain=False)
                return
            case WSMsgType.TEXT | WSMsgType.BINARY | WSMsgType.PING | WSMsgType.PONG if sub.ended is not None:
                continue  # it has not seen our close yet
            case WSMsgType.BINARY:
                hub.end(sub, WSCloseCode.UNSUPPORTED_DATA)
            case WSMsgType.TEXT | WSMsgType.PING | WSMsgType.PONG if flood.too_many():
                hub.end(sub, WSCloseCode.POLICY_VIOLATION)
            case WSMsgType.PONG:  # it answers nothing: RFC 6455, 5.5.3, allows that
                continue
            case WSMsgType.PING:
                await answer.pong(message.data)
            case WSMsgType.TEXT:
                command = understand(message.data, sub.lang)
                if isinstance(command, ErrorFrame):
                    hub.send(sub, command)
                    await sub.drain()  # it is read on once it has taken its answer, so that none pile up
                else:
                    hub.subscribe(sub, command.plan(), command.since, command.stats)
            case _:  # lost, or closed by aiohttp for what it could not read (1002, 1007, 1009)
                return


def _echo(code: int | None) -> int:
    """The code to answer a close with (RFC 6455, 5.5.1); 1005 and 1006 must not be sent."""
    return code if code and code not in (1005, 1006) else WSCloseCode.OK


class Flood:
    """Counts what a client says of itself, over any minute."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._times: deque[float] | None = None  # most clients never say a word

    def too_many(self) -> bool:
        """One more came: is it over the limit?"""
        now = self._monotonic()
        if self._times is None:
            self._times = deque(maxlen=COMMANDS_PER_MINUTE)
        too_many = len(self._times) == COMMANDS_PER_MINUTE and now - self._times[0] < 60
        self._times.append(now)
        return too_many


def understand(command: str, language: str) -> Subscribe | ErrorFrame:
    """A client's command, or what is wrong with it. Values may be numbers or text, lists a single value."""
    try:
        given = msgspec.json.decode(command)
    except (ValueError, RecursionError):
        given = None
    if not isinstance(given, dict):
        return ErrorFrame("malformed-command", text("stream.not_json", language, example=EXAMPLE))
    if given.get("action") != KNOWN:
        return ErrorFrame("unknown-command", text("stream.unknown_command", language, known=KNOWN))
    values = {name: _listed(value) if name in _LISTS else value for name, value in given.items()}
    try:
        return msgspec.convert(values, Subscribe, strict=False)
    except msgspec.ValidationError as error:
        del values["action"]
        found = query_complaints(values, StreamQuery)
        wrong = "; ".join(f"{each.where}: {sentence(each, language)}" for each in found)
        return ErrorFrame("invalid-command", wrong or str(error))


def _listed(value: Any) -> list[Any]:
    """One value as a list of one; numbers as text (`"priority": 1`)."""
    values = value if isinstance(value, list) else [value]
    return [str(each) if type(each) is int else each for each in values]
