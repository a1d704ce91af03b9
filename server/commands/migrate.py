"""`migrate`: everything of one store into another, compared at the end; a run that was cut off goes on.

The source must not be served meanwhile. It is only read, and stays what it was: stop, migrate, change store.url, start.
"""

from __future__ import annotations

import argparse
import asyncio

from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

from server.commands.common import NO, OK, USAGE, Stop, bars, help_text, load_settings, show
from server.commands.verify import existing_store
from server.store import Store, StoreRefused, StoreUnavailable, open_store
from server.store.copy import TABLES, CopyRefused, Sum, begin, copy_table, count, finish, sum_of


def add(parsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    parser = parsers.add_parser(
        "migrate",
        help="copy everything into another store",
        description="Copy everything from one store into another, empty one, and compare. Stop the server first. A "
        "run that was cut off goes on when it is started again.",
        epilog=help_text(
            "python run.py migrate --from sqlite:data/tocsin.db --to postgresql://tocsin:secret@db/tocsin",
            "python run.py migrate --to postgresql://tocsin:secret@db/tocsin",
        ),
    )
    parser.add_argument("--from", dest="source", metavar="URL", help="default: store.url")
    parser.add_argument("--to", dest="target", required=True, metavar="URL", help="sqlite:PATH or postgresql://…")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Copy and compare; 0 if both are the same then."""
    settings = load_settings(args)
    if (args.source or settings.store.url) == args.target:
        raise Stop("--to: expected another store than the source", USAGE)
    source = existing_store(settings, args.source, serve=True)
    try:
        target = open_store(args.target, settings.base_dir)
    except StoreRefused as error:
        raise Stop(f"--to: {error}", USAGE) from None
    try:
        return asyncio.run(_migrate(source, target))
    except (StoreRefused, StoreUnavailable, CopyRefused) as error:
        raise Stop(str(error)) from None


async def _migrate(source: Store, target: Store) -> int:
    await source.open()
    try:
        await target.open()
        try:
            return await _copy(source, target, Console())
        finally:
            await target.close()
    finally:
        await source.close()


async def _copy(source: Store, target: Store, console: Console) -> int:
    note = await begin(source, target)
    rows = {table: await count(source, table) for table in TABLES}
    table = Table("table", "rows", "result")
    same = True
    with bars(console) as progress:
        copying = progress.add_task("copying", total=sum(rows.values()))
        for name in TABLES:
            if name in note.done:
                progress.advance(copying, rows[name])
            else:
                if note.last:
                    progress.advance(copying, await count(target, name))
                await copy_table(source, target, name, note, lambda n: progress.advance(copying, n))
        comparing = progress.add_task("comparing", total=2 * sum(rows.values()))
        for name in TABLES:
            sums = [await _sum(store, name, progress, comparing) for store in (source, target)]
            good = sums[0] == sums[1]
            same = same and good
            said = f"the same, checksum {sums[0].hash:016x}" if good else f"differs: {sums[1].rows:,} rows there"
            table.add_row(name, f"{sums[0].rows:,}", Text(said, "green" if good else "bold red"))
    show(table)
    if not same:
        raise Stop("source and target differ: empty the target and begin anew", NO)
    await finish(target)
    console.print("done: put the new URL into store.url, then start the server", highlight=False)
    return OK


async def _sum(store: Store, table: str, progress: Progress, bar: object) -> Sum:
    return await sum_of(store, table, lambda n: progress.advance(bar, n))  # type: ignore[arg-type]
