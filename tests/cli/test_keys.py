"""`keys`: what it makes, shows and revokes, whatever a key is called."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import pytest

from server.cli import main
from tests.cli.test_commands import config
from tests.kit import Town
from tests.stores import store_url


@pytest.mark.parametrize("name", ["[/red]", "[bold]x[/bold]", ":warning: [link=x]"])
async def test_a_key_is_listed_by_the_name_that_it_was_given(
    town: Town, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    assert (await town.post("/admin/api/keys", {"name": name, "role": "viewer"})).status == 201
    monkeypatch.setenv("TOCSIN_STORE__URL", await store_url(tmp_path))

    assert await asyncio.to_thread(main, ["keys", "list", "--config", str(tmp_path / "config.toml")]) == 0

    assert name in capsys.readouterr().out


def test_no_id_at_all_revokes_no_key(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = config(tmp_path)
    assert main(["--config", file, "keys", "add", "the only one"]) == 0

    assert main(["--config", file, "keys", "revoke", ""]) == 2

    assert "expected" in capsys.readouterr().err
    assert main(["--config", file, "keys", "list"]) == 0
    assert re.search(r"the only one .*–\s*$", capsys.readouterr().out, re.M)


async def test_keys_made_and_revoked_on_the_command_line_are_in_the_audit_log(
    town: Town, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOCSIN_STORE__URL", await store_url(tmp_path))
    keys = ["--config", str(tmp_path / "config.toml"), "keys"]

    assert await asyncio.to_thread(main, [*keys, "add", "station", "--role", "admin"]) == 0
    key_id = re.search(r"id ([0-9a-f-]{36})", capsys.readouterr().err)
    assert key_id
    assert await asyncio.to_thread(main, [*keys, "revoke", key_id[1]]) == 0

    entries = (await town.json("/admin/api/audit"))["entries"]
    assert [(each["action"], each["target"], each["by"]) for each in entries] == [
        ("key.revoke", key_id[1], "run.py keys"),
        ("key.add", key_id[1], "run.py keys"),
    ]
    assert [each["detail"] for each in entries] == [{"name": "station"}, {"name": "station", "role": "admin"}]
