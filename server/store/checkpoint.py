"""Writing SQLite's WAL back into its database beside the writer, so that no commit has to wait for it.

SQLite by itself does it within the commit that makes the WAL a thousand pages long. Here a thread with a connection
of its own does nearly all of it, and the writer, between two commits, only the little that came meanwhile: a WAL that
is written back as a whole is begun again from its start.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

import apsw

log = logging.getLogger("tocsin.store")

STEP_PAGES = 1_000
"""Whenever so many pages have come into the WAL, they are written back."""
FINISH_PAGES = 4_000
"""Pages from which on the writer does the rest, so that the WAL stays of about this size under any load."""
REST_PAGES = 500
"""As many pages may be left for the writer: it takes a few milliseconds over them."""
RETRY_S = 5.0


class Checkpointer:
    """The thread, and what the writer says to it."""

    def __init__(self, connect: Callable[[], apsw.Connection]):
        """`connect` opens a connection that may write; called in the thread."""
        self._connect = connect
        self._wake = threading.Event()
        self._ending = threading.Event()
        self._pages = 0
        self._looked = 0  # pages there were when the thread looked last
        self._finish = False
        self._thread = threading.Thread(target=self._run, name="tocsin-checkpoint")

    def attach(self, writer: apsw.Connection) -> None:
        """Take the place of SQLite's own checkpoints on `writer`, and begin."""
        writer.set_wal_hook(self._written)
        self._thread.start()

    def _written(self, writer: apsw.Connection, schema: str, pages: int) -> int:
        if pages < self._pages:
            self._looked = 0  # begun again from its start
        self._pages = pages
        if pages - self._looked >= STEP_PAGES and not self._wake.is_set():
            self._wake.set()
        return apsw.SQLITE_OK

    def finish(self, writer: apsw.Connection) -> None:
        """To be called by the writer between two commits: the rest, if there is but a little."""
        if self._finish:
            self._finish = False
            try:
                writer.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
            except apsw.Error as error:  # a commit that meets the same trouble tells whoever waits for it
                log.warning("the WAL could not be written back: %s", error)

    def close(self) -> None:
        """End the thread; what is in the WAL stays there."""
        self._ending.set()
        self._wake.set()
        if self._thread.ident:
            self._thread.join()

    def _run(self) -> None:
        connection: apsw.Connection | None = None
        while True:
            self._wake.wait()
            if self._ending.is_set():
                break
            self._wake.clear()
            try:
                connection = connection or self._connect()
                self._looked = self._pages
                _, done = connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
                self._finish = self._pages >= FINISH_PAGES and self._pages - done <= REST_PAGES
            except apsw.BusyError:
                continue  # the writer is at it
            except apsw.Error as error:
                log.warning("the WAL could not be written back: %s", error)
                self._ending.wait(RETRY_S)
        if connection:
            connection.close()
