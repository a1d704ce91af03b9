"""What becomes of a task after a round, where a recipient stands, who may call next: decisions without a world."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.dispatch import Round, verdict
from server.gate import Breaker, Gate
from server.model import (
    ENDED,
    MOVES,
    Failure,
    NotificationTask,
    Outcome,
    Preferences,
    Priority,
    Recipient,
    Standing,
    Status,
    Wait,
    Word,
    chain,
    mask,
    may_move,
    parse_priority,
    settled,
    stand,
    wait_s,
)
from server.store.settle import Again, End
from tests.api.http_kit import TurnedClock

JEAN = Recipient(id="u1", nom="Jean", email="jean@example.org", telephone="+33612345678")
POLICY = Wait(2, 300)
NOBODY = Failure(kind="unreached")


def task(**changes: object) -> NotificationTask:
    """A task in its first round."""
    given: dict[str, object] = {
        "id": "t", "type": "meteo", "status": Status.PROCESSING, "priority": Priority.NORMALE, "titre": "t",
        "message": "m", "total": 3, "attempts": 1,
    }  # fmt: skip
    return NotificationTask(**(given | changes))  # type: ignore[arg-type]


def outcome(word: Word, attempt: int = 1, *, channel: str = "email", run: int = 1) -> Outcome:
    return Outcome(n=0, run=run, attempt=attempt, channel=channel, word=word, reason="r")


@pytest.mark.parametrize(
    ("came_to", "expires_ms", "expected"),
    [
        (Round(complete=True), None, End(NOBODY)),
        (Round(complete=True, waiting=2, called=True), None, Again(due_ms=1_000 + 1_000)),
        (Round(complete=True, waiting=2, called=True, retry_after_s=120), None, Again(due_ms=1_000 + 120_000)),
        (Round(complete=True, waiting=2, called=True, retry_after_s=1e9), None, Again(due_ms=1_000 + 3_600_000)),
        (Round(complete=True, waiting=2, held_s=7), None, Again(due_ms=8_000, called=False)),
        (Round(complete=False, called=True), None, Again(called=False)),
        (Round(complete=True, waiting=2, called=True), 900, End(Failure(kind="expired"))),
        (Round(complete=True), 900, End(NOBODY)),
    ],
)
def test_what_becomes_of_a_task_after_a_round(came_to: Round, expires_ms: int | None, expected: End | Again) -> None:
    assert verdict(came_to, task(expires_ms=expires_ms), NOBODY, 1_000, POLICY, 0.5) == expected


def test_who_asks_for_a_second_at_a_time_is_not_called_more_often_than_who_asks_for_nothing() -> None:
    patience = Round(complete=True, waiting=2, called=True, retry_after_s=1)

    assert [verdict(patience, task(attempts=n), NOBODY, 0, POLICY, 1) for n in range(1, 5)] == [
        Again(due_ms=ms) for ms in (2_000, 4_000, 8_000, 16_000)
    ]
    assert verdict(patience, task(attempts=4), NOBODY, 0, POLICY, 0) == Again(due_ms=1_000)


@given(st.integers(1, 10_000), st.floats(0, 1))
def test_the_wait_grows_to_its_ceiling_and_never_beyond(attempt: int, spread: float) -> None:
    assert 0 <= wait_s(attempt, POLICY, spread) <= wait_s(attempt, POLICY, 1) <= 300


@pytest.mark.parametrize(
    ("outcomes", "expected"),
    [
        ([], (Standing.WAITING, "email", 0)),
        ([outcome(Word.SENT)], (Standing.SENT, "email", 1)),
        ([outcome(Word.RETRY_LATER)], (Standing.WAITING, "email", 1)),
        ([outcome(Word.RETRY_LATER, n) for n in range(1, 6)], (Standing.GAVE_UP, "email", 5)),
        ([outcome(Word.REFUSED)], (Standing.WAITING, "sms", 1)),
        ([outcome(Word.REFUSED), outcome(Word.REFUSED, 2, channel="sms")], (Standing.REFUSED, "sms", 2)),
        (
            [outcome(Word.RETRY_LATER, n) for n in range(1, 5)] + [outcome(Word.REFUSED, 5)],
            (Standing.WAITING, "sms", 5),
        ),
        ([outcome(Word.SENT), outcome(Word.REFUSED, 1, run=2)], (Standing.SENT, "email", 1)),
    ],
)
def test_where_a_recipient_stands(outcomes: list[Outcome], expected: tuple[Standing, str, int]) -> None:
    now = stand(0, JEAN, ["email", "sms"], outcomes, outcomes[-1].run if outcomes else 1, 5)

    assert (now.standing, now.channel, now.attempts) == expected


def test_a_new_run_begins_afresh_for_those_not_reached() -> None:
    before = [outcome(Word.REFUSED), outcome(Word.REFUSED, 2, channel="sms")]

    now = stand(0, JEAN, ["email", "sms"], before, 2, 5)

    assert (now.standing, now.channel, now.attempts) == (Standing.WAITING, "email", 0)


def test_who_wants_nothing_is_skipped() -> None:
    quiet = Recipient(id="u", nom="n", preferences=Preferences(actif=False))

    assert stand(0, quiet, ["email"], [], 1, 5).standing is Standing.SKIPPED


@given(
    st.lists(
        st.builds(
            Outcome,
            n=st.just(0),
            run=st.integers(1, 3),
            attempt=st.integers(1, 6),
            channel=st.sampled_from(["email", "sms"]),
            word=st.sampled_from(Word),
        ),
        max_size=8,
    ),
    st.integers(1, 3),
)
def test_who_was_reached_once_stays_reached(outcomes: list[Outcome], run: int) -> None:
    now = stand(0, JEAN, ["email", "sms"], outcomes, run, 5)

    reached = any(line.word is Word.SENT for line in outcomes)
    assert (now.standing is Standing.SENT) == reached


def test_who_still_waits_when_a_task_ends_shares_its_fate() -> None:
    assert settled(Standing.WAITING, task()) is Standing.WAITING
    assert settled(Standing.WAITING, task(status=Status.CANCELLED)) is Standing.CANCELLED
    expired = task(status=Status.FAILED, failure=Failure(kind="expired"))
    assert settled(Standing.WAITING, expired) is Standing.EXPIRED
    assert settled(Standing.WAITING, task(status=Status.FAILED, failure=NOBODY)) is Standing.GAVE_UP
    assert settled(Standing.SENT, expired) is Standing.SENT


@given(st.sampled_from(Status), st.lists(st.sampled_from(Status), max_size=12))
def test_an_ended_task_moves_again_only_by_a_retry_and_a_completed_one_never(
    start: Status, steps: list[Status]
) -> None:
    now = start
    for step in steps:
        if may_move(now, step):
            assert step in MOVES[now]
            assert now is not Status.COMPLETED
            if now in ENDED:
                assert step is Status.PENDING
            now = step


def test_fallbacks_that_go_round_in_a_circle_end() -> None:
    assert chain("a", {"a": "b", "b": "c", "c": "a"}) == ["a", "b", "c"]
    assert chain("a", {"a": "a"}) == ["a"]


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("jean.dupont@mairie.fr", "j…t@mairie.fr"),
        ("jd@mairie.fr", "…@mairie.fr"),
        ("+33612345678", "+33…78"),
        ("1", "…"),
    ],
)
def test_an_address_is_shown_so_that_it_can_be_recognised_and_not_used(address: str, shown: str) -> None:
    assert mask(address) == shown


def test_priorities_have_names_and_numbers() -> None:
    assert [parse_priority(word) for word in ("critique", "HAUTE", "3")] == [1, 2, 3]
    with pytest.raises(ValueError, match="urgent"):
        parse_priority("urgent")


# --- gate and breaker ------------------------------------------------------------------------------


async def test_the_most_urgent_gets_the_next_slot() -> None:
    gate = Gate(2, 0, TurnedClock())  # one of the two is kept for CRITIQUE
    assert gate.try_enter(Priority.NORMALE)
    assert not gate.try_enter(Priority.NORMALE)
    order: list[str] = []

    async def ask(name: str, priority: Priority) -> None:
        assert await gate.enter(priority)
        order.append(name)

    waiting = [asyncio.create_task(ask("n1", Priority.NORMALE)), asyncio.create_task(ask("h1", Priority.HAUTE))]
    await asyncio.sleep(0)
    urgent = asyncio.create_task(ask("c1", Priority.CRITIQUE))
    await urgent
    assert order == ["c1"]
    gate.leave()
    gate.leave()
    await waiting[1]
    assert order == ["c1", "h1"]
    gate.leave()
    await waiting[0]
    assert gate.in_flight == 1


async def test_a_rate_is_kept_smoothly_and_the_most_urgent_takes_the_next_place() -> None:
    clock = TurnedClock()
    gate = Gate(64, 10, clock)
    order: list[int] = []

    async def ask(number: int, priority: Priority) -> None:
        await gate.enter(priority)
        order.append(number)
        gate.leave()

    asking = [asyncio.create_task(ask(number, Priority.NORMALE)) for number in range(5)]
    for _ in range(5):
        await asyncio.sleep(0)
    assert order == [0]
    asking.append(asyncio.create_task(ask(9, Priority.CRITIQUE)))
    for _ in range(30):
        clock.turn(0.05)
        for _ in range(4):
            await asyncio.sleep(0)
    assert order == [0, 9, 1, 2, 3, 4]
    await asyncio.gather(*asking)
    await gate.close()


async def test_who_no_longer_waits_takes_no_slot() -> None:
    gate = Gate(1, 0, TurnedClock())
    assert gate.try_enter(Priority.NORMALE)
    given_up = asyncio.create_task(gate.enter(Priority.NORMALE))
    await asyncio.sleep(0)
    given_up.cancel()
    await asyncio.gather(given_up, return_exceptions=True)
    gate.leave()

    assert gate.in_flight == 0
    assert gate.try_enter(Priority.NORMALE)


async def test_who_waits_without_a_reason_is_sent_away_at_once() -> None:
    gate = Gate(1, 0, TurnedClock())
    assert gate.try_enter(Priority.CRITIQUE)
    wanted = True
    waiting = asyncio.create_task(gate.enter(Priority.NORMALE, lambda: wanted))
    await asyncio.sleep(0)
    wanted = False
    gate.recheck()

    assert await waiting is False
    assert gate.in_flight == 1


def test_a_service_that_is_down_is_left_alone_and_then_tried_by_one() -> None:
    clock = TurnedClock()
    breaker = Breaker(clock, after=3, first_s=5, most_s=60)
    for _ in range(3):
        assert breaker.admits()
        breaker.told(False)
    assert breaker.state == "open"
    assert not breaker.admits()
    clock.turn(5)
    assert breaker.admits()
    assert not breaker.admits(), "one probe at a time"
    breaker.told(False)
    clock.turn(5)
    assert not breaker.admits(), "the pause has doubled"
    clock.turn(5)
    assert breaker.admits()
    assert breaker.told(True)
    assert breaker.state == "closed"
    assert breaker.admits()
