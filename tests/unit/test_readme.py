"""The README and the change log are true: what they list is what there is."""

from __future__ import annotations

import re
import shlex
import tomllib
from pathlib import Path

import pytest

from server.cli import parser
from server.config import load
from server.http.problems import Unexpected, every
from server.version import VERSION

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def section(title: str) -> str:
    """The text below a heading, up to the next of its kind."""
    return README.split(f"\n## {title}\n")[1].split("\n## ")[0]


def test_every_problem_is_listed_with_its_status() -> None:
    rows = re.findall(r"^\| `([a-z-]+)` \| ([^|]+) \|", section("Problems"), re.MULTILINE)

    assert rows == [
        (problem.code, "as HTTP says" if problem is Unexpected else str(problem.status)) for problem in every()
    ]


@pytest.mark.parametrize("name", ["requirements", "requirements-dev"])
def test_every_dependency_is_listed_and_no_other(name: str) -> None:
    wanted = set()
    for line in (ROOT / f"{name}.in").read_text(encoding="utf-8").splitlines():
        if found := re.match(r"[A-Za-z][\w.-]*", line):
            wanted.add(found[0])

    runtime, dev = section("Dependencies").split("For tests and checks only")
    listed = set()
    for row in re.findall(r"^\| ([^|]+) \|", runtime if name == "requirements" else dev, re.MULTILINE):
        listed |= set(row.split(", ")) - {"package", "---"}

    assert listed == wanted


def test_its_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)|(?:src|srcset)=\"([^\"]+)\"", README):
        path = target[0] or target[1]
        if not path.startswith("http"):
            assert (ROOT / path).exists(), path
    titles = [
        re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in re.findall(r"^## (.+)$", README, re.M)
    ]
    for anchor in re.findall(r"\]\(#([^)]+)\)", README):
        assert anchor in titles


def test_its_commands_are_taken(capsys: pytest.CaptureFixture[str]) -> None:
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    seen = 0
    for block in re.findall(r"^```bash\n(.*?)^```", README, re.MULTILINE | re.DOTALL):
        for line in block.splitlines():
            if line.startswith("make "):
                assert line.split()[1] in targets
            elif line.startswith("python run.py"):
                seen += 1
                try:
                    parser().parse_args(shlex.split(line, comments=True)[2:])
                except SystemExit:
                    pytest.fail(f"{line}: {capsys.readouterr().err}")
    assert seen


def test_its_configurations_are_taken(tmp_path: Path) -> None:
    blocks = re.findall(r"^```toml\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    for number, block in enumerate(blocks):
        file = tmp_path / f"{number}.toml"
        file.write_text(block, encoding="utf-8")
        assert tomllib.loads(block)
        load(file, {"SMS_URL": "https://user:secret@gateway.example.org/send"})
    assert blocks


def test_the_change_log_has_this_version() -> None:
    assert f"## [{VERSION}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
