"""`migrate`: everything arrives, once; a cut-off run goes on; nothing is mixed with what is not ours."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import pytest

from server.cli import main
from server.commands import migrate
from server.http.front import FRONT
from server.store import StoreUnavailable, copy, open_store
from server.store.copy import LIVE, TABLES
from server.store.desk import Run
from server.store.schema import scripts
from server.store.verify import verify
from tests.kit import ADMIN_KEY, jean, running
from tests.pg import fresh_database

Capture = pytest.CaptureFixture[str]


async def worked_with(folder: Path) -> str:
    """A store with a bit of everything in it, not served; the id of a task that is done."""
    async with running(folder) as town:
        done = await town.send("meteo", [jean(n) for n in range(600)])
        await town.until_idle()
        await town.post("/admin/api/keys", {"name": "Zoé", "role": "viewer"})
        await town.app[FRONT].keyring.new_once(town.own_key())
        await town.post("/api/notifications/infra", {"titre": "é", "message": "x", "utilisateurs": [jean()]})
        await town.until_idle()
    return done


async def command(folder: Path, target: str) -> int:
    file = str(folder / "config.toml")
    return await asyncio.to_thread(main, ["migrate", "--config", file, "--from", "sqlite:tocsin.db", "--to", target])


def test_every_table_is_copied() -> None:
    made = {name for _, script in scripts() for name in re.findall(r"CREATE TABLE (\w+)", script)}

    assert {*TABLES, *LIVE} == made


async def test_a_server_goes_on_over_postgresql_where_it_was_over_sqlite(tmp_path: Path, capsys: Capture) -> None:
    done = await worked_with(tmp_path)
    target = await fresh_database()

    assert await command(tmp_path, target) == 0

    said = capsys.readouterr().out
    assert re.search(r"^task +2 +the same, checksum ", said, re.M)
    assert re.search(r"^once +1 +the same, checksum ", said, re.M)
    async with running(tmp_path, STORE__URL=target) as town:
        assert await verify(town.store) == []
        task = await town.task(done)
        assert (task["status"], task["progress"]["sent"]) == ("completed", 600)
        assert [key.name for key in await town.store.keys()] == ["Zoé"]
        _, newest = await town.store.bounds()
        again = await town.send("meteo", [jean()])
        assert (await town.until_status(again, "completed"))["progress"]["sent"] == 1
        assert (await town.store.bounds())[1] == newest + 3
        entries = (await town.json("/admin/api/audit"))["entries"]
        assert len({entry["id"] for entry in entries}) == len(entries)


async def test_and_back_again(tmp_path: Path) -> None:
    done = await worked_with(tmp_path)
    there = await fresh_database()
    assert await command(tmp_path, there) == 0

    file = str(tmp_path / "config.toml")
    back = ["migrate", "--config", file, "--from", there, "--to", "sqlite:back.db"]
    assert await asyncio.to_thread(main, back) == 0

    async with running(tmp_path, STORE__URL="sqlite:back.db") as town:
        assert await verify(town.store) == []
        assert (await town.task(done))["status"] == "completed"


async def test_a_run_that_was_cut_off_goes_on(tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    await worked_with(tmp_path)
    monkeypatch.setattr(copy, "ROWS", 100)
    pages: list[str] = []
    page = copy.page

    async def cut_off(store: Any, table: str, after: list[Any]) -> Any:
        pages.append(table)
        if len(pages) == 8:
            raise StoreUnavailable("pulled the plug")
        return await page(store, table, after)

    monkeypatch.setattr(copy, "page", cut_off)
    assert await command(tmp_path, "sqlite:target.db") == 1
    assert pages[-1] == "outcome"
    assert "pulled the plug" in capsys.readouterr().err
    half = open_store("sqlite:target.db", tmp_path, serve=False)
    await half.open()
    assert (await half.figures(0)).paused
    await half.close()
    before = len(pages)

    assert await command(tmp_path, "sqlite:target.db") == 0

    copied = pages[before : pages.index("meta", before) + 1]
    assert "task" not in copied and "chunk" not in copied
    whole = open_store("sqlite:target.db", tmp_path, serve=False)
    await whole.open()
    assert await verify(whole) == []
    assert not (await whole.figures(0)).paused
    await whole.close()


async def test_a_cut_off_copy_of_a_source_that_was_worked_with_since_is_refused(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    await worked_with(tmp_path)

    async def cut_off(*_: Any) -> None:
        raise StoreUnavailable("pulled the plug")

    with monkeypatch.context() as patched:
        patched.setattr(migrate, "copy_table", cut_off)
        assert await command(tmp_path, "sqlite:target.db") == 1
    await worked_with(tmp_path)

    assert await command(tmp_path, "sqlite:target.db") == 1

    assert "was worked with since" in capsys.readouterr().err


async def test_a_source_that_is_served_and_a_target_with_other_data_are_refused(
    tmp_path: Path, capsys: Capture
) -> None:
    (tmp_path / "other").mkdir()
    await worked_with(tmp_path)
    await worked_with(tmp_path / "other")

    assert await command(tmp_path, "sqlite:other/tocsin.db") == 1
    assert "the target holds other data (task" in capsys.readouterr().err
    async with running(tmp_path):
        assert await command(tmp_path, "sqlite:target.db") == 1
    assert "another Tocsin serves this database" in capsys.readouterr().err


async def test_a_database_that_nodes_work_on_is_refused(tmp_path: Path, capsys: Capture) -> None:
    await worked_with(tmp_path)
    target = await fresh_database()

    async with running(tmp_path, STORE__URL=target) as town:
        await town.until(lambda: copy.nodes(town.store))
        assert await command(tmp_path, target) == 1

    assert "nodes are at work on the target (test-node)" in capsys.readouterr().err


async def test_a_copy_that_differs_is_not_called_done(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    await worked_with(tmp_path)
    done = copy.copy_table

    async def and_damage(source: Any, target: Any, table: str, *more: Any) -> None:
        await done(source, target, table, *more)
        if table == "outcome":
            await target.apply(Run("UPDATE outcome SET took_ms = took_ms + 1 WHERE n = 5", ()))

    monkeypatch.setattr(migrate, "copy_table", and_damage)

    assert await command(tmp_path, "sqlite:target.db") == 1

    said = capsys.readouterr()
    assert re.search("^outcome +601 +differs", said.out, re.M)
    assert "empty the target" in said.err
    assert ADMIN_KEY not in said.out
