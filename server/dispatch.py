"""One task in hand: its recipients minus the outcomes recorded so far, each through a channel.

A round goes once over everybody who is still to be reached. Outcomes are recorded as they come: at no moment are
more calls on the wire or unrecorded than `delivery.concurrency`, so a crash can repeat no more than that. What
becomes of the task after a round is a pure decision (`verdict`). Recipients are read a chunk at a time.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, deque
from collections.abc import Callable

import msgspec
from msgspec import Struct

from server.channels import Channel, Channels, Message, NotCalled, Outcome, Refused, RetryLater, Sent
from server.clock import Clock
from server.config import Settings
from server.model import Failure, NotificationTask, Person, Standing, Wait, Word, stand, wait_s
from server.model import Outcome as Record
from server.store import Store, StoreUnavailable
from server.store.reads import Chunk
from server.store.settle import Again, End, Settle

log = logging.getLogger("tocsin.dispatch")

TELL_S = 0.25
"""task.progress at most this often per task."""
KEEP_PLACE = frozenset({"drain", "ahead"})
"""What is given back for these reasons has not had its turn."""
RETRY_AFTER_MOST_S = 3600.0
"""A service may ask for patience, but not for ever."""


class Round(Struct):
    """What one round came to."""

    complete: bool = False  # it went over everybody
    waiting: int = 0  # recipients to be tried again
    called: bool = False
    retry_after_s: float = 0.0  # the longest that a service asked for
    held_s: float | None = None  # a breaker is open for so long


def verdict(
    outcome: Round, task: NotificationTask, failure: Failure, now_ms: int, policy: Wait, spread: float
) -> End | Again:
    """What becomes of `task` after a round. `spread` in 0..1 is the jitter's draw."""
    if outcome.complete and not outcome.waiting:
        return End(failure)
    if task.expires_ms is not None and now_ms >= task.expires_ms:
        return End(Failure(kind="expired", unreached=failure.unreached, total=failure.total))
    if not outcome.complete:
        return Again(called=False)
    if not outcome.called and outcome.held_s is not None:
        return Again(due_ms=now_ms + int(max(outcome.held_s, 0.1) * 1000), called=False)
    pause = max(min(outcome.retry_after_s, RETRY_AFTER_MOST_S), wait_s(task.attempts, policy, spread))
    return Again(due_ms=now_ms + max(int(pause * 1000), 1))


class _Job(Struct, gc=False):
    n: int
    recipient: Person
    channel: str
    attempt: int


class Dispatch:
    """The working of one claimed task, from its claim to its settling."""

    def __init__(
        self, task: NotificationTask, store: Store, channels: Channels, settings: Settings, clock: Clock,
        draw: Callable[[], float], first: Chunk | None = None,
    ):  # fmt: skip
        """`draw` gives the jitter, 0..1; `first` is the task's first chunk of recipients, if it is at hand."""
        self.task = task
        self.since_ms = clock.now_ms()
        self.stopped = ""  # why: "lost" (its lease), "cancelled", "expired", "failed", "drain", "turn" (others wait) …
        self.lease_until = clock.monotonic() + settings.queue.lease_s
        self._store = store
        self._channels = channels
        self._settings = settings
        self._clock = clock
        self._draw = draw
        self.settling = False  # all calls are done, only the last write is under way
        self._jobs: deque[_Job] = deque()
        self._next_n = 0
        self._read_all = False
        self._reading: asyncio.Lock = asyncio.Lock()
        self._on_wire = 0
        self._unrecorded: list[Record] = []
        self._recording: asyncio.Task[None] | None = None
        self._extra: set[asyncio.Task[None]] = set()
        self._round = Round()
        self._reasons: Counter[tuple[str, str]] = Counter()
        self._failed = 0
        self._known = task if task.fence == 1 else None  # as it stands in the store, if nobody else ever held it
        self._told_s = clock.monotonic()
        self._labels: dict[str, str] = {}
        if first:
            self._take_up(first)

    def stop(self, why: str) -> None:
        """Begin no further call; `run` returns once those on the wire have come back."""
        if not self.stopped:
            self.stopped = why
            self._channels.recheck()

    def may_call(self) -> bool:
        """Is the task still this node's to work on?"""
        if not self.stopped and self._clock.monotonic() >= self.lease_until:
            self.stop("lost")
        if not self.stopped and self.task.expires_ms is not None and self._clock.now_ms() >= self.task.expires_ms:
            self.stop("expired")
        return not self.stopped

    async def round(self) -> Settle | None:
        """Work through one round; what is to be written down of it, None if it was lost or cancelled meanwhile."""
        try:
            await self._send()
            while self._extra:
                await asyncio.gather(*self._extra)
            if self._recording:
                await self._recording
        except BaseException as error:
            self.stop("failed")
            given_up = isinstance(error, asyncio.CancelledError)
            while work := [*self._extra, *([self._recording] if self._recording else [])]:
                for part in work if given_up else ():
                    part.cancel()  # else it would be waited for, though a service or storage may never answer
                await asyncio.gather(*work, return_exceptions=True)
                self._extra.difference_update(work)
                self._recording = None
            if not given_up:
                await self._write()  # whatever failed, who has been reached must not be forgotten
            raise
        self._round.complete = self._read_all and not self._jobs and not self.stopped
        now_ms = self._clock.now_ms()
        policy = Wait(self._settings.queue.backoff_s, self._settings.queue.backoff_max_s)
        final = None
        if self.stopped not in ("lost", "cancelled"):
            final = verdict(self._round, self.task, self._failure(), now_ms, policy, self._draw())
            if isinstance(final, Again) and self.stopped in KEEP_PLACE:
                final = msgspec.structs.replace(final, keeps_place=True)
        records, self._unrecorded = self._unrecorded, []
        if final is None and not records:
            return None
        self.settling = True
        return self._settle(now_ms, records, self._failed if self._round.complete else None, final)

    def _failure(self) -> Failure:
        if not self._failed:  # as a rule
            return Failure(kind="unreached", total=self.task.total - self.task.skipped)
        reasons = [(reason, code, n) for (reason, code), n in self._reasons.most_common(5)]
        return Failure(
            kind="unreached", unreached=self._failed, total=self.task.total - self.task.skipped, reasons=reasons
        )

    # --- calling -----------------------------------------------------------------------------------

    async def _send(self) -> None:
        """Take job after job until none is left."""
        most = self._settings.delivery.concurrency
        loop = asyncio.get_running_loop()
        while True:
            while self._on_wire + len(self._unrecorded) >= most:
                await self._record()
            if not self._jobs:
                if self._read_all or not await self._refill():
                    return
                continue  # others went on meanwhile: is there still room?
            if not self.may_call():
                return
            job = self._jobs.popleft()
            if self._jobs and len(self._extra) + 1 < most:
                loop.call_soon(self._help)
            self._on_wire += 1
            try:
                record = await self._call(job)
            finally:
                self._on_wire -= 1
            if record:
                self._unrecorded.append(record)
                if len(self._unrecorded) == 1:
                    loop.call_soon(self._record_soon)
                if job.attempt > record.attempt:  # refused, and on to the next channel: not before that is written down
                    await self._record()
                    self._jobs.append(job)

    def _help(self) -> None:
        """One more sender, if the others are busy and there is work for it."""
        if (
            self._jobs
            and self._on_wire
            and not self.stopped
            and len(self._extra) + 1 < self._settings.delivery.concurrency
        ):
            sender = asyncio.create_task(self._send(), name=f"send-{self.task.id}")
            self._extra.add(sender)
            sender.add_done_callback(self._helped)

    def _helped(self, sender: asyncio.Task[None]) -> None:
        if sender.cancelled() or sender.exception():
            self.stop("failed")  # `run` raises it when it gathers
        else:
            self._extra.discard(sender)

    async def _call(self, job: _Job) -> Record | None:
        at_ms = self._clock.now_ms()
        begun = self._clock.monotonic()
        task = self.task
        channel = self._channels.get(job.channel)
        answer: Outcome | NotCalled
        if channel is None:
            answer = Refused("no_address")
        else:
            answer = await channel.deliver(self._message(job, at_ms), task.priority, self.may_call)
        took_ms = int((self._clock.monotonic() - begun) * 1000)
        word, reason, code, detail, reference = Word.SENT, "", "", "", ""
        match answer:
            case NotCalled(after_s=after_s):
                self._round.waiting += 1
                self._round.held_s = max(self._round.held_s or 0.0, after_s)
                return None
            case Sent():
                reference = answer.reference
            case RetryLater():
                word, reason, code, detail = Word.RETRY_LATER, answer.reason, answer.code, answer.detail
                self._round.retry_after_s = max(self._round.retry_after_s, answer.after_s or 0.0)
            case Refused():
                word, reason, code, detail = Word.REFUSED, answer.reason, answer.code, answer.detail
        self._round.called = True
        record = Record(
            n=job.n, run=task.run, round=task.attempts, attempt=job.attempt, channel=job.channel, word=word,
            reason=reason, code=code, detail=detail, reference=reference, at_ms=at_ms, took_ms=took_ms,
        )  # fmt: skip
        if word is not Word.SENT:
            self._missed(job, record, channel)
        return record

    def _missed(self, job: _Job, record: Record, channel: Channel | None) -> None:
        """Not reached by this call: the next channel now, the next round, or never."""
        if record.word is Word.RETRY_LATER:
            if job.attempt < self._settings.queue.max_attempts:
                self._round.waiting += 1
                return
        else:
            route = self._channels.route(self.task.type, job.recipient)
            following = route[route.index(job.channel) + 1 :] if job.channel in route else []
            if following:
                job.channel, job.attempt = following[0], job.attempt + 1
                return
        self._give_up(record)

    def _give_up(self, record: Record | None) -> None:
        self._failed += 1
        self._reasons[(record.reason, record.code) if record else ("no_address", "")] += 1

    def _message(self, job: _Job, at_ms: int) -> Message:
        task, person = self.task, job.recipient
        label = self._labels.get(person.langue)
        if label is None:
            kind = self._settings.types.get(task.type)
            label = self._labels[person.langue] = (kind.label_in(person.langue) if kind else "") or task.type
        return Message(
            id=f"{task.id}.{job.n}", type=task.type, label=label, priority=task.priority.name, titre=task.titre,
            message=task.message, recipient=person.id, nom=person.nom, email=person.email, telephone=person.telephone,
            langue=person.langue, at_ms=at_ms,
        )  # fmt: skip

    # --- reading who is to be called -----------------------------------------------------------------

    async def _refill(self) -> bool:
        """Have jobs to take, reading on as far as needed; False once everybody has been gone over."""
        async with self._reading:
            while not self._jobs and not self._read_all and not self.stopped:
                try:
                    chunk = await self._store.chunk(self.task.id, self._next_n)
                except StoreUnavailable as error:
                    log.warning("task %s: recipients cannot be read: %s", self.task.id, error)
                    await self._clock.sleep(1)
                    self.may_call()  # stops, once the lease has run out
                    continue
                if chunk is None:
                    self._read_all = True
                    break
                self._take_up(chunk)
        return bool(self._jobs)

    def _take_up(self, chunk: Chunk) -> None:
        self._next_n = chunk.n + len(chunk.recipients)
        self._read_all = self._next_n >= self.task.total
        for n, recipient in enumerate(chunk.recipients, chunk.n):
            self._consider(n, recipient, chunk.outcomes.get(n, []))

    def _consider(self, n: int, recipient: Person, outcomes: list[Record]) -> None:
        if not recipient.preferences.actif:
            return
        task = self.task
        route = self._channels.route(task.type, recipient)
        now = stand(n, recipient, route, outcomes, task.run, self._settings.queue.max_attempts)
        match now.standing:
            case Standing.WAITING:
                last = now.last
                if last and last.round >= task.attempts and last.word is Word.RETRY_LATER:
                    self._round.waiting += 1  # had its turn in this round, before the task changed hands
                else:
                    self._jobs.append(_Job(n, recipient, now.channel, now.attempts + 1))
            case Standing.REFUSED | Standing.GAVE_UP:
                self._give_up(now.last)

    # --- recording -----------------------------------------------------------------------------------

    def _record_soon(self) -> None:
        """Outcomes came and calls are still out: do not wait for those before writing these down."""
        if self._unrecorded and self._on_wire and self._recording is None and self.stopped != "failed":
            self._recording = asyncio.create_task(self._write(), name=f"record-{self.task.id}")

    async def _record(self) -> None:
        """Wait until there is room: the write under way, or a new one."""
        if self._recording is None:
            self._recording = asyncio.create_task(self._write(), name=f"record-{self.task.id}")
        await asyncio.shield(self._recording)

    async def _write(self) -> None:
        """Record what has come, again as long as more came meanwhile."""
        try:
            while self._unrecorded:
                records = list(self._unrecorded)
                now_ms = self._clock.now_ms()
                now_s = self._clock.monotonic()
                tell = now_s - self._told_s >= TELL_S
                if tell:
                    self._told_s = now_s
                after = await self.insist(self._settle(now_ms, records, tell=tell))
                del self._unrecorded[: len(records)]
                if after is None:
                    self.stop("lost")
        finally:
            self._recording = None

    def _settle(
        self, now_ms: int, records: list[Record], failed: int | None = None, final: End | Again | None = None, *,
        tell: bool = False,
    ) -> Settle:  # fmt: skip
        return Settle(self.task.id, self.task.fence, now_ms, records, failed, final, tell, self._known)

    async def insist(self, settle: Settle, said: StoreUnavailable | None = None) -> NotificationTask | None:
        """Have outcomes written down, however long storage says no (`said`: it just has); the task as it is then.

        What has been sent must not be forgotten. Meanwhile no more than `delivery.concurrency` calls can begin, and
        none once the lease has run out.
        """
        while True:
            if said:
                log.warning("task %s: outcomes wait for storage: %s", self.task.id, said)
                await self._clock.sleep(1)
                settle.insisted = True
            try:
                after: NotificationTask | None = await self._store.apply(settle)
            except StoreUnavailable as error:
                said = error
                continue
            if self._known:
                self._known = after
            return after


class Hand(Dispatch):
    """A dispatch and the worker that has it."""

    worker: int = 0
    before: asyncio.Event | None = None  # set once an earlier hand at the same task is done, which was not yet
    gone: asyncio.Event | None = None  # set once this one is, if anybody waits for that
    told: bool = False  # what became of it, once
    express: bool = False
    waiting: bool = False  # claimed ahead: the next worker to be free takes it up
    begun_s: float = 0.0  # monotonic: when it was claimed and, later, when a worker took it up

    async def round(self) -> Settle | None:
        if self.before:
            await self.before.wait()  # whom it reached must be known
        return await super().round()
