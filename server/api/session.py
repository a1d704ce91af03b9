"""Signing in and out: a key, or a one-time link, becomes a browser's session.

The sign-in page itself is `pages`'; it hands its `?once=` to `redeem`, and shows `?problem=` in words.
"""

from __future__ import annotations

from urllib.parse import urlencode

from aiohttp import web
from msgspec import Struct

from server.http.auth import KEY, SESSION
from server.http.caller import local_path
from server.http.front import FRONT, audit
from server.http.problems import BadSignIn, ForeignOrigin, Problem, TooFast
from server.http.routes import Routes
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
        raise _back_to_login(problem, target) from None
    request[KEY] = key
    await audit(request, "sign-in", key.id)
    if by_form:
        return _signed_in(request, token, target)
    response = web.Response()
    front.keyring.set_cookie(request, response, token)
    cookie = response.cookies.output(header="", sep="").strip()
    return SignedIn(True, key.name, key.role.name.lower(), target), {"Set-Cookie": cookie}


async def redeem(request: web.Request) -> web.Response | None:
    """Answer `GET /admin/login?once=TOKEN`: a session and a redirect, as Jupyter does; None where there is no token."""
    token = request.query.get("once")
    if token is None:
        return None
    target = local_path(request.query.get("next"), HOME)
    try:
        key, cookie = await request.app[FRONT].keyring.sign_in_once(request, token)
    except Problem as problem:
        raise _back_to_login(problem, target) from None
    request[KEY] = key
    await audit(request, "sign-in", key.id, {"by": "one-time link"})
    return _signed_in(request, cookie, target)


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


def _back_to_login(problem: Problem, target: str) -> web.HTTPSeeOther:
    """Back to the form, which says what went wrong."""
    told = {"problem": problem.code} | ({"next": target} if target != HOME else {})
    return web.HTTPSeeOther(f"{LOGIN}?{urlencode(told)}", headers=problem.headers)
