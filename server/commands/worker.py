"""`worker`: a node that delivers and answers nothing but health, readiness and metrics. For clusters on PostgreSQL."""

from __future__ import annotations

import argparse

from server.app import worker_routes
from server.commands.common import USAGE, Stop, help_text, load_settings
from server.commands.serve import until_stopped


def add(parsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    parser = parsers.add_parser(
        "worker",
        help="deliver, without serving the API and the pages",
        description="Deliver what other nodes accept (serve --workers 0), over the same PostgreSQL; over HTTP answer "
        "/api/health, /api/health/ready and /metrics alone.",
        epilog=help_text("python run.py worker --workers 8 --port 5001"),
    )
    parser.add_argument("--workers", type=int, metavar="N", help="tasks in hand at once (queue.workers)")
    parser.add_argument(
        "--port", type=int, metavar="N", help="where health and metrics are (server.port); 0: any free one"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Deliver until SIGTERM or Ctrl-C."""
    overrides = {}
    if args.workers is not None:
        if args.workers < 1:
            raise Stop("--workers: expected at least 1: a worker that takes no task is none", USAGE)
        overrides["TOCSIN_QUEUE__WORKERS"] = str(args.workers)
    if args.port is not None:
        overrides["TOCSIN_SERVER__PORT"] = str(args.port)
    return until_stopped(load_settings(args, overrides), worker_routes())
