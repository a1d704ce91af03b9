"""Completion webhooks: what the store has written down for a task that ended is posted until it is taken.

A webhook is known by its id at every attempt, signed with every secret (Standard Webhooks), sent to checked addresses
alone (`targets.py`), and follows no redirect. Nodes share the work: who takes a webhook holds it for `LEASE_S`. It
reports nothing: a webhook that fails makes no event.
"""

from __future__ import annotations

import asyncio
import logging
import random
import ssl
from collections import Counter
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import aiohttp
from aiohttp.abc import AbstractResolver
from msgspec import Struct
from standardwebhooks import Webhook
from yarl import URL

from server.clock import Clock, sleep_or
from server.model import Event, Wait, wait_s
from server.settings import Settings
from server.store import Store, StoreUnavailable
from server.store.batch import ENDING
from server.store.hooks import Hook, PurgeHooks, SaveHook, TakeHooks, Taken
from server.targets import ForbiddenAddress, Resolver, Targets
from server.version import VERSION

log = logging.getLogger("tocsin.webhooks")

TIMEOUT_S = 10.0
LEASE_S = 30.0
SLOTS = 16
PER_HOST = 4
MOST_ANSWER = 64 * 1024
BACKOFF = Wait(base_s=5, max_s=3600)
LOOK_S = 60.0
"""It looks by itself so often: for what another node left behind, and for what is to be removed."""
CLOSE_S = 3.0
HOUR_MS = 3_600_000


class Answer(Struct, frozen=True):
    """What one attempt came to: an HTTP status, or a word for why there was none."""

    status: int | None = None
    error: str = ""
    after_s: float = 0.0  # asked for by Retry-After


def after(hook: Hook, answer: Answer, now_ms: int, draw: float) -> SaveHook:
    """What becomes of a webhook after an attempt. `draw` in 0..1 is the jitter: half of the wait at most.

    2xx is delivered, 410 says never again; anything else is tried again, for the last time when its day is over.
    """
    state, due_ms, done_ms = "waiting", now_ms, None
    if answer.status is not None and 200 <= answer.status < 300:
        state, done_ms = "delivered", now_ms
    elif answer.status == 410:
        state, done_ms = "stopped", now_ms
    elif now_ms >= hook.until_ms:
        state, done_ms = "gave_up", now_ms
    else:
        pause_s = max(wait_s(hook.attempts, BACKOFF, 0.5 + draw / 2), answer.after_s)
        due_ms = min(now_ms + int(pause_s * 1000), hook.until_ms)
    return SaveHook(hook.id, hook.attempts, state, due_ms, done_ms, answer.status, answer.error)


def retry_after_s(value: str | None, now_ms: int) -> float:
    """`Retry-After` in seconds, 0 for none or nonsense (RFC 9110, 10.2.3)."""
    text = (value or "").strip()
    if text.isascii() and text.isdigit():
        return float(text[:9])
    try:
        at = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return 0.0
    at = at if at.tzinfo else at.replace(tzinfo=UTC)
    return max(at.timestamp() - now_ms / 1000, 0.0)


class Webhooks:
    """The loop that takes what is due, and the calls under way."""

    def __init__(
        self, store: Store, settings: Settings, clock: Clock, *, resolver: AbstractResolver | None = None,
        timeout_s: float = TIMEOUT_S, draw: Callable[[], float] = random.random,
    ):  # fmt: skip
        self._store = store
        self._clock = clock
        self._targets = Targets(settings.webhooks.allow)
        self._signers = [Webhook(secret) for secret in settings.webhooks.secrets]
        self._kept_ms = int(settings.queue.retention_hours * HOUR_MS)
        self._resolver = resolver
        self._timeout_s = timeout_s
        self._draw = draw
        self._wake = asyncio.Event()
        self._loop: asyncio.Task[None] | None = None
        self._calls: dict[asyncio.Task[None], str] = {}  # to their hosts
        self._unsure: list[Hook] = []  # taken, if that was written
        self._purged_ms = 0
        self._sessions: dict[bool, aiohttp.ClientSession] = {}

    @property
    def on_wire(self) -> int:
        """Calls under way."""
        return len(self._calls)

    def objection(self, url: str) -> str | None:
        """Why a webhook to `url` is out of the question (a catalogue key), if it is."""
        return self._targets.objection(url) if self._signers else "field.no_webhook_secret"

    # --- life --------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin, if there is a secret to sign with."""
        if not self._signers:
            return
        self._resolver = self._resolver or Resolver()
        for checked in (True, False):
            self._sessions[checked] = self._targets.session(self._timeout_s, self._resolver, checked=checked)
        self._store.on_commit.append(self.told)
        self._loop = asyncio.create_task(self._run(), name="webhooks")

    async def close(self) -> None:
        """Take nothing more; let calls under way end for a moment. What is not done is due again by itself."""
        if not self._loop:
            return
        self._store.on_commit.remove(self.told)
        self._loop.cancel()
        await asyncio.gather(self._loop, return_exceptions=True)
        if self._calls:
            await asyncio.wait(list(self._calls), timeout=CLOSE_S)
        for call in list(self._calls):
            call.cancel()
        await asyncio.gather(*self._calls, return_exceptions=True)
        for session in self._sessions.values():
            await session.close()
        if self._resolver:
            await self._resolver.close()

    def told(self, events: list[Event]) -> None:
        """Committed events: a task that ended may have left a webhook."""
        if not self._wake.is_set() and any(event.kind in ENDING for event in events):
            self._wake.set()

    # --- taking ------------------------------------------------------------------------------------

    async def _run(self) -> None:
        while True:
            self._wake.clear()
            try:
                until_s = await self._take()
                await self._purge()
            except StoreUnavailable as error:
                log.warning("storage says no: %s", error)
                until_s = 1.0
            except Exception:  # a defect must not end it for good
                log.exception("webhooks failed")
                until_s = 1.0
            if until_s > 0:
                await sleep_or(self._clock, self._wake.wait(), until_s)

    async def _take(self) -> float:
        """Begin what is due as far as there is room; seconds until there is reason to look again."""
        slots = SLOTS - len(self._calls)
        if slots <= 0:
            return LOOK_S
        now_ms = self._clock.now_ms()
        lease_ms = now_ms + int(LEASE_S * 1000)
        on_wire = Counter(self._calls.values())
        take = TakeHooks(now_ms, lease_ms, slots, PER_HOST, on_wire, self._unsure[:slots])
        take.late, take.unsure = self._begin, self._may_have_taken
        taken: Taken = await self._store.apply(take)
        del self._unsure[:slots]
        self._begin(taken)
        if taken.hooks:
            return 0.0  # there may be more, of other hosts
        return LOOK_S if taken.next_ms is None else min(LOOK_S, max((taken.next_ms - now_ms) / 1000, 0.001))

    def _may_have_taken(self, taken: Taken) -> None:
        """Storage did not confirm it: it is asked for again, else nobody would call before the lease has run out."""
        self._unsure = [*taken.hooks, *self._unsure][:SLOTS]

    def _begin(self, taken: Taken) -> None:
        if self._loop is None or self._loop.done():  # closed before storage answered: they are due again by themselves
            return
        for hook in taken.hooks:
            call = asyncio.create_task(self._call(hook), name=f"webhook-{hook.id}")
            self._calls[call] = hook.host
            call.add_done_callback(self._ended)

    def _ended(self, call: asyncio.Task[None]) -> None:
        del self._calls[call]
        self._wake.set()
        if not call.cancelled() and (error := call.exception()):
            log.error("a webhook's call failed", exc_info=error)

    async def _purge(self) -> None:
        now_ms = self._clock.now_ms()
        if not self._kept_ms or now_ms - self._purged_ms < LOOK_S * 1000:
            return
        if not await self._store.apply(PurgeHooks(now_ms - self._kept_ms)):
            self._purged_ms = now_ms

    # --- calling -----------------------------------------------------------------------------------

    async def _call(self, hook: Hook) -> None:
        answer = await self._post(hook)
        save = after(hook, answer, self._clock.now_ms(), self._draw())
        level = logging.INFO if save.state == "delivered" else logging.WARNING
        said = f"HTTP {answer.status}" if answer.status is not None else answer.error
        log.log(level, "webhook %s: attempt %d: %s (%s)", hook.id, hook.attempts, save.state, said)
        while True:
            try:
                await self._store.apply(save)
                return
            except StoreUnavailable as error:  # at worst the lease runs out and it is posted again, under the same id
                log.warning("webhook %s: its outcome waits for storage: %s", hook.id, error)
                await self._clock.sleep(1)

    def _headers(self, hook: Hook) -> Mapping[str, str]:
        at = datetime.fromtimestamp(self._clock.now_ms() // 1000, UTC)
        text = hook.body.decode()
        return {
            "Content-Type": "application/json; charset=utf-8",
            "User-Agent": f"Tocsin/{VERSION}",
            "webhook-id": hook.id,
            "webhook-timestamp": str(int(at.timestamp())),
            "webhook-signature": " ".join(signer.sign(hook.id, at, text) for signer in self._signers),
        }

    async def _post(self, hook: Hook) -> Answer:
        if objection := self._targets.objection(hook.url):
            log.warning("webhook %s: not called: %s", hook.id, objection)
            return Answer(error="forbidden_address")
        session = self._sessions[not self._targets.lists(URL(hook.url))]
        try:
            async with session.post(
                hook.url, data=bytes(hook.body), headers=self._headers(hook), allow_redirects=False
            ) as response:
                await _skim(response)
                patience_s = retry_after_s(response.headers.get("Retry-After"), self._clock.now_ms())
                return Answer(response.status, "", patience_s)
        except (aiohttp.ClientError, OSError, ValueError) as error:  # a time-out is an OSError
            return Answer(error=_word(error))
        except Exception:  # a defect must not have it tried every half minute for ever
            log.exception("webhook %s: the call failed", hook.id)
            return Answer(error="internal")


async def _skim(response: aiohttp.ClientResponse) -> None:
    """Read the answer as far as it may go; one that goes on gives up its connection."""
    left = MOST_ANSWER
    async for piece in response.content.iter_any():
        left -= len(piece)
        if left <= 0:
            response.close()
            return


def _word(error: BaseException) -> str:
    """A catalogue word for why there was no answer."""
    if isinstance(error, aiohttp.ClientConnectorError) and isinstance(error.os_error, ForbiddenAddress):
        return "forbidden_address"
    match error:
        case TimeoutError():
            return "timeout"
        case ssl.SSLError() | aiohttp.ClientSSLError():
            return "tls_failed"
        case aiohttp.ClientConnectorError():
            return "unreachable"
        case aiohttp.ServerDisconnectedError() | ConnectionError() | aiohttp.ClientPayloadError():
            return "connection_lost"
        case _:
            return "gateway_error"
