"""The log that people and machines read: one JSON line per record, or plain lines where stderr is a terminal.

Lines are written by a thread, so a slow reader of stderr never holds up the event loop; what waits is bounded, and
what had to be dropped is counted in the next line. Control characters cannot break out of a line, and e-mail addresses,
phone numbers and passwords in URLs are made unrecognisable in whatever is said. More fields come by `extra`:

    log.info("task ended", extra={"fields": {"task": task.id, "status": "completed"}})
"""

from __future__ import annotations

import logging
import re
import threading
from collections import deque
from datetime import datetime
from typing import Any, TextIO

import msgspec

from server.model import ENDED, NotificationTask, iso

MOST_WAITING = 10_000
MOST_CHARS = 2_000
MOST_TRACE = 8_000
CLOSE_S = 2.0
GATHER_S = 0.02
"""Who logs a line often logs more: they are written together. To wake the thread for each costs as much as the rest."""

_email = re.compile(r"[^\s@<>\"'(),;:/=]{1,64}@[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)+")
_phone = re.compile(r"\+[1-9](?:[ .-]?[0-9]){6,14}")
_login = re.compile(r"(?<=://)[^/\s@]+@")
_breaking = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_encode = msgspec.json.Encoder().encode

COLOURS = {"WARNING": "\x1b[33m", "ERROR": "\x1b[31m", "CRITICAL": "\x1b[31;1m"}
PLAIN = "\x1b[0m"
QUIET = ("asyncio", "aiohttp", "aiosmtplib", "apprise", "urllib3")
"""Libraries that are heard from WARNING on."""


def private(text: str) -> str:
    """`text` without what would name a person or let someone in."""
    if "@" in text:
        text = _email.sub("…@…", _login.sub("…@", text))
    return _phone.sub("+…", text) if "+" in text else text


def one_line(text: str) -> str:
    """`text` with every character that could end or colour a line shown as `\\x1b`."""
    if text.isprintable():  # as a rule; this is a tenth of the search's time
        return text
    return _breaking.sub(lambda found: found.group().encode("unicode_escape", "surrogatepass").decode(), text)


def said(record: logging.LogRecord) -> str:
    """A record's message, fit to be written down."""
    return private(record.getMessage()[: MOST_CHARS * 2])[:MOST_CHARS]


class JsonLines(logging.Formatter):
    """`{"time":…,"level":…,"logger":…,"message":…,…}`"""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": iso(int(record.created * 1000)),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": one_line(said(record)),
        }
        for name, value in getattr(record, "fields", {}).items():
            line[name] = one_line(private(value)) if isinstance(value, str) else value
        if record.exc_info:
            line["exception"] = one_line(private(self.formatException(record.exc_info))[-MOST_TRACE:])
        return _encode(line).decode()


class Console(logging.Formatter):
    """`10:00:00 warning  tocsin.workers  …`, coloured."""

    def format(self, record: logging.LogRecord) -> str:
        at = datetime.fromtimestamp(record.created).strftime("%H:%M:%S")  # noqa: DTZ006 - the reader's own time
        fields = getattr(record, "fields", {})
        more = "".join(f" {name}={private(str(value))}" for name, value in fields.items())
        text = one_line(f"{at} {record.levelname.lower():8} {record.name}  {said(record)}{more}")
        if record.exc_info:
            trace = private(self.formatException(record.exc_info))[-MOST_TRACE:]
            text += "".join(f"\n    {one_line(line)}" for line in trace.splitlines())
        colour = COLOURS.get(record.levelname)
        return f"{colour}{text}{PLAIN}" if colour else text


class Writer(logging.Handler):
    """Hands records to a thread that writes them."""

    def __init__(self, stream: TextIO, formatter: logging.Formatter):
        super().__init__()
        self.setFormatter(formatter)
        self._stream = stream
        self._waiting: deque[logging.LogRecord] = deque()
        self._dropped = 0
        self._wake = threading.Event()
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="tocsin-log", daemon=True)
        self._thread.start()

    def handle(self, record: logging.LogRecord) -> bool:
        """Take in `record`, without the lock: `emit` needs none, and to take one costs as much as it does."""
        if passes := bool(self.filter(record)):
            self.emit(record)
        return passes

    def emit(self, record: logging.LogRecord) -> None:
        if len(self._waiting) >= MOST_WAITING:
            self._dropped += 1
            return
        if record.args:  # what they stand for may have changed by the time it is written
            record.msg, record.args = record.getMessage(), None
        self._waiting.append(record)
        if not self._wake.is_set():
            self._wake.set()

    def _run(self) -> None:
        while True:
            self._wake.wait()
            self._ending.wait(GATHER_S)
            self._wake.clear()
            lines: list[str] = []
            while self._waiting:
                lines.append(self._line(self._waiting.popleft()))
                if len(lines) == 256:
                    self._write(lines)
                    lines = []
            if self._dropped:
                dropped, self._dropped = self._dropped, 0
                lines.append(self._line(_record(f"{dropped} lines were dropped: nobody read them fast enough")))
            self._write(lines)
            if self._ending.is_set() and not self._waiting:
                return

    def _line(self, record: logging.LogRecord) -> str:
        try:
            return self.format(record)
        except Exception as error:  # noqa: BLE001 - a line that cannot be written must not end all others
            return self.format(_record(f"a line of {record.name} could not be written: {type(error).__name__}"))

    def _write(self, lines: list[str]) -> None:
        if not lines:
            return
        try:
            self._stream.write("\n".join(lines) + "\n")
            self._stream.flush()
        except (OSError, ValueError):
            self._dropped += len(lines)  # nobody can be told now; whoever reads later is

    def close(self) -> None:
        """Write what waits, for a moment at the most."""
        self._ending.set()
        self._wake.set()
        self._thread.join(CLOSE_S)
        super().close()


def _record(message: str) -> logging.LogRecord:
    return logging.LogRecord("tocsin.logs", logging.WARNING, "", 0, message, None, None)


def setup(stream: TextIO, level: int = logging.INFO) -> Writer:
    """Write everything that is logged to `stream`, until `remove`."""
    logging._srcfile = None  # nothing here shows callers; to look for them takes long
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False  # nothing here shows them
    terminal = stream.isatty()
    writer = Writer(stream, Console() if terminal else JsonLines())
    root = logging.getLogger()
    root.addHandler(writer)
    root.setLevel(level)
    for name in QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.captureWarnings(True)
    return writer


def remove(writer: Writer) -> None:
    """Undo `setup`: what waits is written."""
    logging.getLogger().removeHandler(writer)
    logging.captureWarnings(False)
    writer.close()


# --- what is said of tasks and requests --------------------------------------------------------------

_tasks = logging.getLogger("tocsin.tasks")
_http = logging.getLogger("tocsin.http")


def task_settled(task: NotificationTask) -> None:
    """One line per task that has ended (`WorkerPool.on_settled`)."""
    if task.status not in ENDED:
        return
    fields = {
        "task": task.id, "type": task.type, "priority": task.priority.name, "status": task.status.value,
        "run": task.run, "attempts": task.attempts, "sent": task.sent, "failed": task.failed, "total": task.total,
        "took_ms": (task.ended_ms or 0) - max(task.created_ms, task.planned_ms or 0),
    }  # fmt: skip
    _tasks.info("task %s", task.status.value, extra={"fields": fields})


def request_answered(request_id: str, method: str, route: str, status: int, took_s: float) -> None:
    """One line per request that came to an error."""
    if status < 400:
        return
    fields = {
        "request_id": request_id, "method": method[:20], "route": route, "status": status,
        "took_ms": round(took_s * 1000, 1),
    }  # fmt: skip
    _http.log(logging.ERROR if status >= 500 else logging.INFO, "answered %d", status, extra={"fields": fields})
