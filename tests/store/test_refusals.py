"""Databases that must not be used are refused with a sentence, and left as they are."""

from __future__ import annotations

import hashlib
from pathlib import Path

import apsw
import pytest

from server.store import StoreRefused, open_store
from server.store.sqlite import refuse_racy
from tests.kit import running


async def refusal(folder: Path, name: str = "tocsin.db") -> str:
    """Why a database is refused."""
    store = open_store(f"sqlite:{name}", folder)
    with pytest.raises(StoreRefused) as refused:
        try:
            await store.open()
        finally:
            await store.close()
    return str(refused.value)


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


async def made(folder: Path) -> Path:
    """A good database."""
    store = open_store("sqlite:tocsin.db", folder)
    await store.open()
    await store.close()
    return folder / "tocsin.db"


async def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    path = tmp_path / "tocsin.db"
    path.write_bytes(b"these are the mayor's letters\n" * 500)
    before = digest(path)

    assert "not a database" in await refusal(tmp_path)
    assert digest(path) == before


async def test_an_empty_file(tmp_path: Path) -> None:
    (tmp_path / "tocsin.db").touch()

    assert "empty file" in await refusal(tmp_path)
    assert (tmp_path / "tocsin.db").stat().st_size == 0


async def test_somebody_elses_database(tmp_path: Path) -> None:
    path = tmp_path / "tocsin.db"
    connection = apsw.Connection(str(path))
    connection.execute("CREATE TABLE recipes (name TEXT)")
    connection.close()
    before = digest(path)

    assert "not Tocsin's" in await refusal(tmp_path)
    assert digest(path) == before


async def test_one_made_by_a_newer_tocsin(tmp_path: Path) -> None:
    path = await made(tmp_path)
    connection = apsw.Connection(str(path))
    connection.execute("UPDATE meta SET value = '9999' WHERE key = 'schema'")
    connection.close()

    assert "newer Tocsin" in await refusal(tmp_path)


async def test_one_whose_first_page_is_damaged(tmp_path: Path) -> None:
    path = await made(tmp_path)
    content = bytearray(path.read_bytes())
    content[100:2000] = b"\xff" * 1900
    path.write_bytes(content)
    before = digest(path)

    assert await refusal(tmp_path)
    assert digest(path) == before


async def test_a_log_whose_database_is_missing(tmp_path: Path) -> None:
    (tmp_path / "tocsin.db-wal").write_bytes(b"x")

    assert "missing" in await refusal(tmp_path)
    assert not (tmp_path / "tocsin.db").exists()


async def test_one_that_another_server_has(tmp_path: Path) -> None:
    first = open_store("sqlite:tocsin.db", tmp_path)
    await first.open()
    try:
        assert "another Tocsin" in await refusal(tmp_path)
    finally:
        await first.close()
    second = open_store("sqlite:tocsin.db", tmp_path)
    await second.open()
    await second.close()


def test_a_sqlite_that_can_lose_commits() -> None:
    with pytest.raises(StoreRefused, match=r"3\.46\.1"):
        refuse_racy((3, 46, 1))
    refuse_racy((3, 51, 3))


async def test_a_url_that_means_nothing() -> None:
    with pytest.raises(StoreRefused, match="expected sqlite:PATH"):
        open_store("mysql://localhost/tocsin", Path())


async def test_half_a_copy_is_not_served(tmp_path: Path) -> None:
    path = await made(tmp_path)
    connection = apsw.Connection(str(path))
    connection.execute("INSERT INTO meta (key, value) VALUES ('copy', '{}')")
    connection.close()

    with pytest.raises(StoreRefused, match="not finished"):
        async with running(tmp_path):
            pytest.fail("it was served")


async def test_a_first_start_that_was_cut_off_begins_again(tmp_path: Path) -> None:
    (tmp_path / "tocsin.db").touch()
    (tmp_path / "tocsin.db.new").touch()

    assert (await made(tmp_path)).stat().st_size > 0
    assert not (tmp_path / "tocsin.db.new").exists()
