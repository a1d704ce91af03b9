"""`serve`: the server, from start to a clean end."""

from __future__ import annotations

import argparse
import asyncio
import gc
import logging
import signal
import ssl
import sys

import uvloop
from aiohttp import web

from server import logs
from server.api.context import POOL
from server.app import build
from server.commands.common import help_text, load_settings
from server.config import ConfigError
from server.http.auth import KeyRing
from server.http.front import FRONT
from server.http.routes import Routes
from server.model import ApiKey
from server.settings import Settings
from server.store import StoreRefused, StoreUnavailable

log = logging.getLogger("tocsin")


def add(parsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    parser = parsers.add_parser(
        "serve",
        help="run the server (what run.py does without a command)",
        epilog=help_text("python run.py serve", "TOCSIN_SERVER__PORT=8080 python run.py serve --workers 4"),
    )
    parser.add_argument(
        "--workers", type=int, metavar="N", help="tasks in hand at once (queue.workers); 0: do not deliver"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Serve until SIGTERM or Ctrl-C; the exit code."""
    overrides = {}
    if getattr(args, "workers", None) is not None:
        overrides["TOCSIN_QUEUE__WORKERS"] = str(args.workers)
        if args.workers == 0:
            overrides["TOCSIN_QUEUE__EXPRESS_WORKERS"] = "0"
    return until_stopped(load_settings(args, overrides))


def until_stopped(settings: Settings, routes: Routes | None = None) -> int:
    """Run a node until SIGTERM or Ctrl-C, with all routes or with `routes` alone; the exit code."""
    writer = logs.setup(sys.stderr)
    try:
        return uvloop.run(_serve(settings, routes))
    except (StoreRefused, StoreUnavailable, ConfigError) as error:
        print(f"tocsin: {error}", file=sys.stderr)
        return 2 if isinstance(error, ConfigError) else 1
    finally:
        logs.remove(writer)


async def _serve(settings: Settings, routes: Routes | None) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, stop.set)
    app = build(settings, routes=routes)
    runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=5)
    try:
        await runner.setup()
        site = web.TCPSite(runner, settings.server.host, settings.server.port, ssl_context=_tls(settings), backlog=1024)
        try:
            await site.start()
        except (OSError, UnicodeError) as error:  # UnicodeError: what cannot be a host's name
            where = f"{settings.server.host}:{settings.server.port}"
            said = error.strerror if isinstance(error, OSError) else "this is no host's name"
            print(f"tocsin: cannot listen on {where}: {said}; change server.host or server.port", file=sys.stderr)
            return 1
        await _greet(app, runner, settings, page=routes is None)
        calm_collector()
        await stop.wait()
        print("tocsin: finishing what is in hand…", flush=True)
        await app[POOL].drain(settings.server.shutdown_grace_s)
    finally:
        await runner.cleanup()
    return 0


def calm_collector() -> None:
    """Have the garbage collector look less often; to be called once everything that stays is there."""
    gc.collect()
    gc.freeze()  # it need not look at that again
    gc.set_threshold(50_000, 20, 50)  # measured: the default looks at the young ones every 700 allocations


def _tls(settings: Settings) -> ssl.SSLContext | None:
    if not settings.server.tls_cert:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(
            settings.path(settings.server.tls_cert), settings.path(settings.server.tls_key or settings.server.tls_cert)
        )
    except (OSError, ssl.SSLError) as error:
        where = settings.place("server", "tls_cert")
        raise ConfigError(f"{where}: expected a PEM certificate with its key: {error}") from None
    return context


async def _greet(app: web.Application, runner: web.AppRunner, settings: Settings, *, page: bool) -> None:
    """Say where the server is and, at the very first start, how to get in."""
    host, port = runner.addresses[0][:2]
    base = base_url(host, port, tls=bool(settings.server.tls_cert))
    lines = [f"Tocsin : {base}/admin/queue" if page else f"Tocsin worker : {base}/api/health/ready"]
    keyring = app[FRONT].keyring
    if keyring.first:
        lines += [
            "",
            "  Clé d'administration (affichée cette seule fois) / admin key (shown this once):",
            f"    {keyring.first.secret}",
        ]
        if page:
            lines += await _link(keyring, keyring.first.key, base)
        lines.append("")
    print("\n".join(lines), flush=True)


def base_url(host: str, port: int, *, tls: bool) -> str:
    """Where a browser finds a server that listens at `host`."""
    shown = "localhost" if host in ("127.0.0.1", "0.0.0.0", "::", "::1") else f"[{host}]" if ":" in host else host
    return f"http{'s' if tls else ''}://{shown}:{port}"


async def _link(keyring: KeyRing, key: ApiKey, base: str) -> list[str]:
    try:
        token = await keyring.new_once(key)
    except StoreUnavailable as error:  # the key must be shown all the same: it is not shown again
        log.warning("there is no sign-in link: storage says no: %s", error)
        return []
    return [
        "  Lien de connexion, valable une fois, 15 minutes / one-time sign-in link, 15 minutes:",
        f"    {base}/admin/login?once={token}",
    ]
