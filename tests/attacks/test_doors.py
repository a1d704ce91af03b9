"""Who gets in where: every route by every role, by key, by cookie and by neither, against one table."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from server.app import all_routes
from server.model import Role
from tests.attacks.siege import Answer, Siege, besieged
from tests.kit import ADMIN_KEY

pytestmark = pytest.mark.asyncio(loop_scope="module")

V, O, A = Role.VIEWER, Role.OPERATOR, Role.ADMIN  # noqa: E741
NOBODY = "01890000-0000-7000-8000-000000000000"
BY_ID = ("/api/queue/tasks/{id}", "/deliveries", "/events", "/webhooks", "/cancel", "/retry")

# (method, path): (the smallest role that gets in, what a harmless request is answered with inside)
TABLE: dict[tuple[str, str], tuple[Role | None, int]] = {
    ("GET", "/api/notifications/types"): (V, 200),
    ("POST", "/api/notifications/{type}"): (O, 422),
    ("GET", "/api/queue/tasks"): (V, 200),
    ("GET", "/api/queue/tasks/{id}"): (V, 404),
    ("GET", "/api/queue/tasks/{id}/deliveries"): (V, 404),
    ("GET", "/api/queue/tasks/{id}/events"): (V, 404),
    ("GET", "/api/queue/tasks/{id}/webhooks"): (V, 404),
    ("POST", "/api/queue/tasks/{id}/cancel"): (O, 404),
    ("POST", "/api/queue/tasks/{id}/retry"): (O, 404),
    ("GET", "/api/queue/stats"): (V, 200),
    ("POST", "/admin/api/queue/clear"): (A, 422),
    ("POST", "/admin/api/queue/pause"): (A, 200),
    ("POST", "/admin/api/queue/resume"): (A, 200),
    ("POST", "/admin/api/queue/retry"): (A, 422),
    ("POST", "/admin/api/queue/cancel"): (A, 422),
    ("GET", "/admin/api/keys"): (A, 200),
    ("POST", "/admin/api/keys"): (A, 422),
    ("DELETE", "/admin/api/keys/{id}"): (A, 404),
    ("GET", "/admin/api/audit"): (A, 200),
    ("POST", "/admin/login"): (None, 422),
    ("GET", "/admin/login"): (None, 200),
    ("POST", "/admin/logout"): (V, 200),
    ("GET", "/api/health"): (None, 200),
    ("GET", "/api/health/ready"): (None, 200),
    ("GET", "/"): (None, 200),
    ("GET", "/metrics"): (None, 200),
    ("GET", "/ws/events"): (V, 422),
    ("GET", "/api/events"): (V, 422),
    ("GET", "/api/openapi.json"): (None, 200),
    ("GET", "/api/asyncapi.json"): (None, 200),
    ("GET", "/api/docs"): (None, 200),
    ("GET", "/admin/queue"): (V, 200),
    ("GET", "/admin/queue/{id}"): (V, 200),
    ("GET", "/admin/send"): (O, 200),
    ("GET", "/admin/keys"): (A, 200),
    ("GET", "/static/{hash}/{name:.+}"): (None, 404),
}
GUARDED = [(method, path) for (method, path), (needs, _) in TABLE.items() if needs is not None]
STREAMS = ("/ws/events", "/api/events")


async def test_every_route_stands_in_the_table_and_nothing_else_does() -> None:
    assert {(route.method, route.path): route.needs for route in all_routes()} == {
        call: needs for call, (needs, _) in TABLE.items()
    }


def is_page(method: str, path: str) -> bool:
    return method == "GET" and path.startswith("/admin/") and not path.startswith("/admin/api/")


def url(path: str) -> str:
    """A harmless address of a route: nobody's id; streams with a query that they refuse."""
    filled = re.sub(r"{(\w+)[^}]*}", lambda found: {"type": "meteo", "id": NOBODY}.get(found[1], "x"), path)
    return filled + ("?since=x" if path in STREAMS else "")


async def call(siege: Siege, method: str, path: str, **headers: str) -> Answer:
    body = b'{"zz": 1}' if method == "POST" else None
    return await siege.ask(method, url(path), body, **{"Content_Type": "application/json", **headers})


async def cookie(siege: Siege, role: Role) -> str:
    """A new session of `role`, as the header Cookie."""
    answer = await siege.post({"key": siege.keys[role]}, "/admin/login", X_API_Key="")
    assert answer.status == 200
    token = answer.headers["Set-Cookie"].partition("=")[2].partition(";")[0]
    siege.secrets.append(token)
    siege.town.client.session.cookie_jar.clear()
    return f"tocsin_session={token}"


@pytest.mark.parametrize(("method", "path"), TABLE)
async def test_each_key_gets_in_where_its_role_may(siege: Siege, unharmed: None, method: str, path: str) -> None:
    needs, inside = TABLE[method, path]
    for role in Role:
        answer = await call(siege, method, path, X_API_Key=siege.keys[role])
        expected = 403 if needs is not None and role < needs else inside
        assert answer.status == expected, (role, answer.body)
        if expected == 403:
            assert answer.code == "forbidden"
    nothing = await call(siege, method, path, X_API_Key="")
    wrong = await call(siege, method, path, X_API_Key="tocsin_wrong")
    outside = inside if needs is None else 303 if is_page(method, path) else 401
    assert nothing.status == outside
    assert wrong.status in (401 if needs is not None else inside, 429)
    siege.town.clock.turn(2)  # for the next wrong key


@pytest.mark.parametrize(("method", "path"), GUARDED)
async def test_a_cookie_gets_in_from_an_own_page_alone(siege: Siege, unharmed: None, method: str, path: str) -> None:
    needs, inside = TABLE[method, path]
    assert needs is not None
    own, stream = {"Origin": siege.origin}, path in STREAMS
    for role in Role:
        answer = await call(siege, method, path, Cookie=await cookie(siege, role), **own)
        assert answer.status == (403 if role < needs else inside), (role, answer.body)
    foreign: list[dict[str, str]] = [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": siege.origin.replace("http:", "https:")},
        {"Origin": f"{siege.origin}1"},
        {"Origin": f"http://127.0.0.1.evil.example:{siege.port}"},
        {"Origin": siege.origin, "Host": "evil.example"},
        {"Origin": "null", "Referer": f"{siege.origin}/admin/queue"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "cross-site", "Origin": "null"},
        {"X-Forwarded-Host": "evil.example", "Origin": "https://evil.example"},
        {},
    ]
    best = await cookie(siege, Role.ADMIN)
    for said in foreign:
        answer = await call(siege, method, path, Cookie=best, **{name.replace("-", "_"): v for name, v in said.items()})
        closed = method != "GET" or stream
        assert answer.status == (403 if closed else inside), (said, answer.body)
        if closed:
            assert answer.code == "foreign-origin"


@pytest.mark.parametrize(("method", "path"), GUARDED)
async def test_a_key_in_the_url_a_cookie_or_a_body_is_no_key(
    siege: Siege, unharmed: None, method: str, path: str
) -> None:
    closed = 303 if is_page(method, path) else 401
    query = "&".join(f"{name}={ADMIN_KEY}" for name in ("X-API-Key", "key", "api_key", "token", "access_token", "once"))
    assert (await siege.ask(method, url(path).partition("?")[0] + "?" + query, X_API_Key="")).status == closed
    for headers in (
        {"Cookie": f"tocsin_session={ADMIN_KEY}"}, {"Cookie": f"X-API-Key={ADMIN_KEY}; key={ADMIN_KEY}"},
        {"X_API_Key": "", "Authorization": f"Bearer {ADMIN_KEY}"}, {"X_API_Key": "", "X_Api_Token": ADMIN_KEY},
        {"X_API_Key": "", "Sec_WebSocket_Protocol": ADMIN_KEY},
    ):  # fmt: skip
        assert (await siege.ask(method, url(path), **headers)).status == closed
    body = f'{{"X-API-Key": "{ADMIN_KEY}"}}'.encode()
    assert (await siege.ask(method, url(path), body, X_API_Key="")).status == closed


@pytest.mark.parametrize("path", sorted({path for _, path in TABLE}))
async def test_a_path_takes_its_own_methods_alone(siege: Siege, unharmed: None, path: str) -> None:
    known = {method for method, each in TABLE if each == path}
    taken = known | ({"POST"} if path == "/api/notifications/types" else set())  # which is there, and says 404
    for method in ("HEAD", "OPTIONS", "PUT", "PATCH", "DELETE", "GET", "POST", "TRACE", "PROPFIND"):
        if method in taken:
            continue
        answer = await siege.ask(method, url(path), Cookie=await cookie(siege, Role.ADMIN), Origin=siege.origin)
        if method == "HEAD" and "GET" in known and path not in STREAMS:
            assert (answer.status, answer.body) == ((303 if path == "/admin/login" else TABLE["GET", path][1]), b"")
        else:
            assert answer.status == 405
            assert set(answer.headers["Allow"].split(", ")) - {"HEAD"} == taken


IDS = [
    "x", "0", "-1", "1%20OR%201=1", "..", "%2e%2e", "%00", NOBODY + "%00", NOBODY.upper().replace("0", "A"),
    "{" + NOBODY + "}", NOBODY.replace("-", ""), NOBODY + "0", NOBODY[:-1], "%EF%BC%90" + NOBODY[1:], "%ED%A0%80",
    "%ff", "%F0%9F%94%A5", NOBODY, "null", "undefined", "__proto__", "x" * 3000, "%0d%0aX-Injected:%201", "<script>",
    "urn:uuid:" + NOBODY, "*", "?", "#", ";",
]  # fmt: skip


@pytest.mark.parametrize("given", IDS)
async def test_no_guess_of_an_id_finds_anything(siege: Siege, unharmed: None, given: str) -> None:
    for tail in BY_ID:
        path = tail.format(id=given) if tail == BY_ID[0] else BY_ID[0].format(id=given) + tail
        answer = await siege.ask("POST" if tail in ("/cancel", "/retry") else "GET", path)
        assert answer.status in (404, 405) if given in ("..", "%2e%2e", "?", "#") else answer.status == 404, path
        assert "X-Injected" not in answer.headers
    assert (await siege.ask("DELETE", f"/admin/api/keys/{given}")).status in (404, 405)
    assert (await siege.ask("GET", f"/admin/queue/{given}")).status in (200, 404)


async def test_a_cookie_that_the_client_chose_is_never_adopted(siege: Siege, unharmed: None) -> None:
    chosen = "c" * 43
    for given in (
        f"tocsin_session={chosen}",
        f"tocsin_session={chosen}; tocsin_session={chosen}",
        f"__Host-tocsin_session={chosen}",
    ):
        answer = await siege.post({"key": siege.keys[V]}, "/admin/login", X_API_Key="", Cookie=given)
        siege.town.client.session.cookie_jar.clear()
        assert answer.status == 200 and chosen not in answer.headers["Set-Cookie"]
        assert (await siege.ask("GET", "/api/queue/stats", Cookie=given)).status == 401
    before = await cookie(siege, V)
    await siege.post({"key": siege.keys[A]}, "/admin/login", X_API_Key="", Cookie=before)
    siege.town.client.session.cookie_jar.clear()
    assert (await siege.ask("GET", "/api/queue/stats", Cookie=before)).status == 401, "it must not become the admin's"


async def test_guessing_is_slowed_down_whatever_the_address_says_of_itself(tmp_path: Path) -> None:
    async with besieged(tmp_path) as siege:

        def forged(n: int) -> dict[str, Any]:
            return {
                "X_Forwarded_For": f"203.0.113.{n}",
                "X_Real_IP": f"203.0.113.{n}",
                "Forwarded": f"for=203.0.113.{n}",
            }

        keys = [await siege.ask("GET", "/api/queue/stats", X_API_Key=f"guess-{n}", **forged(n)) for n in range(35)]
        signs = [await siege.post({"key": f"guess-{n}"}, "/admin/login", X_API_Key="", **forged(n)) for n in range(15)]
        links = [await siege.ask("GET", f"/admin/login?once=guess-{n}", X_API_Key="", **forged(n)) for n in range(3)]
        assert [answer.status for answer in keys] == [401] * 30 + [429] * 5
        assert [answer.status for answer in signs] == [401] * 10 + [429] * 5
        assert [answer.status for answer in links] == [429] * 3
        for answer in (keys[-1], signs[-1], links[-1]):
            assert 1 <= int(answer.headers["Retry-After"]) <= 60
        assert (await siege.ask("GET", "/api/queue/stats")).status == 200
        assert (await siege.post({"key": ADMIN_KEY}, "/admin/login", X_API_Key="")).status == 429
        siege.secrets.append("guess-")
        await siege.unharmed()


async def test_a_form_and_a_link_lead_nowhere_else(siege: Siege, unharmed: None) -> None:
    targets = (
        "//evil.example", "https://evil.example", "/\\evil.example", "/%09/evil.example", "\\/evil.example",
        "javascript:alert(1)", "/admin/queue\r\nSet-Cookie: a=b", "http:evil.example", " //evil.example",
        "/\u2028/evil.example", "%2f%2fevil.example",
    )  # fmt: skip
    for target in targets:
        answer = await siege.post({"key": siege.keys[V], "next": target}, "/admin/login", X_API_Key="")
        siege.town.client.session.cookie_jar.clear()
        said = answer.body.decode()
        assert answer.status == 200 and answer.headers.getall("Set-Cookie")[1:] == []
        assert '"next":"/admin/queue"' in said or '"next":"/%09/evil' in said or '"next":"/\u2028/evil' in said


async def test_no_path_leads_out_of_the_static_files(siege: Siege, unharmed: None) -> None:
    page = (await siege.ask("GET", "/admin/login", X_API_Key="")).body.decode()
    found = re.search(r"/static/\w+/", page)
    assert found
    base = found[0]
    assert (await siege.ask("GET", base + "app.css", X_API_Key="")).status == 200
    names = (
        "../../pyproject.toml", "..%2f..%2fpyproject.toml", "%2e%2e/%2e%2e/pyproject.toml", "....//pyproject.toml",
        "..%5c..%5cpyproject.toml", "..%252f..%252fpyproject.toml", "..%c0%af..%c0%afpyproject.toml", "/etc/passwd",
        "%2fetc%2fpasswd", "js/../../../pyproject.toml", "app.css/../../../pyproject.toml", "app.css%00.js", "js", ".",
        "app.css%2f..%2f..%2ftemplates%2fbase.html", "../templates/base.html", "file:///etc/passwd", "C:%5cwindows",
        "js/", "%2e", "app.css.py", ".htaccess", "app.css;", "app.css%20", "APP.CSS", "x" * 3000,
    )  # fmt: skip
    for name in names:
        answer = await siege.ask("GET", base + name, X_API_Key="")
        assert answer.status in (404, 405), (name, answer.status)
        (raw,) = await siege.raw(f"GET {base}{name} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        assert raw.status in (400, 404, 405) and b"[project]" not in raw.body and b"root:" not in raw.body, name
