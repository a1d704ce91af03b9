"""What commands share: settings, exit codes, how they complain, and how their help looks.

A command that cannot go on raises Stop with one line that says what to do; `cli.main` prints it.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from server.config import ConfigError, load
from server.settings import Settings

OK, NO, USAGE, UNREACHED, INTERRUPTED = 0, 1, 2, 3, 130
EXIT_CODES = """\
exit codes:
  0  done
  1  the server, or the world, said no
  2  wrong usage, or a configuration that cannot be used
  3  not all recipients were reached (send)
  130  interrupted by Ctrl-C (tail ends with 0)"""


class Stop(Exception):
    """The command cannot go on; the text is one line that says what to do."""

    def __init__(self, text: str, code: int = NO):
        super().__init__("".join(char if char.isprintable() else " " for char in text))
        self.code = code


def help_text(*examples: str) -> str:
    """The end of a command's --help: examples, one a line, and the exit codes."""
    word = "example:" if len(examples) == 1 else "examples:"
    return "\n".join([word, *(f"  {example}" for example in examples), "", EXIT_CODES])


def complain(text: str) -> None:
    """One line to whoever runs the command."""
    print(f"tocsin: {text}", file=sys.stderr, flush=True)


def load_settings(args: argparse.Namespace, overrides: dict[str, str] | None = None) -> Settings:
    """The settings of `--config` and the environment; ends the program with one line where they are wrong."""
    try:
        file = getattr(args, "config", None)
        return load(Path(file) if file else None, {**os.environ, **(overrides or {})})
    except ConfigError as error:
        complain(str(error))
        raise SystemExit(USAGE) from None


def read_text(path: str) -> str:
    """A text file, or stdin for `-`; UTF-8, with or without a BOM. Raises Stop."""
    try:
        data = sys.stdin.buffer.read() if path == "-" else Path(path).read_bytes()
        return data.decode("utf-8-sig")
    except OSError as error:
        raise Stop(f"{path}: cannot be read: {error.strerror}", USAGE) from None
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise Stop(f"{path}, line {line}: expected UTF-8 text; save the file as UTF-8", USAGE) from None


def show(table: Table) -> None:
    """Print a table: drawn and as wide as the terminal, or in plain columns of any width for a pipe."""
    console = Console()
    if not console.is_terminal:
        console.width = 1000
        table.box = None
        table.pad_edge = False
    console.print(table)


def bars(console: Console, *, transient: bool = True) -> Progress:
    """A display of progress bars; nothing where the output is no terminal."""
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
        transient=transient,
        disable=not console.is_terminal,
    )


def printable(text: object) -> str:
    """Somebody else's text, made harmless for a terminal."""
    return "".join(char if char.isprintable() else " " for char in str(text))


def listed(words: Iterable[str]) -> str:
    """`a, b, c`."""
    return ", ".join(words)
