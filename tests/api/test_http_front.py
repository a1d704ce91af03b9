"""What stands before every route: roles, problems, headers, request ids, limits, bodies."""

from __future__ import annotations

import asyncio
import io
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiohttp import web

from server import i18n
from server.http.auth import KEY
from server.http.front import audit
from server.http.problems import InvalidFields, QueueFull, UnknownTask
from server.http.routes import Routes
from server.model import NewNotification, Role
from server.store import StoreUnavailable
from tests.api.http_kit import Kit, serving

GOOD = {"titre": "x", "message": "y", "utilisateurs": [{"id": "1", "nom": "Jean"}]}
routes = Routes()
both = pytest.mark.usefixtures("both_engines")


class Query(msgspec.Struct):
    limit: int = 50
    status: list[str] = []


class Who(msgspec.Struct):
    by: str
    limit: int = 0


@routes.get("/read", needs=Role.VIEWER, query=Query, gives=Who)
async def read(request: web.Request, query: Query) -> Who:
    return Who(request[KEY].name, query.limit)


@routes.post("/write", needs=Role.OPERATOR, takes=NewNotification, status=202)
async def write(request: web.Request, new: NewNotification) -> tuple[dict[str, int], dict[str, str]]:
    return {"n": len(new.utilisateurs)}, {"Location": "/there"}


@routes.post("/rule/{id}", needs=Role.ADMIN)
async def rule(request: web.Request) -> dict[str, bool]:
    await audit(request, "rule", request.match_info["id"])
    return {"success": True}


@routes.get("/fail/{how}", needs=None)
async def fail(request: web.Request) -> Any:
    raise {
        "bug": ZeroDivisionError("a secret detail"),
        "store": StoreUnavailable("disk full"),
        "full": QueueFull(),
        "task": UnknownTask(),
        "field": InvalidFields.at("/utilisateurs/3/email", "field.needs_email", channel="email"),
        "aiohttp": web.HTTPGone(),
    }[request.match_info["how"]]


@routes.get("/stream", needs=None)
async def stream(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    await response.write(b"so far")
    raise ZeroDivisionError


@routes.get("/admin/page", needs=Role.VIEWER, page=True)
async def page(request: web.Request) -> web.Response:
    return web.Response(text="a page")


@pytest.fixture
async def kit(tmp_path: Path) -> AsyncIterator[Kit]:
    async with serving(tmp_path, routes, limits={"body_mib": 1}) as kit:
        yield kit


@pytest.mark.parametrize(
    ("method", "path", "needs"),
    [("GET", "/read", Role.VIEWER), ("POST", "/write", Role.OPERATOR), ("POST", "/rule/1", Role.ADMIN)],
)
async def test_each_role_may_do_what_it_may_and_no_more(kit: Kit, method: str, path: str, needs: Role) -> None:
    for role in Role:
        body = GOOD if path == "/write" else None
        answer = await kit.client.request(method, path, json=body, headers=kit.key(role))
        assert (answer.status < 300) == (role >= needs), (path, role)
        if role < needs:
            assert answer.status == 403
            assert i18n.text(f"role.{needs.name}") in (await answer.json())["detail"]


@pytest.mark.parametrize("headers", [{}, {"X-API-Key": ""}, {"X-API-Key": "tocsin_no"}, {"Authorization": "Bearer x"}])
async def test_without_a_known_key_it_is_401(kit: Kit, headers: dict[str, str]) -> None:
    answer = await kit.client.post("/write", json=GOOD, headers=headers)
    assert answer.status == 401
    assert answer.headers["WWW-Authenticate"].startswith("ApiKey")
    assert (await answer.json())["code"] == "unauthorized"


@pytest.mark.parametrize("name", ["key", "api_key", "x-api-key", "X-API-Key"])
async def test_a_key_in_the_url_is_no_key(kit: Kit, name: str) -> None:
    secret = kit.key()["X-API-Key"]
    assert (await kit.client.get("/read", params={name: secret})).status == 401
    assert (await kit.client.get("/read", params={name: secret}, headers=kit.key())).status == 422


async def test_a_problem_says_it_in_both_manners_and_both_languages(kit: Kit) -> None:
    answer = await kit.client.get("/fail/field")
    said = await answer.json()
    assert answer.status == 422
    assert answer.content_type == "application/problem+json"
    assert said == {
        "type": "/api/docs#problem-invalid-fields",
        "title": "Champs invalides",
        "status": 422,
        "detail": "Certains champs ne sont pas valides\u202f; `errors` les nomme un par un.",
        "code": "invalid-fields",
        "success": False,
        "error": "Champs invalides",
        "message": "Certains champs ne sont pas valides\u202f; `errors` les nomme un par un.",
        "errors": [
            {
                "message": "une adresse e-mail est nécessaire pour le canal «\u00a0email\u00a0»",
                "pointer": "/utilisateurs/3/email",
            }
        ],
        "request_id": answer.headers["X-Request-ID"],
    }
    english = await (await kit.client.get("/fail/field", headers={"Accept-Language": "en-GB"})).json()
    assert english["error"] == english["title"] == "Invalid fields"


async def test_a_bug_is_told_to_the_log_and_not_to_the_client(kit: Kit, caplog: pytest.LogCaptureFixture) -> None:
    answer = await kit.client.get("/fail/bug", headers={"X-Request-ID": "my-id.1"})
    text = await answer.text()
    assert answer.status == 500
    assert "secret" not in text and "Traceback" not in text and "Zero" not in text
    assert answer.headers["X-Request-ID"] == "my-id.1"
    record = caplog.records[-1]
    assert record.levelno == logging.ERROR and "my-id.1" in record.getMessage() and record.exc_info


@pytest.mark.parametrize(("how", "status"), [("store", 503), ("full", 503), ("task", 404), ("aiohttp", 410)])
async def test_whatever_is_raised_is_a_problem_to_the_client(kit: Kit, how: str, status: int) -> None:
    answer = await kit.client.get(f"/fail/{how}")
    assert answer.status == (await answer.json())["status"] == status
    assert ("Retry-After" in answer.headers) == (status == 503)


async def test_an_unknown_address_is_404_and_a_wrong_method_405(kit: Kit) -> None:
    nowhere = await kit.client.get("/nowhere")
    assert (nowhere.status, (await nowhere.json())["code"]) == (404, "not-found")
    wrong = await kit.client.put("/read")
    assert (wrong.status, wrong.headers["Allow"]) == (405, "GET, HEAD")
    assert (await wrong.json())["code"] == "method-not-allowed"


async def test_a_bug_after_the_head_is_out_ends_the_connection(kit: Kit) -> None:
    answer = await kit.client.get("/stream")
    assert answer.status == 200
    with pytest.raises(Exception, match=r"(?i)payload|disconnect|reset"):
        await answer.read()


@pytest.mark.parametrize("path", ["/read", "/nowhere", "/fail/bug", "/fail/store", "/stream", "/admin/page"])
async def test_every_answer_carries_the_security_headers(kit: Kit, path: str) -> None:
    answer = await kit.client.get(path, allow_redirects=False)
    assert "unsafe" not in answer.headers["Content-Security-Policy"]
    assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Referrer-Policy"] == "no-referrer"
    assert answer.headers["Cross-Origin-Opener-Policy"] == "same-origin"
    assert answer.headers["Cross-Origin-Resource-Policy"] == "same-origin"
    assert answer.headers["Cache-Control"] == "no-store"
    assert "aiohttp" not in answer.headers["Server"]
    assert "Strict-Transport-Security" not in answer.headers


@pytest.mark.parametrize(("given", "kept"), [("abc.DEF_1-2", True), ("x" * 129, False), ("a b", False), ("é", False)])
async def test_a_request_id_is_taken_if_it_is_fit_for_a_log(kit: Kit, given: str, kept: bool) -> None:
    answer = await kit.client.get("/nowhere", headers={"X-Request-ID": given})
    assert (answer.headers["X-Request-ID"] == given) is kept
    assert (await answer.json())["request_id"] == answer.headers["X-Request-ID"]


async def test_a_good_body_goes_in_and_an_answer_comes_out(kit: Kit) -> None:
    answer = await kit.client.post("/write", json=GOOD, headers=kit.key())
    assert (answer.status, await answer.json(), answer.headers["Location"]) == (202, {"n": 1}, "/there")
    assert answer.headers["Content-Type"] == "application/json; charset=utf-8"


@pytest.mark.parametrize(
    ("media", "status"),
    [
        ("application/json", 202),
        ("application/json; charset=utf-8", 202),
        ('Application/JSON;charset="UTF-8"', 202),
        ("application/json; charset=latin-1", 415),
        ("application/jsonp", 415),
        ("text/plain", 415),
        ("application/x-www-form-urlencoded", 415),
        ("multipart/form-data; boundary=x", 415),
        ("", 415),
    ],
)
async def test_only_plain_json_in_utf8_is_read(kit: Kit, media: str, status: int) -> None:
    body = msgspec.json.encode(GOOD)
    answer = await kit.client.post("/write", data=body, headers={**kit.key(), "Content-Type": media})
    assert answer.status == status


async def test_an_encoded_body_is_refused(kit: Kit) -> None:
    headers = {**kit.key(), "Content-Type": "application/json", "Content-Encoding": "gzip"}
    assert (await kit.client.post("/write", data=b"x", headers=headers)).status == 415


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_body_beyond_the_limit_is_413_and_one_below_is_read(kit: Kit, chunked: bool) -> None:
    async def pieces(size: int) -> AsyncIterator[bytes]:
        body = msgspec.json.encode({**GOOD, "message": "y" * 9_000, "utilisateurs": GOOD["utilisateurs"] * 10})
        yield body[:-1]
        while size > 0:
            yield b" " * 65_536
            size -= 65_536
        yield b"}"

    for size, status in ((900_000, 202), (1_500_000, 413)):
        data: Any = pieces(size) if chunked else io.BytesIO(b"".join([piece async for piece in pieces(size)]))
        headers = {**kit.key(), "Content-Type": "application/json"}
        answer = await kit.client.post("/write", data=data, headers=headers)
        assert answer.status == status


async def test_an_empty_body_is_malformed(kit: Kit) -> None:
    answer = await kit.client.post("/write", headers={**kit.key(), "Content-Type": "application/json"})
    assert answer.status == 400


async def test_a_query_is_checked_also_where_none_is_taken(kit: Kit) -> None:
    answer = await kit.client.post("/write?priorite=CRITIQUE", json=GOOD, headers=kit.key())
    assert (answer.status, (await answer.json())["errors"][0]["parameter"]) == (422, "priorite")
    answer = await kit.client.get("/read?limit=3&status=a&status=b", headers=kit.key())
    assert await answer.json() == {"by": "admin", "limit": 3}


@both
async def test_what_an_admin_does_is_written_down(kit: Kit) -> None:
    await kit.client.post("/rule/7", headers=kit.key())
    await kit.client.post("/rule/8", headers=kit.key(Role.VIEWER))
    entries = await kit.front.store.audit_page(10)
    assert [(entry.action, entry.target, entry.key_name, entry.address) for entry in entries] == [
        ("rule", "7", "admin", "127.0.0.1")
    ]


async def test_a_browser_that_is_not_signed_in_is_led_to_the_sign_in_page(kit: Kit) -> None:
    answer = await kit.client.get("/admin/page?a=1&b=é", allow_redirects=False)
    assert answer.status == 303
    assert answer.headers["Location"] == "/admin/login?next=/admin/page?a%3D1%26b%3D%25C3%25A9"
    assert (await kit.client.get("/admin/page", headers={"X-API-Key": "wrong"})).status == 401


async def test_too_many_requests_of_one_key_are_slowed_down(tmp_path: Path) -> None:
    async with serving(tmp_path, routes, limits={"requests_per_minute": 2}) as kit:
        first = await kit.client.get("/read", headers=kit.key())
        assert first.headers["RateLimit-Policy"] == '"default";q=2;w=60'
        assert first.headers["RateLimit"] == '"default";r=1;t=30'
        await kit.client.get("/read", headers=kit.key())
        third = await kit.client.get("/read", headers=kit.key())
        assert (third.status, third.headers["Retry-After"]) == (429, "30")
        assert third.headers["RateLimit"] == '"default";r=0;t=60'
        assert (await kit.client.get("/read", headers=kit.key(Role.VIEWER))).status == 200

        kit.clock.turn(30)

        assert (await kit.client.get("/read", headers=kit.key())).status == 200


async def test_wrong_keys_from_one_address_are_slowed_down_and_right_ones_are_not(kit: Kit) -> None:
    statuses = [(await kit.client.get("/read", headers={"X-API-Key": f"guess{n}"})).status for n in range(32)]
    assert statuses == [401] * 30 + [429] * 2
    slowed = await kit.client.get("/read", headers={"X-API-Key": "guess"})
    assert slowed.headers["RateLimit-Policy"] == '"default";q=30;w=60'
    assert (slowed.headers["RateLimit"], slowed.headers["Retry-After"]) == ('"default";r=0;t=60', "2")
    assert (await kit.client.get("/read", headers=kit.key())).status == 200


async def test_a_configured_key_that_can_be_guessed_is_not_tried_after_many_wrong_ones(tmp_path: Path) -> None:
    for secret, status in (("short-key", 429), ("a-configured-key-of-good-length", 200)):
        async with serving(tmp_path / secret, routes, auth={"admin_key": secret}) as kit:
            assert (await kit.client.get("/read", headers={"X-API-Key": secret})).status == 200
            for n in range(30):
                await kit.client.get("/read", headers={"X-API-Key": f"guess{n}"})
            assert (await kit.client.get("/read", headers={"X-API-Key": secret})).status == status


async def test_forwarding_headers_count_from_trusted_proxies_alone(tmp_path: Path) -> None:
    forged = {"X-Forwarded-For": "9.9.9.9, 203.0.113.7", "X-Forwarded-Proto": "https", "X-Forwarded-Host": "t.example"}
    async with serving(tmp_path / "a", routes, server={"trusted_proxies": ["127.0.0.0/8"]}) as kit:
        answer = await kit.client.post("/rule/1", headers={**kit.key(), **forged})
        assert answer.headers["Strict-Transport-Security"]
        assert (await kit.front.store.audit_page(1))[0].address == "203.0.113.7"
    async with serving(tmp_path / "b", routes) as kit:
        answer = await kit.client.post("/rule/1", headers={**kit.key(), **forged})
        assert "Strict-Transport-Security" not in answer.headers
        assert (await kit.front.store.audit_page(1))[0].address == "127.0.0.1"


async def test_bodies_at_the_same_time_do_not_hinder_each_other(kit: Kit) -> None:
    large = {**GOOD, "utilisateurs": [{"id": str(n), "nom": "Jean Dupont " * 8} for n in range(6_000)]}
    bodies = [large, GOOD, large, GOOD, large, GOOD, large, GOOD, large, GOOD]
    answers = await asyncio.gather(*(kit.client.post("/write", json=body, headers=kit.key()) for body in bodies))
    assert [(await answer.json())["n"] for answer in answers] == [6_000, 1] * 5
