"""The order in which one transaction applies what was handed over at the same time."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from server.store.batch import Batch, apply
from server.store.engine import Op


class Noted(Op):
    """An operation that says when it was applied."""

    calls = 0

    def __init__(self, number: int):
        self.number = number

    @classmethod
    async def apply(cls, batch: Batch, ops: list[Any]) -> list[Any]:
        Noted.calls += 1
        return [(Noted.calls, op.number) for op in ops]


class First(Noted):
    rank = 0


class Second(Noted):
    rank = 1


class Alone(Noted):
    """One before and behind which nothing may change places."""


class NoTail:
    """A transaction that has nothing to write."""

    tail = None


@given(kinds=st.lists(st.sampled_from([First, Second, Alone]), max_size=20))
async def test_kinds_that_may_stand_together_do_and_everybody_gets_their_own_answer(kinds: list[type[Noted]]) -> None:
    ops: list[Op] = [kind(number) for number, kind in enumerate(kinds)]
    results, _ = await apply(NoTail(), ops)  # type: ignore[arg-type]

    assert [number for _, number in results] == list(range(len(ops)))
    runs = "".join("x" if kind is Alone else "." for kind in kinds).split("x")
    turns = sorted({turn for turn, _ in results})
    at_most = 2 * len(runs) + kinds.count(Alone)
    assert len(turns) <= at_most
    for one, this in enumerate(ops):
        for other in range(one + 1, len(ops)):
            that = ops[other]
            if Alone in kinds[one : other + 1] or type(this) is type(that):
                assert results[one][0] <= results[other][0]
            elif isinstance(this, Second):
                assert results[other][0] < results[one][0]
