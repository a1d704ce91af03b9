"""What commands share: the settings that their flags name, and the way to a running server."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from server.config import ConfigError, load
from server.settings import Settings


def load_settings(args: argparse.Namespace, overrides: dict[str, str] | None = None) -> Settings:
    """The settings of `--config` and the environment; ends the program with one line where they are wrong."""
    try:
        return load(Path(args.config) if args.config else None, {**os.environ, **(overrides or {})})
    except ConfigError as error:
        print(f"tocsin: {error}", file=sys.stderr)
        raise SystemExit(2) from None
