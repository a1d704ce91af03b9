"""Which store the tests stand on: SQLite, or PostgreSQL where the fixture `both_engines` says so."""

from __future__ import annotations

from pathlib import Path

from tests.pg import fresh_database

ENGINE = {"name": "sqlite"}
"""The engine of whatever is started; the fixture `both_engines` sets it."""


async def store_url(folder: Path) -> str:
    """The store of `folder`: the same at every call, so that a server can be started again over it."""
    if ENGINE["name"] == "sqlite":
        return "sqlite:tocsin.db"
    note = folder / "database.url"
    if not note.exists():
        note.write_text(await fresh_database(), encoding="utf-8")
    return note.read_text(encoding="utf-8")
