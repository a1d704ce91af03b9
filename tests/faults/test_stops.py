"""SIGTERM at any moment, and starts that must not be: a clean end, one clear line, nothing touched."""

from __future__ import annotations

import asyncio
import hashlib
import socket
from pathlib import Path

import apsw
import pytest

from tests.faults import runs
from tests.faults.harness import Server, calling, notice, people, serving

SEED = 20_260_102


async def test_sigterm_under_load_repeats_nothing_and_loses_nobody(tmp_path: Path):
    report = await runs.terms(tmp_path, seed=SEED, rounds=3)

    assert report.faults == []
    assert report.account.repeated == 0


async def test_sigterm_in_the_middle_of_a_large_task_repeats_nothing(tmp_path: Path):
    report = await runs.one_large(
        tmp_path, seed=SEED, recipients=3_000, rounds=2, signal_name="term", SERVER__SHUTDOWN_GRACE_S="1"
    )

    assert report.faults == []
    assert (report.account.repeated, report.account.delivered) == (0, 3_000)


async def refusal(server: Server) -> str:
    """What the server says when it will not start: one line, exit code 1."""
    process = await server.spawn()
    try:
        async with asyncio.timeout(60):
            await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()
    assert process.returncode == 1
    lines = server.log.read_text(encoding="utf-8").splitlines()
    assert len(lines) == 1, lines
    return lines[0]


async def test_a_second_server_on_the_same_file_is_refused(tmp_path: Path):
    async with serving(tmp_path) as first:
        second = Server(tmp_path)
        second.log = tmp_path / "second.log"

        assert "another Tocsin serves this database" in await refusal(second)

        async with calling(first, tmp_path) as caller:
            assert await caller.post(notice(people(1))) == 202


async def test_a_port_that_is_taken_is_one_clear_line(tmp_path: Path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]

        line = await refusal(Server(tmp_path, SERVER__PORT=str(port)))

    assert f"cannot listen on 127.0.0.1:{port}" in line


def foreign(file: Path) -> None:
    with apsw.Connection(str(file)) as connection:
        connection.execute("CREATE TABLE recipes (name TEXT)")
    connection.close()


async def newer(file: Path) -> None:
    server = Server(file.parent)
    await server.start()
    assert await server.stop() == 0
    connection = apsw.Connection(str(file))
    connection.execute("UPDATE meta SET value = '9999' WHERE key = 'schema'")
    connection.close()
    server.log.unlink()


async def damaged(file: Path) -> None:
    server = Server(file.parent)
    await server.start()
    assert await server.stop() == 0
    data = bytearray(file.read_bytes())
    data[100:4096] = b"\xff" * 3996  # the root page of the schema
    file.write_bytes(data)
    server.log.unlink()


@pytest.mark.parametrize(
    "make, says",
    [
        (lambda file: file.write_bytes(b""), "an empty file is no database"),
        (lambda file: file.write_bytes(b"Meine Rezepte\n" * 1000), "not a database"),
        (foreign, "not Tocsin's"),
        (newer, "made by a newer Tocsin"),
        (damaged, "damaged"),
    ],
    ids=["empty", "no database", "foreign", "newer", "damaged"],
)
async def test_a_file_that_must_not_be_used_is_refused_and_left_as_it_is(tmp_path: Path, make, says: str):
    file = tmp_path / "tocsin.db"
    if (making := make(file)) is not None and not isinstance(making, int):
        await making
    before = hashlib.sha256(file.read_bytes()).digest()

    assert says in await refusal(Server(tmp_path))

    assert hashlib.sha256(file.read_bytes()).digest() == before
