"""Power loss: a server on a recording disk, cut at many points; and what is missing behind each cut."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from random import Random

import apsw
from msgspec import Struct

import server.store
from server.store.sqlite import SqliteEngine
from tests.faults.checkers import Contents, check_log, contents, verified
from tests.faults.harness import notice, people
from tests.faults.vfs import Disk
from tests.kit import Town, running

KEEP = (0.0, 0.5, 0.9)
"""How much of what was not synced survives, from cut to cut."""


@asynccontextmanager
async def on_disk(folder: Path, disk: Disk, *, synchronous: str = "FULL") -> AsyncIterator[Town]:
    """A running server whose store stands on `disk`."""
    folder.mkdir(parents=True, exist_ok=True)
    whole = server.store.SqliteEngine
    server.store.SqliteEngine = partial(SqliteEngine, vfs=disk.name, synchronous=synchronous)  # type: ignore[misc,assignment]
    try:
        async with running(folder, CHANNELS__EMAIL__URL="null:") as town:
            yield town
    finally:
        server.store.SqliteEngine = whole  # type: ignore[misc]


class Loss(Struct):
    """What the cuts came to."""

    cuts: int
    acknowledged: int
    syncs: int
    checkpoints: int  # how often the database file itself was synced
    lost: list[str]  # acknowledged before the cut and not there behind it
    faults: list[str]  # anything else that is not whole


async def cut(folder: Path, *, seed: int, posts: int, cuts: int, synchronous: str = "FULL") -> Loss:
    """Post under load, cut the power at `cuts` points, look what is left each time."""
    random = Random(seed)
    disk = Disk(f"cut-{seed}-{synchronous}-{folder.name}")
    acknowledged: list[tuple[int, str]] = []  # (entries of the record when the 202 was there, task)
    try:
        async with on_disk(folder / "whole", disk, synchronous=synchronous) as town:

            async def sender(count: int) -> None:
                for _ in range(count):
                    task_id = await town.send(recipients=notice(people(random.randint(1, 30)))["utilisateurs"])
                    acknowledged.append((len(disk.record), task_id))

            await asyncio.gather(*(sender(posts // 8) for _ in range(8)))
            await town.until_idle()
        synced = [entry.file for entry in disk.record if entry.what == "sync"]
        loss = Loss(cuts, len(acknowledged), len(synced), synced.count("tocsin.db"), [], [])
        points = [random.randrange(acknowledged[0][0], len(disk.record)) for _ in range(cuts // 2)]
        points += [at for at, _ in random.sample(acknowledged, cuts - len(points))]
        for number, point in enumerate(points):
            image = folder / f"cut-{number}"
            keep = KEEP[number % len(KEEP)]
            disk.image(image, point, random, keep=keep)
            try:
                found = contents(image / "tocsin.db")
            except apsw.Error as error:  # nothing can be read any more
                found = Contents({}, [], [str(error)])
            wrong = found.faults + check_log(found)
            if synchronous == "FULL" and not wrong:
                wrong = await verified(image / "tocsin.db")
            loss.faults += [f"cut at {point}, {keep} kept: {fault}" for fault in wrong]
            loss.lost += [
                f"{task_id} at {point}" for at, task_id in acknowledged if at <= point and task_id not in found.tasks
            ]
        return loss
    finally:
        disk.unregister()
