"""The pages: an empty frame in the reader's language, with all that its scripts must know, and the static files.

What a page and the server must agree on (statuses, types, limits, the caller's role) is handed over here as one JSON
block and stands nowhere in the scripts. Text is in `web/texts.json`, one entry per key with both languages. Signing
in and out is the session module's affair; this module only draws its form.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import aiohttp_jinja2
import jinja2
import msgspec
from aiohttp import web
from markupsafe import Markup

from server import i18n
from server.api.assets import Assets
from server.http.auth import KEY
from server.http.front import FRONT
from server.http.problems import ProblemBody
from server.http.routes import Routes
from server.model import ENDED, Priority, Role, Standing, Status
from server.spreadsheet import COLUMNS, NO, SEPARATORS, SHIPPED_CHANNELS, YES
from server.version import VERSION

WEB = Path(__file__).resolve().parent.parent.parent / "web"
THEMES = ("light", "dark")
COOKIE_S = 365 * 86_400
OWN = {"send": ("send.", "people.bad."), "keys": ("key.", "audit."), "login": ("login.",), "problem": ("problem.",)}

Entry = str | list[str]


class Web:
    """Templates' companions: static files and texts."""

    def __init__(self, folder: Path = WEB) -> None:
        self.assets = Assets(folder / "static")
        texts: dict[str, dict[str, Entry]] = json.loads((folder / "texts.json").read_text(encoding="utf-8"))
        self.texts = {lang: {key: entry[lang] for key, entry in texts.items()} for lang in i18n.LANGS}

    def texts_for(self, lang: str, page: str) -> dict[str, Entry]:
        """What the scripts of `page` may have to say: all but what is another page's own (`OWN`)."""
        others = tuple(start for name, starts in OWN.items() if name != page for start in starts)
        return {key: entry for key, entry in self.texts[lang].items() if not key.startswith(others)}

    def text(self, lang: str, key: str, **values: object) -> str:
        """The text of `key`. Raises KeyError for a key that texts.json does not have: a defect of a template."""
        entry = self.texts[lang][key]
        if isinstance(entry, list):
            n = int(str(values["n"]))
            entry = entry[n != 1 if lang == "en" else n >= 2]
        return entry.format_map(values) if values else entry


PAGES = web.AppKey("pages", Web)
routes = Routes()


def setup(app: web.Application) -> None:
    """Templates, static files and problem pages for `app`, which has its front."""
    app[PAGES] = Web()
    aiohttp_jinja2.setup(
        app,
        loader=jinja2.FileSystemLoader(WEB / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        auto_reload=False,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    app[FRONT].problem_page = problem_page


def _data(value: object) -> Markup:
    """`value` as JSON that may stand in a <script type="application/json">: no `<` can end it."""
    return Markup(msgspec.json.encode(value).decode().replace("<", "\\u003c"))


def _boot(request: web.Request, lang: str, name: str, more: dict[str, Any]) -> dict[str, Any]:
    """What the scripts of a signed-in page know from the start."""
    settings = request.app[FRONT].settings
    key = request[KEY]
    return {
        "lang": lang,
        "version": VERSION,
        "me": {"name": key.name, "role": key.role.name.lower(), "key_id": key.id},
        "may": {"send": key.role >= Role.OPERATOR, "admin": key.role >= Role.ADMIN},
        "statuses": [status.value for status in Status],
        "ended": sorted(status.value for status in ENDED),
        "standings": [standing.value for standing in Standing],
        "priorities": [priority.name for priority in Priority],
        "types": [
            {
                "id": name,
                "label": kind.label_in(lang) or name,
                "labels": {each: kind.label_in(each) or name for each in i18n.LANGS},
                "priority": kind.priority.name,
                "channels": kind.channels,
            }
            for name, kind in settings.types.items()
        ],
        "channels": [{"id": name, "fallback": channel.fallback} for name, channel in settings.channels.items()],
        "limits": {"recipients": settings.limits.recipients, "titre": 200, "message": 10_000},
        "max_attempts": settings.queue.max_attempts,
        "retention_hours": settings.queue.retention_hours,
        "icons": {name: request.app[PAGES].assets.url(f"{name}.svg") for name in ("favicon", "favicon-alert")},
        "texts": request.app[PAGES].texts_for(lang, name),
        **more,
    }


def _render(
    request: web.Request, template: str, lang: str, boot: dict[str, Any], *, status: int = 200, **context: Any
) -> web.Response:
    page = request.app[PAGES]
    theme = request.cookies.get("theme", "")
    context |= {
        "lang": lang,
        "theme": theme if theme in THEMES else "",
        "asset": page.assets.url,
        "t": lambda key, **values: page.text(lang, key, **values),
        "boot": _data(boot),
    }
    response = aiohttp_jinja2.render_template(template, request, context, status=status)
    response.headers["Content-Language"] = lang
    response.headers["Vary"] = "Cookie, Accept-Language, Accept-Encoding"
    response.enable_compression()
    return response


def _page(request: web.Request, name: str, active: str, **more: Any) -> web.StreamResponse:
    lang = i18n.lang(request)
    boot = _boot(request, lang, name, more)
    title = request.app[PAGES].text(lang, f"title.{name}")
    may = boot["may"]
    return _render(
        request,
        f"{name}.html",
        lang,
        boot,
        title=title,
        active=active,
        me=boot["me"],
        may_send=may["send"],
        may_admin=may["admin"],
    )


@routes.get("/admin/queue", needs=Role.VIEWER, page=True, hidden=True)
async def queue_page(request: web.Request) -> web.StreamResponse:
    """The live queue."""
    return _page(request, "queue", "queue")


@routes.get("/admin/queue/{id}", needs=Role.VIEWER, page=True, hidden=True)
async def task_page(request: web.Request) -> web.StreamResponse:
    """One task. Whether there is such a task, its script finds out."""
    return _page(request, "task", "queue", task_id=request.match_info["id"])


@routes.get("/admin/send", needs=Role.OPERATOR, page=True, hidden=True)
async def send_page(request: web.Request) -> web.StreamResponse:
    """Compose and send."""
    rules = {"columns": COLUMNS, "separators": SEPARATORS, "yes": YES, "no": NO, "shipped": SHIPPED_CHANNELS}
    return _page(request, "send", "send", spreadsheet=rules)


@routes.get("/admin/keys", needs=Role.ADMIN, page=True, hidden=True)
async def keys_page(request: web.Request) -> web.StreamResponse:
    """Keys, and the audit log."""
    configured = request.app[FRONT].keyring.configured
    return _page(request, "keys", "keys", configured_key=configured and {"id": configured.id, "name": configured.name})


@routes.get("/static/{hash}/{name:.+}", needs=None, hidden=True)
async def static_file(request: web.Request) -> web.StreamResponse:
    """A file of the pages."""
    return request.app[PAGES].assets.answer(request)


def login_page(request: web.Request, *, problem: str = "", next_path: str = "", status: int = 200) -> web.Response:
    """The sign-in form, with what went wrong the last time, or that a session has ended (`?ended`: api.js)."""
    switched = request.query.get("lang", "")
    lang = switched if switched in i18n.LANGS else i18n.lang(request)
    response = _render(
        request,
        "login.html",
        lang,
        {},
        status=status,
        title=request.app[PAGES].text(lang, "title.login"),
        problem=problem,
        ended="ended" in request.query,
        next=next_path,
    )
    if switched == lang:
        response.set_cookie("lang", lang, max_age=COOKIE_S, path="/", samesite="Strict")
    return response


async def problem_page(request: web.Request, problem: ProblemBody) -> web.StreamResponse:
    """A problem, for a browser that asked for a page."""
    lang = i18n.lang(request)
    return _render(request, "problem.html", lang, {}, status=problem.status, title=problem.title, problem=problem)
