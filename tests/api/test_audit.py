"""The audit log says what was done to many at once by the filter that chose them."""

from __future__ import annotations

from typing import Any

import pytest

from tests.kit import Town


@pytest.mark.parametrize(
    "only",
    [
        {"priority": ["CRITIQUE", "HAUTE"]},
        {"since": "2023-01-01T00:00:00+00:00", "until": "9999-12-31T23:59:59-12:00"},
        {"task_ids": ["01890000-0000-7000-8000-000000000000"]},
        {"status": ["pending"], "type": ["meteo"], "q": "crue"},
    ],
)
async def test_an_act_on_many_is_told_with_its_whole_filter(town: Town, only: dict[str, Any]) -> None:
    assert (await town.post("/admin/api/queue/cancel", only)).status == 200

    (entry,) = (await town.json("/admin/api/audit"))["entries"]

    assert entry["action"] == "cancel"
    assert {name: entry["detail"].get(name) for name in only} == only
