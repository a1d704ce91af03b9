"""A store URL that cannot be read is told in one line, by every command that opens a store; its password is not."""

from __future__ import annotations

from pathlib import Path

import pytest

from server.cli import main
from tests.cli.test_commands import config

URLS = ["postgresql://me:hunter[2@127.0.0.1/tocsin", "postgresql://me:hunter2@[127.0.0.1/tocsin"]


@pytest.mark.parametrize("url", URLS)
@pytest.mark.parametrize(
    "command", [("serve",), ("worker",), ("keys", "list"), ("verify",), ("migrate", "--to", "sqlite:other.db")]
)
def test_every_command_tells_it_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], url: str, command: tuple[str, ...]
) -> None:
    file = config(tmp_path, f'[store]\nurl = "{url}"\n[server]\nport = 0\n')

    assert main([*command, "--config", file]) in (1, 2)

    said = capsys.readouterr()
    assert said.err.startswith("tocsin: store.url: expected postgresql://USER:SECRET@HOST/DATABASE")
    assert said.err.count("\n") == 1 and "hunter" not in said.out + said.err


@pytest.mark.parametrize("url", [*URLS, "mysql://me:hunter2@[x/tocsin", "other"])
def test_so_does_the_target_of_a_copy(tmp_path: Path, capsys: pytest.CaptureFixture[str], url: str) -> None:
    file = config(tmp_path, '[store]\nurl = "sqlite:tocsin.db"\n')
    assert main(["--config", file, "keys", "add", "one"]) == 0
    capsys.readouterr()

    assert main(["migrate", "--config", file, "--to", url]) == 2

    said = capsys.readouterr()
    assert said.err.startswith("tocsin: --to: ") and said.err.count("\n") == 1
    assert "hunter" not in said.out + said.err
