"""What is said of a task that failed: how many were not reached is the same figure wherever it stands."""

from __future__ import annotations

from typing import Any

import pytest

from notifiers import Refused
from server.model import Outcome, Word
from server.store.desk import Run
from server.store.settle import Settle
from tests.api.test_in_hand import in_s
from tests.kit import Town, jean

pytestmark = pytest.mark.usefixtures("both_engines")


def figures(task: dict[str, Any]) -> tuple[int, int, int, int]:
    """Not reached by progress, failure and result; and of how many."""
    failure = task["failure"]
    return task["progress"]["failed"], failure["unreached"], task["result"]["non_joints"], failure["total"]


async def test_who_was_not_reached_is_counted_where_a_task_expires_in_the_queue(town: Town) -> None:
    await town.post("/admin/api/queue/pause")
    inactive = jean(9) | {"preferences": {"actif": False}}
    task_id = await town.send("infra", [jean(1), jean(2), inactive], expire_a=in_s(town, 60))
    town.clock.turn(61)

    assert figures(await town.until_status(task_id, "failed")) == (2, 2, 2, 2)


async def test_who_was_not_reached_is_counted_where_a_task_is_given_up_after_crashes(town: Town) -> None:
    email = town.service("email")
    email.hold()
    task_id = await town.send("infra", [jean(1), jean(2)])
    await town.until(lambda: task_id in town.pool.hands)
    await town.store.apply(Run("UPDATE task SET crashes = 2 WHERE id = $1", (task_id,)))
    town.pool.hands.clear()  # as a node that fell silent
    await town.lose_leases()
    town.clock.turn(11)

    failed = await town.until_status(task_id, "failed")
    email.release()

    assert (failed["failure"]["kind"], figures(failed)) == ("crashed", (2, 2, 2, 2))


async def test_a_late_sent_is_in_the_sentence_too(town: Town) -> None:
    town.service("email").always(lambda message: Refused("address_refused", "550"))
    task_id = await town.send("infra", [jean(1), jean(2)])
    assert "2 destinataires sur 2" in (await town.until_status(task_id, "failed"))["error"]

    late = Outcome(n=0, run=1, attempt=2, channel="email", word=Word.SENT)
    await town.store.apply(Settle(task_id, 0, town.clock.now_ms(), [late]))

    task = await town.task(task_id)
    assert figures(task) == (1, 1, 1, 2)
    assert "1 destinataire sur 2" in task["error"]
