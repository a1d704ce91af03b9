"""The command line: `python run.py [--config FILE] [COMMAND] …`; without a command it serves."""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Sequence
from importlib import import_module

from server.commands.common import EXIT_CODES, INTERRUPTED, OK, Stop, complain
from server.version import VERSION

COMMANDS = ("serve", "worker", "send", "tail", "keys", "check", "demo", "migrate", "verify", "completion")
"""Modules of server.commands: a client such as `send` need not load the server."""


def parser(commands: Sequence[str] = COMMANDS) -> argparse.ArgumentParser:
    """The whole command line, or the part of it for some commands."""
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
    top.set_defaults(run=_serve, parser=top)
    parsers = top.add_subparsers(metavar="COMMAND", parser_class=_with_config(config))
    for command in commands:
        import_module(f"server.commands.{command}").add(parsers)
    return top


def _serve(args: argparse.Namespace) -> int:
    code: int = import_module("server.commands.serve").run(args)
    return code


def _named(arguments: Sequence[str]) -> Sequence[str]:
    """The one command that `arguments` begin with, else all: then argparse has something to say."""
    words = iter(arguments)
    for word in words:
        if word == "--config":
            next(words, None)
        elif not word.startswith("--config="):
            return (word,) if word in COMMANDS and word != "completion" else COMMANDS
    return COMMANDS


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
    given = sys.argv[1:] if arguments is None else arguments
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a locale that cannot say a title must not end a command
    args = parser(_named(given)).parse_args(given)
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
