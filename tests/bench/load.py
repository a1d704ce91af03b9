"""Load: HTTP/1.1 over raw protocols, lean enough to saturate a server from one core.

A request is bytes made beforehand; of an answer no more is read than its status, its length and, where it is asked
for, the task's id. `flood` keeps every connection busy; `paced` sends at a rate, whatever the answers do, and counts
time from when a request was due, so that a server that stalls is not spared the requests it held up.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable
from time import perf_counter

from tests.bench.kit import KEY

TIMER_S = 0.0015
"""An event loop's timers are late by about a millisecond, in which `exact` waits awake."""

Answered = Callable[["Connection", int, bytes], None]


def request(method: str, path: str, body: bytes = b"") -> bytes:
    """A request's bytes."""
    head = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nX-API-Key: {KEY}\r\n"
    if body:
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    return head.encode() + b"\r\n" + body


class Connection(asyncio.Protocol):
    """One connection, one request at a time."""

    def __init__(self, answered: Answered):
        self._answered = answered
        self._buffer = b""
        self.sent = 0.0
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: asyncio.Transport = transport  # type: ignore[assignment]

    def send(self, data: bytes, due: float = 0.0) -> None:
        """Send a request; time counts from `due`, if given."""
        self.sent = due or perf_counter()
        self.transport.write(data)

    def data_received(self, data: bytes) -> None:
        if self._buffer:
            data = self._buffer + data
        head = data.find(b"\r\n\r\n")
        if head < 0:
            self._buffer = data
            return
        at = data.find(b"Content-Length: ")
        whole = head + 4 + int(data[at + 16 : data.find(b"\r", at)])
        if len(data) < whole:
            self._buffer = data
            return
        self._buffer = b""
        self._answered(self, int(data[9:12]), data)

    def connection_lost(self, error: Exception | None) -> None:
        if not self.lost.done():
            self.lost.set_result(None)


def task_id(answer: bytes) -> str:
    """The id in the answer to a POST."""
    at = answer.find(b'"task_id":"') + 11
    return answer[at : at + 36].decode()


class Flood:
    """What a flood came to."""

    def __init__(self) -> None:
        self.answers = 0
        self.seconds = 0.0
        self.statuses: Counter[int] = Counter()
        self.ids: list[str] = []

    @property
    def per_s(self) -> float:
        """Answers per second."""
        return self.answers / self.seconds


async def flood(
    port: int, data: bytes, *, connections: int = 64, seconds: float = 0, count: int = 0, ids: bool = False
) -> Flood:
    """Keep `connections` busy for `seconds`, or until `count` answers; `ids` keeps the ids of what was accepted.

    Ends early if the server goes away.
    """
    loop = asyncio.get_running_loop()
    done = Flood()
    over = loop.create_future()
    to_send = count or 2**62
    end = perf_counter() + seconds if seconds else float("inf")

    def answered(connection: Connection, status: int, answer: bytes) -> None:
        nonlocal to_send
        done.answers += 1
        if status != 202:
            done.statuses[status] += 1
        elif ids:
            done.ids.append(task_id(answer))
        if done.answers == count:
            if not over.done():
                over.set_result(None)
        elif to_send > 0 and perf_counter() < end:
            to_send -= 1
            connection.send(data)

    crew = [
        (await loop.create_connection(lambda: Connection(answered), "127.0.0.1", port))[1] for _ in range(connections)
    ]
    began = perf_counter()
    end = began + seconds if seconds else end
    for connection in crew:
        if to_send > 0:
            to_send -= 1
            connection.send(data)
    lost = asyncio.ensure_future(asyncio.wait([connection.lost for connection in crew]))
    try:
        await asyncio.wait({over, lost}, timeout=seconds or 300, return_when=asyncio.FIRST_COMPLETED)
        done.seconds = perf_counter() - began
        done.statuses[202] = done.answers - sum(done.statuses.values())
    finally:
        for connection in crew:
            connection.transport.abort()
        await lost
    return done


async def paced(
    port: int, data: bytes, *, rate: float, seconds: float, connections: int = 64,
    on_answer: Callable[[float, bytes], None] = lambda due, answer: None, exact: bool = False,
) -> list[float]:  # fmt: skip
    """Send at `rate` per second; seconds from due to answered, one per answer. `on_answer(due, answer)` sees each.

    `exact` sends when it is due, not at the timer's next beat, and takes a core of its own for it.
    """
    loop = asyncio.get_running_loop()
    early = TIMER_S if exact else 0.0
    took: list[float] = []
    free: deque[Connection] = deque()
    late: deque[float] = deque()

    def answered(connection: Connection, status: int, answer: bytes) -> None:
        took.append(perf_counter() - connection.sent)
        on_answer(connection.sent, answer)
        if late:
            connection.send(data, late.popleft())
        else:
            free.append(connection)

    crew = [
        (await loop.create_connection(lambda: Connection(answered), "127.0.0.1", port))[1] for _ in range(connections)
    ]
    free.extend(crew)
    began = perf_counter()
    total = int(rate * seconds)
    for number in range(total):
        due = began + number / rate
        while (wait := due - perf_counter()) > 0:
            await asyncio.sleep(wait - early if wait > early else 0)
        if free:
            free.popleft().send(data, due)
        else:
            late.append(due)
        if number % 64 == 63:
            await asyncio.sleep(0)
    deadline = perf_counter() + 20
    while len(took) < total and perf_counter() < deadline:
        await asyncio.sleep(0.01)
    for connection in crew:
        connection.transport.abort()
    await asyncio.wait([connection.lost for connection in crew])
    return took


__all__ = ["Connection", "Flood", "flood", "paced", "request", "task_id"]
