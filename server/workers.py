"""The worker pool: takes due tasks and has them dispatched, at most `queue.workers` at once and an express lane
for what is CRITIQUE.

Woken by the log, not by a poll; time itself is a sweep (due, expired, silent owners). Leases are renewed while a
task is in hand. Draining takes nothing more, lets what is in hand finish, and gives the rest back.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from functools import partial

import msgspec

from server.channels import Channels
from server.clock import Clock, sleep_or
from server.config import Settings
from server.crew import Crew
from server.dispatch import Hand
from server.letting import Letting
from server.model import Event, EventKind, NotificationTask, Priority
from server.store import Store, StoreUnavailable
from server.store.reads import Chunk
from server.store.writes import Claim, Claimed, Renew, Sweep, Swept, Taking
from server.unsure import Unsure

log = logging.getLogger("tocsin.workers")

TURN_S = 5.0
"""A task that has been in hand for so long gives way to others that wait, and queues up again."""
PATIENCE_S = 3.0
"""Once storage is back, nobody is taken for dead for so long: the living first write down what they sent meanwhile."""
CANCELLED = EventKind.CANCELLED.value
PAUSED = EventKind.PAUSED.value
STARTED = EventKind.STARTED.value
AHEAD_S = 0.1
"""As many tasks are claimed ahead of free workers as these get done in so long: none, unless tasks are short."""
AHEAD_MOST = 256
WAITED_MOST_S = 1.0
"""A task claimed ahead that has waited for so long goes back to the queue: workers are not as quick as they were."""
RESUMED = EventKind.RESUMED.value
WAKING = {EventKind.ENQUEUED.value, EventKind.RETRY_SCHEDULED.value, RESUMED}


class _Run(msgspec.Struct):
    run: int


class _OfTask(msgspec.Struct):
    task: _Run


_cancelled = msgspec.json.Decoder(_OfTask).decode


class WorkerPool:
    """Owns every task that this node has in hand, and the loops that claim, renew and sweep."""

    def __init__(self, store: Store, channels: Channels, settings: Settings, clock: Clock, node: str):
        self.node = node
        self.workers = settings.queue.workers
        self.express_workers = settings.queue.express_workers
        self.on_settled: list[Callable[[NotificationTask], None]] = []
        self._store = store
        self._channels = channels
        self._settings = settings
        self._clock = clock
        self._rates = {name: int(kind.rate_per_minute) for name, kind in settings.types.items() if kind.rate_per_minute}
        if settings.queue.rate_per_minute:
            self._rates[""] = int(settings.queue.rate_per_minute)
        self._letting = Letting(store, node)
        self._crew = Crew(store, clock, self.workers, self.express_workers, self._freed, self._settled)
        self.hands = self._crew.hands
        self.unsure = Unsure(clock, settings.queue.lease_s, self._renew, self._begin, self._letting.go)
        self._taking: set[Taking] = set()  # workers kept for tasks that are being stored
        self._none_taking = asyncio.Event()
        self._none_taking.set()
        self._loops: list[asyncio.Task[None]] = []
        self._wake = asyncio.Event()
        self._most_urgent: int | None = Priority.CRITIQUE  # of what may be ready to be claimed; None: nothing
        self._time_wake = asyncio.Event()
        self._next_ms: int | None = None
        self._renewed = clock.monotonic()
        self._away = float("-inf")  # monotonic: when storage last said no
        self._asking = False  # a claim is under way: what is free now is spoken for
        self._paused = False  # as the last claim found it, or an event told since: until it is resumed, none is tried
        self._told_paused = 0  # how often an event has told
        self.draining = False
        self.claiming = False

    # --- for those who look ------------------------------------------------------------------------

    @property
    def running(self) -> bool:
        """Can some worker take a task?"""
        return self.claiming and not self.draining and self.workers + self.express_workers > 0

    @property
    def at_work(self) -> set[Hand]:
        """The hands that a worker is at: not those that wait for one, or only for their last write."""
        return self._crew.busy

    @property
    def caught_up(self) -> bool:
        """Has it looked, and left nothing that is ready?"""
        return not self._asking and self._most_urgent is None

    # --- life ----------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Take back what a crash left in hand, then begin to work."""
        if not self._store.shared:  # this process is the only node: whatever is in hand is nobody's
            while (await self._sweep(all_silent=True)).moved:
                pass
        if self.workers + self.express_workers == 0:
            return
        self.claiming = True
        self._store.on_commit.append(self.told)
        self._wake.set()
        for name, loop in (("claim", self._claim_loop), ("time", self._time_loop), ("renew", self._renew_loop)):
            self._loops.append(asyncio.create_task(self._keep(name, loop), name=f"pool-{name}"))

    async def drain(self, grace_s: float) -> None:
        """Take nothing more; let what is in hand finish for `grace_s`, then give the rest back."""
        self.draining = True
        self.claiming = False
        self._wake.set()
        self._crew.give_back("drain")
        await self._none_taking.wait()  # storage answers within seconds, whatever it says
        try:
            await self.unsure.make_sure(self.hands)
        except StoreUnavailable as error:
            log.warning("what this node may have claimed is left to the others: %s", error)
        longest = max((channel.settings.timeout_s for channel in self._channels.values()), default=0)
        await self._crew.finish(max(grace_s - longest, 0))
        for hand in self.hands.values():
            hand.stop("drain")
        await self._crew.finish(min(grace_s, longest) + 5)
        for loop in self._loops:
            loop.cancel()
        await self._crew.give_up()
        await asyncio.gather(*self._loops, self._letting.close(), return_exceptions=True)
        if self.told in self._store.on_commit:
            self._store.on_commit.remove(self.told)

    async def _keep(self, name: str, loop: Callable[[], object]) -> None:
        """Run one of the pool's loops for ever; storage that says no, or a defect, makes it wait, not end."""
        while True:
            try:
                await loop()  # type: ignore[misc]
                return
            except StoreUnavailable as error:
                log.warning("pool %s: storage says no: %s", name, error)
                self._away = self._clock.monotonic()
            except Exception:  # a defect must not leave the node without the loop for good
                log.exception("pool %s failed", name)
            await self._clock.sleep(1)
            self._most_urgent = Priority.CRITIQUE
            self._wake.set()

    # --- what wakes it -------------------------------------------------------------------------------

    def told(self, events: list[Event]) -> None:
        """Committed events: something may be ready now."""
        ready: dict[str, int] = {}
        for event in events:
            if event.kind == CANCELLED and (hand := self.hands.get(event.task_id)):
                if _cancelled(event.body).task.run == hand.task.run:  # else it is wanted again, and was claimed since
                    hand.stop("cancelled")
                    self._letting.go(event.task_id)
            elif event.kind in WAKING:
                if event.kind == RESUMED:
                    self._paused = False
                    self._told_paused += 1
                ready[event.task_id] = event.priority or Priority.CRITIQUE
            elif event.kind == PAUSED:
                self._paused = True
                self._told_paused += 1
            elif event.kind == STARTED:  # as it was stored, or by another node
                ready.pop(event.task_id, None)
        if ready and not self._paused and (self._most_urgent is None or min(ready.values()) < self._most_urgent):
            self._most_urgent = min(ready.values())
            self._wake.set()

    def expect(self, at_ms: int | None) -> None:
        """Something is due, or expires, at `at_ms` (epoch)."""
        if at_ms and (self._next_ms is None or at_ms < self._next_ms):
            self._next_ms = at_ms
            self._time_wake.set()

    def stop(self, task_id: str, why: str) -> None:
        """Begin no further call for a task, if this node has it in hand."""
        if hand := self.hands.get(task_id):
            hand.stop(why)

    # --- claiming ------------------------------------------------------------------------------------

    def keep(self, priority: Priority) -> Taking | None:
        """Keep a worker for a task to be stored, if one is free and nothing waits; `begin` or `release` must follow."""
        if not self.running or self._paused or self._rates or not self.caught_up:
            return None
        free, express = self._free()
        urgent = free <= 0 and express > 0 and priority is Priority.CRITIQUE
        if not urgent and self._room() <= 0:
            return None
        taking = Taking(self.node, int(self._settings.queue.lease_s * 1000), self._clock.monotonic(), urgent)
        self._taking.add(taking)
        self._none_taking.clear()
        return taking

    def release(self, taking: Taking) -> None:
        """The worker that was kept is free again."""
        self._taking.discard(taking)
        self._taken()
        if self._most_urgent is not None:
            self._wake.set()

    def _taken(self) -> None:
        if not self._taking and not self._asking:
            self._none_taking.set()

    def begin(self, taking: Taking, task: NotificationTask, first: Chunk) -> None:
        """The worker that was kept takes up its task, which is stored as claimed."""
        self.release(taking)
        self._begin(task, first, taking.begun_s)

    def _free(self) -> tuple[int, int]:
        """Workers that have nothing to do and are kept for nothing: for anything, and of the express lane.

        Less than none where more tasks are being stored as claimed than there are: these will have to wait, too.
        """
        express = sum([taking.express for taking in self._taking]) if self.express_workers else 0
        return self._crew.free - len(self._taking) + express, self._crew.express - express

    def _room(self) -> int:
        """How many tasks to claim: one for each worker that is free, and more where tasks are short."""
        free = self._free()[0]
        ahead = 0 if self._rates else min(AHEAD_MOST, int(self.workers * AHEAD_S / self._crew.hand_s))
        waiting = self._crew.waiting + max(-free, 0)
        return max(free, 0) + (ahead - waiting if waiting <= ahead // 2 else 0)

    def _wanted(self) -> tuple[int, int]:
        """How many tasks to claim of what may be ready: of any priority, and CRITIQUE ones for the express lane."""
        if self._most_urgent is None:
            return 0, 0
        slots, express = max(self._room(), 0), max(self._free()[1], 0)
        return slots, express if slots or self._most_urgent == Priority.CRITIQUE else 0

    async def _claim_loop(self) -> None:
        while not self.draining:
            await self._wake.wait()
            self._wake.clear()
            while not self.draining and any(wanted := self._wanted()):
                await self._claim(*wanted)

    async def _claim(self, slots: int, express: int) -> None:
        seen, self._most_urgent = self._most_urgent, None
        begun = self._clock.monotonic()
        now_ms = self._clock.now_ms()
        lease_ms = int(self._settings.queue.lease_s * 1000)
        told_paused = self._told_paused
        self._asking = True
        self._none_taking.clear()
        claim = Claim(now_ms, lease_ms, self.node, slots, express, self._rates)
        claim.late = partial(self._take_up, begun=begun)
        claim.unsure = partial(self._may_have_taken, begun=begun)
        try:
            claimed: Claimed = await self._store.apply(claim)
        except StoreUnavailable:
            self._most_urgent = seen
            raise
        finally:
            self._asking = False
            self._taken()
        if self._told_paused == told_paused:  # else what was told may be newer
            self._paused = claimed.paused
        self._take_up(claimed, begun)
        if len(claimed.tasks) >= slots:
            # There may be more; but where only the express lane asked, and in vain, none of it is CRITIQUE.
            rest = seen if slots or claimed.tasks else Priority.HAUTE
            self._most_urgent = min(told for told in (self._most_urgent, rest) if told is not None)
        if claimed.retry_ms:
            self.expect(claimed.retry_ms)

    def _take_up(self, claimed: Claimed, begun: float) -> None:
        for task in sorted(claimed.tasks, key=lambda task: (task.priority, task.place_ms, task.id)):
            self._begin(task, claimed.chunks[task.id], begun)

    def _may_have_taken(self, claimed: Claimed, begun: float) -> None:
        for task in claimed.tasks:
            self.unsure.add(task, claimed.chunks[task.id], begun)

    async def _renew(self, held: list[tuple[str, int]]) -> set[str]:
        """Have this node's leases of (id, fence) begin anew; the ids of those that it has."""
        lease_ms = int(self._settings.queue.lease_s * 1000)
        kept: set[str] = await self._store.apply(Renew(held, self._clock.now_ms(), lease_ms, self.node))
        return kept

    def _begin(self, task: NotificationTask, first: Chunk, begun: float) -> None:
        here = task.id in self.hands  # cancelled and wanted again: what its last calls come to is not known yet
        hand = Hand(
            task, self._store, self._channels, self._settings, self._clock, random.random, None if here else first
        )
        hand.lease_until = begun + self._settings.queue.lease_s
        hand.begun_s = begun
        if self.draining:
            hand.stop("drain")
        self._crew.take(hand)

    def _freed(self) -> None:
        """A worker is done with a task: may more be claimed?"""
        if self._most_urgent is not None and not self._asking and any(self._wanted()):
            self._wake.set()

    def _settled(self, after: NotificationTask) -> None:
        """A task in hand has been written down."""
        self.expect(after.due_ms)
        for told in self.on_settled:
            told(after)

    # --- time ----------------------------------------------------------------------------------------

    async def _sweep(self, *, all_silent: bool = False) -> Swept:
        self._next_ms = None
        now_ms = self._clock.now_ms()
        patient = self._clock.monotonic() < self._away + PATIENCE_S
        swept: Swept = await self._store.apply(Sweep(now_ms, frozenset(self.hands), all_silent, patient))
        self.expect(swept.next_ms)
        if patient:
            self.expect(now_ms + int(PATIENCE_S * 1000))
        return swept

    async def _time_loop(self) -> None:
        """Sweep whenever something is due, and a few times per lease for owners that fell silent."""
        rest_s = self._settings.queue.lease_s / 3
        while True:
            swept = await self._sweep()
            self._most_urgent = Priority.CRITIQUE  # a claim is cheap, a missed one is not
            self._wake.set()
            if swept.moved:
                continue
            self._time_wake.clear()
            until_s = rest_s if self._next_ms is None else min(rest_s, (self._next_ms - self._clock.now_ms()) / 1000)
            if until_s > 0:
                await sleep_or(self._clock, self._time_wake.wait(), until_s)

    async def _renew_loop(self) -> None:
        """Keep the leases of what is in hand, and see that nobody holds a worker while others wait."""
        lease_s = self._settings.queue.lease_s
        while True:
            await self._clock.sleep(min(1.0, lease_s / 3))
            now = self._clock.monotonic()
            for each in self.hands.values():
                each.may_call()  # stops, once its time is over, though all its calls wait for their turn
            if self.hands and now - self._renewed >= lease_s / 3:
                held = [(hand.task.id, hand.task.fence) for hand in self.hands.values()]
                kept = await self._renew(held)
                for task_id, fence in held:
                    hand = self.hands.get(task_id)
                    if hand and hand.task.fence == fence:
                        if task_id in kept:
                            hand.lease_until = now + lease_s
                        elif not hand.settling:
                            hand.stop("lost")
                self._renewed = now
            elif not self.hands:
                self._renewed = now
            await self.unsure.make_sure(self.hands)
            await self._give_way()

    async def _give_way(self) -> None:
        """If others as urgent or more so wait and no worker is free, the longest in hand has had its turn."""
        if self._clock.monotonic() - self._crew.waits_since > WAITED_MOST_S:
            self._crew.give_back("ahead")
        if self._most_urgent is None or self._paused or self._free()[0] > 0:
            return
        old = self._clock.monotonic() - TURN_S
        long = [h for h in self._crew.busy if not h.express and h.begun_s <= old and not h.stopped]
        long = [h for h in long if self._most_urgent <= h.task.priority]
        if long and (await self._store.figures(self._clock.now_ms())).oldest_pending_ms is not None:
            min(long, key=lambda h: h.begun_s).stop("turn")
