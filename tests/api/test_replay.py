"""A request that is sent again gets the answer of the first, also when it would be too late for a first one by now."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from tests.kit import Town, jean

KEY = {"Idempotency-Key": "storm-1"}
BODY = {"titre": "t", "message": "m", "utilisateurs": [jean()]}


def ahead(town: Town, seconds: float) -> str:
    """A moment so far ahead, as a sender writes it."""
    return datetime.fromtimestamp(town.clock.now_ms() / 1000 + seconds, UTC).isoformat()


@pytest.mark.usefixtures("both_engines")
async def test_a_repeat_that_comes_after_its_expiry_gets_the_first_answer(town: Town) -> None:
    body = BODY | {"expire_a": ahead(town, 30)}
    first = await town.post("/api/notifications/meteo", body, **KEY)
    assert first.status == 202
    town.clock.turn(40)

    again = await town.post("/api/notifications/meteo", body, **KEY)

    assert (again.status, again.headers.get("Idempotent-Replayed")) == (202, "true")
    assert again.headers["Location"] == first.headers["Location"]
    assert await again.read() == await first.read()
    assert (await town.json("/api/queue/stats"))["stats"]["total_enqueued"] == 1


async def test_what_was_never_accepted_stays_invalid(town: Town) -> None:
    body = BODY | {"expire_a": ahead(town, -1)}
    for _ in range(2):
        answer = await town.post("/api/notifications/meteo", body, **KEY)
        assert (answer.status, (await answer.json())["errors"][0]["pointer"]) == (422, "/expire_a")
    assert (await town.post("/api/notifications/meteo", BODY, **KEY)).status == 202
    late = await town.post("/api/notifications/meteo", body, **KEY)
    assert (late.status, (await late.json())["errors"][0]["pointer"]) == (422, "/expire_a")


async def test_a_repeat_a_day_later_is_a_new_request(town: Town) -> None:
    body = BODY | {"expire_a": ahead(town, 30)}
    assert (await town.post("/api/notifications/meteo", body, **KEY)).status == 202
    town.clock.turn(86_401)

    answer = await town.post("/api/notifications/meteo", body, **KEY)

    assert (answer.status, (await answer.json())["code"]) == (422, "invalid-fields")
