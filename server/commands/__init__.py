"""The commands of `run.py`, one module each: `add(parsers)` declares its flags, `run(args)` does it."""
