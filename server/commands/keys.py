"""`keys`: make, list and revoke API keys, also while the server runs (it notices within seconds)."""

from __future__ import annotations

import argparse
import asyncio
import sys

from rich.table import Table
from rich.text import Text

from server.clock import SystemClock
from server.commands.common import USAGE, help_text, load_settings, printable, show
from server.http.auth import new_key
from server.model import ApiKey, AuditEntry, Role, iso
from server.store import Store, StoreRefused, StoreUnavailable, open_store


def add(parsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    adds, lists, revokes = (
        'python run.py keys add "station météo" --role operator',
        "python run.py keys list",
        "python run.py keys revoke 0190a2b4",
    )
    parser = parsers.add_parser("keys", help="make, list and revoke API keys", epilog=help_text(adds, lists, revokes))
    actions = parser.add_subparsers(dest="action", required=True)
    adding = actions.add_parser(
        "add",
        help="make a key; it is shown this once",
        description="Make a key. It is shown this once, alone on stdout.",
        epilog=help_text(adds),
    )
    adding.add_argument("name", help="whose key it is")
    adding.add_argument(
        "--role", choices=[role.name.lower() for role in Role], default="operator",
        help="viewer reads; operator also sends, cancels, retries; admin may do everything (default: operator)",
    )  # fmt: skip
    actions.add_parser("list", help="list the keys, with their last use", epilog=help_text(lists))
    revoking = actions.add_parser(
        "revoke", help="revoke a key; its sessions and streams end within seconds", epilog=help_text(revokes)
    )
    revoking.add_argument("id", help="the key's id, or the beginning of it")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Do it; 0, or 1 with one line on stderr."""
    settings = load_settings(args)
    try:
        store = open_store(settings.store.url, settings.base_dir, serve=False)
        return asyncio.run(_do(store, args))
    except (StoreRefused, StoreUnavailable) as error:
        print(f"tocsin: {error}", file=sys.stderr)
        return 1


async def _do(store: Store, args: argparse.Namespace) -> int:
    await store.open()
    try:
        match args.action:
            case "add":
                return await _add(store, args.name, Role[args.role.upper()])
            case "revoke":
                return await _revoke(store, args.id)
            case _:
                return await _list(store)
    finally:
        await store.close()


async def _add(store: Store, name: str, role: Role) -> int:
    if not name.strip() or len(name) > 200 or not name.isprintable():
        print("tocsin: NAME: expected 1 to 200 printable characters", file=sys.stderr)
        return 2
    key, secret = new_key(name.strip(), role, SystemClock().now_ms())
    await store.add_key(key, _entry("key.add", key, role=role.name.lower()))
    print(secret)
    print(f"id {key.id}, role {role.name.lower()}; the key is shown this once", file=sys.stderr)
    return 0


async def _revoke(store: Store, prefix: str) -> int:
    if not prefix:  # as of a variable that is not set: with one key alone it would be that one
        print("tocsin: ID: expected a key's id, or the beginning of it", file=sys.stderr)
        return USAGE
    matching = [key for key in await store.keys() if key.id.startswith(prefix) and key.revoked_ms is None]
    if len(matching) != 1:
        how_many = len(matching) or "no"
        print(f"tocsin: {how_many} keys in use begin with {prefix!r}; name one (run.py keys list)", file=sys.stderr)
        return 1
    await store.revoke_key(matching[0].id, SystemClock().now_ms(), _entry("key.revoke", matching[0]))
    print(f"revoked {matching[0].id} ({matching[0].name})")
    return 0


def _entry(action: str, key: ApiKey, **more: str) -> AuditEntry:
    """What is to be written down: that it was done here, by nobody's key."""
    return AuditEntry(
        at_ms=SystemClock().now_ms(), key_id="", key_name="run.py keys", action=action, target=key.id,
        detail={"name": key.name, **more},
    )  # fmt: skip


async def _list(store: Store) -> int:
    table = Table("id", "name", "role", "made", "last used", "revoked")
    for key in await store.keys():
        times = [iso(ms) if ms else "–" for ms in (key.created_ms, key.used_ms, key.revoked_ms)]
        table.add_row(key.id, Text(printable(key.name)), key.role.name.lower(), *times)
    show(table)
    return 0
