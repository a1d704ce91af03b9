"""`https://` and `http://`: a gateway (SMS, push, anything) that takes a JSON POST per recipient.

The body comes from the channel's template: JSON, read once, whose strings hold placeholders; values are put into the
strings, never into JSON text, so that no value can become a key or end a string. The answer's status decides. The
request carries the message's id as `Idempotency-Key`, the same at every attempt. No redirect is followed, no proxy of
the environment is used, at most 64 KiB of an answer are read. `http://` is for one's own network: nothing hides what is
sent, nor user and secret.
"""

from __future__ import annotations

import base64
import json
import ssl
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Any

import aiohttp
import msgspec
from yarl import URL

from notifiers.base import BadBody, Message, NotifierError, Outcome, Refused, RetryLater, Sent, Spec, clip
from notifiers.url import PLACEHOLDER, fill, fill_quoted, placeholders, split, values

ANSWER_BYTES = 65_536
AFTER_MOST_S = 86_400.0
KNOWN = frozenset(
    {"id", "nom", "telephone", "email", "titre", "message", "type", "label", "priority", "langue", "recipient"}
)
DOWN = frozenset({502, 503, 504})  # not this message is the trouble, but the service
LATER = {408: "timeout", 425: "busy", 429: "busy", 503: "busy"}
LOGIN = frozenset({401, 403, 407})

Json = dict[str, Any] | list[Any] | str | int | float | bool | None


class Gateway:
    """An address that takes messages as JSON."""

    def __init__(self, url: str, headers: Mapping[str, str], body: Json, needs: frozenset[str], spec: Spec):
        self.needs = needs
        self._url = url
        self._fixed = None if "{" in url else URL(url, encoded=True)
        self._headers = dict(headers)
        self._body = body
        self._timeout = aiohttp.ClientTimeout(total=spec.timeout_s)
        self._concurrency = spec.concurrency
        self._session: aiohttp.ClientSession | None = None

    async def deliver(self, message: Message) -> Outcome:
        known = values(message)
        known["to"] = known["telephone"] or known["email"] or known["recipient"]
        data = msgspec.json.encode(_filled(self._body, known))
        url = self._fixed or URL(fill_quoted(self._url, known), encoded=True)
        try:
            async with self._open().post(
                url, data=data, headers={"Idempotency-Key": message.id}, allow_redirects=False
            ) as answer:
                return await self._judge(answer)
        except (aiohttp.ClientError, OSError) as error:  # TimeoutError is an OSError
            return _failure(error)

    async def check(self) -> str:
        """Connect and ask what is allowed; any answer that is not about our login is a good sign."""
        url = self._fixed or URL(fill_quoted(self._url, dict.fromkeys(KNOWN, "0")), encoded=True)
        place = f"{url.host}:{url.port}"
        try:
            async with self._open().options(url, allow_redirects=False) as answer:
                status = answer.status
        except (aiohttp.ClientError, OSError) as error:
            raise NotifierError(f"{place}: {_failure(error).reason.replace('_', ' ')}") from None
        if status in LOGIN:
            raise NotifierError(f"{place}: user and secret are refused ({status})")
        return f"{place} answers ({status} to OPTIONS)"

    async def aclose(self) -> None:
        if self._session:
            await self._session.close()

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=self._concurrency),
                timeout=self._timeout,
                headers=self._headers,
                cookie_jar=aiohttp.DummyCookieJar(),
                trust_env=False,
                auto_decompress=False,  # what a gateway packs in its own way must not make of a yes a failure
                skip_auto_headers=["Accept-Encoding"],
            )
        return self._session

    async def _judge(self, answer: aiohttp.ClientResponse) -> Outcome:
        """The outcome is in the status; the body can only add words to it."""
        status, code = answer.status, str(answer.status)
        body = b""
        try:
            while len(body) < ANSWER_BYTES and (piece := await answer.content.read(ANSWER_BYTES - len(body))):
                body += piece
        except (aiohttp.ClientError, OSError):
            pass  # what has come will do
        if 200 <= status < 300:
            return Sent(reference=_reference(answer.headers, body))
        detail = clip(body.decode("utf-8", "replace")) or clip(answer.reason or "")
        if status in LATER or status >= 500:
            reason = LATER.get(status, "gateway_error")
            after_s = retry_after_s(answer.headers) if status in (429, 503) else None
            return RetryLater(reason, code, detail, after_s, transport=status in DOWN)
        return Refused("login_refused" if status in LOGIN else "gateway_refused", code, detail)


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Seconds asked for by Retry-After (RFC 9110, section 10.2.3), at most a day; None where it says nothing."""
    text = headers.get("Retry-After", "").strip()
    if text.isascii() and text.isdigit():
        return min(float(text[:9]), AFTER_MOST_S)
    try:
        until = parsedate_to_datetime(text).timestamp()
    except (ValueError, TypeError, OverflowError):
        return None
    try:
        now = parsedate_to_datetime(headers.get("Date", "")).timestamp()  # their clock, which the date was made with
    except (ValueError, TypeError, OverflowError):
        now = time.time()
    return min(max(until - now, 0.0), AFTER_MOST_S)


def _reference(headers: Mapping[str, str], body: bytes) -> str:
    """The gateway's own id for the message, if it gave one."""
    if found := headers.get("X-Message-Id"):
        return clip(found)
    try:
        parsed = msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError):
        return ""
    own = parsed.get("id") if isinstance(parsed, dict) else None
    return clip(own) if type(own) in (str, int) else ""


def _failure(error: Exception) -> RetryLater:
    """No answer: an exception of the client as an outcome."""
    if isinstance(error, TimeoutError):
        return RetryLater("timeout", transport=True)
    if isinstance(error, aiohttp.ClientSSLError | ssl.SSLError):
        return RetryLater("tls_failed", transport=True)
    if isinstance(error, aiohttp.ClientConnectorError):
        return RetryLater("unreachable", detail=clip(error.os_error.strerror or ""), transport=True)
    if isinstance(error, aiohttp.ServerDisconnectedError | OSError):
        return RetryLater("connection_lost", transport=True)
    return RetryLater("gateway_error", detail=clip(type(error).__name__), transport=True)


def _filled(part: Json, known: dict[str, str]) -> Json:
    """The template with values in its strings."""
    match part:
        case str():
            return fill(part, known) if "{" in part else part
        case dict():
            return {key: _filled(value, known) for key, value in part.items()}
        case list():
            return [_filled(value, known) for value in part]
    return part


def _strings(part: Json) -> list[str]:
    match part:
        case str():
            return [part]
        case dict():
            return [text for value in part.values() for text in _strings(value)]
        case list():
            return [text for value in part for text in _strings(value)]
    return []


def _names(part: Json) -> list[str]:
    """Of all fields."""
    match part:
        case dict():
            return [*part, *(name for value in part.values() for name in _names(value))]
        case list():
            return [name for value in part for name in _names(value)]
    return []


DEFAULT_BODY: Json = {
    "id": "{id}",
    "to": "{to}",
    "name": "{nom}",
    "recipient": "{recipient}",
    "title": "{titre}",
    "text": "{message}",
    "type": "{type}",
    "label": "{label}",
    "priority": "{priority}",
    "language": "{langue}",
}
DEFAULT_NEEDS = {"sms": frozenset({"telephone"}), "email": frozenset({"email"})}


def open_gateway(spec: Spec) -> Gateway:
    """`https://user:secret@host/path`, placeholders in path and query, and the template. Raises ValueError."""
    parts, place = split(spec.url)
    headers = {"Content-Type": "application/json; charset=utf-8", "Accept": "application/json", "User-Agent": "Tocsin"}
    if place.user or place.secret:
        login = base64.b64encode(f"{place.user}:{place.secret}".encode()).decode("ascii")
        headers["Authorization"] = f"Basic {login}"
    netloc = parts.netloc.rpartition("@")[2]
    if "{" in netloc:
        raise ValueError("expected placeholders in path and query alone")
    url = parts._replace(netloc=netloc).geturl()
    try:
        host = URL(url).raw_host or ""
        if not host.isascii() or not URL(url.replace("{", "").replace("}", "")).absolute:
            raise ValueError
    except ValueError:
        raise ValueError("expected https://host/path") from None
    used = placeholders(url, KNOWN, secret=True)
    if not spec.body.strip():
        return Gateway(
            _encoded(url), headers, DEFAULT_BODY, DEFAULT_NEEDS.get(spec.name, frozenset()) | _needs(used), spec
        )
    try:
        json.loads(spec.body)  # it says where the trouble is, but takes more than can be sent
        body: Json = msgspec.json.decode(spec.body)
    except (ValueError, RecursionError) as error:
        where = f" (line {error.lineno}, column {error.colno})" if isinstance(error, json.JSONDecodeError) else ""
        raise BadBody(f"expected JSON{where}") from None
    if any(map(PLACEHOLDER.search, _names(body))):
        raise BadBody("expected placeholders in values, not in the names of fields")
    for text in _strings(body):
        try:
            used |= placeholders(text, KNOWN)
        except ValueError as error:
            raise BadBody(str(error)) from None
    return Gateway(_encoded(url), headers, body, _needs(used), spec)


def _needs(used: frozenset[str]) -> frozenset[str]:
    return used & {"telephone", "email"}


def _encoded(url: str) -> str:
    """As it goes on the wire, with the placeholders' braces still in it."""
    return str(URL(url)).replace("%7B", "{").replace("%7D", "}")
