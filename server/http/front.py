"""The front of the server: what stands before every route, and the one place where problems become answers.

`setup` gives the application its request ids, security headers and problem answers; `keyring_context` its keys.
Routes (`routes.py`) are built on the Front.
"""

from __future__ import annotations

import logging
import re
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from itertools import count
from typing import Any

from aiohttp import web, web_protocol, web_urldispatcher
from aiohttp.http_exceptions import HttpProcessingError, InvalidURLError
from aiohttp.http_parser import HttpRequestParser
from aiohttp.typedefs import Handler
from aiohttp.web_protocol import RequestHandler
from multidict import CIMultiDict, istr

from server.clock import Clock
from server.http.auth import KEY, KeyRing
from server.http.caller import Callers
from server.http.decode import LARGE, MIB, BodyReader
from server.http.limits import Limiter
from server.http.problems import (
    BadRequest,
    NotFound,
    ProblemBody,
    Unexpected,
    WrongMethod,
    answer,
    as_problem,
    body_of,
)
from server.http.reply import JSON, Reply
from server.i18n import lang
from server.model import AuditEntry
from server.settings import Settings
from server.store import Store

log = logging.getLogger("tocsin.http")

REQUEST_ID = web.RequestKey("request_id", str)
STARTED = web.RequestKey("started", bool)  # the head of the answer is out

CSP = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data:",
        "font-src 'self'",
        "connect-src 'self'",
        "manifest-src 'self'",
        "frame-ancestors 'none'",
        "base-uri 'none'",
        "form-action 'self'",
    )
)
_SECURITY = CIMultiDict(
    {
        "Server": "tocsin",
        "Content-Security-Policy": CSP,
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cross-Origin-Resource-Policy": "same-origin",
    }
)
_SECURITY_NO_STORE = CIMultiDict(_SECURITY, **{"Cache-Control": "no-store"})
_HEAD = "".join(
    f"{name}: {value}\r\n" for name, value in [("Content-Type", JSON), *_SECURITY_NO_STORE.items()]
).encode()
HSTS = "max-age=31536000"
_REQUEST_ID = istr("X-Request-ID")
_SERVER = istr("Server")
_CACHE_CONTROL = istr("Cache-Control")
_valid_id = re.compile(r"[A-Za-z0-9._-]{1,128}\Z").match

PageProblem = Callable[[web.Request, ProblemBody], Awaitable[web.StreamResponse]]
Observer = Callable[[web.Request, str, int, float], None]


class Front:
    """What all routes share."""

    def __init__(self, settings: Settings, clock: Clock, store: Store) -> None:
        self.settings = settings
        self.clock = clock
        self.store = store
        self.callers = Callers(settings.server.trusted_proxies, tls=bool(settings.server.tls_cert))
        self.keyring = KeyRing(store, clock, self.callers, settings.auth.admin_key)
        self.reader = BodyReader(settings.limits.body_mib * MIB)
        self.strangers = BodyReader(min(LARGE, settings.limits.body_mib * MIB))
        """Reads what anybody may send, so little that it never takes a place among the large bodies."""
        per_minute = settings.limits.requests_per_minute
        self.limiter = Limiter(clock, per_minute) if per_minute else None
        self.problem_page: PageProblem | None = None
        """Draws a problem for a browser that asked for a page; set by whoever has the templates."""
        self.observers: list[Observer] = []
        """Told of every answer: request, route (`/api/queue/tasks/{id}`), status, seconds."""
        self._boot = secrets.token_hex(4)
        self._count = count(1)

    def request_id(self, request: web.BaseRequest) -> str:
        """The id the client gave, if it is fit to be logged, else a new one."""
        given = request.headers.get(_REQUEST_ID)
        if given is not None and _valid_id(given):
            return given
        return f"{self._boot}-{next(self._count):x}"

    def dress(self, request: web.Request, response: web.StreamResponse, rid: str) -> None:
        """Give an answer that is not yet on its way the headers that all carry."""
        headers = response.headers
        if _CACHE_CONTROL in headers:  # static files: they may be kept
            headers.extend(_SECURITY)
        else:
            headers.extend(_SECURITY_NO_STORE)
        headers[_REQUEST_ID] = rid
        if self.callers.may_be_secure and self.callers.secure(request):
            headers["Strict-Transport-Security"] = HSTS
        if self.limiter and (key := request.get(KEY)):
            headers.update(self.limiter.headers(key.id))

    def finish(self, request: web.Request, reply: Reply, rid: str) -> web.StreamResponse:
        """A reply ready to go: in one piece where nothing about it depends on connection or caller."""
        if self.limiter is None and not self.callers.may_be_secure and request.version == (1, 1) and request.keep_alive:
            reply.whole(_HEAD, rid, self.clock.now_ms() // 1000)
            return reply
        response = reply.ordinary()
        self.dress(request, response, rid)
        return response

    def entry(
        self, request: web.Request, action: str, target: str = "", detail: dict[str, Any] | None = None
    ) -> AuditEntry:
        """What is to be written down if the caller of `request` does `action`."""
        key = request[KEY]
        return AuditEntry(
            at_ms=self.clock.now_ms(),
            key_id=key.id,
            key_name=key.name,
            action=action,
            target=target,
            address=self.callers.address(request),
            detail=detail or {},
        )


FRONT = web.AppKey("front", Front)


async def audit(request: web.Request, action: str, target: str = "", detail: dict[str, Any] | None = None) -> None:
    """Write down that the caller of `request` did `action` to `target`."""
    front = request.app[FRONT]
    await front.store.add_audit(front.entry(request, action, target, detail))


def request_id(request: web.BaseRequest) -> str:
    """The request's id, as the answer and the log carry it."""
    return str(request.get(REQUEST_ID, "-"))


def setup(app: web.Application, settings: Settings, clock: Clock, store: Store) -> Front:
    """Put the front before `app`. The store may be opened later; `keyring_context` must follow it."""
    front = app[FRONT] = Front(settings, clock, store)
    app.on_response_prepare.append(_dress_streams(front))
    RequestHandler.handle_error = _refuse_unread  # type: ignore[method-assign,assignment]  # for all: aiohttp makes them
    web_protocol.HttpRequestParser = _Parser  # type: ignore[attr-defined]
    web_urldispatcher._default_expect_handler = _expect
    return front


class _Parser(HttpRequestParser):
    """Says of a target such as `http://[]@` what it is; yarl's IndexError would end the connection with a traceback."""

    def feed_data(self, data: bytes, *more: Any) -> Any:
        try:
            return super().feed_data(data, *more)
        except IndexError:
            raise InvalidURLError("the target is no URL") from None


_go_on = web_urldispatcher._default_expect_handler


async def _expect(request: web.Request) -> None:
    """Answer an `Expect`; aiohttp's own would say the bytes of a wrong one again, and fail where they are no UTF-8."""
    if request.version == (1, 1) and request.headers.get("Expect", "").lower() != "100-continue":
        raise web.HTTPExpectationFailed()
    await _go_on(request)


_handle_error = RequestHandler.handle_error


def _refuse_unread(
    handler: RequestHandler,
    request: web.BaseRequest,
    status: int = 500,
    exc: BaseException | None = None,
    message: str | None = None,
) -> web.StreamResponse:
    """What is no HTTP never comes to a route: aiohttp's plain answer would tell the bytes back (a key may be in them).

    It is the client's affair: a line in the log, not a traceback.
    """
    if isinstance(exc, ConnectionError):  # its client went away as it was answered: nobody's fault
        raise exc
    if not isinstance(exc, HttpProcessingError):
        return _handle_error(handler, request, status, exc, message)
    rid = secrets.token_hex(8)
    log.info("a request was refused unread: %s [%s]", type(exc).__name__, rid)
    if request.writer.output_size > 0:
        raise ConnectionError("the answer is on its way already")
    response = answer(BadRequest(), lang(request), rid)
    response.headers.extend(_SECURITY_NO_STORE)
    response.headers[_REQUEST_ID] = rid
    response.force_close()
    return response


async def keyring_context(app: web.Application) -> AsyncIterator[None]:
    """Keys are known from here on; to stand behind the store's context."""
    keyring = app[FRONT].keyring
    await keyring.open()
    yield
    await keyring.close()


async def _answer(front: Front, request: web.Request, error: Exception) -> web.StreamResponse:
    rid = request[REQUEST_ID]
    problem = as_problem(error, f"{request.method} {request.rel_url.raw_path[:200]} [{rid}]")
    language = lang(request)
    if front.problem_page and _wants_page(request):
        try:
            page = await front.problem_page(request, body_of(problem, language, rid))
        except Exception as bug:  # noqa: BLE001 - the plain answer still tells
            as_problem(bug, f"problem page [{rid}]")
        else:
            page.headers.update(problem.headers)
            return page
    return answer(problem, language, rid)


def _wants_page(request: web.Request) -> bool:
    return (
        request.method in ("GET", "HEAD")
        and "text/html" in request.headers.get("Accept", "")
        and not request.path.startswith(("/api/", "/admin/api/", "/ws/"))
    )


def _dress_streams(front: Front) -> Callable[[web.Request, web.StreamResponse], Awaitable[None]]:
    """Headers for what a handler begins to send by itself, and for what aiohttp answers before any route."""

    async def prepare(request: web.Request, response: web.StreamResponse) -> None:
        if _REQUEST_ID not in response.headers:
            rid = request.get(REQUEST_ID)
            if rid is None:
                rid = front.request_id(request)
                if response.status >= 400 and isinstance(response, web.Response):
                    _say_it_ourselves(request, response, rid)
            request[STARTED] = True
            response.headers.popall(_SERVER, None)  # aiohttp's own, there already at this point
            front.dress(request, response, rid)

    return prepare


def _say_it_ourselves(request: web.Request, response: web.Response, rid: str) -> None:
    """Make a problem of what aiohttp refuses before any route sees it: `OPTIONS *`, an `Expect` that is none."""
    problem = NotFound() if response.status == 404 else Unexpected(response.status)
    said = answer(problem, lang(request), rid)
    body = response.body = bytes(said.body)  # type: ignore[arg-type]
    response.headers.update(said.headers)
    response.headers["Content-Length"] = str(len(body))


def handled(front: Front, call: Handler) -> Handler:
    """`call` with a request id, with an answer for whatever it raises, and with the headers that all answers carry.

    In the place of a middleware: aiohttp's would cost every request two more coroutines.
    """

    async def handle(request: web.Request) -> web.StreamResponse:
        rid = request[REQUEST_ID] = front.request_id(request)
        begun = time.perf_counter() if front.observers else 0.0
        try:
            response = await call(request)
        except Exception as error:  # every failure has its answer; as_problem logs the bugs
            if request.get(STARTED):  # nothing can be said any more: the connection ends
                raise
            if isinstance(error, web.HTTPException) and error.status < 400:
                raise
            response = await _answer(front, request, error)
        if type(response) is Reply:
            response = front.finish(request, response, rid)
        elif not response.prepared:
            front.dress(request, response, rid)
        if front.observers:
            took_s = time.perf_counter() - begun
            resource = request.match_info.route.resource
            for told in front.observers:
                told(request, resource.canonical if resource else "unknown", response.status, took_s)
        return response

    return handle


async def nowhere(request: web.Request) -> web.StreamResponse:
    """Where no route leads: 405 where another method would, else 404."""
    allowed: set[str] = set()
    for resource in request.app.router.resources():
        if resource.canonical != NOWHERE:
            allowed |= (await resource.resolve(request))[1]
    if allowed:
        raise WrongMethod(headers={"Allow": ", ".join(sorted(allowed))})
    raise NotFound()


NOWHERE = "/{path}"

__all__ = ["FRONT", "REQUEST_ID", "Front", "audit", "handled", "keyring_context", "nowhere", "request_id", "setup"]
