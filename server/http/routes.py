"""Routes: one line per endpoint says who may call it, what it takes, gives and can fail with.

From that line come the way in (role, limit, decoding), the way out (encoding, status) and the API document. A
handler is typed in, typed out; it may also give a ready response, or `(value, headers)`.

    routes = Routes()

    @routes.post("/api/things/{id}", needs=Role.OPERATOR, takes=NewThing, gives=Thing, status=201, summary="Make one")
    async def make(request: web.Request, new: NewThing) -> Thing: ...
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

import msgspec
from aiohttp import web
from multidict import CIMultiDict, CIMultiDictProxy, istr

from server.http.auth import KEY
from server.http.complaints import MAX_ERRORS
from server.http.decode import FORM, BodyDecoder, FormDecoder, QueryDecoder, check_media_type
from server.http.front import FRONT, Front, handled, nowhere
from server.http.problems import FieldError, Forbidden, InvalidFields, Problem, TooFast, Unauthorized
from server.model import Role

Work = Callable[..., Awaitable[Any]]
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Besides = Callable[[web.Request, Any], Awaitable[list[FieldError]]]

_API_KEY = istr("X-API-Key")
_JSON = CIMultiDictProxy(CIMultiDict({"Content-Type": "application/json; charset=utf-8"}))
_encode = msgspec.json.Encoder().encode


class NoQuery(msgspec.Struct, frozen=True):
    """Takes no query parameter: one that is misspelt or in the wrong place must not pass in silence."""


@dataclass(frozen=True, kw_only=True)
class Route:
    """One endpoint. `needs=None` is public; `page` sends a browser that is not signed in to the sign-in page."""

    method: str
    path: str
    work: Work
    needs: Role | None
    takes: Any = None  # type of the body; the handler's second argument
    form: bool = False  # an HTML form will do as body too
    query: type[msgspec.Struct] | None = None  # type of the query string; the handler's next argument
    gives: Any = None
    status: int = 200
    summary: str = ""
    tags: tuple[str, ...] = ()
    problems: tuple[type[Problem], ...] = ()
    takes_headers: dict[str, str] = field(default_factory=dict)  # for the document: name and meaning
    gives_headers: dict[str, str] = field(default_factory=dict)
    example: Any = None  # of the body, for the document
    gives_example: Any = None
    media_type: str = "application/json"  # of the answer, for the document
    first: Callable[[web.Request], None] | None = None  # looked at before the body is: may raise a Problem
    besides: Besides | None = None  # what else is wrong with a body (as JSON) that does not fit its type
    empty_body: bool = False  # a request without a body means all defaults
    page: bool = False
    stream: bool = False  # an event stream: a cookie counts from an own page alone, whatever the method
    free_query: bool = False  # any query string will do; the handler does not get it
    hidden: bool = False  # not in the API document


class Routes:
    """The routes of one module, or of all."""

    def __init__(self) -> None:
        self._routes: list[Route] = []

    def __iter__(self) -> Iterator[Route]:
        return iter(self._routes)

    def route(self, method: str, path: str, *, needs: Role | None, **options: Any) -> Callable[[Work], Work]:
        """Declare an endpoint; see Route for the options."""

        def declare(work: Work) -> Work:
            self._routes.append(Route(method=method, path=path, work=work, needs=needs, **options))
            return work

        return declare

    def get(self, path: str, *, needs: Role | None, **options: Any) -> Callable[[Work], Work]:
        """Declare a GET (HEAD comes with it)."""
        return self.route("GET", path, needs=needs, **options)

    def post(self, path: str, *, needs: Role | None, **options: Any) -> Callable[[Work], Work]:
        """Declare a POST."""
        return self.route("POST", path, needs=needs, **options)

    def delete(self, path: str, *, needs: Role | None, **options: Any) -> Callable[[Work], Work]:
        """Declare a DELETE."""
        return self.route("DELETE", path, needs=needs, **options)

    def extend(self, *others: Routes) -> None:
        """Take in the routes of other modules."""
        for other in others:
            self._routes += other._routes

    def register(self, app: web.Application) -> None:
        """Add all to `app`, which has its front (`front.setup`); `app[ROUTES]` are they, for the document."""
        app[ROUTES] = self
        for route in self._routes:
            handler = _build(route, app[FRONT])
            if route.method == "GET":
                app.router.add_get(route.path, handler, allow_head=not route.stream)
            else:
                app.router.add_route(route.method, route.path, handler)
        app.router.add_route("*", r"/{path:[\s\S]*}", handled(app[FRONT], nowhere))


ROUTES = web.AppKey("routes", Routes)


def _build(route: Route, front: Front) -> Handler:
    """The way in and out for one route, decided once: nothing here is looked up per request that need not be."""
    work, needs, status = route.work, route.needs, route.status
    body = BodyDecoder(route.takes) if route.takes is not None else None
    form = FormDecoder(route.takes) if route.form else None
    query = None
    strict = needs is not None and not route.page and not route.free_query and route.query is None
    if route.query is not None or strict:
        query = QueryDecoder(route.query or NoQuery)
    keyring, limiter, reader = front.keyring, front.limiter, front.strangers if needs is None else front.reader
    first, besides, empty_body = route.first, route.besides, route.empty_body

    async def call(request: web.Request) -> web.StreamResponse:
        if needs is not None:
            secret = request.headers.get(_API_KEY)
            if secret is not None:
                key = request[KEY] = keyring.from_header(request, secret)
            elif route.stream:
                key = await keyring.authenticate_stream(request)
            else:
                key = await keyring.identify(request)
            if limiter is not None and (wait_s := limiter.take(key.id)):
                raise TooFast(wait_s)
            if key.role < needs:
                raise Forbidden(needs=needs)
        arguments: tuple[Any, ...] = ()
        if query is not None and (not strict or "?" in request.raw_path):
            found = query.decode(request.query)
            arguments = () if strict else (found,)
        if first is not None:
            first(request)
        if body is not None:
            try:
                if empty_body and not request.body_exists:
                    value = route.takes()
                elif form is not None and request.content_type == FORM:
                    value = await reader.read(request, form.decode, form.decode)
                else:
                    check_media_type(request)
                    at_hand = reader.at_hand(request)
                    if at_hand is not None:
                        value = body.decode(at_hand)
                    else:
                        value = await reader.read(request, body.decode, body.decode_large)
            except InvalidFields as invalid:
                if besides is not None and len(invalid.errors) < MAX_ERRORS:
                    invalid.errors = [*invalid.errors, *await besides(request, invalid.raw)][:MAX_ERRORS]
                raise
            arguments = (value, *arguments)
        result = await work(request, *arguments)
        if isinstance(result, web.StreamResponse):
            return result
        if type(result) is tuple:
            result, extra = result
            response = web.Response(body=_encode(result), status=status, headers=_JSON)
            response.headers.update(extra)
            return response
        return web.Response(body=_encode(result), status=status, headers=_JSON)

    if not route.page:
        return handled(front, call)

    async def page(request: web.Request) -> web.StreamResponse:
        try:
            return await call(request)
        except Unauthorized:
            if _API_KEY in request.headers:
                raise
            raise web.HTTPSeeOther("/admin/login?next=" + quote(request.rel_url.raw_path_qs, safe="/")) from None

    return handled(front, page)
