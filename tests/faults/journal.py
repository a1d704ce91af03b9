"""What the outside world knows for certain: every 202, written down as it arrives.

The journal is a file in append mode, one line per acknowledgement, and a dictionary of the same. It promises that a
task is in it exactly if its 202 was read by the client; it knows nothing of what the server did with it.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path


class Journal:
    """Acknowledged tasks and how many recipients each has."""

    def __init__(self, file: Path):
        self.acknowledged: dict[str, int] = {}
        self.refused: dict[int, int] = {}  # answers other than 202, by status
        self.cut = 0  # requests that were never answered
        self._file = file.open("a", encoding="utf-8", buffering=1)
        self._news = asyncio.Event()

    def wrote(self, task_id: str, recipients: int) -> None:
        """A 202 came."""
        self._file.write(json.dumps({"task_id": task_id, "recipients": recipients}) + "\n")
        self.acknowledged[task_id] = recipients
        self._news.set()

    def refusal(self, status: int) -> None:
        """Another answer came."""
        self.refused[status] = self.refused.get(status, 0) + 1
        self._news.set()

    async def until(self, holds: Callable[[], bool], within_s: float = 60) -> None:
        """Return once `holds()`, looked at whenever an answer comes. Raises TimeoutError."""
        async with asyncio.timeout(within_s):
            while not holds():
                self._news.clear()
                await self._news.wait()

    async def more(self, count: int, within_s: float = 60) -> None:
        """Return once `count` more tasks than now are acknowledged."""
        enough = len(self.acknowledged) + count
        await self.until(lambda: len(self.acknowledged) >= enough, within_s)

    def close(self) -> None:
        """Close the file."""
        self._file.close()
