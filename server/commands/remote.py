"""The way to a running server: `--url`, `--key`, calls that say in one line what went wrong, and the event stream.

`Remote` answers with decoded JSON or raises Stop. `Remote.frames` is the event stream over any number of connections:
every event that the query matches once and in order, resumed from the last frame's `to`.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import urlsplit

import aiohttp
import msgspec
from aiohttp import ClientSession, ClientTimeout, WSMsgType

from server.commands.common import NO, USAGE, Stop, complain, printable
from server.version import VERSION

URL = "http://localhost:5000"
LONGEST_WAIT_S = 30.0
LOST = (aiohttp.ClientError, TimeoutError, OSError)
Notice = Callable[[str], None]


def add_flags(parser: argparse.ArgumentParser) -> None:
    """`--url` and `--key`."""
    group = parser.add_argument_group("the server")
    group.add_argument("--url", metavar="URL", help=f"where it is (default: TOCSIN_URL, or {URL})")
    group.add_argument(
        "--key", metavar="KEY", help="an API key, or file:PATH of one (default: TOCSIN_KEY, which `ps` does not show)"
    )


def wait_s(attempt: int) -> float:
    """Seconds before try `attempt + 1`, with full jitter."""
    return random.uniform(0.05, min(LONGEST_WAIT_S, 0.5 * 2 ** min(attempt - 1, 8)))


class Lost(Stop):
    """The server is out of reach, or not able just now: it may help to try again."""

    def __init__(self, text: str, after_s: float | None = None):
        super().__init__(text)
        self.after_s = after_s


class Gone(Stop):
    """404: there is no such thing (any more)."""


class Remote:
    """A running server, seen from its door."""

    def __init__(self, url: str, key: str, session: ClientSession):
        self.url = url
        self._session = session
        self._headers = {"X-API-Key": key, "Accept-Language": "en", "User-Agent": f"tocsin-cli/{VERSION}"}

    @property
    def local(self) -> bool:
        """Is it on this machine?"""
        return urlsplit(self.url).hostname in ("localhost", "127.0.0.1", "::1")

    async def get(self, path: str, **query: Any) -> Any:
        """What a GET answers."""
        return await self._call("GET", path, params={name: value for name, value in query.items() if value})

    async def post(self, path: str, body: Any = None, headers: dict[str, str] | None = None) -> Any:
        """What a POST answers."""
        data = None if body is None else msgspec.json.encode(body)
        return await self._call("POST", path, data=data, headers={"Content-Type": "application/json"} | (headers or {}))

    async def post_again(
        self, path: str, body: Any, headers: dict[str, str], tries: int, notice: Notice = complain
    ) -> Any:
        """`post`, up to `tries` times while the server is out of reach or busy; `headers` make a repeat harmless."""
        for attempt in range(1, tries + 1):
            try:
                return await self.post(path, body, headers)
            except Lost as lost:
                if attempt == tries:
                    raise
                wait = min(LONGEST_WAIT_S, lost.after_s) if lost.after_s is not None else wait_s(attempt)
                notice(f"{lost}; try {attempt + 1} of {tries} in {wait:.1f} s")
                await asyncio.sleep(wait)
        raise AssertionError("tries is at least 1")

    async def _call(self, method: str, path: str, headers: dict[str, str] | None = None, **options: Any) -> Any:
        try:
            async with self._session.request(
                method, self.url + path, headers=self._headers | (headers or {}), allow_redirects=False, **options
            ) as answer:
                data = await answer.read()
                if answer.status >= 300:
                    self._refused(answer.status, data, answer.headers.get("Retry-After", ""))
                return msgspec.json.decode(data)
        except LOST as error:
            raise Lost(self._lost(error)) from None
        except msgspec.DecodeError:
            raise Stop(f"{self.url}: expected a Tocsin server, got something else; check --url") from None

    def _lost(self, error: BaseException) -> str:
        inner = getattr(error, "os_error", None) or error
        said = getattr(inner, "strerror", None) or ("no answer in time" if isinstance(error, TimeoutError) else inner)
        return f"{self.url}: the server is out of reach ({said or type(error).__name__}); check --url, or start it"

    def _refused(self, status: int, data: bytes, retry_after: str = "") -> NoReturn:
        """Raise what an answer says: Lost where it may help to try again, else Stop."""
        if status == 401:
            raise Stop("the server does not know this key; give another by --key or TOCSIN_KEY (run.py keys add)")
        said = (
            problem(data) or f"HTTP {status} {HTTPStatus(status).phrase if status in set(HTTPStatus) else ''}".strip()
        )
        if status in (429, 502, 503, 504) or (status == 409 and b'"idempotency-in-hand"' in data):
            raise Lost(f"{self.url}: {said}", float(retry_after) if retry_after.isdigit() else None)
        if 300 <= status < 400:
            raise Stop(f"{self.url}: it sends us elsewhere (HTTP {status}); give the final address by --url")
        raise (Gone if status == 404 else Stop)(said, NO)

    async def frames(
        self, query: list[tuple[str, str]], since: int | None = None, *, notice: Notice = complain, tries: int = 0
    ) -> AsyncGenerator[dict[str, Any]]:
        """Frames of the event stream, for ever; `tries` (0: no bound) connections in a row may fail before it gives up.

        The first connection must succeed. `hello` is given at every connection, `gap` where events are lost to us.
        """
        failed = 0
        connected = False
        while True:
            wait: float | None = None
            try:
                async for frame in self._connection(query, since):
                    connected, failed = True, 0
                    kind = frame.get("kind")
                    if kind == "hello" and since is None:
                        since = int(frame["seq"])
                    if kind == "events" and since is not None:
                        frame["events"] = [event for event in frame["events"] if event["seq"] > since]
                    yield frame
                    if kind in ("events", "gap"):
                        since = int(frame["to"])  # lower than before where it is another log: a backup was put back
                    elif kind == "shutdown":
                        wait = frame["retry_after_ms"] / 1000 * random.uniform(1, 1.5)
                said = "the stream was closed"
            except Lost as lost:
                if not connected:
                    raise
                said, wait = str(lost), wait if wait is not None else lost.after_s
            failed += 1
            if tries and failed > tries:
                raise Lost(f"{said}; given up after {tries} tries")
            pause = min(LONGEST_WAIT_S, wait) if wait is not None else wait_s(failed)
            notice(f"{said}; again in {pause:.1f} s")
            await asyncio.sleep(pause)

    async def _connection(self, query: list[tuple[str, str]], since: int | None) -> AsyncGenerator[dict[str, Any]]:
        """Frames of one connection; ends with it. Raises Lost, or Stop where it makes no sense to come back."""
        asked = query if since is None else [*query, ("since", str(since))]
        silence_s = 60.0
        try:
            async with self._session.ws_connect(
                self.url + "/ws/events", params=asked, headers=self._headers, max_msg_size=64 * 2**20
            ) as ws:
                while True:
                    async with asyncio.timeout(silence_s):
                        message = await ws.receive()
                    if message.type is WSMsgType.TEXT:
                        frame: dict[str, Any] = msgspec.json.decode(message.data)
                        if frame.get("kind") == "hello":
                            silence_s = 2.5 * float(frame["heartbeat_s"])
                        yield frame
                    elif message.type in (WSMsgType.CLOSE, WSMsgType.CLOSING, WSMsgType.CLOSED, WSMsgType.ERROR):
                        if ws.close_code == aiohttp.WSCloseCode.POLICY_VIOLATION:
                            raise Stop("the server ended the stream: the key was revoked")
                        return
        except aiohttp.WSServerHandshakeError as error:
            await self._why_not(asked, error)
        except LOST as error:
            raise Lost(self._lost(error)) from None

    async def _why_not(self, query: list[tuple[str, str]], error: aiohttp.WSServerHandshakeError) -> None:
        """A refused handshake shows no body; the same question over SSE does. Raises Lost or Stop."""
        if error.status in (429, 503):
            raise Lost(f"{self.url}: no room for another subscriber, or it is stopping (HTTP {error.status})")
        try:
            async with self._session.get(
                self.url + "/api/events", params=query, headers=self._headers, allow_redirects=False
            ) as answer:
                if answer.status >= 300:
                    self._refused(answer.status, await answer.read())
        except LOST as lost:
            raise Lost(self._lost(lost)) from None
        said = f"{self.url}: WebSocket refused (HTTP {error.status}); does a proxy in between let it through?"
        raise Lost(said) if error.status >= 500 else Stop(said)  # Lost: by now it is back


def problem(data: bytes) -> str:
    """The sentence of a problem+json, with its field errors; empty if it is none."""
    try:
        said = msgspec.json.decode(data)
        fields = [
            f"{each.get('pointer') or each.get('parameter') or '/'}: {each['message']}" for each in said["errors"]
        ]
        more = [f"and {len(fields) - 5} more"] if len(fields) > 5 else []
        return printable(" | ".join([str(said["detail"]), *fields[:5], *more]))
    except (msgspec.DecodeError, KeyError, TypeError, AttributeError):
        return ""


def address(args: argparse.Namespace) -> tuple[str, str]:
    """(URL, key) of the flags and the environment. Raises Stop."""
    url = (args.url or os.environ.get("TOCSIN_URL") or URL).strip().rstrip("/")
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0 and not parts.query
    except ValueError:
        good = False
    if not good:
        raise Stop(f"--url: expected http://HOST:PORT or https://HOST, got {url!r}", USAGE)
    key = args.key or os.environ.get("TOCSIN_KEY") or ""
    if key.startswith("file:"):
        try:
            key = Path(key.removeprefix("file:")).expanduser().read_text("utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise Stop(f"--key: {getattr(error, 'strerror', '') or 'the file cannot be read'}", USAGE) from None
    if not key:
        raise Stop("a key is needed: --key KEY, or TOCSIN_KEY (make one: run.py keys add NAME)", USAGE)
    if not key.isascii() or not key.isprintable():
        raise Stop("--key: expected the key as it was shown, in one line", USAGE)
    return url, key


@asynccontextmanager
async def connected(args: argparse.Namespace) -> AsyncIterator[Remote]:
    """The server that the flags name. Nothing is called yet."""
    url, key = address(args)
    timeout = ClientTimeout(total=None, sock_connect=10, sock_read=60)
    async with ClientSession(timeout=timeout) as session:
        yield Remote(url, key, session)
