"""`completion`: a script that makes bash complete commands and flags; `eval "$(python run.py completion bash)"`."""

from __future__ import annotations

import argparse

from server.commands.common import OK, help_text

SCRIPT = """\
# Tocsin: completion of run.py for bash
_tocsin() {{
  local word=${{COMP_WORDS[COMP_CWORD]}} command="" each
  for each in "${{COMP_WORDS[@]:1:COMP_CWORD-1}}"; do
    case "$each" in {commands}) command=$each; break ;; esac
  done
  case "$command" in
{cases}
    *) COMPREPLY=($(compgen -W "{top}" -- "$word")) ;;
  esac
}}
complete -o default -F _tocsin run.py ./run.py"""


def add(parsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    parser = parsers.add_parser(
        "completion",
        help="completion of commands and flags, for a shell",
        description="Print a script that makes the shell complete commands and flags.",
        epilog=help_text('eval "$(python run.py completion bash)"; ./run.py se<TAB>'),
    )
    parser.add_argument("shell", choices=["bash"])
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the script."""
    print(script(args.parser))
    return OK


def script(parser: argparse.ArgumentParser) -> str:
    """The script for `parser`."""
    commands = _commands(parser)
    cases = [f'    {name}) COMPREPLY=($(compgen -W "{_words(of)}" -- "$word")) ;;' for name, of in commands.items()]
    return SCRIPT.format(commands="|".join(commands), cases="\n".join(cases), top=_words(parser))


def _commands(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    return {}


def _words(parser: argparse.ArgumentParser) -> str:
    flags = [flag for action in parser._actions for flag in action.option_strings if flag.startswith("--")]
    return " ".join([*_commands(parser), *flags])
