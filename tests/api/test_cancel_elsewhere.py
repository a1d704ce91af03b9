"""A task that one node has in hand, cancelled and wanted again, and taken up by another."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

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


async def test_a_task_wanted_again_is_worked_on_though_its_cancelling_is_heard_of_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(stores.ENGINE, "name", "postgres")
    one = {"QUEUE__WORKERS": "1", "QUEUE__EXPRESS_WORKERS": "0", "DELIVERY__CONCURRENCY": "1"}
    none = {"QUEUE__WORKERS": "0", "QUEUE__EXPRESS_WORKERS": "0"}
    async with running(tmp_path, "a", **one) as a, running(tmp_path, "b", a.clock, **none) as b:
        email, app = a.service("email"), a.service("app")
        email.hold()
        app.hold()
        await a.send("infra")
        await calls(email, 1)
        task_id = await a.send("infra", [jean(number, canal="app") for number in (1, 2)])
        heard = asyncio.Event()
        engine: Any = a.store._engine
        read_on = engine._read_on

        async def later() -> None:
            await heard.wait()
            await read_on()

        monkeypatch.setattr(engine, "_read_on", later)
        assert (await b.post(f"/api/queue/tasks/{task_id}/cancel")).status == 200
        assert (await b.post(f"/api/queue/tasks/{task_id}/retry")).status == 200
        email.release()
        await calls(app, 1)
        _, newest = await a.store.bounds()
        heard.set()
        await a.until(lambda: engine._told >= newest)

        assert a.pool.hands[task_id].stopped == ""
        app.release()
        assert (await a.until_status(task_id, "completed"))["progress"]["sent"] == 2
