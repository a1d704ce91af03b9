#!/usr/bin/env python3
"""Tocsin's command line: `python run.py` serves, `python run.py --help` lists the rest (server/cli.py has it all)."""

from server.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
