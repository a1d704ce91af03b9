"""`apprise:SCHEME://…`: every service that Apprise knows, one recipient at a time.

Apprise blocks, so each call has a thread of its own, at most `concurrency` (and THREADS) of them; one that outlives its
deadline keeps its place until it comes back, and once all places are held like that the answer is "busy". Apprise says
only yes or no; what its log says of HTTP statuses tells "later" from "never". Its log goes nowhere else: it quotes
URLs, which hold secrets. Text goes out as plain text.
"""

from __future__ import annotations

import asyncio
import logging
import re
import threading
import warnings
from typing import Any

from notifiers.base import CONTROLS, Message, NotifierError, Outcome, Refused, RetryLater, Sent, Spec
from notifiers.url import fill_quoted, placeholders, values

THREADS = 128
KNOWN = frozenset({"id", "telephone", "email"})
EXAMPLE = {"id": "u1", "telephone": "+33612345678", "email": "jean@example.org"}
SENT = Sent()
STATUS = re.compile(r"\berror\s*=\s*([1-5][0-9]{2})\b|\b(?:HTTP|status)\D{0,12}([1-5][0-9]{2})\b", re.IGNORECASE)
UNREACHED = re.compile(r"connection error|timed? ?out|socket|connection (?:refused|reset)", re.IGNORECASE)
AGAIN = frozenset({408, 425, 429})


class Ear(logging.Handler):
    """Hears what Apprise logs, per thread, and keeps of it what no secret is in."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._heard = threading.local()

    def begin(self) -> None:
        self._heard.code = 0
        self._heard.unreached = False

    def end(self) -> tuple[int, bool]:
        """The HTTP status (0: none), and whether no connection came about, since `begin`."""
        return self._heard.code, self._heard.unreached

    def emit(self, record: logging.LogRecord) -> None:
        if not hasattr(self._heard, "code"):
            return
        text = record.getMessage()
        if found := STATUS.search(text):
            self._heard.code = int(found[1] or found[2])
        elif UNREACHED.search(text):
            self._heard.unreached = True


EAR = Ear()


class Bridge:
    """A service behind Apprise."""

    def __init__(self, apprise: Any, url: str, needs: frozenset[str], spec: Spec):
        self.needs = needs
        self._apprise = apprise
        self._asset = apprise.AppriseAsset(
            app_id="Tocsin",
            app_desc="Tocsin",
            interpret_escapes=False,
            interpret_emojis=False,
            async_mode=False,  # with these two a call stays in its thread: Apprise's own pool has a handful for all
            service_timeout=0,
        )
        self._url = url
        self._name = spec.name
        self._timeout_s = spec.timeout_s
        self._most = min(spec.concurrency, THREADS)
        self._places = asyncio.Semaphore(self._most)
        self._overdue = 0  # threads that nobody waits for any more

    async def deliver(self, message: Message) -> Outcome:
        if self._overdue >= self._most:
            return RetryLater("busy", transport=True)
        known = values(message) | {"id": message.recipient}
        url = fill_quoted(self._url, {name: known[name] for name in KNOWN})
        future: asyncio.Future[Outcome] | None = None
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._places.acquire()
                future = self._start(url, message)
                return await asyncio.shield(future)
        except TimeoutError:
            return RetryLater("timeout" if future else "busy", transport=True)
        finally:
            if future and not future.done():
                self._overdue += 1
                future.add_done_callback(self._came_back)

    async def check(self) -> str:
        """Apprise has no way to try a service without sending."""
        if not self.understands(fill_quoted(self._url, EXAMPLE)):
            raise NotifierError("Apprise does not understand this URL")
        return "the URL is one of Apprise's; whether the service takes it only a message can tell"

    def understands(self, url: str) -> bool:
        """Is this a URL of Apprise's?"""
        return self._service(url) is not None

    async def aclose(self) -> None:
        """Threads that still hang are left to end by themselves: they are daemons."""

    def _start(self, url: str, message: Message) -> asyncio.Future[Outcome]:
        """Call the service in a thread; what comes of it."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Outcome] = loop.create_future()
        thread = threading.Thread(
            target=self._in_thread, args=(loop, future, url, message), name=f"apprise-{self._name}", daemon=True
        )
        try:
            thread.start()
        except RuntimeError:  # the system gives no more threads
            self._finish(future, RetryLater("busy"))
        return future

    def _came_back(self, future: asyncio.Future[Outcome]) -> None:
        self._overdue -= 1

    def _finish(self, future: asyncio.Future[Outcome], outcome: Outcome) -> None:
        self._places.release()
        if not future.done():
            future.set_result(outcome)

    def _service(self, url: str) -> Any:
        """Apprise's object for a URL, None if it understands it not."""
        service = self._apprise.Apprise.instantiate(url, asset=self._asset, suppress_exceptions=True)
        if service is not None:  # its own patience (4 s each) may be longer than ours
            service.socket_connect_timeout = min(service.socket_connect_timeout, self._timeout_s)
            service.socket_read_timeout = min(service.socket_read_timeout, self._timeout_s)
        return service

    # --- in the thread -----------------------------------------------------------------------------

    def _in_thread(
        self, loop: asyncio.AbstractEventLoop, future: asyncio.Future[Outcome], url: str, message: Message
    ) -> None:
        try:
            outcome = self._notify(url, message)
        except BaseException as error:  # noqa: BLE001  # plugins are the world's: whatever one raises is an outcome
            outcome = RetryLater("internal", detail=type(error).__name__)  # its text may quote the URL
        try:
            loop.call_soon_threadsafe(self._finish, future, outcome)
        except RuntimeError:
            pass  # the loop is closed: nobody waits any more

    def _notify(self, url: str, message: Message) -> Outcome:
        service = self._service(url)
        if service is None:
            return Refused("address_refused", detail="Apprise does not understand the URL made for this recipient")
        everything = self._apprise.Apprise(asset=self._asset)
        everything.add(service)
        kind = self._apprise.NotifyType
        EAR.begin()
        done = everything.notify(
            body=message.message,
            title=CONTROLS.sub(" ", message.titre),
            notify_type=kind.INFO if message.priority == "NORMALE" else kind.WARNING,
            body_format=self._apprise.NotifyFormat.TEXT,
            interpret_escapes=False,
        )
        code, unreached = EAR.end()
        if done:
            return SENT
        if 400 <= code < 500 and code not in AGAIN:
            return Refused("service_refused", str(code))
        if unreached:
            return RetryLater("unreachable", transport=True)
        if code in AGAIN:
            return RetryLater("busy", str(code))
        return RetryLater("service_refused", str(code) if code else "", transport=code in (502, 503, 504))


def open_bridge(spec: Spec) -> Bridge:
    """`apprise:SCHEME://…` with {telephone}, {email} and {id} (the recipient's). Raises ValueError."""
    import apprise  # slow to load: only where a channel needs it

    url = spec.url.partition(":")[2]
    needs = placeholders(url, KNOWN, secret=True) & {"telephone", "email"}
    log = logging.getLogger("apprise")
    log.setLevel(logging.WARNING)
    log.propagate = False
    if EAR not in log.handlers:
        log.handlers[:] = [EAR]
    bridge = Bridge(apprise, url, needs, spec)
    with warnings.catch_warnings():  # this loads all of its plugins, with what they still import of old
        warnings.simplefilter("ignore", DeprecationWarning)
        known = bridge.understands(fill_quoted(url, EXAMPLE))
    if not known:
        raise ValueError("expected apprise: and a URL that Apprise understands, as in apprise:ntfys://host/{id}")
    return bridge
