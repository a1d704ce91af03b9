"""A task that is stored as claimed passes nobody who was there before it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import uuid_utils

from server.model import NotificationTask, Priority, Recipient, Status
from server.store import open_store
from server.store.rows import chunk_cell
from server.store.writes import Enqueue, Taking
from tests.stores import store_url


def new(priority: Priority, taking: Taking | None, due_ms: int = 0) -> Enqueue:
    task = NotificationTask(
        id=str(uuid_utils.uuid7()), type="infra", status=Status.PENDING, priority=priority, titre="t", message="m",
        total=1, created_ms=1, place_ms=1, due_ms=due_ms,
    )  # fmt: skip
    cell = chunk_cell([Recipient(id="u1", nom="Jean", email="jean@example.org")])
    return Enqueue(task, [(0, cell)], 1_000, taking=taking)


async def test_no_worker_is_given_to_what_was_sent_behind_a_task_that_waits(both_engines: str, tmp_path: Path) -> None:
    store = open_store(await store_url(tmp_path), tmp_path)
    await store.open()
    try:
        together = [
            new(Priority.NORMALE, None, due_ms=10**14),  # planned: nobody waits for it
            new(Priority.NORMALE, Taking("n", 30_000, 0)),
            new(Priority.CRITIQUE, None),  # no worker was free as it came
            new(Priority.NORMALE, Taking("n", 30_000, 0)),  # one was by then
        ]
        stored = await asyncio.gather(*(store.submit(op) for op in together))
        assert [task.status for task in stored] == ["pending", "processing", "pending", "pending"]
    finally:
        await store.close()
