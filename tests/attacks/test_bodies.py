"""What a sender may post, to the byte: the tables of `bodies`, and the same over every route that takes a body."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from server.app import all_routes
from tests.attacks.bodies import ACCEPTED, FIELDS, HEADS, INVALID, MALFORMED
from tests.attacks.siege import GOOD, Siege, besieged

pytestmark = pytest.mark.asyncio(loop_scope="module")
TAKERS = [route for route in all_routes() if route.takes is not None]
ids = [route.path for route in TAKERS]


@pytest.mark.parametrize("name", MALFORMED)
async def test_what_is_not_json_in_utf8_is_malformed(siege: Siege, unharmed: None, name: str) -> None:
    answer = await siege.post(MALFORMED[name])
    assert (answer.status, answer.code) == (400, "malformed-body")


@pytest.mark.parametrize("name", INVALID)
async def test_json_that_is_no_notification_is_told_where(siege: Siege, unharmed: None, name: str) -> None:
    body, pointers = INVALID[name]
    answer = await siege.post(body)
    assert (answer.status, answer.code, answer.pointers) == (422, "invalid-fields", pointers)


@pytest.mark.parametrize("name", HEADS)
async def test_headers_that_do_not_fit_are_refused(siege: Siege, unharmed: None, name: str) -> None:
    head, body, status, code = HEADS[name]
    answer = await siege.post(body, **head)
    assert (answer.status, answer.code) == (status, code)


async def test_every_field_is_held_to_its_bounds(siege: Siege, unharmed: None) -> None:
    found = []
    for change, pointers in FIELDS:
        answer = await siege.post(GOOD | change)
        if (answer.status, answer.code) != (422, "invalid-fields") or answer.pointers != pointers:
            found.append((change, pointers, answer.status, answer.body[-500:]))
    assert found == []


@pytest.mark.parametrize("route", TAKERS, ids=ids)
async def test_every_route_reads_its_body_as_strictly(siege: Siege, unharmed: None, route: Any) -> None:
    path = route.path.format(type="meteo")
    empty = 200 if route.empty_body else 400
    for body, status in (
        (b"", empty), (b"{", 400), (b"\xef\xbb\xbf{}", 400), (b"[" * 100_000, 400), (b'{"x": NaN}', 400), (b"[]", 422),
        (b"null", 422), (b'"x"', 422), (b'{"x\xff": 1}', 400), (b'{"\\ud800": 1}', 400), (b'{"zz": 1}', 422),
        (b'{"__proto__": {"dry_run": true}}', 422), (b"{} x", 400), (b" " * 1_100_000, 413),
    ):  # fmt: skip
        answer = await siege.post(body, path)
        assert answer.status == status, (body[:40], answer.body)
    for media in ("text/plain", "application/json; charset=latin-1", "application/xml", "multipart/form-data"):
        assert (await siege.post(b"{}", path, Content_Type=media)).status == 415
    assert (await siege.post(b"x", path, Content_Encoding="gzip")).status == 415


@pytest.mark.parametrize("body", [
    {"name": "x", "role": "admin", "id": "1"}, {"name": "x", "role": "admin", "key": "chosen"},
    {"name": "x", "role": "admin", "hash": "0" * 64}, {"name": "x", "role": 3}, {"name": "x", "role": "ADMIN"},
    {"name": "x\r\ny", "role": "viewer"}, {"name": "x" * 101, "role": "viewer"}, {"name": "\u2028", "role": "viewer"},
    {"name": ["x"], "role": "viewer"}, {"name": "x", "role": ["viewer"]}, {"name": None, "role": None},
])  # fmt: skip
async def test_a_key_is_made_of_name_and_role_alone(siege: Siege, unharmed: None, body: dict[str, Any]) -> None:
    before = len((await siege.town.json("/admin/api/keys"))["keys"])
    assert (await siege.post(body, "/admin/api/keys")).code == "invalid-fields"
    assert len((await siege.town.json("/admin/api/keys"))["keys"]) == before


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("clear", {"hours": -1}, 422),
        ("clear", {"hours": "1"}, 422),
        ("clear", {"hours": 1e300}, 422),
        ("clear", {"hours": None}, 422),
        ("clear", {"hours": True}, 422),
        ("clear", {"status": ["pending"]}, 422),
        ("clear", {"status": ["processing"]}, 422),
        ("clear", {"status": "failed"}, 422),
        ("clear", {"type": ["meteo"]}, 422),
        ("clear", {"hours": 1e-320}, 200),
        ("cancel", {}, 422),
        ("cancel", {"dry_run": True}, 422),
        ("cancel", {"status": []}, 422),
        ("cancel", {"q": "  "}, 422),
        ("cancel", {"q": "\x00"}, 422),
        ("cancel", {"q": "x" * 201}, 422),
        ("cancel", {"status": ["all"]}, 422),
        ("cancel", {"priority": ["1 OR 1=1"]}, 422),
        ("cancel", {"since": "hier"}, 422),
        ("cancel", {"task_ids": ["x" * 37]}, 422),
        ("cancel", {"task_ids": ["x"] * 10_001}, 422),
        ("cancel", {"type": ["x" * 65]}, 422),
        ("cancel", {"type": ["\x00"]}, 422),
        ("cancel", {"task_ids": ["\x00"]}, 422),
        ("cancel", {"type": [f"t{n}" for n in range(50_000)]}, 422),
        ("cancel", {"dry_run": "true", "q": "x"}, 422),
        ("retry", {"q": "%"}, 200),
        ("retry", {"q": "' OR 1=1 --"}, 200),
        ("retry", {"type": ["'; DROP TABLE task; --"]}, 200),
        ("retry", {"task_ids": [f"{n}" for n in range(10_000)]}, 200),
        ("retry", {"since": "0001-01-01T00:00:00+23:59", "until": "9999-12-31T23:59:59-12:00"}, 200),
    ],
)
async def test_acts_on_many_tasks_take_what_they_say(
    siege: Siege, unharmed: None, path: str, body: dict[str, Any], status: int
) -> None:
    answer = await siege.post(body, f"/admin/api/queue/{path}")
    assert answer.status == status, answer.body


async def test_what_is_only_text_is_taken_as_it_was_sent(tmp_path: Path) -> None:
    async with besieged(tmp_path) as siege:
        for change in ACCEPTED:
            answer = await siege.post(GOOD | change)
            assert answer.status == 202, (change, answer.body)
            task = json.loads((await siege.ask("GET", answer.headers["Location"])).body)["task"]
            for name in ("titre", "message", "webhook_url"):
                assert task[name] == (GOOD | change).get(name)
            rows = json.loads((await siege.ask("GET", answer.headers["Location"] + "/deliveries")).body)["deliveries"]
            person = (GOOD | change)["utilisateurs"][0]
            assert [(row["id"], row["nom"]) for row in rows] == [(person["id"], person["nom"])]
        stats = (await siege.town.json("/api/queue/stats"))["stats"]
        assert stats["total_enqueued"] == len(ACCEPTED)
        siege.discreet()


async def test_of_a_name_that_stands_twice_the_last_counts(tmp_path: Path) -> None:
    async with besieged(tmp_path) as siege:
        answer = await siege.post(
            b'{"titre": "first",' + json.dumps(GOOD).encode()[1:-1] + b', "priorite": "1", "priorite": "3"}'
        )
        task = json.loads((await siege.ask("GET", answer.headers["Location"])).body)["task"]
        assert (task["titre"], task["priority"]) == (GOOD["titre"], "NORMALE")


async def test_an_idempotency_key_stands_for_one_body_one_type_and_one_key(tmp_path: Path) -> None:
    async with besieged(tmp_path) as siege:
        key = {"Idempotency_Key": "a b~" + "x" * 251}
        first = await siege.post(GOOD, **key)
        again = await siege.post(dict(reversed(GOOD.items())), **key)
        assert (first.status, again.status, again.body) == (202, 202, first.body)
        assert again.headers["Idempotent-Replayed"] == "true"
        for change, path in (({"titre": "other"}, "meteo"), ({"priorite": "1"}, "meteo"), ({}, "infra")):
            answer = await siege.post(GOOD | change, f"/api/notifications/{path}", **key)
            assert (answer.status, answer.code) == (422, "idempotency-conflict")
        bad = await siege.post(GOOD | {"titre": ""}, Idempotency_Key="new")
        assert (bad.status, (await siege.post(GOOD, Idempotency_Key="new")).status) == (422, 202)
        other = await siege.town.client.post(
            "/api/notifications/meteo",
            json=GOOD,
            headers={"Idempotency-Key": key["Idempotency_Key"]} | siege.key(2),  # type: ignore[arg-type]
        )
        assert (other.status, (await other.json())["task_id"] not in first.body.decode()) == (202, True)
        both = await asyncio.gather(*(siege.post(GOOD, Idempotency_Key="at once") for _ in range(20)))
        assert {answer.status for answer in both} <= {202, 409}
        assert len({answer.body for answer in both if answer.status == 202}) == 1
        assert (await siege.town.json("/api/queue/stats"))["stats"]["total_enqueued"] == 4
