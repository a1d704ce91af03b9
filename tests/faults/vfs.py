"""A disk that remembers every write and every sync, can say no, and can be cut off at any moment.

Registered as an apsw VFS over the real one. `image` rebuilds what a disk may hold after the power went at a point of
the record: whatever was synced is there; what was not is dropped, kept, reordered or torn, as chance has it. So a
store that does not sync what it acknowledges is found out without any power being cut.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from random import Random

import apsw
from msgspec import Struct

SECTOR = 512


class Entry(Struct, frozen=True):
    """Something that happened to a file."""

    what: str  # write | truncate | sync | delete
    file: str  # its name, without folders
    offset: int = 0  # of a write; the size, of a truncate
    data: bytes = b""


class Disk(apsw.VFS):
    """The VFS `name`."""

    def __init__(self, name: str):
        self.record: list[Entry] = []
        self.no_writes: BaseException | None = None
        """Raised by every write while it is set: a full disk, or one that fails."""
        self.no_syncs: BaseException | None = None
        self.no_reads: BaseException | None = None
        self.refused = 0  # how often it said no
        self.name = name
        super().__init__(name, "")

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> apsw.VFSFile:
        return _File(self, name, flags)

    def xDelete(self, name: str, sync: bool) -> None:
        super().xDelete(name, sync)
        self.record.append(Entry("delete", Path(name).name))

    def check(self, error: BaseException | None) -> None:
        """Say no, if told to."""
        if error:
            self.refused += 1
            raise error

    def image(self, folder: Path, cut: int, random: Random, *, keep: float) -> None:
        """Write into `folder` what may be left if the power goes behind entry number `cut`.

        `keep` is the chance of each write that was not synced to be there all the same.
        """
        safe: dict[str, bytearray] = {}
        loose: defaultdict[str, list[Entry]] = defaultdict(list)
        for entry in self.record[:cut]:
            match entry.what:
                case "sync":
                    for each in loose.pop(entry.file, []):
                        _apply(safe.setdefault(entry.file, bytearray()), each)
                case "delete":
                    safe.pop(entry.file, None)
                    loose.pop(entry.file, None)
                case _:
                    loose[entry.file].append(entry)
        for file, entries in loose.items():
            kept = [entry for entry in entries if random.random() < keep]
            random.shuffle(kept)
            for entry in kept:
                if entry.what == "write" and random.random() < 0.3:  # torn: only some of its sectors
                    whole = random.randint(0, len(entry.data) // SECTOR) * SECTOR
                    entry = Entry("write", file, entry.offset, entry.data[:whole])
                _apply(safe.setdefault(file, bytearray()), entry)
        folder.mkdir(parents=True)
        for file, data in safe.items():
            (folder / file).write_bytes(data)


def _apply(data: bytearray, entry: Entry) -> None:
    if entry.what == "truncate":
        del data[entry.offset :]
        return
    end = entry.offset + len(entry.data)
    if len(data) < end:
        data.extend(bytes(end - len(data)))
    data[entry.offset : end] = entry.data


class _File(apsw.VFSFile):
    def __init__(self, disk: Disk, name: str | apsw.URIFilename | None, flags: list[int]):
        super().__init__("", name, flags)
        self._disk = disk
        text = name.filename() if isinstance(name, apsw.URIFilename) else name
        self._name = Path(text or "temporary").name

    def xRead(self, amount: int, offset: int) -> bytes:
        self._disk.check(self._disk.no_reads)
        return super().xRead(amount, offset)

    def xWrite(self, data: bytes, offset: int) -> None:
        self._disk.check(self._disk.no_writes)
        self._disk.record.append(Entry("write", self._name, offset, bytes(data)))
        super().xWrite(data, offset)

    def xTruncate(self, size: int) -> None:
        self._disk.check(self._disk.no_writes)
        self._disk.record.append(Entry("truncate", self._name, size))
        super().xTruncate(size)

    def xSync(self, flags: int) -> None:
        self._disk.check(self._disk.no_syncs)
        super().xSync(flags)
        self._disk.record.append(Entry("sync", self._name))
