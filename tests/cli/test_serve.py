"""`serve`: what it says where it cannot listen, and where it is to be found."""

from __future__ import annotations

from pathlib import Path

import pytest

from server.cli import main
from server.commands.serve import base_url
from tests.cli.test_commands import config


@pytest.mark.parametrize("host", ["a..b", "x" * 70 + ".org", "192.0.2.1"])
def test_a_host_that_cannot_be_listened_on_is_told_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], host: str
) -> None:
    file = config(tmp_path, f'[server]\nhost = "{host}"\nport = 0\n')

    assert main(["serve", "--config", file]) == 1

    said = capsys.readouterr().err
    assert f"tocsin: cannot listen on {host}:0" in said and "Traceback" not in said


@pytest.mark.parametrize(
    ("host", "tls", "url"),
    [
        ("127.0.0.1", False, "http://localhost:5000"),
        ("::", True, "https://localhost:5000"),
        ("192.0.2.1", False, "http://192.0.2.1:5000"),
        ("fd12:3456::1", False, "http://[fd12:3456::1]:5000"),
    ],
)
def test_it_is_found_at_the_address_that_it_prints(host: str, tls: bool, url: str) -> None:
    assert base_url(host, 5000, tls=tls) == url
