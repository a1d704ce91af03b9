"""`verify`: is the store whole? A table of checks; also beside a running server, in one snapshot."""

from __future__ import annotations

import argparse
import asyncio

from rich.table import Column, Table
from rich.text import Text

from server.commands.common import NO, OK, USAGE, Stop, help_text, load_settings, show
from server.settings import Settings
from server.store import Store, StoreRefused, StoreUnavailable, open_store
from server.store.verify import CHECKS, Report, examine


def add(parsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    parser = parsers.add_parser(
        "verify",
        help="check that the store is whole",
        description="Check that the store is whole, also while it is served: one snapshot is read, nothing changed.",
        epilog=help_text(
            "python run.py verify",
            "python run.py verify --config /etc/tocsin/config.toml",
            "python run.py verify sqlite:/backup/tocsin.db",
        ),
    )
    parser.add_argument("store", nargs="?", metavar="URL", help="another store than store.url")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Check; 0 if nothing is wrong, else 1."""
    store = existing_store(load_settings(args), args.store)
    try:
        report = asyncio.run(_look(store))
    except (StoreRefused, StoreUnavailable) as error:
        raise Stop(f"the store cannot be read: {error}") from None
    show(table_of(report))
    return NO if report.findings else OK


def existing_store(settings: Settings, url: str | None = None, *, serve: bool = False) -> Store:
    """The store of `url` (default: the settings'), which must be there already: looking makes no new one."""
    url = url or settings.store.url
    scheme, _, rest = url.partition(":")
    if scheme == "sqlite" and rest:
        path = settings.base_dir / rest.removeprefix("//")
        if not path.exists():
            raise Stop(f"{path}: there is no database; a server makes it at its first start", NO)
    try:
        return open_store(url, settings.base_dir, serve=serve)
    except StoreRefused as error:
        raise Stop(str(error), USAGE) from None


async def _look(store: Store) -> Report:
    await store.open()
    try:
        return await examine(store)
    finally:
        await store.close()


def table_of(report: Report) -> Table:
    """What was looked at, and what is wrong."""
    table = Table("check", "looked at", "result", Column("what", overflow="fold"))
    for name, meaning in CHECKS.items():
        wrong = [finding for finding in report.findings if finding.check == name]
        looked = report.looked_at[name]
        result = Text("wrong", "bold red") if wrong else Text("ok", "green") if looked else Text("–", "bright_black")
        said = "\n".join(str(finding).partition(": ")[2] for finding in wrong) or meaning
        table.add_row(name, f"{looked:,}", result, Text(said))
    return table
