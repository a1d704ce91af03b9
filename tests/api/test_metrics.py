"""What Prometheus is told, and that nobody else is told it who should not be."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families

from notifiers import Refused, RetryLater
from server.model import Role
from tests.kit import Town, jean, running

both = pytest.mark.usefixtures("both_engines")


class Scrape:
    """A parsed answer."""

    def __init__(self, text: str):
        self.families = {family.name: family for family in text_string_to_metric_families(text)}
        self._values = {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in self.families.values()
            for sample in family.samples
        }

    def __call__(self, name: str, **labels: str) -> float | None:
        """A sample's value; None if there is no such."""
        return self._values.get((name, frozenset(labels.items())))


async def scrape(town: Town) -> Scrape:
    answer = await town.client.get("/metrics")
    assert answer.status == 200
    assert answer.headers["Content-Type"].startswith("text/plain; version=")
    return Scrape(await answer.text())


@both
async def test_it_counts_tasks_events_deliveries_commits_and_answers(town: Town) -> None:
    town.service("sms").will(Refused("address_refused", "550"))
    await town.until_status(await town.send(), "completed")
    await town.until_status(await town.send("securite", [jean(1, canal="sms")]), "failed")
    await town.post("/admin/api/queue/pause")
    await town.send("infra")
    town.clock.turn(30)

    async def told() -> bool:
        return (await scrape(town))("tocsin_events_total", event="task.enqueued") == 3

    await town.until(told)
    said = await scrape(town)

    assert said("tocsin_tasks", priority="HAUTE", status="completed") == 1
    assert said("tocsin_tasks", priority="CRITIQUE", status="failed") == 1
    assert said("tocsin_tasks", priority="NORMALE", status="pending") == 1
    assert said("tocsin_tasks", priority="NORMALE", status="processing") == 0
    assert said("tocsin_oldest_pending_seconds") == 30
    assert said("tocsin_queue_paused") == 1
    assert said("tocsin_events_total", event="task.enqueued") == 3
    assert said("tocsin_events_total", event="task.failed") == 1
    assert said("tocsin_tasks_enqueued_total") == 3
    assert said("tocsin_deliveries_total", channel="email", outcome="sent", reason="") == 1
    assert said("tocsin_deliveries_total", channel="sms", outcome="refused", reason="address_refused") == 1
    assert said("tocsin_delivery_seconds_count", channel="email") == 1
    assert said("tocsin_delivery_seconds_bucket", channel="sms", le="+Inf") == 1
    commits = said("tocsin_store_commit_seconds_count") or 0
    assert commits > 5
    assert said("tocsin_store_commit_operations_count") == commits
    assert (said("tocsin_store_commit_operations_sum") or 0) >= commits
    sent = {"method": "POST", "route": "/api/notifications/{type}", "status": "202"}
    assert said("tocsin_http_requests_total", **sent) == 3
    assert said("tocsin_http_request_seconds_count", route="/api/notifications/{type}") == 3
    assert said("tocsin_workers", lane="normal") == 2
    assert said("tocsin_store_up") == 1
    (build,) = said.families["tocsin_build_info"].samples
    assert (build.value, build.labels["node"], sorted(build.labels)) == (1, "test-node", ["node", "python", "version"])


@both
async def test_every_name_begins_with_ours_and_no_label_holds_an_id(town: Town) -> None:
    task_id = await town.send()
    await town.until_status(task_id, "completed")
    await town.get("/api/nothing/here")
    await town.client.request("BREW", "/api/health")

    text = await (await town.client.get("/metrics")).text()

    assert all(name.startswith("tocsin_") for name in Scrape(text).families)
    assert task_id not in text
    assert "jean" not in text
    assert "nothing/here" not in text
    assert "BREW" not in text


@both
async def test_a_breaker_that_opens_is_seen(town: Town) -> None:
    town.service("email").always(lambda message: RetryLater("unreachable", transport=True))
    await town.send(recipients=[jean(n) for n in range(8)])
    await town.until(lambda: alerts(town))

    said = await scrape(town)

    assert said("tocsin_channel_breaker", channel="email", state="open") == 1
    assert said("tocsin_channel_breaker", channel="email", state="closed") == 0
    assert said("tocsin_channel_breaker", channel="sms", state="closed") == 1
    assert said("tocsin_alerts") == 1


async def alerts(town: Town) -> bool:
    return bool((await town.json("/api/queue/stats"))["stats"]["alerts"])


async def test_who_asks_for_openmetrics_gets_it(town: Town) -> None:
    await town.send()
    answer = await town.client.get("/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"})

    assert answer.headers["Content-Type"].startswith("application/openmetrics-text")
    assert list(openmetrics.text_string_to_metric_families(await answer.text()))


@pytest.mark.parametrize(
    ("environ", "status"),
    [
        ({}, 200),
        ({"SERVER__HOST": "0.0.0.0"}, 401),
        ({"METRICS__PUBLIC": "false"}, 401),
        ({"SERVER__HOST": "0.0.0.0", "METRICS__PUBLIC": "true"}, 200),
    ],
)
async def test_beyond_the_loopback_it_takes_a_key(tmp_path: Path, environ: dict[str, str], status: int) -> None:
    async with running(tmp_path, **environ) as town:
        assert (await town.client.get("/metrics")).status == status
        viewer = await town.key(Role.VIEWER)
        assert (await town.client.get("/metrics", headers=viewer)).status == 200


async def test_a_late_event_loop_is_measured_and_said_once(town: Town, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "tocsin.loop"):
        for _ in range(3):
            town.clock.turn(1.25)
            await town.store.touch_keys({})

    said = await scrape(town)
    assert (said("tocsin_event_loop_lag_seconds_sum") or 0) >= 2.9
    lines = [record for record in caplog.records if record.name == "tocsin.loop"]
    assert [line.getMessage() for line in lines] == ["the event loop was held up for 1000 ms"]
