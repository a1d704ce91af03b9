"""A task that one node has in hand, cancelled and wanted again, and taken up by another."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import stores
from tests.api.test_in_hand import calls
from tests.kit import jean, running


async def test_who_is_being_called_by_one_node_is_not_called_again_by_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(stores.ENGINE, "name", "postgres")
    one = {"QUEUE__WORKERS": "1", "QUEUE__EXPRESS_WORKERS": "0", "DELIVERY__CONCURRENCY": "2"}
    two = {"QUEUE__WORKERS": "1", "QUEUE__EXPRESS_WORKERS": "0"}
    async with running(tmp_path, "a", **one) as a, running(tmp_path, "b", a.clock, **two) as b:
        first, second = a.service("email"), b.service("email")
        first.hold()
        await a.until(lambda: a.pool.caught_up)
        task_id = await a.send("infra", [jean(number) for number in range(4)])
        await calls(first, 2)
        await a.post(f"/api/queue/tasks/{task_id}/cancel")
        again = (await (await b.post(f"/api/queue/tasks/{task_id}/retry")).json())["task"]
        b.clock.turn(5)

        first.release()
        await a.until(lambda: not a.pool.hands)
        b.clock.turn(7)
        await b.until_status(task_id, "completed")

        assert sorted(first.reached + second.reached) == ["u0", "u1", "u2", "u3"]
        assert again["next_attempt_at_iso"] is not None
