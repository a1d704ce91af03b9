"""The outbox: one file per e-mail, one line per anything else, whole or not at all."""

from __future__ import annotations

import asyncio
import errno
import json
import os
from email import message_from_bytes
from email.policy import default

import pytest

from notifiers import NotifierError, Refused, RetryLater, Sent, open_notifier
from notifiers import outbox as outbox_module
from tests.notifiers.post import message


@pytest.fixture
async def outbox(tmp_path):
    opened = []

    def open_one(name: str, **settings):
        opened.append(open_notifier(name, "outbox:data/outbox", base_dir=tmp_path, **settings))
        return opened[-1]

    yield open_one
    for notifier in opened:
        await notifier.aclose()


def files(tmp_path) -> list[str]:
    return sorted(file.name for file in (tmp_path / "data/outbox").iterdir())


async def test_every_recipient_gets_a_file_and_a_repeat_takes_its_own_place(outbox, tmp_path):
    mail = outbox("email")
    outcomes = await asyncio.gather(*(mail.deliver(message(n)) for n in range(100)))
    await mail.deliver(message(7, at_ms=1_763_028_060_000))

    assert files(tmp_path) == sorted(f"{message(n).id}.eml" for n in range(100))
    assert outcomes[7] == Sent(reference=f"{message(7).id}.eml")
    letter = message_from_bytes((tmp_path / f"data/outbox/{message(7).id}.eml").read_bytes(), policy=default)
    assert letter["To"].addresses[0].addr_spec == "u7@mairie.fr"
    assert str(letter["From"]) == "Tocsin <tocsin@localhost>"
    assert letter["Date"].datetime.minute == 1


async def test_many_messages_share_one_hop_to_the_thread(outbox, monkeypatch):
    mail = outbox("email")
    hops = []
    write = mail._write
    monkeypatch.setattr(mail, "_write", lambda batch: hops.append(len(batch)) or write(batch))
    await asyncio.gather(*(mail.deliver(message(n)) for n in range(64)))

    assert hops == [64]


async def test_other_channels_append_lines(outbox, tmp_path):
    sms = outbox("sms")
    outcomes = await asyncio.gather(*(sms.deliver(message(n, message="a\nb\u2028é")) for n in range(64)))
    lines = (tmp_path / "data/outbox/sms.jsonl").read_text("utf-8").split("\n")[:-1]

    assert outcomes == [Sent()] * 64
    assert [json.loads(line)["telephone"] for line in lines] == [message(n).telephone for n in range(64)]
    assert {json.loads(line)["message"] for line in lines} == {"a\nb\u2028é"}
    assert files(tmp_path) == ["sms.jsonl"]


def test_each_channel_asks_for_the_address_it_needs(outbox):
    assert (outbox("email").needs, outbox("sms").needs, outbox("app").needs) == ({"email"}, {"telephone"}, frozenset())


async def test_an_id_cannot_name_a_file_elsewhere(outbox, tmp_path):
    mail = outbox("email")
    ids = ["../../x", "/etc/x", ".x", "a/b", "a_b", "x" * 500, "é"]
    for one in ids:
        assert isinstance(await mail.deliver(message(id=one)), Sent)

    assert len(files(tmp_path)) == len(ids)
    assert [file.name for file in tmp_path.iterdir()] == ["data"]


async def test_a_bad_address_is_refused_and_leaves_no_file(outbox, tmp_path):
    mail = outbox("email")
    outcomes = await asyncio.gather(mail.deliver(message(0, email="a@b\r\nBcc: c@d")), mail.deliver(message(1)))

    assert isinstance(outcomes[0], Refused)
    assert files(tmp_path) == [f"{message(1).id}.eml"]


@pytest.mark.parametrize("name", ["email", "sms"])
async def test_a_full_disk_is_later_and_leaves_no_half(outbox, tmp_path, monkeypatch, name):
    box = outbox(name)
    await box.deliver(message(0))
    before = {file.name: file.read_bytes() for file in (tmp_path / "data/outbox").iterdir()}

    def half(handle, data):  # the disk has room for some of it
        return write(handle, data[: len(data) // 2])

    write = os.write
    with monkeypatch.context() as full:
        full.setattr(outbox_module.os, "write", half)
        outcome = await box.deliver(message(1))
    after = {file.name: file.read_bytes() for file in (tmp_path / "data/outbox").iterdir()}

    assert outcome == RetryLater("disk_error", "ENOSPC", os.strerror(errno.ENOSPC), transport=True)
    assert after == before
    assert isinstance(await box.deliver(message(1)), Sent)


async def test_a_folder_that_cannot_be_made_is_told(outbox, tmp_path):
    (tmp_path / "data").write_text("a file")
    mail = outbox("email")

    assert (await mail.deliver(message())).reason == "disk_error"
    with pytest.raises(NotifierError, match="data/outbox"):
        await mail.check()


async def test_check_leaves_nothing_behind(outbox, tmp_path):
    assert "writes to" in await outbox("sms").check()
    assert files(tmp_path) == []


async def test_null_counts_and_drops(tmp_path):
    null = open_notifier("email", "null:", base_dir=tmp_path)
    for n in range(10):
        assert await null.deliver(message(n)) == Sent()

    assert null.delivered == 10
    assert [*tmp_path.iterdir()] == []
