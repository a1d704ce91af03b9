"""Signing in and out: a key, or a one-time link, becomes a browser's session.

The form is drawn by `pages`.
"""

from __future__ import annotations

from aiohttp import web
from msgspec import Struct

from server.api.pages import login_page
from server.http.auth import KEY, SESSION
from server.http.caller import local_path
from server.http.front import FRONT, audit, request_id
from server.http.problems import BadSignIn, ForeignOrigin, Problem, TooFast, body_of
from server.http.routes import Routes
from server.i18n import lang
from server.model import Role

routes = Routes()

HOME = "/admin/queue"
LOGIN = "/admin/login"


class SignIn(Struct, frozen=True, forbid_unknown_fields=True):
    """An API key, given for a session; `next` is the page to go on to, `username` is for password managers alone."""

    key: str
    next: str = HOME
    username: str = ""


class SignedIn(Struct, frozen=True):
    """Whose session it is now, and the page to go on to."""

    success: bool
    name: str
    role: str
    next: str


class Done(Struct, frozen=True):
    """It is done."""

    success: bool


@routes.post(
    LOGIN,
    needs=None,
    takes=SignIn,
    form=True,
    gives=SignedIn,
    summary="Sign in with a key; the answer carries the session cookie",
    tags=("session",),
    problems=(BadSignIn, ForeignOrigin, TooFast),
    gives_headers={"Set-Cookie": "The session: HttpOnly, SameSite=Strict, for twelve hours."},
)
async def sign_in(request: web.Request, given: SignIn) -> web.StreamResponse | tuple[SignedIn, dict[str, str]]:
    """Begin a session: for a form with a redirect, for JSON with an answer."""
    front = request.app[FRONT]
    by_form = request.content_type == "application/x-www-form-urlencoded"
    target = local_path(given.next, HOME)
    try:
        if front.callers.is_foreign_page(request):
            raise ForeignOrigin()
        key, token = await front.keyring.sign_in(request, given.key)
    except Problem as problem:
        if not by_form:
            raise
        return _form_again(request, problem, target)
    request[KEY] = key
    await audit(request, "sign-in", key.id)
    if by_form:
        return _signed_in(request, token, target)
    response = web.Response()
    front.keyring.set_cookie(request, response, token)
    cookie = response.cookies.output(header="", sep="").strip()
    return SignedIn(True, key.name, key.role.name.lower(), target), {"Set-Cookie": cookie}


@routes.get(LOGIN, needs=None, summary="The sign-in page", tags=("session",), media_type="text/html", free_query=True)
async def login(request: web.Request) -> web.StreamResponse:
    """The sign-in form; with `?once=TOKEN` a session at once, as Jupyter does."""
    target = local_path(request.query.get("next"), HOME)
    front = request.app[FRONT]
    if request.method != "HEAD" and (token := request.query.get("once")):  # HEAD only looks: it uses nothing up
        try:
            key, cookie = await front.keyring.sign_in_once(request, token)
        except Problem as problem:
            return _form_again(request, problem, target)
        request[KEY] = key
        await audit(request, "sign-in", key.id, {"by": "one-time link"})
        return _signed_in(request, cookie, target)
    if "lang" not in request.query and await front.keyring.session_of(request):
        raise web.HTTPSeeOther(target)
    return login_page(request, next_path=target if target != HOME else "")


@routes.post(
    "/admin/logout",
    needs=Role.VIEWER,
    gives=Done,
    summary="Sign out: end this session",
    tags=("session",),
    free_query=True,
)
async def sign_out(request: web.Request) -> web.StreamResponse:
    """End the session; its event streams end with it."""
    keyring = request.app[FRONT].keyring
    if session := request.get(SESSION):
        await keyring.end(session)
        await audit(request, "sign-out")
    if "text/html" in request.headers.get("Accept", ""):
        response = web.Response(status=303, headers={"Location": LOGIN})
    else:
        response = web.json_response({"success": True})
    keyring.drop_cookie(request, response)
    return response


def _signed_in(request: web.Request, token: str, target: str) -> web.Response:
    response = web.Response(status=303, headers={"Location": target})
    request.app[FRONT].keyring.set_cookie(request, response, token)
    return response


def _form_again(request: web.Request, problem: Problem, target: str) -> web.Response:
    """The form once more, which says what went wrong."""
    said = body_of(problem, lang(request), request_id(request)).detail
    response = login_page(request, problem=said, next_path=target if target != HOME else "", status=problem.status)
    response.headers.update(problem.headers)
    return response
