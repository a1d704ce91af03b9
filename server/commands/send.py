"""`send`: post a notification from flags and files, then follow its task to the end.

It is posted with an Idempotency-Key, so that a repeat after a lost answer is no second notification. The stream is
subscribed to first and the task asked for then: nothing can happen unseen in between.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from contextlib import aclosing
from typing import Any
from urllib.parse import quote

import msgspec
from rich.console import Console
from rich.progress import Progress
from uuid_utils import uuid7

from server.commands.common import NO, OK, UNREACHED, USAGE, Stop, bars, complain, help_text, printable, read_text
from server.commands.recipients import read_file, read_flag
from server.commands.remote import Gone, Remote, add_flags, connected

ENDED = ("completed", "failed", "cancelled")


def add(parsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    parser = parsers.add_parser(
        "send",
        help="send a notification, and follow it until everybody is reached",
        description="Send a notification, and follow it until everybody is reached (exit code 3: not everybody was).",
        epilog=help_text(
            'python run.py send --type meteo --titre Tempête --message "Rentrez." --to "u1,Ana,ana@example.org"',
            "python run.py send --type securite --titre Évacuation --message-file texte.txt --file annuaire.csv",
            "python run.py send --type infra --file notification.json --planifiee-a 2030-01-31T08:00:00Z --no-wait",
            "echo Fini. | python run.py send --type infra --titre Travaux --file annuaire.json --json",
        ),
    )
    add_flags(parser)
    parser.add_argument("--type", required=True, metavar="TYPE", help="meteo, securite, sante, infra, or another")
    parser.add_argument("--titre", metavar="TEXT")
    text = parser.add_mutually_exclusive_group()
    text.add_argument("--message", metavar="TEXT", help="default: read from stdin")
    text.add_argument("--message-file", metavar="FILE", help="- is stdin")
    parser.add_argument("--priorite", metavar="WORD", help="CRITIQUE, HAUTE or NORMALE (default: the type's)")
    parser.add_argument("--planifiee-a", metavar="TIME", help="not before, as 2030-01-31T08:00:00+01:00")
    parser.add_argument("--expire-a", metavar="TIME", help="not after")
    parser.add_argument("--webhook-url", metavar="URL", help="called when the task has ended")
    who = parser.add_argument_group("recipients")
    who.add_argument(
        "--to", action="append", default=[], type=read_flag, metavar='"ID,NOM,EMAIL"', help="one of them (repeatable)"
    )
    who.add_argument(
        "--file",
        action="append",
        default=[],
        metavar="FILE",
        help="recipients as .csv (header: id,nom,email,telephone,langue,canal,actif; some or all) or JSON, or a whole "
        "notification as JSON; - is stdin (repeatable)",
    )
    parser.add_argument(
        "--idempotency-key", metavar="KEY", help="the same key within 24 h sends once (default: a new one)"
    )
    parser.add_argument(
        "--tries", type=int, default=6, metavar="N", help="while it is out of reach or busy (default: 6)"
    )
    parser.add_argument("--no-wait", action="store_true", help="end as soon as it is accepted")
    parser.add_argument("--json", action="store_true", help="print the task as JSON (with --no-wait: the answer)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Send it; 0 if everybody was reached (or, with --no-wait, it was accepted), 3 if not."""
    return asyncio.run(_send(args, body_of(args)))


def body_of(args: argparse.Namespace) -> dict[str, Any]:
    """The notification that the flags and files make; a flag goes before a file. Raises Stop."""
    body: dict[str, Any] = {}
    people: list[Any] = []
    for path in args.file:
        part = read_file(path)
        people += part.pop("utilisateurs", [])
        body |= part
    people += args.to
    flags = ("titre", "message", "priorite", "planifiee_a", "expire_a", "webhook_url")
    body |= {name: getattr(args, name) for name in flags if getattr(args, name) is not None}
    if args.message_file:
        body["message"] = read_text(args.message_file).rstrip("\r\n")
    elif "message" not in body:
        if sys.stdin.isatty() or "-" in args.file:
            raise Stop("a message is needed: --message TEXT, --message-file FILE, or stdin", USAGE)
        body["message"] = read_text("-").rstrip("\r\n")
    if "titre" not in body:
        raise Stop("a title is needed: --titre TEXT", USAGE)
    if not people:
        raise Stop('recipients are needed: --to "ID,NOM,EMAIL" or --file FILE', USAGE)
    if args.tries < 1:
        raise Stop("--tries: expected at least 1", USAGE)
    try:
        msgspec.json.encode([body, args.to, args.idempotency_key, args.type])
    except UnicodeEncodeError:
        raise Stop("expected flags in UTF-8; is the terminal's language (LANG) set to it?", USAGE) from None
    return body | {"utilisateurs": people}


async def _send(args: argparse.Namespace, body: dict[str, Any]) -> int:
    async with connected(args) as remote:
        headers = {"Idempotency-Key": args.idempotency_key or str(uuid7())}
        path = f"/api/notifications/{quote(args.type, safe='')}"
        answer = await remote.post_again(path, body, headers, args.tries)
        if args.no_wait:
            print(msgspec.json.encode(answer).decode() if args.json else f"{answer['task_id']} {answer['status']}")
            return OK
        out = Console(stderr=args.json)
        with bars(out) as progress:
            try:
                task = await follow(remote, answer["task_id"], out, progress, args.tries)
            except Stop as stop:
                raise Stop(f"accepted as {answer['task_id']}, but it cannot be followed: {stop}", stop.code) from None
        if args.json:
            print(msgspec.json.encode(task).decode())
        return OK if task["status"] == "completed" else UNREACHED


async def follow(remote: Remote, task_id: str, out: Console, progress: Progress, tries: int) -> dict[str, Any]:
    """Show how a task goes on until it has ended; the task then. Raises Stop where it is not to be seen any more."""
    shown = Follow(out, progress)
    frames = remote.frames([("task_id", task_id)], tries=tries)
    try:
        async with aclosing(frames):
            async for frame in frames:
                if frame["kind"] in ("hello", "gap"):
                    shown.see((await remote.get(f"/api/queue/tasks/{task_id}"))["task"])
                for event in frame.get("events", ()):
                    if event["event"] == "task.deleted":
                        raise Gone("it was removed")
                    shown.see(event["task"])
                if shown.task.get("status") in ENDED:
                    # asked for once more: an event's error is in the server's language, this answer in ours
                    task: dict[str, Any] = (await remote.get(f"/api/queue/tasks/{task_id}"))["task"]
                    shown.end(task)
                    return task
    except (KeyboardInterrupt, asyncio.CancelledError):
        complain(f"it goes on; to follow it: run.py tail --since 0 --task {task_id}")
        raise
    raise Stop("the stream has ended", NO)


class Follow:
    """A task on the screen: a bar on a terminal, else a line whenever its status changes."""

    def __init__(self, out: Console, progress: Progress):
        self._out = out
        self._progress = progress
        self._bar = progress.add_task("waiting", total=None)
        self.task: dict[str, Any] = {}

    def see(self, task: dict[str, Any]) -> None:
        """The task as it is now."""
        figures = task["progress"]
        to_reach = figures["total"] - figures["skipped"]
        if task["status"] != self.task.get("status") and task["status"] not in ENDED:
            self._say(f"{task['id']} {task['status']}{_when(task)}")
        self._progress.update(
            self._bar, description=task["status"], completed=figures["sent"] + figures["failed"], total=to_reach
        )
        self.task = task

    def end(self, task: dict[str, Any]) -> None:
        """The task as it ended."""
        figures = task["progress"]
        reached = f"{figures['sent']} of {figures['total'] - figures['skipped']} reached"
        skipped = f", {figures['skipped']} inactive" if figures["skipped"] else ""
        error = f": {printable(task['error'])}" if task.get("error") else ""
        self._out.print(
            f"{task['id']} {task['status']}, {reached}{skipped}{error}", soft_wrap=True, markup=False, highlight=False
        )

    def _say(self, text: str) -> None:
        if not self._out.is_terminal:
            self._out.print(text, soft_wrap=True, markup=False, highlight=False)


def _when(task: dict[str, Any]) -> str:
    return f", not before {task['next_attempt_at_iso']}" if task.get("next_attempt_at_iso") else ""
