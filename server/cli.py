"""The command line: `python run.py [--config FILE] [COMMAND] …`; without a command it serves."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from server.commands import check, completion, demo, keys, migrate, send, serve, tail, verify, worker
from server.commands.common import EXIT_CODES, INTERRUPTED, OK, Stop, complain
from server.version import VERSION

COMMANDS = (serve, worker, send, tail, keys, check, demo, migrate, verify, completion)


def parser() -> argparse.ArgumentParser:
    """The whole command line, for `main` and for the documentation's test."""
    config = argparse.ArgumentParser(add_help=False, argument_default=argparse.SUPPRESS)
    config.add_argument("--config", metavar="FILE", help="another configuration file than config.toml beside run.py")
    top = argparse.ArgumentParser(
        prog="run.py",
        description="Tocsin gets urgent notices to people and shows, live, who was reached.",
        epilog=f"run.py COMMAND --help says more; without a command it serves.\n\n{EXIT_CODES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        parents=[config],
    )
    top.add_argument("--version", action="version", version=f"Tocsin {VERSION}")
    top.set_defaults(config=None, run=serve.run, parser=top)
    parsers = top.add_subparsers(metavar="COMMAND", parser_class=_with_config(config))
    for command in COMMANDS:
        command.add(parsers)
    return top


def _with_config(config: argparse.ArgumentParser) -> type[argparse.ArgumentParser]:
    """Parsers of commands that take `--config` too, so that it may stand before or after the command."""

    class Command(argparse.ArgumentParser):
        def __init__(self, **options: object) -> None:
            options.setdefault("parents", [config])
            options.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
            super().__init__(**options)  # type: ignore[arg-type]

    return Command


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the exit code."""
    args = parser().parse_args(arguments)
    try:
        code: int = args.run(args)
        return code
    except Stop as stop:
        complain(str(stop))
        return stop.code
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:  # whoever read our output has seen enough; nothing more may be written at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
