"""The QueueManager: what may be done to a task, and what is answered.

Everything that changes a task from outside comes through here: it checks, hands one operation to the store, and
tells the worker pool what it must know at once. Who may ask is the API's business, how it is stored the store's.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec
import uuid_utils
from msgspec import Struct

from server.channels import Channels
from server.clock import Clock
from server.config import Settings
from server.http.problems import (
    Draining,
    EmptyFilter,
    FieldError,
    IdempotencyConflict,
    IdempotencyInHand,
    InvalidFields,
    QueueFull,
    TaskHasEnded,
    TaskNotEnded,
    UnknownTask,
    UnknownType,
)
from server.i18n import accepted_text
from server.model import (
    DAY_MS,
    ApiKey,
    AuditEntry,
    Delivery,
    NewNotification,
    NotificationTask,
    Person,
    Standing,
    Status,
    parse_priority,
    settled,
    stand,
    to_ms,
)
from server.store import Store, StoreUnavailable
from server.store.desk import Remove
from server.store.orders import Cancel, Pause, Refusal, Retry
from server.store.reads import Chunk, Page, TaskFilter
from server.store.writes import Enqueue, Full, Idempotency, InHand, Replayed
from server.vetting import MAX_ERRORS, Vetted, salvage, vet
from server.workers import WorkerPool

MANY = 1_000
"""Recipients from which on they are looked at in a thread, beside the event loop."""
MOST_AHEAD_DAYS = 366
LAST_MS = 253_402_300_799_999
"""The end of the year 9999 in UTC: the last moment that can be written."""
BULK = 200
"""Tasks that a bulk action has under way at once."""
CHUNKS_PER_PAGE = 40
"""Chunks that one page of deliveries looks through at the most; it then gives a cursor and what it found."""

WRITE_MS = 1_000
"""Where nodes share the store, what a call came to is known to all of them so long after it has come back."""
LOOK_S = 0.05
"""Between two looks at whether another node has let go of a cancelled task."""

_json = msgspec.json.Encoder()


class Accepted(Struct, frozen=True, gc=False):
    """What a POST answers: the notification is stored and will be sent."""

    success: bool
    message: str
    type: str
    task_id: str
    status: str


class Answer(Struct, frozen=True, gc=False):
    """An acceptance as it goes out: encoded, and whether it repeats an earlier one (Idempotency-Key)."""

    task_id: str
    body: bytes
    replayed: bool = False


def _again(before: Replayed) -> Answer:
    return Answer(msgspec.json.decode(before.answer, type=Accepted).task_id, before.answer, replayed=True)


class BulkResult(Struct, frozen=True):
    """What came of a bulk action, in tasks."""

    success: bool
    count: int
    done: int = 0
    skipped: int = 0
    failed: int = 0


class QueueManager:
    """The queue, as those see it who send, watch and operate."""

    def __init__(self, store: Store, pool: WorkerPool, channels: Channels, settings: Settings, clock: Clock):
        self._store = store
        self._pool = pool
        self._channels = channels
        self._settings = settings
        self._clock = clock
        self._in_hand: set[tuple[str, str]] = set()  # (API key, Idempotency-Key) of requests not yet answered
        self.check_webhook: Callable[[str], str | None] = lambda url: None
        """Why a completion webhook to `url` is out of the question (a catalogue key), if it is."""

    # --- sending -------------------------------------------------------------------------------------

    async def enqueue(
        self,
        type_name: str,
        new: NewNotification,
        by: ApiKey,
        lang: str = "fr",
        idempotency: str | None = None,
        address: str = "",
    ) -> Answer:
        """Store a notification as a task; when this returns it is on stable storage.

        Raises UnknownType, InvalidFields (all of them), QueueFull, Draining, IdempotencyConflict or -InHand;
        StoreUnavailable if storage says no.
        """
        if self._pool.draining:
            raise Draining()
        kind = self._settings.types.get(type_name)
        if kind is None:
            raise UnknownType()
        if idempotency is None:
            return await self._enqueue(type_name, new, by, lang, None, address)
        slot = (by.id, idempotency)
        if slot in self._in_hand:
            raise IdempotencyInHand()
        self._in_hand.add(slot)
        try:
            return await self._enqueue(type_name, new, by, lang, idempotency, address)
        finally:
            self._in_hand.discard(slot)

    async def _enqueue(
        self, type_name: str, new: NewNotification, by: ApiKey, lang: str, idempotency: str | None, address: str
    ) -> Answer:
        kind = self._settings.types[type_name]
        now_ms = self._clock.now_ms()
        errors, people, planned_ms, expires_ms = await self._look(type_name, new, now_ms)
        idem = None
        if idempotency is not None:
            digest = hashlib.sha256(type_name.encode() + b"\0" + _json.encode(new)).hexdigest()
            idem = Idempotency(by.id, idempotency, digest, b"", now_ms - DAY_MS)
        if errors:  # a repeat may come when it is too late for a first one: what was accepted is answered again
            if idem and (before := await self._store.answered(idem)) and before.same:
                return _again(before)
            raise InvalidFields(errors=errors[:MAX_ERRORS])
        task = NotificationTask(
            id=str(uuid_utils.uuid7()), type=type_name, status=Status.PENDING,
            priority=parse_priority(new.priorite) if new.priorite else kind.priority,
            titre=new.titre, message=new.message,
            total=people.total, skipped=people.skipped, doublons=people.doublons, created_ms=now_ms,
            place_ms=planned_ms or now_ms, due_ms=planned_ms or 0, planned_ms=planned_ms, expires_ms=expires_ms,
            webhook_url=new.webhook_url, key_id=by.id,
        )  # fmt: skip
        message = accepted_text(type_name, kind.label_in(lang) or type_name, lang)
        body = _json.encode(Accepted(True, message, type_name, task.id, Status.PENDING.value))
        if idem:
            idem = msgspec.structs.replace(idem, answer=body)
        audit = AuditEntry(
            at_ms=now_ms, key_id=by.id, key_name=by.name, action="send", target=task.id, address=address,
            detail={"type": type_name, "recipients": people.total},
        )  # fmt: skip
        taking = None if planned_ms else self._pool.keep(task.priority)
        enqueue = Enqueue(task, people.chunks, self._settings.queue.max_pending, idem, audit, taking)

        def begin(stored: object) -> None:
            if taking and isinstance(stored, NotificationTask) and stored.status is Status.PROCESSING:
                self._pool.begin(taking, stored, Chunk(0, people.first, {}))
            elif taking:
                self._pool.release(taking)
            self._expect(stored)

        def may_have_begun(stored: object) -> None:
            if taking and isinstance(stored, NotificationTask) and stored.status is Status.PROCESSING:
                self._pool.unsure.add(stored, Chunk(0, people.first, {}), taking.begun_s)
            self._expect(stored)

        enqueue.late, enqueue.unsure = begin, may_have_begun
        try:
            stored = await self._store.apply(enqueue)
        except BaseException:
            if taking:
                self._pool.release(taking)
            raise
        begin(stored)
        match stored:
            case Full():
                raise QueueFull()
            case InHand():
                raise IdempotencyInHand()
            case Replayed(same=False):
                raise IdempotencyConflict()
            case Replayed():
                return _again(stored)
        return Answer(task.id, body)

    def _expect(self, stored: object) -> None:
        """A task was stored, or may have been: there may be a time to wait for."""
        if isinstance(stored, NotificationTask):
            self._pool.expect(stored.due_ms)
            self._pool.expect(stored.expires_ms)

    async def objections(self, type_name: str, raw: Any) -> list[FieldError]:
        """What is wrong with those parts of a body (as JSON) that fit their types, where others do not."""
        if not isinstance(raw, dict):
            return []
        new = await asyncio.to_thread(salvage, raw, self._settings.limits.recipients)
        return (await self._look(type_name, new, self._clock.now_ms()))[0]

    async def _look(
        self, type_name: str, new: NewNotification, now_ms: int
    ) -> tuple[list[FieldError], Vetted, int | None, int | None]:
        """What is wrong with what fits its types; the recipients; planned and expires (epoch ms)."""
        if len(new.utilisateurs) < MANY:
            errors, people = vet(type_name, new.utilisateurs, self._channels, self._settings)
        else:
            errors, people = await asyncio.to_thread(vet, type_name, new.utilisateurs, self._channels, self._settings)
        planned_ms, expires_ms = self._times(new, now_ms, errors)
        if new.webhook_url and (why := self.check_webhook(new.webhook_url)):
            errors.append(FieldError("/webhook_url", why))
        return errors, people, planned_ms, expires_ms

    def _times(self, new: NewNotification, now_ms: int, errors: list[FieldError]) -> tuple[int | None, int | None]:
        """(planned, expires) in epoch ms; a planned time that has passed means now."""
        planned_ms = to_ms(new.planifiee_a) if new.planifiee_a else None
        expires_ms = to_ms(new.expire_a) if new.expire_a else None
        if planned_ms is not None and planned_ms <= now_ms:
            planned_ms = None
        if planned_ms is not None and planned_ms > now_ms + MOST_AHEAD_DAYS * DAY_MS:
            errors.append(FieldError("/planifiee_a", "field.too_far", {"n": MOST_AHEAD_DAYS}))
        if expires_ms is not None and expires_ms <= now_ms:
            errors.append(FieldError("/expire_a", "field.in_the_past"))
        elif expires_ms is not None and planned_ms is not None and expires_ms <= planned_ms:
            errors.append(FieldError("/expire_a", "field.before_planned"))
        elif expires_ms is not None and expires_ms > LAST_MS:
            errors.append(FieldError("/expire_a", "field.datetime"))
        return planned_ms, expires_ms

    # --- looking -------------------------------------------------------------------------------------

    async def task(self, task_id: str) -> NotificationTask:
        """One task. Raises UnknownTask."""
        task = await self._store.task(task_id)
        if task is None:
            raise UnknownTask()
        return task

    async def page(self, only: TaskFilter, limit: int, before: str | None) -> Page:
        """Tasks, newest first."""
        return await self._store.page(only, limit, before)

    async def deliveries(
        self, task: NotificationTask, only: frozenset[Standing], q: str, limit: int, after: int
    ) -> tuple[list[Delivery], int | None]:
        """Recipients behind ordinal `after` with where each stands, and the ordinal to go on behind (None: the end).

        A page may be short and still go on: it looks through a bounded number of recipients.
        """
        found: list[Delivery] = []
        n = after
        for _ in range(CHUNKS_PER_PAGE):
            chunk = await self._store.chunk_holding(task.id, n + 1)
            if chunk is None or chunk.n + len(chunk.recipients) <= n + 1:
                return found, None
            for n, person in enumerate(chunk.recipients, chunk.n):
                if n <= after:
                    continue
                if (
                    q
                    and q not in person.id.lower()
                    and q not in person.nom.lower()
                    and q not in (person.email or "").lower()
                ):
                    continue
                delivery = self.delivery(task, n, person, chunk.outcomes.get(n, []))
                if only and delivery.standing not in only:
                    continue
                if len(found) == limit:
                    return found, found[-1].n
                found.append(delivery)
            after = n
        return found, n

    def delivery(self, task: NotificationTask, n: int, person: Person, outcomes: list) -> Delivery:  # type: ignore[type-arg]
        """Where one recipient of `task` stands."""
        route = self._channels.route(task.type, person)
        now = stand(n, person, route, outcomes, task.run, self._settings.queue.max_attempts)
        return msgspec.structs.replace(now, standing=settled(now.standing, task))

    # --- operating -----------------------------------------------------------------------------------

    async def cancel(self, task_id: str, audit: AuditEntry | None = None) -> NotificationTask:
        """Stop a task; no call begins after this has returned. Raises UnknownTask, TaskHasEnded."""
        match await self._store.apply(Cancel(task_id, self._clock.now_ms(), audit)):
            case Refusal(task=None):
                raise UnknownTask()
            case Refusal():
                raise TaskHasEnded()
            case NotificationTask() as task:
                self._pool.stop(task_id, "cancelled")
                if self._store.shared and task.node not in (None, self._pool.node):
                    await self._until_let_go(task)
                return task
        raise AssertionError("unreachable")

    async def _until_let_go(self, task: NotificationTask) -> None:
        """Wait until the node that has `task` in hand calls nobody more: by its word, or once its lease is over."""
        deadline = self._clock.monotonic() + self._settings.queue.lease_s
        while self._clock.monotonic() < deadline:
            now = await self._store.task(task.id)
            if now is None or now.node != task.node or now.fence != task.fence:
                return
            await self._clock.sleep(LOOK_S)

    async def retry(self, task_id: str, audit: AuditEntry | None = None) -> NotificationTask:
        """Send an ended task again to those not reached. Raises UnknownTask, TaskNotEnded."""
        wire_s = max((channel.settings.timeout_s for channel in self._channels.values()), default=0)
        wire_ms = int(wire_s * 1000) + WRITE_MS if self._store.shared else 0
        retry = Retry(task_id, self._clock.now_ms(), wire_ms, audit)
        retry.late = retry.unsure = self._expect
        match await self._store.apply(retry):
            case Refusal(task=None):
                raise UnknownTask()
            case Refusal():
                raise TaskNotEnded()
            case NotificationTask() as task:
                self._expect(task)
                return task
        raise AssertionError("unreachable")

    async def bulk(self, action: str, only: TaskFilter, *, dry_run: bool) -> BulkResult:
        """`cancel` or `retry` every task that `only` lets through; with `dry_run`, count them, and apart (`skipped`)
        those that it would leave as they are. Raises EmptyFilter.
        """
        if only.empty:
            raise EmptyFilter()
        move = self.cancel if action == "cancel" else self.retry
        may = Cancel.may if action == "cancel" else Retry.may
        count = done = skipped = failed = 0
        async for tasks in self._matching(only):
            count += len(tasks)
            if dry_run:
                skipped += sum(not may(task.status) for task in tasks)
                continue
            outcomes = await asyncio.gather(*(move(task.id) for task in tasks), return_exceptions=True)
            for outcome in outcomes:
                match outcome:
                    case NotificationTask():
                        done += 1
                    case TaskHasEnded() | TaskNotEnded() | UnknownTask():
                        skipped += 1
                    case StoreUnavailable():
                        failed += 1
                    case BaseException() as error:
                        raise error
        return BulkResult(True, count, done, skipped, failed)

    async def _matching(self, only: TaskFilter) -> AsyncIterator[list[NotificationTask]]:
        before: str | None = None
        while True:
            page = await self._store.page(only, BULK, before)
            if page.tasks:
                yield page.tasks
            if page.cursor is None:
                return
            before = page.cursor

    async def clear(self, hours: float, statuses: tuple[Status, ...]) -> int:
        """Remove tasks that ended at least `hours` ago; how many were removed."""
        now_ms = self._clock.now_ms()
        removed = 0
        for status in statuses:
            while some := await self._store.apply(Remove(status, now_ms - int(hours * 3_600_000), now_ms)):
                removed += some
        return removed

    async def pause(self, by: ApiKey, audit: AuditEntry | None = None, *, paused: bool) -> bool:
        """Have workers stop (or go on) taking tasks; whether that changed anything."""
        changed: bool = await self._store.apply(Pause(paused, self._clock.now_ms(), by.name, audit))
        return changed
