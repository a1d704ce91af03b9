"""The committer's rests: none while little is to be written, half as long as a commit where one follows the other."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.store.engine import REST_MOST_S, Pace

MS = 0.001
BUSY_S = 5 * MS
WITHIN_S = 0.9 * BUSY_S  # not up to it: taking away and adding again may round upwards


@given(st.lists(st.floats(0, WITHIN_S), min_size=1))
def test_where_as_much_is_waited_as_worked_it_never_rests(tooks: list[float]) -> None:
    pace = Pace(BUSY_S)

    assert not any(pace.rest_s(waited_s=took, took_s=took) for took in tooks)


@given(st.lists(st.floats(0, 1), min_size=1))
def test_a_rest_is_never_longer_than_half_the_commit_before_it_nor_than_its_bound(tooks: list[float]) -> None:
    pace = Pace(BUSY_S)

    assert all(pace.rest_s(waited_s=0, took_s=took) <= min(took / 2, REST_MOST_S) for took in tooks)


def test_one_commit_behind_the_other_rests_soon_and_after_a_calm_moment_no_more() -> None:
    pace = Pace(BUSY_S)
    behind_each_other = [pace.rest_s(waited_s=0, took_s=1 * MS) for _ in range(100)]

    assert behind_each_other[:5] == [0] * 5
    assert behind_each_other[6:] == [pytest.approx(MS / 2)] * 94
    assert pace.rest_s(waited_s=20 * MS, took_s=1 * MS) == 0
