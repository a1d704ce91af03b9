"""The log: one line per record whatever is in it, nobody's address, and nobody waits for whoever reads it."""

from __future__ import annotations

import io
import json
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.logs import (
    MOST_WAITING,
    Console,
    JsonLines,
    one_line,
    private,
    remove,
    request_answered,
    setup,
    task_settled,
)
from server.model import NotificationTask, Priority, Status


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Stuck(io.StringIO):
    """A pipe that nobody reads, until it is `opened`."""

    def __init__(self) -> None:
        super().__init__()
        self.reached = threading.Event()
        self.opened = threading.Event()

    def write(self, text: str) -> int:
        self.reached.set()
        self.opened.wait(60)
        return super().write(text)


@contextmanager
def logging_to(stream: io.StringIO) -> Iterator[logging.Logger]:
    root = logging.getLogger()
    level = root.level
    writer = setup(stream)
    try:
        yield logging.getLogger("tocsin.test")
    finally:
        remove(writer)
        root.setLevel(level)


def test_a_line_is_written_where_a_handler_enters_its_lock_itself(monkeypatch: pytest.MonkeyPatch):
    def handle(self: logging.Handler, record: logging.LogRecord) -> bool:  # as in Python 3.13 and later
        with self.lock:  # type: ignore[union-attr]
            self.emit(record)
        return True

    monkeypatch.setattr(logging.Handler, "handle", handle)
    out = io.StringIO()
    with logging_to(out) as log:
        log.warning("here")
    assert "here" in out.getvalue()


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines() if "tocsin" in line]


def test_a_record_is_one_line_of_json_with_its_fields() -> None:
    stream = io.StringIO()
    with logging_to(stream) as log:
        log.warning("held up for %d ms", 300, extra={"fields": {"request_id": "r-1", "n": 2}})

    (line,) = lines(stream)
    assert line.pop("time").endswith("Z")
    assert line == {
        "level": "warning", "logger": "tocsin.test", "message": "held up for 300 ms", "request_id": "r-1", "n": 2,
    }  # fmt: skip


@given(st.text())
def test_no_text_breaks_out_of_its_line(text: str) -> None:
    record = logging.LogRecord("tocsin", logging.INFO, "", 0, "%s", (text,), None)
    record.fields = {"more": text}

    written = JsonLines().format(record)

    assert len(written.splitlines()) == 1
    json.loads(written)
    assert len(Console().format(record).splitlines()) == 1
    assert "\x1b" not in Console().format(record)


def test_a_traceback_stays_on_the_records_line() -> None:
    stream = io.StringIO()
    with logging_to(stream) as log:
        try:
            raise ValueError("jean.dupont@example.org\nfaked line")
        except ValueError:
            log.exception("failed")

    (line,) = lines(stream)
    assert "ValueError" in line["exception"]
    assert "jean" not in line["exception"]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("to jean.dupont@example.org: 550", "to …@…: 550"),
        ("call +33 6 12 34 56 78 now", "call +… now"),
        ("smtp://user:secret@host:587", "smtp://…@host:587"),
        ("2025-01-01T10:00:00+02:00, 1 + 1", "2025-01-01T10:00:00+02:00, 1 + 1"),
    ],
)
def test_addresses_and_passwords_are_made_unrecognisable(text: str, shown: str) -> None:
    assert private(text) == shown


def test_on_a_terminal_it_is_for_people() -> None:
    stream = Terminal()
    with logging_to(stream) as log:
        log.error("no\x1b[2Jtrick", extra={"fields": {"task": "t1"}})

    line = next(line for line in stream.getvalue().splitlines() if "tocsin" in line)
    assert "error    tocsin.test  no\\x1b[2Jtrick task=t1" in line
    assert line.startswith("\x1b[31m")


def test_whoever_logs_does_not_wait_for_whoever_reads() -> None:
    stream = Stuck()
    with logging_to(stream) as log:
        log.info("first")
        assert stream.reached.wait(60)
        for n in range(MOST_WAITING + 500):
            log.info("line %d", n)
        stream.opened.set()

    found = lines(stream)
    assert len(found) == MOST_WAITING + 2
    assert found[-1]["message"].startswith("500 lines were dropped")


def task(status: Status) -> NotificationTask:
    return NotificationTask(
        id="0190", type="meteo", status=status, priority=Priority.HAUTE, titre="jean@example.org", message="secret",
        total=3, sent=2, failed=1, attempts=2, created_ms=1000, ended_ms=4000,
    )  # fmt: skip


def test_a_task_that_ended_is_one_line_without_what_was_sent() -> None:
    stream = io.StringIO()
    with logging_to(stream):
        task_settled(task(Status.PENDING))
        task_settled(task(Status.FAILED))

    (line,) = lines(stream)
    assert line["message"] == "task failed"
    shown = {name: line[name] for name in ("task", "type", "status", "attempts", "sent", "failed", "total", "took_ms")}
    assert shown == {
        "task": "0190", "type": "meteo", "status": "failed", "attempts": 2, "sent": 2, "failed": 1, "total": 3,
        "took_ms": 3000,
    }  # fmt: skip
    assert "secret" not in stream.getvalue()


def test_of_requests_only_errors_are_said_with_their_id() -> None:
    stream = io.StringIO()
    with logging_to(stream):
        request_answered("r-1", "GET", "/api/health", 200, 0.001)
        request_answered("r-2", "POST", "/api/notifications/{type}", 422, 0.002)
        request_answered("r-3", "GET", "/api/queue/stats", 500, 0.5)

    assert [(line["request_id"], line["status"], line["level"]) for line in lines(stream)] == [
        ("r-2", 422, "info"), ("r-3", 500, "error"),
    ]  # fmt: skip


def test_control_characters_are_shown() -> None:
    assert one_line("a\r\nb\x00\u2028\ud800") == "a\\r\\nb\\x00\\u2028\\ud800"
