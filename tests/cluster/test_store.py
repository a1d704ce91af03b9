"""What PostgreSQL's store promises to nodes that work side by side, each promise alone."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from unittest.mock import AsyncMock, Mock

import asyncpg
import msgspec
import pytest
import uuid_utils

from server.clock import SystemClock
from server.cluster import ASTRAY_MS, Cluster
from server.log import Batch, Cursor, Gap, Log
from server.model import Event, Failure, NotificationTask, Outcome, Priority, Recipient, Status, Word
from server.store import Store, StoreUnavailable, open_store
from server.store.cluster import Beat, Node
from server.store.postgres import BEGIN, FROZEN_MS, MIGRATION_LOCK, WHOLE
from server.store.rows import chunk_cell
from server.store.settle import Again, End, Settle
from server.store.writes import Claim, Claimed, Enqueue, Renew, Sweep
from tests.pg import fresh_database

LEASE_MS = 30_000


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def task_of(kind: str = "infra", priority: Priority = Priority.NORMALE) -> NotificationTask:
    at_ms = now_ms()
    return NotificationTask(
        id=str(uuid_utils.uuid7()), type=kind, status=Status.PENDING, priority=priority, titre="alerte",
        message="Tempête", total=1, skipped=0, doublons=0, created_ms=at_ms, place_ms=at_ms, due_ms=0,
    )  # fmt: skip


async def enqueue(store: Store, *tasks: NotificationTask) -> list[NotificationTask]:
    """Have tasks stored, one recipient each."""
    cell = chunk_cell([Recipient(id="u1", nom="Jean", email="jean@example.org")])
    return await asyncio.gather(*(store.apply(Enqueue(task, [(0, cell)], 1_000)) for task in tasks))


async def claim(store: Store, node: str, slots: int = 2, express: int = 1, **rates: int) -> Claimed:
    claimed: Claimed = await store.apply(Claim(now_ms(), LEASE_MS, node, slots, express, rates))
    return claimed


def sent(n: int = 0) -> Outcome:
    return Outcome(n=n, run=1, round=1, attempt=1, channel="email", word=Word.SENT, at_ms=now_ms())


class Pair:
    """Two nodes' stores over one database, and a connection beside them."""

    def __init__(self, url: str, a: Store, b: Store, beside: asyncpg.Connection):
        self.url, self.a, self.b, self.beside = url, a, b, beside


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[Pair]:
    url = await fresh_database()
    a, b = open_store(url, tmp_path), open_store(url, tmp_path)
    await asyncio.gather(a.open(), b.open())
    beside = await asyncpg.connect(url)
    try:
        yield Pair(url, a, b, beside)
    finally:
        await beside.close()
        await asyncio.gather(a.close(), b.close())


async def test_what_another_node_looked_at_and_left_is_looked_at_again_at_once(pair: Pair) -> None:
    await enqueue(pair.a, task_of(), task_of("meteo"))
    looking = pair.beside.transaction()
    await looking.start()
    await pair.beside.execute("SELECT id FROM task FOR UPDATE")

    meanwhile = await claim(pair.a, "a")
    await looking.rollback()

    assert meanwhile.tasks == []
    assert meanwhile.retry_ms is not None and meanwhile.retry_ms - now_ms() <= 50
    assert len((await claim(pair.a, "a")).tasks) == 2
    assert (await claim(pair.a, "a")).retry_ms is None


async def test_two_nodes_that_claim_at_once_never_take_the_same_task_and_leave_none(pair: Pair) -> None:
    tasks = await enqueue(pair.a, *(task_of(("infra", "meteo", "sante")[n % 3]) for n in range(60)))

    taken: list[str] = []
    while len(taken) < len(tasks):
        both = await asyncio.gather(claim(pair.a, "a"), claim(pair.b, "b"))
        assert any(claimed.tasks or claimed.retry_ms for claimed in both)
        taken += [task.id for claimed in both for task in claimed.tasks]

    assert sorted(taken) == sorted(task.id for task in tasks)


async def test_the_most_urgent_goes_first_whichever_node_asks_and_the_express_lane_is_for_critique(pair: Pair) -> None:
    await enqueue(pair.a, task_of(), task_of(), task_of(priority=Priority.HAUTE))
    await enqueue(pair.b, task_of(priority=Priority.CRITIQUE), task_of(priority=Priority.CRITIQUE))

    first = await claim(pair.a, "a", slots=1, express=1)
    second = await claim(pair.b, "b", slots=0, express=1)
    third = await claim(pair.b, "b", slots=1, express=1)

    assert {task.priority for task in first.tasks} == {Priority.CRITIQUE} and len(first.tasks) == 2
    assert second.tasks == []
    assert [task.priority for task in third.tasks] == [Priority.HAUTE]


async def test_a_rate_per_minute_holds_for_all_nodes_together(pair: Pair) -> None:
    await enqueue(pair.a, *(task_of() for _ in range(20)))

    claims = await asyncio.gather(*(claim(store, "n", 3, 0, **{"": 5}) for store in (pair.a, pair.b) for _ in range(4)))

    assert sum(len(claimed.tasks) for claimed in claims) == 5
    assert all(claimed.retry_ms for claimed in claims if not claimed.tasks)


async def test_leases_go_by_the_databases_clock_whatever_a_nodes_own_says(pair: Pair) -> None:
    (task,) = await enqueue(pair.a, task_of())
    a_day_ms = 86_400_000

    await pair.a.apply(Claim(now_ms() - a_day_ms, LEASE_MS, "late", 1, 0))
    await pair.b.apply(Sweep(now_ms() + a_day_ms))

    held = await pair.b.task(task.id)
    assert held and held.status is Status.PROCESSING and held.fence == 1
    assert abs(held.lease_ms - now_ms() - LEASE_MS) < a_day_ms / 24  # type: ignore[operator]
    assert await pair.a.apply(Renew([(task.id, 1)], now_ms() - a_day_ms, LEASE_MS, "late")) == {task.id}


async def test_who_lost_a_lease_can_write_nothing_more_but_a_late_sent(pair: Pair) -> None:
    (task,) = await enqueue(pair.a, task_of())
    await claim(pair.a, "a")
    await pair.beside.execute("UPDATE task SET lease_ms = 1")
    await pair.b.apply(Sweep(now_ms()))
    (again,) = (await claim(pair.b, "b")).tasks

    refused = Outcome(n=0, run=1, round=1, attempt=1, channel="email", word=Word.REFUSED, at_ms=now_ms())
    assert await pair.a.apply(Renew([(task.id, 1)], now_ms(), LEASE_MS, "a")) == set()
    assert await pair.a.apply(Settle(task.id, 1, now_ms(), [refused], final=End(Failure(kind="unreached")))) is None
    assert await pair.a.apply(Settle(task.id, 1, now_ms(), [sent()], final=Again())) is None

    now = await pair.b.task(task.id)
    assert now and (now.status, now.fence, now.sent, now.node) == (Status.PROCESSING, again.fence, 1, "b")
    assert [row["word"] for row in await pair.beside.fetch("SELECT word FROM outcome")] == ["sent"]


async def test_seq_grows_in_commit_order_and_every_node_is_told_all_of_it_once(pair: Pair) -> None:
    told: dict[str, list[int]] = {"a": [], "b": []}
    complete = asyncio.Event()
    number = 300

    def listen(name: str) -> None:
        def tell(events: list[Event]) -> None:
            told[name] += [event.seq for event in events]
            if all(len(seqs) >= number for seqs in told.values()):
                complete.set()

        getattr(pair, name).on_commit.append(tell)

    listen("a")
    listen("b")
    await asyncio.gather(*(enqueue(store, task_of()) for _ in range(number // 2) for store in (pair.a, pair.b)))
    async with asyncio.timeout(60):
        await complete.wait()

    assert told["a"] == told["b"] == list(range(1, number + 1))


async def test_what_waits_on_a_deadlock_is_tried_again_and_done(pair: Pair) -> None:
    tasks = sorted(await enqueue(pair.a, task_of(), task_of()), key=lambda task: task.id)
    await claim(pair.a, "a")
    crossing = pair.beside.transaction()
    await crossing.start()
    await pair.beside.execute("SELECT 1 FROM task WHERE id = $1 FOR UPDATE", tasks[1].id)
    unreached = End(Failure(kind="unreached"))
    ending = [
        asyncio.create_task(pair.a.apply(Settle(task.id, 1, now_ms(), [sent()], final=unreached))) for task in tasks
    ]

    async def waits() -> bool:
        return bool(await pair.b.snapshot(lambda tx: tx.all("SELECT 1 FROM pg_locks WHERE NOT granted")))

    async with asyncio.timeout(60):
        while not await waits():
            pass
    try:
        await pair.beside.execute("SELECT 1 FROM task WHERE id = $1 FOR UPDATE", tasks[0].id)
    except asyncpg.DeadlockDetectedError:
        pass  # one of the two had to give way
    await crossing.rollback()

    assert [task.status for task in await asyncio.gather(*ending)] == [Status.COMPLETED, Status.COMPLETED]


@pytest.mark.parametrize("where", ["between two statements", "in the middle of one"])
async def test_a_node_that_freezes_in_the_middle_of_a_transaction_holds_nobody_up(
    pair: Pair, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    engine: Any = pair.a._engine
    apply, frozen, thawed = engine._apply, asyncio.Event(), asyncio.Event()

    async def freezing(tx: Any, ops: Any) -> Any:
        result = await apply(tx, ops)
        if where == "in the middle of one":
            await engine._writer.prepare("SELECT 1")  # to PostgreSQL its connection is at work until it is run
        frozen.set()
        await thawed.wait()
        return result

    with monkeypatch.context() as sooner:
        sooner.setattr("server.store.postgres.BEGIN", BEGIN.replace(str(FROZEN_MS), "200"))
        sooner.setattr("server.store.postgres.WHOLE", WHOLE.replace("8000", "400"))
        sooner.setattr(engine, "_apply", freezing)
        stuck = asyncio.create_task(enqueue(pair.a, task_of()))
        await frozen.wait()

    await enqueue(pair.b, task_of())  # or it would be told no, as the frozen one is still
    thawed.set()

    with pytest.raises(StoreUnavailable):
        await stuck
    await enqueue(pair.a, task_of())
    assert (await pair.b.bounds())[1] == 2


async def test_an_operation_that_cannot_be_done_spoils_no_other_of_its_transaction(pair: Pair) -> None:
    bad = msgspec.structs.replace(task_of(), titre="NUL \0 is no text")

    results = await asyncio.gather(
        enqueue(pair.a, task_of()), enqueue(pair.a, bad), enqueue(pair.a, task_of()), return_exceptions=True
    )

    assert isinstance(results[1], asyncpg.PostgresError)
    assert [task.status for found in (results[0], results[2]) for task in found] == [Status.PENDING] * 2  # type: ignore[union-attr]


async def test_a_listener_that_fails_stops_neither_the_store_nor_the_others(
    pair: Pair, caplog: pytest.LogCaptureFixture
) -> None:
    told: list[int] = []

    def fails(events: list[Event]) -> None:
        raise RuntimeError("a defect")

    pair.a.on_commit.append(fails)
    pair.b.on_commit.append(lambda events: told.extend(event.seq for event in events))
    await enqueue(pair.a, task_of())
    await enqueue(pair.a, task_of())
    await enqueue(pair.b, task_of())

    async with asyncio.timeout(60):
        while len(told) < 3:
            await pair.b.bounds()
    assert (await pair.a.bounds())[1] == 3
    assert "a defect" in caplog.text


@pytest.mark.parametrize("whose", ["%", "LISTEN%"])
async def test_connections_that_are_cut_are_made_again(pair: Pair, whose: str) -> None:
    told: list[int] = []
    pair.b.on_commit.append(lambda events: told.extend(event.seq for event in events))
    await enqueue(pair.a, task_of())
    await pair.beside.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()"
        " AND pid <> pg_backend_pid() AND query LIKE $1", whose,
    )  # fmt: skip

    stored = 1
    async with asyncio.timeout(60):
        while stored < 5:
            try:
                await enqueue(pair.a, task_of())
                stored += 1
            except StoreUnavailable:
                continue
        while not told or told[-1] < (await pair.beside.fetchval("SELECT n FROM counter WHERE name = 'seq'")):
            await pair.beside.fetchval("SELECT 1")
    assert told == list(range(1, told[-1] + 1))


async def test_a_node_that_comes_back_under_its_name_is_shown_as_it_is_now(pair: Pair) -> None:
    await pair.a.apply(Beat(Node("n", "1.0", 1_000, now_ms(), 2, 5, 7)))

    living, _, _ = await pair.b.apply(Beat(Node("n", "2.0", 2_000, now_ms(), 3, 0, 9)))

    assert [(node.version, node.started_ms, node.workers) for node in living] == [("2.0", 2_000, 3)]


async def test_a_node_that_starts_waits_for_another_ones_migration(tmp_path: Path) -> None:
    url = await fresh_database()
    beside = await asyncpg.connect(url)
    migrating = beside.transaction()
    await migrating.start()
    await beside.execute("SELECT pg_advisory_xact_lock($1)", MIGRATION_LOCK)
    store = open_store(url, tmp_path)
    opening = asyncio.create_task(store.open())
    async with asyncio.timeout(60):
        while not await beside.fetchval("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"):
            assert not opening.done()
    await migrating.rollback()
    await beside.close()

    await opening
    assert await store.bounds() == (1, 0)
    await store.close()


async def test_what_is_acknowledged_is_on_disk_even_where_the_database_is_set_to_care_less(tmp_path: Path) -> None:
    url = await fresh_database()
    beside = await asyncpg.connect(url)
    await beside.execute(f'ALTER DATABASE "{url.split("?")[0].rpartition("/")[2]}" SET synchronous_commit = off')
    store = open_store(url, tmp_path)
    await store.open()
    seen: list[str] = []
    apply = store._engine._apply  # type: ignore[attr-defined]

    async def looking(tx, ops):  # type: ignore[no-untyped-def]
        seen.append((await tx.all("SHOW synchronous_commit"))[0][0])
        return await apply(tx, ops)

    store._engine._apply = looking  # type: ignore[attr-defined]
    try:
        await enqueue(store, task_of())
    finally:
        await store.close()
        await beside.close()

    assert seen == ["on"]


async def test_a_reader_whom_another_node_told_more_waits_and_is_told_of_no_gap(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow: Any = pair.b._engine
    reading_on = slow._read_on
    monkeypatch.setattr(slow, "_read_on", AsyncMock())
    log = Log(pair.b, 100, SystemClock())
    pair.b.on_commit.append(log.append)
    await log.open()
    await enqueue(pair.a, *(task_of() for _ in range(5)))

    told_by_a = asyncio.create_task(Cursor(log, 4).read())
    of_another_log = await Cursor(log, 99).read()
    assert of_another_log == Gap(1, 0)
    assert log.head == 0 and not told_by_a.done()

    monkeypatch.setattr(slow, "_read_on", reading_on)
    async with asyncio.timeout(60):
        batch = await told_by_a
    assert isinstance(batch, Batch) and [event.seq for event in batch.events] == [5]


async def test_a_log_that_opens_misses_nothing_that_others_commit_meanwhile(pair: Pair) -> None:
    log = Log(pair.b, 100, SystemClock())
    pair.b.on_commit.append(log.append)
    opening = asyncio.create_task(log.open())
    await enqueue(pair.a, *(task_of() for _ in range(5)))
    await opening
    async with asyncio.timeout(60):
        await log.beyond(4)

    cursor, seqs = Cursor(log, 0), []
    while isinstance(batch := await cursor.read(), Batch):
        seqs += [event.seq for event in batch.events]
    assert seqs == [1, 2, 3, 4, 5]


async def test_a_connection_that_breaks_between_two_steps_of_its_protocol_is_storage_that_says_no(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine: Any = pair.a._engine

    async def breaks(tx: Any, *_: Any) -> Any:
        raise asyncpg.InternalClientError("cannot switch to state 15; another operation (2) is in progress")

    with monkeypatch.context() as patched:
        patched.setattr(engine, "_apply", breaks)
        with pytest.raises(StoreUnavailable):
            await enqueue(pair.a, task_of())
    with pytest.raises(StoreUnavailable):
        await pair.a.snapshot(breaks)

    await enqueue(pair.a, task_of())
    assert (await pair.a.bounds())[1] == 1


async def test_a_node_whose_clock_is_off_goes_by_the_databases(pair: Pair) -> None:
    """Planned times, back-off and webhooks' leases are written by one node and read by another."""

    class Slow(SystemClock):
        def now_ms(self) -> int:
            return super().now_ms() - 60_000

    clock = Slow()
    node = Mock(node="slow", workers=1, express_workers=1, hands={})
    cluster = Cluster(pair.a, node, Mock(values=list), Mock(nodes=[]), clock, lambda: 0)
    assert clock.now_ms() < now_ms() - 59_000

    await cluster.beat()

    assert abs(clock.now_ms() - now_ms()) < 30_000  # off by half the time that the answer took, at the most
    clock.ahead_ms = 60_000 - ASTRAY_MS // 2
    await cluster.beat()
    assert clock.ahead_ms == 60_000 - ASTRAY_MS // 2, "what is right but for a trifle is left alone"
