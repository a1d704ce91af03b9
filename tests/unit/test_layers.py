"""The layers of the code: imports only point down, none goes in a circle, and notifiers stay outside."""

from __future__ import annotations

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# From the ground up. A module may import from its own layer and from those above its line here, never from one below.
# A package's name stands for all of its modules.
LAYERS: list[set[str]] = [
    {"notifiers", "server.clock", "server.version", "server.targets"},
    {"server.model", "server.i18n", "server.settings", "server.config", "server.spreadsheet", "server.views"},
    {"server.store", "server.channels", "server.gate", "server.logs"},
    {"server.log", "server.dispatch", "server.crew", "server.letting", "server.unsure", "server.http"},
    {"server.workers", "server.followers", "server.vetting"},
    {"server.queue", "server.stats", "server.cluster"},
    {"server.api"},
    {"server.app"},
    {"server.commands"},
    {"server.cli"},
    {"run"},
]
DOORS = {"server.channels", "server.app"}  # where the server and its notifiers meet


def modules() -> dict[str, Path]:
    """Every module of the product, by dotted name."""
    files = [ROOT / "run.py", *sorted((ROOT / "server").rglob("*.py")), *sorted((ROOT / "notifiers").rglob("*.py"))]
    return {dotted(file): file for file in files}


def dotted(file: Path) -> str:
    """`server/store/__init__.py` as `server.store`."""
    return ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imports(name: str) -> set[str]:
    """The modules of ours that a module imports anywhere in its text, for type checking too."""
    package = name if ALL[name].name == "__init__.py" else name.rpartition(".")[0]
    found: set[str] = set()
    for node in ast.walk(ast.parse(ALL[name].read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {ours(alias.name) for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) + 1 - node.level] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            found |= {ours(f"{base}.{alias.name}") for alias in node.names}
    return found - {"", name}


def ours(imported: str) -> str:
    """The module that `a.b.c` is or lies in; "" for the world's. `server` alone is its version number, free to all."""
    while imported and imported not in ALL:
        imported = imported.rpartition(".")[0]
    return "" if imported == "server" else imported


def layer(name: str) -> int:
    """The number of a module's layer: of its own name, or its package's."""
    for depth, names in enumerate(LAYERS):
        if any(name == known or name.startswith(f"{known}.") for known in names):
            return depth
    raise LookupError(f"{name} stands in no layer: give it a place in LAYERS")


ALL = modules()
NAMES = sorted(ALL.keys() - {"server"})


@pytest.mark.parametrize("name", NAMES)
def test_imports_only_point_down(name):
    assert not {imported for imported in imports(name) if layer(imported) > layer(name)}


def test_no_two_modules_need_each_other():
    TopologicalSorter({name: imports(name) for name in NAMES}).prepare()  # raises CycleError, which names the circle


def test_the_server_and_its_notifiers_meet_at_two_doors_alone():
    crossing = {name for name in NAMES for each in imports(name) if name.split(".")[0] != each.split(".")[0]}

    assert crossing - {"run"} <= DOORS
    assert not {name for name in crossing if name.startswith("notifiers")}


def test_the_package_itself_imports_nothing():
    assert not imports("server")


def test_files_stay_short_enough_to_hold_one_thing():
    assert not {name for name, file in ALL.items() if len(file.read_text("utf-8").splitlines()) > 400}
