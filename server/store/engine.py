"""What a database must be able to do for the store: run a statement for many rows in one transaction.

Statements are written once (`sql.py`, `$1` placeholders) and operations once (`writes.py`, `reads.py`), as
coroutines over a `Tx`. An engine decides how they are driven: PostgreSQL awaits the network; SQLite drives the
coroutine to its end in its own thread, where nothing ever suspends (`drive`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from typing import Any, ClassVar, Protocol, TypeVar

from server.model import Event

T = TypeVar("T")
Row = tuple[Any, ...]

MAX_BATCH = 512
"""Operations in one transaction, at most: bounds how long a commit can take."""
MAX_WAITING = 20_000
"""Operations that wait for a commit, at most: beyond it the store answers that it is unavailable."""

REST_MOST_S = 0.004
"""A committer's rest, at most."""


class StoreUnavailable(Exception):
    """Storage says no: out of reach, full, or failing. Nothing of the operation was written, but `perhaps` it was."""

    def __init__(self, text: str, *, perhaps: bool = False) -> None:
        super().__init__(text)
        self.perhaps = perhaps


class StoreRefused(Exception):
    """This database must not be used: foreign, broken, newer, or in use. The text says what to do."""


class Tail(Protocol):
    """Write a transaction's tail: number `events` (`sql.EVENT` without seq, a body without its head) and add to the
    counters. Gives the last number."""

    async def __call__(
        self,
        events: Sequence[Row],
        tally: Mapping[tuple[str, int, str], int],
        totals: Mapping[str, int],
        minutes: Mapping[tuple[int, str], int],
    ) -> int: ...


class Tx(Protocol):
    """One open transaction."""

    shared: bool
    """Do other nodes write at the same time?"""

    @property
    def tail(self) -> Tail | None:
        """Writes a transaction's tail in one step, where that is cheaper than step by step."""

    async def many(self, sql: str, rows: Sequence[Sequence[Any]]) -> list[Row]:
        """Run `sql` once per row of arguments; all the rows it returned, in order."""

    async def among(self, sql: str, keys: Sequence[str], *args: Any) -> list[Row]:
        """Run `sql` once for all of `keys` (`{among}` in it; the arguments begin at $2); the rows it returned."""

    async def all(self, sql: str, *args: Any) -> list[Row]:
        """Run `sql` once; the rows it returned."""

    async def now_ms(self, own_ms: int) -> int:
        """The clock that leases go by: the database's where nodes share one, else the caller's `own_ms`."""


class Op:
    """A small change that is handed to the store and awaited. Operations of one kind are applied together.

    An operation that cannot be done gives a value that says so; an exception is a bug or a failing database.
    """

    done: asyncio.Future[Any]
    since: float  # perf_counter() when it was handed over
    late: Callable[[Any], None] | None = None  # told what it gave, where whoever asked was told no before
    unsure: Callable[[Any], None] | None = None
    """Told what it gives if it was written, where whoever asked was told no and nobody says whether it was."""
    rank: ClassVar[int | None] = None
    """Where its kind stands among neighbours that have one too (`batch`): nobody hands over two such at once whose
    order counts. None: what was handed over before it is applied before it."""

    @classmethod
    async def apply(cls, batch: Any, ops: list[Any]) -> list[Any]:
        """Apply `ops`, all of this class, within `batch`; one result each, in order."""
        raise NotImplementedError(cls)


class Committed(Protocol):
    """Called in the event loop after a commit, in commit order."""

    def __call__(self, results: list[tuple[Op, Any]], events: list[Event]) -> None: ...


class Failed(Protocol):
    """Called in the event loop where a commit failed; with `results`, what `ops` gave if it was written after all."""

    def __call__(self, ops: list[Op], error: BaseException, results: Sequence[Any] = ()) -> None: ...


Apply = Callable[[Tx, list[Op]], Coroutine[Any, Any, tuple[list[Any], list[Event]]]]


class Pace:
    """When a committer rests: a transaction costs much the same whatever is in it, so where one follows the other, more
    is left to gather for the next. What comes seldom is not kept waiting. (Measured: to rest for as long as it took
    saves little more, and costs whoever waits for it 3 ms.)"""

    def __init__(self, busy_s: float) -> None:
        """It rests as soon as it has worked for so much longer than it has waited, lately."""
        self._most_s = busy_s
        self._busy_s = 0.0

    def rest_s(self, waited_s: float, took_s: float) -> float:
        """Seconds to rest after a commit that took `took_s`, after `waited_s` with nothing to do."""
        self._busy_s = max(self._busy_s - waited_s, 0.0) + took_s
        if self._busy_s <= self._most_s:
            return 0.0
        self._busy_s = min(self._busy_s, 2 * self._most_s)
        return min(took_s / 2, REST_MOST_S)


class Engine(Protocol):
    """A database under the store."""

    dialect: str

    async def open(self, apply: Apply, committed: Committed, failed: Failed) -> None:
        """Connect, bring the schema up to date and begin to commit. Raises StoreRefused or StoreUnavailable."""

    def submit(self, op: Op) -> None:
        """Have `op` committed with all that waits. Raises StoreUnavailable if too much does."""

    async def read(self, work: Callable[[Tx], Coroutine[Any, Any, T]]) -> T:
        """Run `work` in a read transaction of its own: one consistent snapshot."""

    async def close(self) -> None:
        """Commit what waits, then disconnect."""


def drive(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that never really suspends to its end, without an event loop."""
    try:
        work.send(None)
    except StopIteration as stop:
        return stop.value  # type: ignore[no-any-return]
    work.close()
    raise RuntimeError("an operation on an embedded store must not suspend")


async def within(seconds: float, work: Awaitable[T]) -> T:
    """`work`, or StoreUnavailable once `seconds` have passed."""
    try:
        async with asyncio.timeout(seconds):
            return await work
    except TimeoutError:
        raise StoreUnavailable(f"no answer from storage within {seconds:g} s") from None
