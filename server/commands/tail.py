"""`tail`: the event stream in the terminal, with a progress bar for each task in hand; one JSON per line for pipes."""

from __future__ import annotations

import argparse
import asyncio
import sys
from contextlib import aclosing
from typing import Any

import msgspec
from rich.console import Console
from rich.progress import Progress, TaskID
from rich.text import Text

from server.commands.common import OK, bars, complain, help_text, printable
from server.commands.remote import Remote, add_flags, connected
from server.model import Priority, Status

MOST_BARS = 8
"""Bars at a time: more would fill the terminal."""

STYLES = {
    "task.enqueued": "cyan",
    "task.started": "blue",
    "task.progress": "bright_black",
    "task.retry_scheduled": "yellow",
    "task.completed": "green",
    "task.failed": "bold red",
    "task.cancelled": "magenta",
    "task.deleted": "bright_black",
    "alert.raised": "bold white on red",
    "alert.cleared": "bold green",
}
PRIORITIES = {"CRITIQUE": "bold red", "HAUTE": "yellow", "NORMALE": "bright_black"}


def add(parsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    parser = parsers.add_parser(
        "tail",
        help="follow the event stream",
        description="Follow the event stream of a running server; comes back by itself, without a gap, when cut off.",
        epilog=help_text(
            "python run.py tail",
            "python run.py tail --since 0 --type meteo --status failed",
            "python run.py tail --task 0190a2b4-… --json | jq .task.progress",
        ),
    )
    add_flags(parser)
    parser.add_argument("--since", type=int, metavar="SEQ", help="begin behind this event (0: with the oldest kept)")
    add_filters(parser)
    parser.add_argument("--task", action="append", default=[], metavar="ID", help="of this task (repeatable)")
    parser.add_argument("--count", type=int, metavar="N", help="end after N events")
    parser.add_argument("--json", action="store_true", help="one event per line, as the server sends it")
    parser.set_defaults(run=run)


def add_filters(parser: argparse.ArgumentParser) -> None:
    """`--type`, `--status`, `--priority`: which tasks."""
    parser.add_argument("--type", action="append", default=[], metavar="TYPE", help="of this type (repeatable)")
    parser.add_argument(
        "--status", action="append", default=[], choices=[status.value for status in Status], help="(repeatable)"
    )
    parser.add_argument(
        "--priority",
        action="append",
        default=[],
        type=str.upper,
        choices=[priority.name for priority in Priority],
        help="(repeatable)",
    )


def run(args: argparse.Namespace) -> int:
    """Follow until Ctrl-C."""
    try:
        return asyncio.run(_tail(args))
    except KeyboardInterrupt:
        return OK


def query_of(args: argparse.Namespace) -> list[tuple[str, str]]:
    """The flags as the stream's query."""
    names = {"type": args.type, "status": args.status, "priority": args.priority, "task_id": args.task}
    return [(name, value) for name, values in names.items() for value in values]


async def _tail(args: argparse.Namespace) -> int:
    left = args.count
    async with connected(args) as remote:
        screen: Lines | Screen = Lines() if args.json else Screen(Console())
        with screen:
            await screen.begin(remote)
            async with aclosing(remote.frames(query_of(args), args.since, notice=screen.note)) as frames:
                async for frame in frames:
                    match frame["kind"]:
                        case "events":
                            for event in frame["events"]:
                                screen.show(event)
                                if left is not None and (left := left - 1) <= 0:
                                    return OK
                        case "gap":
                            screen.note(f"events {frame['from']} to {frame['to']} are past retention: not shown")
                        case "error":
                            screen.note(str(frame.get("message", frame.get("code", ""))))
    return OK


class Lines:
    """Events as JSON, one a line, each flushed; whatever else there is to say goes to stderr."""

    def __enter__(self) -> Lines:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    async def begin(self, remote: Remote) -> None:
        """Nothing is drawn before the first event."""

    def show(self, event: dict[str, Any]) -> None:
        sys.stdout.buffer.write(msgspec.json.encode(event) + b"\n")  # JSON is UTF-8, whatever the locale
        sys.stdout.flush()

    def note(self, text: str) -> None:
        complain(text)


class Screen:
    """Events as lines for people and, on a terminal, below them a bar per task in hand."""

    def __init__(self, console: Console):
        self._console = console
        self._progress: Progress = bars(console)
        self._bars: dict[str, TaskID] = {}

    def __enter__(self) -> Screen:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    async def begin(self, remote: Remote) -> None:
        """Draw the bars of what is in hand already."""
        if self._console.is_terminal:
            page = await remote.get("/api/queue/tasks", status="processing", limit=MOST_BARS)
            for task in page["tasks"]:
                self._bar(task)

    def note(self, text: str) -> None:
        """Something to say that is no event."""
        complain(text)

    def show(self, event: dict[str, Any]) -> None:
        """One event."""
        task = event.get("task")
        if task:
            self._bar(task)
        if event["event"] == "task.progress" and self._console.is_terminal:
            return  # the bar says it
        if self._console.is_terminal:
            self._console.print(line(event), soft_wrap=True)
        else:
            print(line(event).plain, flush=True)

    def _bar(self, task: dict[str, Any]) -> None:
        task_id, progress = task["id"], task.get("progress")
        if task["status"] != "processing" or not progress:
            if (bar := self._bars.pop(task_id, None)) is not None:
                self._progress.remove_task(bar)
            return
        if task_id not in self._bars:
            if len(self._bars) >= MOST_BARS:
                return
            title = Text(printable(task["titre"])[:40]).plain
            self._bars[task_id] = self._progress.add_task(title, total=None)
        settled = progress["sent"] + progress["failed"]
        self._progress.update(self._bars[task_id], completed=settled, total=progress["total"] - progress["skipped"])


def line(event: dict[str, Any]) -> Text:
    """An event as one line: when, number, what, and what of."""
    kind = str(event["event"])
    text = Text()
    text.append(f"{event['at'][:23]}Z ", "bright_black")
    text.append(f"{event['seq']:>7} ", "bright_black")
    text.append(f"{kind.removeprefix('task.'):<16}", STYLES.get(kind, "bold"))
    if task := event.get("task"):
        text.append(f"{task['priority']:<9}", PRIORITIES.get(task["priority"], ""))
        text.append(f"{printable(task['type']):<10}")
        if progress := task.get("progress"):
            text.append(f"{progress['sent']}/{progress['total'] - progress['skipped']} ".rjust(10))
            text.append(printable(task["titre"]))
            if task.get("error"):
                text.append(f" · {printable(task['error'])}", "red")
            elif task["status"] == "pending" and task.get("next_attempt_at_iso"):
                text.append(f" · {task['next_attempt_at_iso']}", "bright_black")
        text.append(f"  {task['id']}", "bright_black")
    elif "by" in event:
        text.append(printable(event["by"]))
    elif "alert" in event:
        text.append(printable(msgspec.json.encode(event["alert"]).decode()))
    return text
