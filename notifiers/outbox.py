"""`outbox:DIR` writes to disk: one .eml file per e-mail, JSON lines (NAME.jsonl) for every other channel.

The default, so that Tocsin runs and shows what it would send before any service is set up. A file appears whole or not
at all, and is named after the message, so that a repeated delivery takes its own place. All that wait are written by
one hop to a thread: the event loop never touches the disk.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import logging
import os
from concurrent.futures import ThreadPoolExecutor
from hashlib import blake2b
from pathlib import Path

import msgspec

from notifiers.base import Message, NotifierError, Outcome, RetryLater, Sent, Spec, clip
from notifiers.mail import DEFAULT_FROM, ID_UNSAFE, Letter, compose, sender

log = logging.getLogger("tocsin.outbox")

SENT = Sent()
NEEDS = {"email": frozenset({"email"}), "sms": frozenset({"telephone"})}
NAME_MOST = 120


class Outbox:
    """A folder that stands for the world."""

    def __init__(self, name: str, folder: Path, timeout_s: float):
        self.needs: frozenset[str] = NEEDS.get(name, frozenset())
        self._folder = folder
        self._lines = None if name == "email" else folder / f"{_file_name(name)}.jsonl"
        self._channel = name
        self._timeout_s = timeout_s
        self._origin = sender(DEFAULT_FROM)
        self._waiting: dict[asyncio.Future[Outcome], Message] = {}
        self._writer: asyncio.Task[None] | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"outbox-{name}")

    async def deliver(self, message: Message) -> Outcome:
        future: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self._waiting[future] = message
        if self._writer is None or self._writer.done():
            self._writer = asyncio.create_task(self._write_all(), name=f"outbox-{self._channel}")
        try:
            async with asyncio.timeout(self._timeout_s):
                return await future
        except TimeoutError:
            return RetryLater("timeout", transport=True)
        finally:
            self._waiting.pop(future, None)

    async def check(self) -> str:
        try:
            await asyncio.get_running_loop().run_in_executor(self._thread, self._try_folder)
        except OSError as error:
            raise NotifierError(f"{self._folder}: {error.strerror}") from None
        return f"writes to {self._lines or self._folder}"

    async def aclose(self) -> None:
        if self._writer:
            await self._writer
        self._thread.shutdown(wait=False)

    async def _write_all(self) -> None:
        """Write whatever has gathered, until nothing is left."""
        loop = asyncio.get_running_loop()
        while self._waiting:
            batch, self._waiting = self._waiting, {}
            outcomes: list[Outcome] = [RetryLater("internal")] * len(batch)
            try:
                outcomes = await loop.run_in_executor(self._thread, self._write, list(batch.values()))
            except Exception:  # a defect of ours: the others must not wait for it
                log.exception("outbox of %s: nothing was written", self._channel)
            for future, outcome in zip(batch, outcomes, strict=True):
                if not future.done():
                    future.set_result(outcome)

    # --- in the thread -----------------------------------------------------------------------------

    def _write(self, messages: list[Message]) -> list[Outcome]:
        if self._lines is None:
            return [self._write_letter(message) for message in messages]
        try:
            self._append(self._lines, b"".join(_line(self._channel, message) for message in messages))
        except OSError as error:
            return [_disk_error(error)] * len(messages)
        return [SENT] * len(messages)

    def _write_letter(self, message: Message) -> Outcome:
        letter = compose(message, self._origin)
        if not isinstance(letter, Letter):
            return letter
        name = f"{_file_name(message.id)}.eml"
        draft = f"{self._folder}/.{name}.{os.getpid()}"
        try:
            try:
                _write_file(draft, letter.data)
            except FileNotFoundError:
                self._folder.mkdir(parents=True, exist_ok=True)
                _write_file(draft, letter.data)
            os.replace(draft, f"{self._folder}/{name}")  # noqa: PTH105  # text paths: twice as fast as Path here
        except OSError as error:
            try:
                Path(draft).unlink(missing_ok=True)
            except OSError:
                pass  # what cannot be written may not be removable either; the first error is the one to tell
            return _disk_error(error)
        return Sent(reference=name)

    def _append(self, file: Path, lines: bytes) -> None:
        """All lines or none: other nodes may append to the same file, so it is locked while its end may move back."""
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        try:
            handle = os.open(file, flags, 0o640)
        except FileNotFoundError:
            file.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(file, flags, 0o640)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            end = os.fstat(handle).st_size
            if os.write(handle, lines) != len(lines):
                os.ftruncate(handle, end)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        finally:
            os.close(handle)

    def _try_folder(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        trial = self._folder / f".check.{self._channel}.{os.getpid()}"  # channels may share a folder
        trial.write_bytes(b"")
        trial.unlink()


def _write_file(path: str, data: bytes) -> None:
    """The whole of it, or an OSError."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o640)
    try:
        if os.write(handle, data) != len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    finally:
        os.close(handle)


def _line(channel: str, message: Message) -> bytes:
    """A message as one line of JSON."""
    return msgspec.json.encode({"channel": channel, **msgspec.structs.asdict(message)}) + b"\n"


def _file_name(text: str) -> str:
    """`text` where it is safe and short, else its safe beginning and a hash, so that no two share a name."""
    safe = ID_UNSAFE.sub("_", text)
    if safe == text and len(text) <= NAME_MOST and not text.startswith("."):
        return text
    return f"{safe.lstrip('.')[:60]}-{blake2b(text.encode('utf-8', 'replace'), digest_size=8).hexdigest()}"


def _disk_error(error: OSError) -> RetryLater:
    code = errno.errorcode.get(error.errno or 0, "")
    return RetryLater("disk_error", code=code, detail=clip(error.strerror or ""), transport=True)


def open_outbox(spec: Spec) -> Outbox:
    """`outbox:DIR`; a relative DIR is relative to the configuration file."""
    folder = spec.url.partition(":")[2].removeprefix("//")
    if not folder or "\0" in folder:
        raise ValueError('expected a folder, as in "outbox:data/outbox"')
    return Outbox(spec.name, spec.base_dir / folder, spec.timeout_s)
