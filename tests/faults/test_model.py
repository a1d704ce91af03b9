"""A small model of the contract, and a state machine that tries the public API against it.

The model knows recipients, rounds and runs, and nothing of batches, leases or workers. After every step each task's
status, each recipient's standing and attempts, every call that reached the far end, and the counters must agree.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections import Counter
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, precondition, rule
from msgspec import Struct

from notifiers import Message, Outcome, Refused, RetryLater, Sent
from server.app import CHANNELS
from server.queue import WRITE_MS
from server.store import open_store
from server.store.verify import verify
from tests.faults.checkers import check_log, contents, contents_on_postgres, verified
from tests.kit import Town, running
from tests.pg import fresh_database

MAX_ATTEMPTS = 5  # queue.max_attempts as shipped
LONG_S = 400  # longer than the longest back-off
ANSWERS: dict[str, Outcome] = {
    "sent": Sent(),
    "later": RetryLater("busy"),
    "refused": Refused("address_refused", "550"),
}
PEOPLE = [f"u{number}" for number in range(4)]
WORDS = st.lists(st.sampled_from(sorted(ANSWERS)), min_size=len(PEOPLE), max_size=len(PEOPLE))


class Person(Struct):
    """One recipient of one task, as the contract sees it."""

    id: str
    active: bool
    standing: str = "waiting"
    attempts: int = 0
    calls: int = 0


class Task(Struct):
    """One task, as the contract sees it."""

    id: str
    people: list[Person]
    status: str = "pending"
    ready: bool = True
    planned_ms: int = 0
    expires_ms: int = 0
    begun: bool = False
    cancelled_ms: int = 0

    def waiting(self) -> list[Person]:
        return [person for person in self.people if person.standing == "waiting"]

    def round(self, answers: dict[str, str]) -> None:
        """Everybody who waits is called once."""
        self.begun = True
        for person in self.waiting():
            person.calls += 1
            person.attempts += 1
            match answers[person.id]:
                case "sent" | "refused" as word:
                    person.standing = word
                case _ if person.attempts == MAX_ATTEMPTS:
                    person.standing = "gave_up"
        if self.waiting():
            self.ready = False
        else:
            left = any(person.active and person.standing != "sent" for person in self.people)
            self.status = "failed" if left else "completed"

    def end(self, status: str, standing: str) -> None:
        """It ends before everybody was reached."""
        self.status = status
        for person in self.waiting():
            person.standing = standing

    def again(self, now_ms: int, wire_ms: int) -> None:
        """An operator's retry: a new run for those not reached, at its time; where it was just cancelled, once it must
        be known whom its last calls reached."""
        known_ms = self.cancelled_ms + wire_ms if self.begun and self.status == "cancelled" else 0
        self.status, self.ready = "pending", max(self.planned_ms, known_ms) <= now_ms
        for person in self.people:
            if person.active and person.standing != "sent":
                person.standing, person.attempts = "waiting", 0
            elif person.active:
                person.attempts = 1  # of an earlier run: shown as the one that reached them


class Contract(RuleBasedStateMachine):
    """Random walks over the API."""

    tasks = Bundle("tasks")
    environ: dict[str, str] = {"QUEUE__RETENTION_HOURS": "0", "EVENTS__RETENTION_HOURS": "0"}

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.runner = asyncio.Runner()
        self.url = self.run(self.database())
        self.stack = AsyncExitStack()
        self.town: Town = self.run(self.stack.enter_async_context(self.started()))
        self.service = self.town.service("email")
        self.service.always(self.answer)
        self.model: dict[str, Task] = {}
        self.answers = dict.fromkeys(PEOPLE, "sent")
        self.paused = False
        self.totals: Counter[str] = Counter()
        self.gone: set[str] = set()

    async def database(self) -> str:
        """The store's URL, of a new and empty one."""
        return "sqlite:tocsin.db"

    def wire_ms(self) -> int:
        """What a call's outcome takes at most to be known, where another node may have made it."""
        return 0

    def started(self) -> AbstractAsyncContextManager[Town]:
        return running(Path(self.folder.name), STORE__URL=self.url, **self.environ)

    async def faults(self) -> list[str]:
        """What is wrong with the store, at rest."""
        database = Path(self.folder.name) / "tocsin.db"
        found = contents(database)
        return found.faults + check_log(found) + await verified(database)

    def run(self, work: Any) -> Any:
        async def bounded() -> Any:
            async with asyncio.timeout(300):
                return await work

        return self.runner.run(bounded())

    def answer(self, message: Message) -> Outcome:
        return ANSWERS[self.answers[message.recipient]]

    def teardown(self) -> None:
        self.run(self.stack.aclose())
        faults = self.run(self.faults())
        self.runner.close()
        self.folder.cleanup()
        assert faults == []

    # --- what the model does when it may ------------------------------------------------------------

    def work(self) -> None:
        """Whatever is ready has its round; then both sides are compared (`agrees`)."""
        for task in self.model.values():
            if task.status == "pending" and task.ready and not self.paused:
                task.round(self.answers)
                if task.status != "pending":
                    self.totals[task.status] += 1

    # --- rules -----------------------------------------------------------------------------------------

    @initialize(words=WORDS)
    def begin(self, words: list[str]) -> None:
        """An empty queue, and a far end that answers each recipient in its own way."""
        self.answers = dict(zip(PEOPLE, words, strict=True))

    @rule(
        target=tasks,
        active=st.lists(st.booleans(), min_size=1, max_size=4),
        doubled=st.booleans(),
        planned_s=st.sampled_from([0, 0, 0, LONG_S // 2]),
        expires_s=st.sampled_from([0, 0, LONG_S // 2 + 60, 3 * LONG_S]),
        key=st.booleans(),
    )
    def send(self, active: list[bool], doubled: bool, planned_s: int, expires_s: int, key: bool) -> str:
        now_ms = self.town.clock.now_ms()
        people = [Person(PEOPLE[n], flag, "waiting" if flag else "skipped") for n, flag in enumerate(active)]
        body: dict[str, Any] = {
            "titre": "alerte", "message": "Tempête",
            "utilisateurs": [
                {"id": p.id, "nom": p.id, "email": f"{p.id}@example.org", "preferences": {"actif": p.active}}
                for p in (people + people[:1] if doubled else people)
            ],
        }  # fmt: skip
        for name, seconds in (("planifiee_a", planned_s), ("expire_a", expires_s)):
            if seconds:
                body[name] = datetime.fromtimestamp(now_ms / 1000 + seconds, UTC).isoformat()
        headers = {"Idempotency-Key": f"key-{len(self.model)}-{len(self.gone)}"} if key else {}
        task_id: str = self.run(self.posted("/api/notifications/meteo", body, 202, **headers))["task_id"]
        if key:
            assert self.run(self.posted("/api/notifications/meteo", body, 202, **headers))["task_id"] == task_id
        self.model[task_id] = Task(
            task_id, people, ready=not planned_s, planned_ms=now_ms + planned_s * 1000 if planned_s else 0,
            expires_ms=now_ms + expires_s * 1000 if expires_s else 0,
        )  # fmt: skip
        self.totals["enqueued"] += 1
        self.work()
        return task_id

    @rule(words=WORDS)
    def the_far_end_answers(self, words: list[str]) -> None:
        self.answers = dict(zip(PEOPLE, words, strict=True))

    @rule(turns=st.integers(1, MAX_ATTEMPTS))
    def time_passes(self, turns: int) -> None:
        for _ in range(turns):
            self.turn()
            self.agrees()

    def turn(self) -> None:
        """Everything that waits for a time is due; what has expired by then fails."""
        self.town.clock.turn(LONG_S)
        now_ms = self.town.clock.now_ms()
        for task in self.model.values():
            if task.status != "pending":
                continue
            if task.expires_ms and task.expires_ms <= now_ms:
                task.end("failed", "expired")
                self.totals["failed"] += 1
            else:
                task.ready = True
        self.work()

    @rule(task_id=tasks)
    def cancel(self, task_id: str) -> None:
        task = self.model.get(task_id)
        may = task is not None and task.status == "pending"
        self.run(self.posted(f"/api/queue/tasks/{task_id}/cancel", None, 200 if may else 409 if task else 404))
        if task and may:
            task.end("cancelled", "cancelled")
            task.cancelled_ms = self.town.clock.now_ms()

    @rule(task_id=tasks)
    def retry(self, task_id: str) -> None:
        task = self.model.get(task_id)
        late = task is not None and 0 < task.expires_ms <= self.town.clock.now_ms()
        may = task is not None and task.status in ("failed", "cancelled") and not late
        self.run(self.posted(f"/api/queue/tasks/{task_id}/retry", None, 200 if may else 409 if task else 404))
        if task and may:
            task.again(self.town.clock.now_ms(), self.wire_ms())
            self.work()

    @precondition(lambda self: self.model and not self.paused)
    @rule()
    def pause(self) -> None:
        self.run(self.posted("/admin/api/queue/pause", {}, 200))
        self.paused = True

    @precondition(lambda self: self.paused)
    @rule()
    def resume(self) -> None:
        self.run(self.posted("/admin/api/queue/resume", {}, 200))
        self.paused = False
        self.work()

    @precondition(lambda self: len(self.model) > 3)
    @rule()
    def clear(self) -> None:
        ended = {each for each, task in self.model.items() if task.status != "pending"}
        body = {"hours": 0, "status": ["completed", "failed", "cancelled"]}
        assert self.run(self.posted("/admin/api/queue/clear", body, 200))["removed"] == len(ended)
        for each in ended:
            del self.model[each]
        self.gone |= ended

    async def posted(self, path: str, body: Any, status: int, **headers: str) -> Any:
        answer = await self.town.post(path, body, **headers)
        assert answer.status == status, await answer.text()
        return await answer.json()

    # --- both sides agree -----------------------------------------------------------------------------

    @invariant()
    def agrees(self) -> None:
        self.run(self.compare())

    async def compare(self) -> None:
        town = self.town
        if self.paused:  # what is ready stays; what has expired fails all the same
            await town.until(self.expired)
        else:
            await town.until_idle()
        for task in self.model.values():
            assert (await town.task(task.id))["status"] == task.status
            rows = {row["id"]: (row["status"], row["attempts"]) for row in await town.deliveries(task.id)}
            said = {p.id: (p.standing, p.attempts if p.active else 0) for p in task.people}
            assert rows == said, task
        called = Counter((call.id.rpartition(".")[0], call.recipient) for call in self.service.calls)
        for task in self.model.values():
            for person in task.people:
                assert called[task.id, person.id] == person.calls
        stats = (await town.json("/api/queue/stats"))["stats"]
        by_status = Counter(task.status for task in self.model.values())
        assert {name: n for name, n in stats["tasks_by_status"].items() if n} == dict(by_status)
        totals = (stats["total_enqueued"], stats["total_processed"], stats["total_failed"], stats["paused"])
        assert totals == (self.totals["enqueued"], self.totals["completed"], self.totals["failed"], self.paused)

    async def expired(self) -> bool:
        late = [task.id for task in self.model.values() if task.status == "failed" and task.expires_ms]
        return all([(await self.town.task(task_id))["status"] == "failed" for task_id in late])


class ContractOnPostgres(Contract):
    """The same over PostgreSQL."""

    async def database(self) -> str:
        return await fresh_database()

    def wire_ms(self) -> int:
        longest_s = max(channel.settings.timeout_s for channel in self.town.app[CHANNELS].values())
        return int(longest_s * 1000) + WRITE_MS

    async def faults(self) -> list[str]:
        found = await contents_on_postgres(self.url)
        store = open_store(self.url, Path(self.folder.name), serve=False)
        await store.open()
        try:
            return check_log(found) + [f"verify: {finding}" for finding in await verify(store)]
        finally:
            await store.close()


Contract.TestCase.settings = settings(max_examples=15, stateful_step_count=30)
test_the_api_does_what_the_contract_says = Contract.TestCase
ContractOnPostgres.TestCase.settings = settings(max_examples=6, stateful_step_count=30)
test_the_api_does_so_on_postgresql_too = ContractOnPostgres.TestCase
