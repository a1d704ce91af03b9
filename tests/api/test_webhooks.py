"""Completion webhooks, from the POST that asks for one to the receiver's signature check."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web
from standardwebhooks import Webhook, WebhookVerificationError

from notifiers import Refused
from server.app import WEBHOOKS
from server.followers.webhooks import Answer, after, retry_after_s
from server.model import Role
from server.store.hooks import Hook
from tests.api.hooks_support import SECRETS, Receiver, TodaysClock, receiving, today, turn_until
from tests.kit import Town, jean

ALLOWING = {"WEBHOOKS__SECRETS": json.dumps(SECRETS), "WEBHOOKS__ALLOW": '["127.0.0.1"]'}
DAY_S = 86_400


@pytest.fixture
def clock() -> TodaysClock:
    return TodaysClock()


@pytest.fixture
async def receiver(clock: TodaysClock) -> AsyncIterator[Receiver]:
    async with receiving(clock) as receiver:
        yield receiver


@pytest.fixture
async def town(tmp_path: Path, clock: TodaysClock, receiver: Receiver, both_engines: str) -> AsyncIterator[Town]:
    async with today(tmp_path, clock, **ALLOWING) as town:
        yield town


async def webhooks(town: Town, task_id: str, **headers: str) -> list[dict]:
    answer = await town.get(f"/api/queue/tasks/{task_id}/webhooks", **headers)
    assert answer.status == 200, await answer.text()
    return (await answer.json())["webhooks"]


async def until_webhook(town: Town, task_id: str, status: str, step_s: float = 0.0) -> dict:
    async def there() -> bool:
        found = await webhooks(town, task_id)
        return bool(found) and found[-1]["status"] == status

    await turn_until(town, there, step_s)
    return (await webhooks(town, task_id))[-1]


async def test_the_task_is_posted_as_rest_shows_it_signed_with_every_secret(town: Town, receiver: Receiver) -> None:
    task_id = await town.send(webhook_url=f"{receiver.url}?token=1")
    await until_webhook(town, task_id, "delivered")

    call = receiver.calls[0]
    assert json.loads(call.body) == await town.json(f"/api/queue/tasks/{task_id}")
    assert json.loads(call.body)["task"]["status"] == "completed"
    assert call.path == "/hook?token=1"
    assert call.headers["content-type"] == "application/json; charset=utf-8"
    assert call.headers["webhook-id"] == f"msg_{task_id}_1"
    assert len(call.headers["webhook-signature"].split(" ")) == 2
    for secret in SECRETS:
        assert Webhook(secret).verify(call.body, call.headers)["task"]["id"] == task_id
    with pytest.raises(WebhookVerificationError):
        Webhook(SECRETS[0]).verify(call.body + b" ", call.headers)
    with pytest.raises(WebhookVerificationError):
        Webhook("whsec_" + "AAAA").verify(call.body, call.headers)


async def test_the_first_secret_signs_first(town: Town, receiver: Receiver) -> None:
    task_id = await town.send(webhook_url=receiver.url)
    await until_webhook(town, task_id, "delivered")

    call = receiver.calls[0]
    first = call.headers["webhook-signature"].split(" ")[0]
    Webhook(SECRETS[0]).verify(call.body, call.headers | {"webhook-signature": first})


async def test_a_failed_and_a_cancelled_task_are_told_too(town: Town, receiver: Receiver) -> None:
    town.service("email").always(lambda message: Refused("address_refused", "550"))
    failed = await town.send(webhook_url=receiver.url)
    await until_webhook(town, failed, "delivered")
    await town.post("/admin/api/queue/pause")
    cancelled = await town.send(webhook_url=receiver.url)
    await town.post(f"/api/queue/tasks/{cancelled}/cancel")
    await until_webhook(town, cancelled, "delivered")

    assert [json.loads(call.body)["task"]["status"] for call in receiver.calls] == ["failed", "cancelled"]


async def test_a_second_run_is_a_second_message(town: Town, receiver: Receiver) -> None:
    service = town.service("email")
    service.will(Refused("address_refused"))
    task_id = await town.send(webhook_url=receiver.url)
    await until_webhook(town, task_id, "delivered")
    await town.post(f"/api/queue/tasks/{task_id}/retry")
    await receiver.until_called(2)

    assert [call.headers["webhook-id"] for call in receiver.calls] == [f"msg_{task_id}_1", f"msg_{task_id}_2"]


async def test_a_task_that_asked_for_none_calls_nobody(town: Town, receiver: Receiver) -> None:
    task_id = await town.send()
    await town.until_ended(task_id)

    assert await webhooks(town, task_id) == []


async def test_an_error_is_tried_again_later_under_the_same_id(town: Town, receiver: Receiver) -> None:
    receiver.will(500, 404, 302)
    task_id = await town.send(webhook_url=receiver.url)
    await receiver.until_called(1)
    standing = await until_waiting(town, task_id, 1)

    assert (standing["last_status"], standing["attempts"], standing["status"]) == (500, 1, "waiting")
    await until_webhook(town, task_id, "delivered", step_s=1)

    assert len(receiver.calls) == 4
    assert len({call.headers["webhook-id"] for call in receiver.calls}) == 1
    waits = [(b.at_ms - a.at_ms) / 1000 for a, b in zip(receiver.calls, receiver.calls[1:], strict=False)]
    for wait, longest in zip(waits, (5, 10, 20), strict=True):
        assert longest / 2 <= wait <= longest + 2


async def until_waiting(town: Town, task_id: str, attempts: int) -> dict:
    """Wait until the outcome of an attempt has been written down."""

    async def there() -> bool:
        found = await webhooks(town, task_id)
        return (
            bool(found)
            and found[-1]["attempts"] == attempts
            and bool(found[-1]["last_status"] or found[-1]["last_error"])
        )

    await turn_until(town, there, 0)
    return (await webhooks(town, task_id))[-1]


async def test_410_stops_it_for_good(town: Town, receiver: Receiver) -> None:
    receiver.will(410)
    task_id = await town.send(webhook_url=receiver.url)

    standing = await until_webhook(town, task_id, "stopped")

    assert (standing["last_status"], standing["next_attempt_at_iso"]) == (410, None)
    town.clock.turn(DAY_S)
    other = await town.send(webhook_url=receiver.url)
    await until_webhook(town, other, "delivered")
    assert len(receiver.calls) == 2


async def test_a_redirect_is_not_followed(town: Town, receiver: Receiver) -> None:
    receiver.will(web.Response(status=307, headers={"Location": receiver.url + "/elsewhere"}))
    task_id = await town.send(webhook_url=receiver.url)

    standing = await until_waiting(town, task_id, 1)

    assert (standing["status"], standing["last_status"]) == ("waiting", 307)
    assert [call.path for call in receiver.calls] == ["/hook"]


async def test_a_redirect_into_the_house_makes_no_connection(town: Town, receiver: Receiver) -> None:
    knocks: list[object] = []
    inside = await asyncio.start_server(lambda reader, writer: knocks.append(writer), "127.0.0.2", 0)
    port = inside.sockets[0].getsockname()[1]
    receiver.will(web.Response(status=302, headers={"Location": f"http://127.0.0.2:{port}/"}))
    task_id = await town.send(webhook_url=receiver.url)

    standing = await until_waiting(town, task_id, 1)

    assert (standing["last_status"], knocks) == (302, [])
    inside.close()
    await inside.wait_closed()


async def test_retry_after_is_honoured(town: Town, receiver: Receiver) -> None:
    receiver.will(web.Response(status=503, headers={"Retry-After": "600"}))
    task_id = await town.send(webhook_url=receiver.url)
    await until_waiting(town, task_id, 1)

    await until_webhook(town, task_id, "delivered", step_s=10)

    assert 600_000 <= receiver.calls[1].at_ms - receiver.calls[0].at_ms <= 620_000


async def test_it_is_given_up_after_a_day(tmp_path: Path, clock: TodaysClock, receiver: Receiver) -> None:
    receiver.will(*[500] * 100)
    async with today(tmp_path, clock, **ALLOWING, QUEUE__RETENTION_HOURS="48") as town:
        task_id = await town.send(webhook_url=receiver.url)
        await until_waiting(town, task_id, 1)
        standing = await until_webhook(town, task_id, "gave_up", step_s=120)

    span_s = (receiver.calls[-1].at_ms - receiver.calls[0].at_ms) / 1000
    assert DAY_S <= span_s <= DAY_S + 3600, "one last try when the day is over"
    assert 30 <= standing["attempts"] <= 100
    assert standing["next_attempt_at_iso"] is None


async def test_removing_the_task_does_not_stop_it(town: Town, receiver: Receiver) -> None:
    receiver.will(500)
    task_id = await town.send(webhook_url=receiver.url)
    await until_waiting(town, task_id, 1)
    assert (await (await town.post("/admin/api/queue/clear", {"hours": 0})).json())["removed"] == 1

    await turn_until(town, lambda: len(receiver.calls) == 2)

    assert json.loads(receiver.calls[1].body)["task"]["id"] == task_id


async def test_what_was_not_delivered_is_after_a_restart(
    tmp_path: Path, clock: TodaysClock, receiver: Receiver
) -> None:
    receiver.will(500)
    async with today(tmp_path, clock, **ALLOWING) as town:
        task_id = await town.send(webhook_url=receiver.url)
        await until_waiting(town, task_id, 1)
    clock.turn(10)
    async with today(tmp_path, clock, **ALLOWING) as town:
        await until_webhook(town, task_id, "delivered", step_s=1)

    assert [call.headers["webhook-id"] for call in receiver.calls] == [f"msg_{task_id}_1"] * 2


async def test_a_call_that_a_crash_cut_off_is_made_again_once_its_lease_is_over(
    tmp_path: Path, clock: TodaysClock, receiver: Receiver
) -> None:
    receiver.hold()
    async with today(tmp_path, clock, **ALLOWING) as town:
        task_id = await town.send(webhook_url=receiver.url)
        await receiver.until_called(1)
        for call in town.app[WEBHOOKS]._calls:
            call.cancel()
    receiver.release()
    async with today(tmp_path, clock, **ALLOWING) as town:
        await until_webhook(town, task_id, "delivered", step_s=1)

    assert receiver.calls[1].at_ms - receiver.calls[0].at_ms >= 30_000
    assert receiver.calls[0].headers["webhook-id"] == receiver.calls[1].headers["webhook-id"]


async def test_one_host_gets_four_calls_at_once_at_the_most(town: Town, receiver: Receiver) -> None:
    receiver.hold()
    tasks = [await town.send(webhook_url=receiver.url) for _ in range(10)]
    await receiver.until_called(4)
    for task_id in tasks:
        await town.until_ended(task_id)
    assert len(receiver.calls) == 4
    receiver.release()

    for task_id in tasks:
        await until_webhook(town, task_id, "delivered")

    assert receiver.most_at_once == 4
    assert len(receiver.calls) == 10


async def test_an_endless_answer_is_not_read_to_its_end(town: Town, receiver: Receiver) -> None:
    receiver.will(web.Response(status=200, body=b"x" * 5_000_000))
    task_id = await town.send(webhook_url=receiver.url)

    standing = await until_webhook(town, task_id, "delivered")

    assert standing["last_status"] == 200


async def test_a_receiver_that_says_nothing_is_left_after_the_time_out(
    tmp_path: Path, clock: TodaysClock, receiver: Receiver
) -> None:
    receiver.hold()
    async with today(tmp_path, clock, **ALLOWING) as town:
        town.app[WEBHOOKS]._sessions[True]._timeout = type(town.app[WEBHOOKS]._sessions[True].timeout)(total=0.05)
        task_id = await town.send(webhook_url=receiver.url)
        standing = await until_waiting(town, task_id, 1)

    assert (standing["last_status"], standing["last_error"]) == (None, "délai dépassé")


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:9/",
        "http://localhost:9/",
        "http://169.254.169.254/latest",
        "http://[::1]/",
        "http://user@example.org/",
    ],
)
async def test_an_address_inside_is_refused_at_the_post(tmp_path: Path, url: str) -> None:
    async with today(tmp_path, **(ALLOWING | {"WEBHOOKS__ALLOW": "[]"})) as town:
        answer = await town.post("/api/notifications/meteo", posted(url))

        said = await answer.json()
        assert answer.status == 422
        assert [error["pointer"] for error in said["errors"]] == ["/webhook_url"]
        assert "webhooks.allow" in said["errors"][0]["message"]


async def test_without_a_secret_there_are_no_webhooks(tmp_path: Path) -> None:
    async with today(tmp_path) as town:
        answer = await town.post("/api/notifications/meteo", posted("https://example.org/hook"))

        assert answer.status == 422
        assert "webhooks.secrets" in (await answer.json())["errors"][0]["message"]


async def test_a_name_that_leads_inside_is_not_called(tmp_path: Path, clock: TodaysClock, receiver: Receiver) -> None:
    async with today(tmp_path, clock, **(ALLOWING | {"WEBHOOKS__ALLOW": "[]"})) as town:
        town.app[WEBHOOKS]._sessions[True].connector._resolver = Inside()
        task_id = await town.send(webhook_url=receiver.url.replace("127.0.0.1", "innocent.example"))
        standing = await until_waiting(town, task_id, 1)

        assert (standing["status"], standing["last_error"]) == ("waiting", "adresse interdite")
        assert receiver.calls == []


class Inside:
    """A name server that says 127.0.0.1 to everything."""

    async def resolve(self, host, port=0, family=0):
        return [{"hostname": host, "host": "127.0.0.1", "port": port, "family": 2, "proto": 0, "flags": 0}]

    async def close(self):
        pass


async def test_a_viewer_sees_the_host_alone(town: Town, receiver: Receiver) -> None:
    task_id = await town.send(webhook_url=f"{receiver.url}?token=secret")
    await until_webhook(town, task_id, "delivered")
    viewer = await town.key(Role.VIEWER)

    assert [row["url"] for row in await webhooks(town, task_id, **viewer)] == ["127.0.0.1"]
    assert [row["url"] for row in await webhooks(town, task_id)] == [f"{receiver.url}?token=secret"]


async def test_what_is_done_is_removed_with_the_time_that_tasks_are_kept(town: Town, receiver: Receiver) -> None:
    task_id = await town.send(webhook_url=receiver.url)
    await until_webhook(town, task_id, "delivered")

    async def gone() -> bool:
        return not await town.store.hooks_of(task_id)

    await turn_until(town, gone, step_s=600)


def posted(url: str) -> dict:
    return {"titre": "t", "message": "m", "utilisateurs": [jean()], "webhook_url": url}


# --- what becomes of one, as a table -----------------------------------------------------------------


def hook(attempts: int = 1) -> Hook:
    return Hook(
        id="msg_1", task_id="1", host="example.org", url="https://example.org/", body=b"{}", state="waiting",
        attempts=attempts, due_ms=0, until_ms=DAY_S * 1000, done_ms=None, last_ms=0, last_status=None, last_error="",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("answer", "attempts", "now_ms", "state", "due_ms"),
    [
        (Answer(200), 1, 1000, "delivered", 1000),
        (Answer(299), 9, 1000, "delivered", 1000),
        (Answer(410), 1, 1000, "stopped", 1000),
        (Answer(500), 1, 1000, "waiting", 6_000),
        (Answer(301), 2, 1000, "waiting", 11_000),
        (Answer(None, "timeout"), 3, 1000, "waiting", 21_000),
        (Answer(500), 30, 1000, "waiting", 3_601_000),
        (Answer(429, "", 60.0), 1, 1000, "waiting", 61_000),
        (Answer(429, "", 1.0), 1, 1000, "waiting", 6_000),
        (Answer(429, "", 1e9), 1, 1000, "waiting", DAY_S * 1000),
        (Answer(500), 30, DAY_S * 1000, "gave_up", DAY_S * 1000),
        (Answer(204), 30, DAY_S * 1000 + 5, "delivered", DAY_S * 1000 + 5),
    ],
)
def test_what_becomes_of_it(answer: Answer, attempts: int, now_ms: int, state: str, due_ms: int) -> None:
    save = after(hook(attempts), answer, now_ms, 1.0)

    assert (save.state, save.due_ms) == (state, due_ms)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("", 0),
        (None, 0),
        ("120", 120),
        ("-5", 0),
        ("soon", 0),
        ("Thu, 01 Jan 1970 00:01:40 GMT", 90),
        ("1.5", 0),
        ("9" * 50, 999999999),
        ("Thu, 01 Jan 99999999999999999999 00:00:00 GMT", 0),
    ],
)
def test_how_retry_after_is_read(text: str | None, seconds: float) -> None:
    assert retry_after_s(text, 10_000) == seconds
