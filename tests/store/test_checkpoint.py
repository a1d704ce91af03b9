"""The WAL is written back beside the writer: it neither grows without end nor is anything of it lost."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

from server.model import AuditEntry
from server.store import open_store
from server.store.checkpoint import FINISH_PAGES, STEP_PAGES

PAGE = 4096
TIMES = 6


async def test_the_wal_stays_of_about_one_size_however_much_is_written(tmp_path: Path) -> None:
    store = open_store("sqlite:t.db", tmp_path)
    await store.open()
    wal = tmp_path / "t.db-wal"
    written = 0
    try:
        while written < TIMES * FINISH_PAGES:  # each entry takes a page of its own
            entries = [
                AuditEntry(at_ms=n, key_id="k", key_name="n", action="send", detail={"text": "x" * 3000})
                for n in range(written, written + 200)
            ]
            await asyncio.gather(*(store.add_audit(entry) for entry in entries))
            written += len(entries)
        size = wal.stat().st_size
    finally:
        await store.close()

    assert size <= 2 * (FINISH_PAGES + STEP_PAGES) * PAGE, size // PAGE
    again = open_store("sqlite:t.db", tmp_path)
    await again.open()
    try:
        newest = await again.audit_page(1)
        assert (newest[0].at_ms, newest[0].id) == (written - 1, written)
    finally:
        await again.close()


async def test_what_a_reader_still_looks_at_is_left_alone(tmp_path: Path) -> None:
    store = open_store("sqlite:t.db", tmp_path)
    await store.open()
    try:
        entry = AuditEntry(at_ms=1, key_id="k", key_name="n", action="send", detail={"text": "x" * 3000})
        await store.add_audit(entry)
        seen: list[int] = []

        async def look(tx):  # type: ignore[no-untyped-def]
            seen.append((await tx.all("SELECT COUNT(*) FROM audit"))[0][0])
            looked.set()
            written.acquire()
            seen.append((await tx.all("SELECT COUNT(*) FROM audit"))[0][0])

        looked, written = threading.Event(), threading.Semaphore(0)
        looking = asyncio.create_task(store.snapshot(look))
        await asyncio.to_thread(looked.wait)
        for _ in range(30):
            await asyncio.gather(*(store.add_audit(entry) for _ in range(200)))
        written.release()
        await looking

        assert seen == [1, 1]
        assert len(await store.audit_page(7000)) == 6001
    finally:
        await store.close()
