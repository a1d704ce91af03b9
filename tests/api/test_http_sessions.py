"""Keys and sessions: signing in and out, what a cookie may do, and how keys end."""

from __future__ import annotations

import asyncio
import html
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request

from server.api import keys, session
from server.http.auth import KEY, hash_of, new_key
from server.http.caller import local_path
from server.http.problems import BadSignIn
from server.http.routes import Routes
from server.model import ApiKey, Role
from server.store.desk import Run
from tests.api.http_kit import SECRETS, Kit, serving

routes = Routes()
both = pytest.mark.usefixtures("both_engines")


@routes.get("/me", needs=Role.VIEWER)
async def me(request: web.Request) -> dict[str, str]:
    return {"name": request[KEY].name}


@routes.post("/act", needs=Role.VIEWER)
async def act(request: web.Request) -> dict[str, bool]:
    return {"success": True}


@routes.get("/stream", needs=Role.VIEWER, stream=True)
async def stream(request: web.Request) -> dict[str, bool]:
    return {"success": True}


ALL = (routes, keys.routes, session.routes)


@pytest.fixture
async def kit(tmp_path: Path) -> AsyncIterator[Kit]:
    async with serving(tmp_path, *ALL) as kit:
        yield kit


async def sign_in(kit: Kit, role: Role = Role.ADMIN, **headers: str) -> str:
    """Sign in by JSON; the cookie's value."""
    answer = await kit.client.post("/admin/login", json={"key": SECRETS[role]}, headers=headers)
    assert answer.status == 200, await answer.text()
    kit.client.session.cookie_jar.clear()
    return answer.cookies["tocsin_session"].value


def cookie(token: str, **more: str) -> dict[str, str]:
    return {"Cookie": f"tocsin_session={token}"} | {name.replace("_", "-"): value for name, value in more.items()}


@both
async def test_a_key_becomes_a_session_with_a_strict_cookie(kit: Kit) -> None:
    answer = await kit.client.post("/admin/login", json={"key": SECRETS[Role.OPERATOR], "next": "/admin/send"})
    assert await answer.json() == {"success": True, "name": "operator", "role": "operator", "next": "/admin/send"}
    crumbs = answer.headers["Set-Cookie"].lower()
    assert all(part in crumbs for part in ("httponly", "samesite=strict", "path=/", "max-age=43200"))
    assert "secure" not in crumbs and "domain" not in crumbs
    token = answer.cookies["tocsin_session"].value
    stored = await kit.front.store.session(hash_of(token))
    assert stored is not None and stored.key_id == "operator"
    assert await (await kit.client.get("/me", headers=cookie(token))).json() == {"name": "operator"}


async def test_behind_tls_the_cookie_is_secure_and_bound_to_the_host(tmp_path: Path) -> None:
    async with serving(tmp_path, *ALL, server={"trusted_proxies": ["127.0.0.1"]}) as kit:
        tls = {"X-Forwarded-Proto": "https", "X-Forwarded-Host": "tocsin.example"}
        answer = await kit.client.post("/admin/login", json={"key": SECRETS[Role.ADMIN]}, headers=tls)
        crumbs = answer.headers["Set-Cookie"]
        assert crumbs.startswith("__Host-tocsin_session=") and "Secure" in crumbs
        token = answer.cookies["__Host-tocsin_session"].value
        signed = {**tls, "Cookie": f"__Host-tocsin_session={token}"}
        assert (await kit.client.get("/me", headers=signed)).status == 200
        own = {**signed, "Origin": "https://tocsin.example"}
        assert (await kit.client.post("/act", headers=own)).status == 200
        assert (await kit.client.post("/act", headers={**signed, "Origin": "http://tocsin.example"})).status == 403
        plain = {**tls, "Cookie": f"tocsin_session={token}", "Origin": "https://tocsin.example"}
        assert (await kit.client.post("/act", headers=plain)).status == 401


async def test_a_form_signs_in_with_a_redirect_that_stays_here(kit: Kit) -> None:
    form = {"key": SECRETS[Role.VIEWER], "next": "/admin/queue/1?x=2", "username": "tocsin"}
    answer = await kit.client.post("/admin/login", data=form, allow_redirects=False)
    assert (answer.status, answer.headers["Location"]) == (303, "/admin/queue/1?x=2")
    form["next"] = "//evil.example"
    answer = await kit.client.post("/admin/login", data=form, allow_redirects=False)
    assert answer.headers["Location"] == "/admin/queue"


async def test_a_wrong_key_in_the_form_shows_the_form_again(tmp_path: Path) -> None:
    async with serving(tmp_path, *ALL, pages=True) as kit:
        answer = await kit.client.post("/admin/login", data={"key": "wrong"}, allow_redirects=False)
        text = await answer.text()
        assert answer.status == 401
        assert "Cette clé ou ce lien de connexion" in html.unescape(text) and "wrong" not in text
        assert (await kit.client.get("/admin/login?once=used")).status == 401
        assert (await kit.client.post("/admin/login", json={"key": "wrong"})).status == 401


@pytest.mark.parametrize(
    "path", ["", "x", "//evil", "/\\evil", "https://evil", "/a\nb", "/ a", "/a\\b", "/\tb", "/" + "x" * 3000, None]
)
def test_only_a_path_of_this_server_is_gone_on_to(path: str | None) -> None:
    assert local_path(path) == "/admin/queue"
    assert local_path("/admin/keys?x=//y") == "/admin/keys?x=//y"


@both
async def test_every_sign_in_makes_a_new_session_and_ends_the_old_one(kit: Kit) -> None:
    first = await sign_in(kit)
    second = await sign_in(kit, Cookie=f"tocsin_session={first}")
    assert first != second
    assert (await kit.client.get("/me", headers=cookie(first))).status == 401
    assert (await kit.client.get("/me", headers=cookie(second))).status == 200


@both
async def test_a_session_ends_after_twelve_hours(kit: Kit) -> None:
    token = await sign_in(kit)
    kit.clock.turn(12 * 3600 - 10)
    assert (await kit.client.get("/me", headers=cookie(token))).status == 200
    kit.clock.turn(10)
    assert (await kit.client.get("/me", headers=cookie(token))).status == 401


@both
async def test_signing_out_ends_the_session_and_its_streams(kit: Kit) -> None:
    told: list[tuple[str, str | None]] = []
    kit.front.keyring.on_revoked.append(lambda key_id, session_id: told.append((key_id, session_id)))
    token = await sign_in(kit, Role.VIEWER)
    answer = await kit.client.post("/admin/logout", headers=cookie(token, Origin=kit.origin))
    assert await answer.json() == {"success": True}
    assert 'tocsin_session=""' in answer.headers["Set-Cookie"]
    assert told == [("viewer", hash_of(token))]
    assert (await kit.client.get("/me", headers=cookie(token))).status == 401


@pytest.mark.parametrize(
    ("said", "status"),
    [
        ({}, 403),
        ({"Origin": "OWN"}, 200),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "null", "Sec-Fetch-Site": "same-origin"}, 200),  # a form under no-referrer
        ({"Sec-Fetch-Site": "same-origin"}, 200),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "none"}, 403),
        ({"Origin": "https://evil.example", "Sec-Fetch-Site": "same-origin"}, 403),
        ({"Origin": "http://[::1"}, 403),
        ({"Origin": ""}, 403),
    ],
)
async def test_a_cookie_acts_from_our_own_pages_alone(kit: Kit, said: dict[str, str], status: int) -> None:
    headers = {name: kit.origin if value == "OWN" else value for name, value in said.items()}
    token = await sign_in(kit)
    answer = await kit.client.post("/act", headers={**cookie(token), **headers})
    assert answer.status == status
    assert (await kit.client.get("/stream", headers={**cookie(token), **headers})).status == status
    assert (await kit.client.post("/act", headers={**kit.key(), **headers})).status == 200


@pytest.mark.parametrize(
    ("said", "status"),
    [({}, 403), ({"Origin": "OWN"}, 200), ({"Origin": "null"}, 403), ({"Sec-Fetch-Site": "same-origin"}, 403)],
)
async def test_a_websocket_by_cookie_must_name_its_origin(kit: Kit, said: dict[str, str], status: int) -> None:
    headers = {name: kit.origin if value == "OWN" else value for name, value in said.items()}
    upgrade = {"Connection": "Upgrade", "Upgrade": "websocket"}
    token = await sign_in(kit)
    answer = await kit.client.get("/stream", headers={**cookie(token), **headers, **upgrade})
    assert answer.status == status


async def test_another_sites_page_cannot_sign_a_browser_in(kit: Kit) -> None:
    for said in ({"Origin": "https://evil.example"}, {"Sec-Fetch-Site": "cross-site"}):
        answer = await kit.client.post("/admin/login", json={"key": SECRETS[Role.VIEWER]}, headers=said)
        assert answer.status == 403
        assert "Set-Cookie" not in answer.headers


async def test_bad_sign_ins_are_slowed_down_per_address(kit: Kit) -> None:
    statuses = [(await kit.client.post("/admin/login", json={"key": f"guess{n}"})).status for n in range(11)]
    assert statuses == [401] * 10 + [429]
    answer = await kit.client.post("/admin/login", json={"key": SECRETS[Role.ADMIN]})
    assert answer.status == 429 and int(answer.headers["Retry-After"]) >= 1
    assert answer.headers["RateLimit-Policy"] == '"default";q=10;w=60'
    assert answer.headers["RateLimit"].startswith('"default";r=0;t=')
    kit.clock.turn(6)
    assert (await kit.client.post("/admin/login", json={"key": SECRETS[Role.ADMIN]})).status == 200


@both
async def test_a_first_start_makes_an_admin_key_and_a_link_that_works_once(tmp_path: Path) -> None:
    async with serving(tmp_path, *ALL, keys=False) as kit:
        first = kit.front.keyring.first
        assert first is not None and first.secret.startswith("tocsin_") and len(first.secret) == 50
        assert (await kit.client.get("/me", headers={"X-API-Key": first.secret})).status == 200
        once = await kit.front.keyring.new_once(first.key)
        stored = await kit.front.store.snapshot(lambda tx: tx.all("SELECT hash, key_id FROM once"))
        assert stored == [(hash_of(once), first.key.id)]
        link = f"/admin/login?once={once}"
        answer = await kit.client.get(link, allow_redirects=False)
        assert (answer.status, answer.headers["Location"]) == (303, "/admin/queue")
        token = answer.cookies["tocsin_session"].value
        kit.client.session.cookie_jar.clear()
        assert (await kit.client.get("/me", headers=cookie(token))).status == 200
        request = make_mocked_request("GET", "/")
        for late_s, link_token in ((0, link.partition("=")[2]), (15 * 60, await kit.front.keyring.new_once(first.key))):
            kit.clock.turn(late_s)
            with pytest.raises(BadSignIn):
                await kit.front.keyring.sign_in_once(request, link_token)
    async with serving(tmp_path, *ALL, keys=False) as kit:
        assert kit.front.keyring.first is None
        assert (await kit.client.get("/me", headers={"X-API-Key": first.secret})).status == 200


async def test_to_look_at_a_sign_in_link_does_not_use_it_up(tmp_path: Path) -> None:
    async with serving(tmp_path, *ALL, pages=True) as kit:
        key = kit.front.keyring.by_secret(SECRETS[Role.ADMIN])
        assert key
        link = f"/admin/login?once={await kit.front.keyring.new_once(key)}"
        looked = await kit.client.head(link, allow_redirects=False)
        assert looked.status == 200 and "Set-Cookie" not in looked.headers
        assert (await kit.client.get(link, allow_redirects=False)).status == 303


@both
async def test_a_configured_key_is_an_admin_from_the_start_and_its_sessions_die_with_it(tmp_path: Path) -> None:
    async with serving(tmp_path, *ALL, keys=False, auth={"admin_key": "changed-me"}) as kit:
        assert kit.front.keyring.first is None
        assert await kit.front.store.keys() == []
        answer = await kit.client.post("/admin/login", json={"key": "changed-me"})
        token = answer.cookies["tocsin_session"].value
        assert (await answer.json())["role"] == "admin"
    async with serving(tmp_path, *ALL, keys=False, auth={"admin_key": "another-one"}) as kit:
        assert (await kit.client.get("/me", headers=cookie(token))).status == 401


@both
async def test_keys_are_made_listed_and_revoked(kit: Kit) -> None:
    told: list[tuple[str, str | None]] = []
    kit.front.keyring.on_revoked.append(lambda key_id, session_id: told.append((key_id, session_id)))
    answer = await kit.client.post("/admin/api/keys", json={"name": "Météo", "role": "operator"}, headers=kit.key())
    made = await answer.json()
    assert answer.status == 201 and made["key"].startswith("tocsin_")
    mine = {"X-API-Key": made["key"]}
    assert (await kit.client.get("/me", headers=mine)).status == 200
    listed = await (await kit.client.get("/admin/api/keys", headers=kit.key())).json()
    (entry,) = [key for key in listed["keys"] if key["id"] == made["id"]]
    assert (entry["name"], entry["role"]) == ("Météo", "operator") and entry["last_used_at_iso"]
    assert made["key"] not in str(listed) and "hash" not in str(listed)

    token = await sign_in(kit, Role.VIEWER)
    for key_id in (made["id"], "viewer"):
        assert (await kit.client.delete(f"/admin/api/keys/{key_id}", headers=kit.key())).status == 200
        assert (await kit.client.delete(f"/admin/api/keys/{key_id}", headers=kit.key())).status == 404
    assert told == [(made["id"], None), ("viewer", None)]
    assert (await kit.client.get("/me", headers=mine)).status == 401
    assert (await kit.client.get("/me", headers=cookie(token))).status == 401

    log = await (await kit.client.get("/admin/api/audit?limit=2", headers=kit.key())).json()
    assert [(e["action"], e["target"], e["by"]) for e in log["entries"]] == [
        ("key.revoke", "viewer", "admin"),
        ("key.revoke", made["id"], "admin"),
    ]
    rest = await kit.client.get("/admin/api/audit", params={"cursor": log["next_cursor"]}, headers=kit.key())
    older = await rest.json()
    assert [e["action"] for e in older["entries"]] == ["sign-in", "key.add"]
    assert older["next_cursor"] is None and older["entries"][1]["detail"] == {"name": "Météo", "role": "operator"}


@pytest.mark.parametrize("body", [{}, {"name": "x"}, {"name": "", "role": "admin"}, {"name": "x", "role": "root"}])
async def test_a_key_needs_a_name_and_a_role(kit: Kit, body: dict[str, Any]) -> None:
    assert (await kit.client.post("/admin/api/keys", json=body, headers=kit.key())).status == 422


@pytest.mark.parametrize("cursor", ["x", "-1", "1.5", "９"])
async def test_a_cursor_that_we_did_not_give_is_refused(kit: Kit, cursor: str) -> None:
    answer = await kit.client.get("/admin/api/audit", params={"cursor": cursor}, headers=kit.key())
    assert answer.status == 422


@both
async def test_a_key_revoked_elsewhere_is_dead_within_five_seconds(kit: Kit) -> None:
    gone = asyncio.Event()
    kit.front.keyring.on_revoked.append(lambda key_id, session_id: gone.set())
    token = await sign_in(kit, Role.VIEWER)
    await kit.front.store.revoke_key("viewer", kit.clock.now_ms())
    kit.clock.turn(2)
    await gone.wait()
    assert (await kit.client.get("/me", headers=kit.key(Role.VIEWER))).status == 401
    assert (await kit.client.get("/me", headers=cookie(token))).status == 401


async def test_a_row_that_cannot_be_read_keeps_no_revoked_key_alive_for_good(kit: Kit) -> None:
    gone = asyncio.Event()
    kit.front.keyring.on_revoked.append(lambda key_id, session_id: gone.set())
    await kit.front.store.apply(Run("UPDATE api_key SET role = 99 WHERE id = 'operator'", ()))
    kit.clock.turn(2)
    with pytest.raises(ValueError, match="99"):  # the keyring has read it too by the time that we have
        await kit.front.store.keys()
    await kit.front.store.apply(Run("UPDATE api_key SET role = 2 WHERE id = 'operator'", ()))
    await kit.front.store.revoke_key("viewer", kit.clock.now_ms())
    async with asyncio.timeout(60):
        while not gone.is_set():
            kit.clock.turn(2)
            await asyncio.sleep(0)
    assert (await kit.client.get("/me", headers=kit.key(Role.VIEWER))).status == 401


@both
async def test_a_session_ended_elsewhere_ends_its_streams(kit: Kit) -> None:
    gone = asyncio.Event()
    token = await sign_in(kit)
    assert (await kit.client.get("/stream", headers=cookie(token, Origin=kit.origin))).status == 200
    kit.front.keyring.on_revoked.append(lambda key_id, session_id: gone.set())
    await kit.front.store.end_session(hash_of(token))
    kit.clock.turn(2)
    await gone.wait()
    assert (await kit.client.get("/me", headers=cookie(token))).status == 401


@both
async def test_the_last_use_of_keys_reaches_the_store(tmp_path: Path) -> None:
    async with serving(tmp_path, *ALL) as kit:
        await kit.client.get("/me", headers=kit.key(Role.VIEWER))
        used_ms = kit.clock.now_ms()
    async with serving(tmp_path, *ALL, keys=False) as kit:
        (viewer,) = [key for key in await kit.front.store.keys() if key.id == "viewer"]
        assert viewer.used_ms == used_ms


@both
async def test_a_key_made_while_the_keys_are_read_again_works_at_once(
    kit: Kit, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = kit.front.store
    read_all = store.keys
    key, secret = new_key("meanwhile", Role.VIEWER, kit.clock.now_ms())

    async def read_then_add() -> list[ApiKey]:
        monkeypatch.setattr(store, "keys", read_all)
        found = await read_all()
        await kit.front.keyring.add(key)
        await kit.front.keyring.revoke("operator")
        return found

    monkeypatch.setattr(store, "keys", read_then_add)
    await kit.front.keyring.reload()

    assert (await kit.client.get("/me", headers={"X-API-Key": secret})).status == 200
    assert (await kit.client.get("/me", headers=kit.key(Role.OPERATOR))).status == 401
