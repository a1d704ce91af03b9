"""The workers of a node: who is at which task, and what waits for one of them.

A worker calls everybody that a task is for, hands over what came of it to be written down, and goes on to the next task
at once: neither the write nor, where tasks are short, a turn of the event loop is what it waits for.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from functools import partial
from heapq import heappop, heappush
from itertools import count
from typing import Any

from server.clock import Clock, sleep_or
from server.dispatch import KEEP_PLACE, Hand
from server.model import NotificationTask, Priority
from server.store import Store, StoreUnavailable
from server.store.settle import Settle

log = logging.getLogger("tocsin.workers")

TURN_RECIPIENTS = 64
"""All workers together go over so many recipients in a turn of the event loop (about 1 ms), and each over one task."""


class Crew:
    """`workers` for any task and `express_workers` more for what is CRITIQUE, each at one task at a time."""

    def __init__(
        self, store: Store, clock: Clock, workers: int, express_workers: int,
        free: Callable[[], None], settled: Callable[[NotificationTask], None],
    ):  # fmt: skip
        """`free` is called when a worker is done with a task, `settled` with a task that has been written down."""
        self.hands: dict[str, Hand] = {}
        """By task: what is at work, waits for a worker, or for its last write."""
        self.busy: set[Hand] = set()  # a worker is at them
        self.free, self.express = workers, express_workers  # how many have nothing to do
        self.hand_s = 1.0  # how long a task has kept its worker of late
        self.work: set[asyncio.Future[Any]] = set()
        """Workers at work, and what they had written down; `finish` waits for it."""
        self._store = store
        self._clock = clock
        self._told_free = free
        self._told_settled = settled
        self._numbers: list[int] = []  # heap: of workers that were at work before and are not now
        self._more_numbers = count(1)
        self._waiting: list[tuple[int, int, str, int, Hand]] = []  # heap, the most urgent first
        self._tickets = count()  # a task may be among them twice, at the same place
        self._room = TURN_RECIPIENTS  # left of this turn

    # --- who may take a task ---------------------------------------------------------------------------

    @property
    def waiting(self) -> int:
        """How many tasks wait for a worker."""
        return len(self._waiting)

    @property
    def waits_since(self) -> float:
        """When the one that has waited for longest was claimed (monotonic)."""
        return min((hand.begun_s for *_, hand in self._waiting), default=float("inf"))

    def take(self, hand: Hand) -> None:
        """Have a worker take `hand` up, now or as soon as one is free."""
        before = self.hands.get(hand.task.id)  # cancelled and wanted again: its last calls may still be out
        if before and before.waiting:
            hand.before = before.before
        elif before:
            hand.before = before.gone = before.gone or asyncio.Event()
        self.hands[hand.task.id] = hand
        if hand.stopped or self._seat(hand):
            self._start(hand)
        else:
            hand.waiting = True
            task = hand.task
            heappush(self._waiting, (task.priority, task.place_ms, task.id, next(self._tickets), hand))

    def give_back(self, why: str) -> None:
        """Have what waits go back to the queue: taken up, but stopped before anybody is called."""
        self.hand_s = 1.0
        while self._waiting:
            hand = heappop(self._waiting)[-1]
            hand.stop(why)
            self._start(hand)

    def _seat(self, hand: Hand) -> bool:
        """Is there a worker for it now, or one of the express lane?"""
        hand.express = self.free <= 0 and self.express > 0 and hand.task.priority == Priority.CRITIQUE
        return self.free > 0 or hand.express

    # --- at work ---------------------------------------------------------------------------------------

    def _start(self, hand: Hand) -> None:
        self._sit(hand)
        self._own(self._work_on(hand), f"work-{hand.task.id}")

    def _sit(self, hand: Hand) -> None:
        hand.waiting = False
        hand.begun_s = self._clock.monotonic()
        hand.since_ms = self._clock.now_ms()
        hand.worker = heappop(self._numbers) if self._numbers else next(self._more_numbers)
        self.busy.add(hand)
        self._count(hand, -1)

    def _count(self, hand: Hand, workers: int) -> None:
        """So many more workers of the kind that `hand` takes have nothing to do."""
        if hand.express:
            self.express += workers
        else:
            self.free += workers

    def _rise(self, hand: Hand) -> None:
        self.busy.discard(hand)
        heappush(self._numbers, hand.worker)
        self._count(hand, +1)
        if not hand.express and hand.stopped not in KEEP_PLACE:
            self.hand_s += (self._clock.monotonic() - hand.begun_s - self.hand_s) / 16

    async def _work_on(self, hand: Hand | None) -> None:
        """A worker: at `hand`, then at what waits."""
        while hand:
            settle = None
            try:
                if self._room <= 0:
                    await asyncio.sleep(0)
                settle = await hand.round()
            except Exception:  # it stays in hand until its lease ends: then it counts as a crash and is taken up again
                log.exception("task %s: dispatch failed", hand.task.id)
            finally:
                self._rise(hand)
                if settle is None:
                    self._forget(hand)
            if settle:
                self._write(hand, settle)
            if self._room == TURN_RECIPIENTS:
                asyncio.get_running_loop().call_soon(self._turn)
            self._room -= max(hand.task.total, 1)
            hand = self._next()

    def _turn(self) -> None:
        self._room = TURN_RECIPIENTS

    def _next(self) -> Hand | None:
        """What the worker that asks, and others if they are free, go on with."""
        mine: Hand | None = None
        while self._waiting and self._seat(self._waiting[0][-1]):
            hand = heappop(self._waiting)[-1]
            if mine:
                self._start(hand)
            else:
                mine = hand
                self._sit(mine)
        self._told_free()
        return mine

    def _own(self, work: Coroutine[Any, Any, None], name: str) -> None:
        task = asyncio.create_task(work, name=name)
        self.work.add(task)
        task.add_done_callback(self.work.discard)

    # --- written down ----------------------------------------------------------------------------------

    def _write(self, hand: Hand, settle: Settle) -> None:
        """Have what came of a task written down."""
        settle.late = partial(self._tell, hand)
        try:
            written = self._store.submit(settle)
        except StoreUnavailable as error:
            self._own(self._insist(hand, settle, error), f"write-{hand.task.id}")
            return
        except Exception:  # a defect must cost no worker
            log.exception("task %s: settling failed", hand.task.id)
            self._forget(hand)
            return
        self.work.add(written)
        written.add_done_callback(partial(self._written, hand, settle))

    def _written(self, hand: Hand, settle: Settle, written: asyncio.Future[NotificationTask | None]) -> None:
        self.work.discard(written)
        error = None if written.cancelled() else written.exception()
        if isinstance(error, StoreUnavailable):
            self._own(self._insist(hand, settle, error), f"write-{hand.task.id}")
            return
        self._forget(hand)
        if error:  # it stays in hand, like one whose dispatch failed
            log.error("task %s: settling failed", hand.task.id, exc_info=error)
        elif not written.cancelled():
            self._tell(hand, written.result())

    def _tell(self, hand: Hand, after: NotificationTask | None) -> None:
        """Tell, once, of what was written down: perhaps only after storage had said no, or before nobody said so."""
        if after and not hand.told:
            hand.told = True
            self._told_settled(after)

    async def _insist(self, hand: Hand, settle: Settle, error: StoreUnavailable) -> None:
        """Storage says no: try again, for as long as it does."""
        try:
            after = await hand.insist(settle, error)
        except Exception:
            log.exception("task %s: settling failed", hand.task.id)
            return
        finally:
            self._forget(hand)
        self._tell(hand, after)

    def _forget(self, hand: Hand) -> None:
        if self.hands.get(hand.task.id) is hand:
            del self.hands[hand.task.id]
        if hand.gone:
            hand.gone.set()

    # --- the end ---------------------------------------------------------------------------------------

    async def finish(self, seconds: float) -> None:
        """Wait until everything is written down, `seconds` at the most."""
        if self.work and seconds:
            await sleep_or(self._clock, self._idle(), seconds)

    async def _idle(self) -> None:
        while self.work:
            await asyncio.wait(list(self.work))

    async def give_up(self) -> None:
        """End what is still at work."""
        for work in self.work:
            log.error("task given up at shutdown; its outcomes may be recorded twice")
            work.cancel()
        await asyncio.gather(*self.work, return_exceptions=True)
