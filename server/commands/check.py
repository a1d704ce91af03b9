"""`check`: would it run? Configuration, store, TLS files and every channel, tried without sending anything.

Nothing is taken from a server that runs: its lock is not asked for, its port not needed. No secret is printed: what
channels and stores say of themselves holds none.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import ssl
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import urlsplit

from msgspec import Struct
from rich.table import Column, Table
from rich.text import Text

from server.channels import Channel, Channels, NotifierError
from server.clock import SystemClock
from server.commands.common import NO, OK, help_text, load_settings, printable, show
from server.config import ConfigError
from server.settings import Settings
from server.store import StoreRefused, StoreUnavailable, open_store
from server.store.desk import Run

WRITE = "UPDATE meta SET value = value WHERE key = 'paused'"
"""Changes nothing, but has to be written."""


class Checked(Struct, frozen=True):
    """One line of the table."""

    what: str
    good: bool
    said: str


def add(parsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    parser = parsers.add_parser(
        "check",
        help="check the configuration, and try each channel",
        description="Check configuration, store and TLS files, and try each channel: connect, sign in, send nothing.",
        epilog=help_text("python run.py check", "python run.py check --config /etc/tocsin/config.toml"),
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Check; 0 if all is well, else 1."""
    settings = load_settings(args)
    done = asyncio.run(_check(settings))
    table = Table("what", "result", Column("it says", overflow="fold"))
    for each in done:
        table.add_row(
            each.what, Text("ok", "green") if each.good else Text("no", "bold red"), Text(printable(each.said))
        )
    show(table)
    return OK if all(each.good for each in done) else NO


async def _check(settings: Settings) -> list[Checked]:
    done = [Checked("configuration", True, str(settings.file)), await _store(settings)]
    if settings.server.tls_cert:
        done.append(await asyncio.to_thread(_tls, settings))
    try:
        channels = Channels(settings, SystemClock())
    except ConfigError as error:
        return [*done, Checked("channels", False, str(error))]
    try:
        done += await asyncio.gather(*(_channel(channel) for channel in channels.values()))
    finally:
        await channels.close()
    return done


async def _channel(channel: Channel) -> Checked:
    what = f"channel {channel.name}"
    try:
        async with asyncio.timeout(2 * channel.settings.timeout_s + 5):
            return Checked(what, True, await channel.notifier.check())
    except NotifierError as error:
        return Checked(what, False, str(error))
    except TimeoutError:
        return Checked(what, False, "no answer in time")
    except Exception as error:  # noqa: BLE001 - a defect of one notifier must not hide what the others say
        return Checked(what, False, f"its check failed: {type(error).__name__}")


async def _store(settings: Settings) -> Checked:
    """Is the store there, and does it take a change? A database that is not there yet is not made."""
    scheme, _, rest = settings.store.url.partition(":")
    if scheme == "sqlite" and rest:
        path = settings.base_dir / rest.removeprefix("//")
        name = str(path)
        if not path.exists() and not path.with_name(path.name + "-wal").exists():
            folder = next(folder for folder in path.parents if folder.exists())
            if folder.is_dir() and os.access(folder, os.W_OK | os.X_OK):
                return Checked("store", True, f"{name}: not there yet; the first start makes it")
            return Checked("store", False, f"{folder}: expected a folder that can be written to")
    else:
        name = _named(settings.store.url)
    try:
        store = open_store(settings.store.url, settings.base_dir, serve=False)
        await store.open()
        try:
            await store.apply(Run(WRITE, ()))
            _, newest = await store.bounds()
        finally:
            await store.close()
    except (StoreRefused, StoreUnavailable) as error:
        return Checked("store", False, _without(str(error), _secrets(settings.store.url)))
    return Checked("store", True, f"{name}: can be read and written; {newest} events so far")


def _named(url: str) -> str:
    """Host and database of a URL; what is wrong with one that cannot be read is said when it is opened."""
    try:
        parts = urlsplit(url)
        return f"{parts.hostname or 'PostgreSQL'}{parts.path}"
    except ValueError:
        return "PostgreSQL"


def _tls(settings: Settings) -> Checked:
    """Do certificate and key fit, and is the certificate in its time? A handshake with itself, in memory."""
    cert = settings.path(settings.server.tls_cert)
    try:
        return Checked("TLS", True, f"{cert}: valid until {_valid_until(cert, _key_file(settings, cert))}")
    except ssl.SSLCertVerificationError as error:
        return Checked("TLS", False, f"{cert}: {error.verify_message}")
    except (OSError, ssl.SSLError) as error:
        return Checked("TLS", False, f"{cert}: expected a PEM certificate with its key: {error.strerror or error}")


def _key_file(settings: Settings, cert: Path) -> Path:
    return settings.path(settings.server.tls_key) if settings.server.tls_key else cert


def _valid_until(cert: Path, key: Path) -> str:
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(cert, key)
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.load_verify_locations(cert)
    client.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    sides = [client.wrap_bio(to_client, to_server), server.wrap_bio(to_server, to_client, server_side=True)]
    for _ in range(4):
        for side in sides:
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                pass  # it is the other side's turn
    return str((sides[0].getpeercert() or {}).get("notAfter", "?"))


def _secrets(url: str) -> Iterable[str]:
    try:
        return [secret for secret in (urlsplit(url).password,) if secret]
    except ValueError:
        return [url]


def _without(text: str, secrets: Iterable[str]) -> str:
    for secret in secrets:
        text = text.replace(secret, "…")
    return text
