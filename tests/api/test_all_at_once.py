"""Everything that is wrong with a body is told at once, whether a field does not fit its type or its meaning."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.api.hooks_support import SECRETS
from tests.kit import Town, jean, running

WRONG: dict[str, Any] = {
    "titre": "",
    "message": "m",
    "priorité": "HAUTE",
    "utilisateurs": [
        jean(0),
        {"id": "u1", "nom": "Ana", "telephone": "+33 6 12 34 56 78"},  # its channel needs an e-mail address
        {"id": "u2", "nom": "Luc", "email": "luc at example.org"},
        {"id": "u3", "nom": "Zoé", "email": "zoe@example.org", "preferences": {"canal_prefere": "pigeon"}},
        7,
    ],
    "planifiee_a": "2999-01-01T00:00:00Z",
    "expire_a": "2001-01-01T00:00:00Z",
    "webhook_url": "http://127.0.0.1/hook",
}
POINTERS = {
    "/titre", "/priorité", "/utilisateurs/1/email", "/utilisateurs/2/email",
    "/utilisateurs/3/preferences/canal_prefere", "/utilisateurs/4", "/planifiee_a", "/expire_a", "/webhook_url",
}  # fmt: skip


async def pointers(town: Town, body: Any) -> list[str]:
    answer = await town.post("/api/notifications/meteo", body)
    assert answer.status == 422, await answer.text()
    return [each["pointer"] for each in (await answer.json())["errors"]]


@pytest.mark.parametrize("many", [0, 2_000])
async def test_every_wrong_field_is_named_once(tmp_path: Path, many: int) -> None:
    async with running(tmp_path, WEBHOOKS__SECRETS=f'["{SECRETS[0]}"]') as town:
        body = WRONG | {"utilisateurs": WRONG["utilisateurs"] + [jean(n + 10) for n in range(many)]}
        found = await pointers(town, body)
        assert set(found) == POINTERS and len(found) == len(POINTERS)


async def test_no_more_than_a_hundred_are_named(town: Town) -> None:
    unreachable = [{"id": f"u{n}", "nom": "Ana", "telephone": "+33612345678"} for n in range(150)]
    found = await pointers(town, {"titre": "", "message": "m", "utilisateurs": unreachable})
    assert len(found) == 100 and found[0] == "/titre"


@pytest.mark.parametrize(
    ("body", "wrong"),
    [
        ({"titre": "", "message": "m", "utilisateurs": {}}, ["/titre", "/utilisateurs"]),
        ({"titre": "", "message": "m", "utilisateurs": [jean()], "expire_a": 7}, ["/titre", "/expire_a"]),
        ({"titre": "t", "message": "m", "utilisateurs": []}, ["/utilisateurs"]),
        ([], [""]),
    ],
)
async def test_what_does_not_fit_its_type_is_named_for_that_alone(town: Town, body: Any, wrong: list[str]) -> None:
    assert await pointers(town, body) == wrong


async def test_too_many_recipients_and_a_bad_title_are_both_told(tmp_path: Path) -> None:
    async with running(tmp_path, LIMITS__RECIPIENTS="2") as town:
        body = {"titre": "", "message": "m", "utilisateurs": [jean(n) for n in range(3)]}
        assert await pointers(town, body) == ["/titre", "/utilisateurs"]
