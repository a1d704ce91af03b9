"""Alerts: too many tasks fail, or a channel's service is down. Raised and cleared as events, kept over a restart.

Of the tasks that ended within `alerts.window_s` a part of at least `alerts.failure_ratio` has failed: raised; cleared
once it is well below, or the window is empty. A channel whose breaker opens is down until a call gets through.
`alerts.notify` is told at most once per window and alert, by the channels themselves: that makes no task, hence no
alert about alerts.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from typing import Any

import msgspec
from msgspec import Struct
from uuid_utils import uuid7

from server.channels import Channel, Channels, Message, Outcome, RetryLater, Sent
from server.clock import Clock, sleep_or
from server.i18n import text
from server.model import Event, EventKind, Priority, iso
from server.settings import Settings
from server.store import Store, StoreUnavailable
from server.store.hooks import ClearAlert, RaiseAlert

log = logging.getLogger("tocsin.alerts")

BELOW = 0.8
"""Cleared once the ratio is below this part of the one that raises: else it would flicker around it."""
PARTS = 60
"""The window is counted in so many parts."""
TRIES_AFTER_S = (0.0, 5.0, 30.0)
MOST_MESSAGES = 64
RATIO = "failure_ratio"
DOWN = "channel_down"


class Window:
    """How many tasks ended, and failed, within the last `window_s`."""

    def __init__(self, window_s: float):
        self.window_ms = int(window_s * 1000)
        self._part_ms = max(self.window_ms // PARTS, 1)
        self._parts: deque[list[int]] = deque()  # [number of the part, ended, failed], oldest first
        self.ended = 0
        self.failed = 0

    def add(self, at_ms: int, ended: int, failed: int) -> None:
        """Tasks ended at `at_ms` (epoch); what is earlier than the latest counts with it."""
        number = at_ms // self._part_ms
        if not self._parts or self._parts[-1][0] < number:
            self._parts.append([number, 0, 0])
        self._parts[-1][1] += ended
        self._parts[-1][2] += failed
        self.ended += ended
        self.failed += failed

    def slide(self, now_ms: int) -> None:
        """Forget what has left the window; what is of a time to come, as the clock was set back, counts as of now."""
        now, oldest = now_ms // self._part_ms, (now_ms - self.window_ms) // self._part_ms
        for part in reversed(self._parts):
            if part[0] <= now:
                break
            part[0] = now
        while self._parts and self._parts[0][0] <= oldest:
            _, ended, failed = self._parts.popleft()
            self.ended -= ended
            self.failed -= failed

    @property
    def ratio(self) -> float:
        """The part that failed."""
        return self.failed / self.ended if self.ended else 0.0

    @property
    def step_s(self) -> float:
        """How often it can change by itself."""
        return self._part_ms / 1000


def verdict(window: Window, failure_ratio: float, min_tasks: int, *, raised: bool) -> bool:
    """Should the alert stand, given whether it does?"""
    if raised:
        return window.ended > 0 and window.ratio >= failure_ratio * BELOW
    return window.ended >= min_tasks and window.ratio >= failure_ratio


class _Wish(Struct):
    """What is still to be written: an alert's name, and whether it is to stand."""

    name: str
    up: bool
    channel: str = ""
    raising: RaiseAlert | None = None  # handed to storage, which has not said yes


class Alerts:
    """Watches the log and the channels. `raised` is kept up to date in place: the alerts that stand, of all nodes."""

    def __init__(
        self, store: Store, channels: Channels, settings: Settings, clock: Clock, raised: list[dict[str, Any]]
    ):
        self.raised = raised
        self._store = store
        self._channels = channels
        self._settings = settings.alerts
        self._clock = clock
        self._window = Window(settings.alerts.window_s)
        self._wishes: dict[str, _Wish] = {}
        self._wake = asyncio.Event()
        self._loop: asyncio.Task[None] | None = None
        self._telling: set[asyncio.Task[None]] = set()

    # --- life --------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Take up what stands and what ended lately, then watch."""
        now_ms = self._clock.now_ms()
        self._store.on_commit.append(self.told)
        self.raised[:] = await self._store.alerts()
        since_ms = now_ms - self._window.window_ms
        for minute, what, n in sorted(await self._store.ended_since(since_ms // 60_000)):
            self._window.add(min(minute * 60_000 + 59_999, now_ms), n, n if what == "failed" else 0)
        if self._store.dialect == "sqlite":  # the only node, and its breakers are closed
            for alert in self.raised:
                if alert["kind"] == DOWN:
                    self._wish(_Wish(f"{DOWN}:{alert['channel']}", False, alert["channel"]))
        for channel in self._channels.values():
            channel.on_breaker.append(self._breaker)
            channel.on_outcome.append(self._outcome)
        self._loop = asyncio.create_task(self._run(), name="alerts")

    async def close(self) -> None:
        """Stop watching; messages under way are given up."""
        self._store.on_commit.remove(self.told)
        for channel in self._channels.values():
            channel.on_breaker.remove(self._breaker)
            channel.on_outcome.remove(self._outcome)
        work = [*self._telling, *([self._loop] if self._loop else [])]
        for task in work:
            task.cancel()
        await asyncio.gather(*work, return_exceptions=True)

    # --- what it is told -----------------------------------------------------------------------------

    def told(self, events: list[Event]) -> None:
        """Committed events: tasks that ended, and alerts that this node or another wrote."""
        for event in events:
            if event.kind == EventKind.COMPLETED or event.kind == EventKind.FAILED:
                self._window.add(event.at_ms, 1, int(event.kind == EventKind.FAILED))
            elif event.kind == EventKind.ALERT_RAISED or event.kind == EventKind.ALERT_CLEARED:
                alert = msgspec.json.decode(event.body)["alert"]
                self.raised[:] = [other for other in self.raised if other["id"] != alert["id"]]
                if event.kind == EventKind.ALERT_RAISED:
                    self.raised.append(alert)
            else:
                continue
            self._wake.set()

    def _breaker(self, channel: Channel) -> None:
        up = channel.breaker.state != "closed"
        self._wish(_Wish(f"{DOWN}:{channel.name}", up, channel.name))

    def _outcome(self, channel: Channel, outcome: Outcome, took_s: float) -> None:
        """A call got through: whatever raised the alert, here or before a restart, the channel is up."""
        lost = isinstance(outcome, RetryLater) and outcome.transport
        if self.raised and not lost and self._stands(DOWN, channel.name):
            self._breaker(channel)

    def _wish(self, wish: _Wish) -> None:
        self._want(wish)
        self._wake.set()

    def _want(self, wish: _Wish) -> None:
        if (before := self._wishes.get(wish.name)) is None or before.up != wish.up:
            self._wishes[wish.name] = wish

    def _stands(self, kind: str, channel: str = "") -> bool:
        return any(alert["kind"] == kind and alert.get("channel", "") == channel for alert in self.raised)

    # --- what it does --------------------------------------------------------------------------------

    async def _run(self) -> None:
        while True:
            self._wake.clear()
            try:
                await self._look()
            except StoreUnavailable as error:
                log.warning("storage says no: %s", error)
                await self._clock.sleep(1)
                continue
            except Exception:  # a defect must not end it for good
                log.exception("alerts failed")
                await self._clock.sleep(1)
                continue
            if self._window.ended:
                await sleep_or(self._clock, self._wake.wait(), self._window.step_s)
            else:
                await self._wake.wait()

    async def _look(self) -> None:
        """Write down what has changed."""
        settings, window = self._settings, self._window
        window.slide(self._clock.now_ms())
        stands = self._stands(RATIO)
        if verdict(window, settings.failure_ratio, settings.min_tasks, raised=stands) != stands:
            self._want(_Wish(RATIO, not stands))
        while self._wishes:
            name, wish = next(iter(self._wishes.items()))
            await (self._raise(wish) if wish.up else self._clear(wish))
            if self._wishes.get(name) is wish:
                del self._wishes[name]

    def _figures(self, wish: _Wish) -> dict[str, Any]:
        window = self._window
        if wish.channel:
            return {}
        return {"ratio": round(window.ratio, 4), "failed": window.failed, "ended": window.ended}

    async def _raise(self, wish: _Wish) -> None:
        raising = wish.raising
        if raising is None:
            now_ms = self._clock.now_ms()
            alert: dict[str, Any] = {"id": str(uuid7()), "kind": DOWN if wish.channel else RATIO}
            if wish.channel:
                alert["channel"] = wish.channel
            alert |= self._figures(wish) | {"window_s": self._settings.window_s, "since": iso(now_ms)}
            raising = wish.raising = RaiseAlert(wish.name, alert, now_ms, now_ms - self._window.window_ms)
        new, tell = await self._store.apply(raising)
        if new:
            log.warning("alert raised: %s", wish.name)
        if tell:
            self._tell(raising.alert)

    async def _clear(self, wish: _Wish) -> None:
        if await self._store.apply(ClearAlert(wish.name, self._figures(wish), self._clock.now_ms())):
            log.warning("alert cleared: %s", wish.name)

    # --- telling people ------------------------------------------------------------------------------

    def _tell(self, alert: dict[str, Any]) -> None:
        for number, entry in enumerate(self._settings.notify):
            name, _, address = entry.partition(":")
            channel = self._channels.get(name)
            if channel is None or name == alert.get("channel") or len(self._telling) >= MOST_MESSAGES:
                log.warning("alert %s: entry %d of alerts.notify is not told", alert["id"], number + 1)
                continue
            message = self._message(alert, number, channel, address.strip())
            telling = asyncio.create_task(self._send(channel, message), name=f"alert-{alert['id']}-{number}")
            self._telling.add(telling)
            telling.add_done_callback(self._told)

    def _told(self, telling: asyncio.Task[None]) -> None:
        self._telling.discard(telling)
        if not telling.cancelled() and (error := telling.exception()):
            log.error("telling of an alert failed", exc_info=error)

    def _message(self, alert: dict[str, Any], number: int, channel: Channel, address: str) -> Message:
        """The address goes where the channel's notifier looks for it; where it needs none, it is the recipient."""
        needs = channel.notifier.needs
        shown = {**alert, "percent": round(alert.get("ratio", 0) * 100), "minutes": f"{alert['window_s'] / 60:g}"}
        return Message(
            id=f"{alert['id']}.{number}",
            type="alert",
            label=text("alert.label", "fr"),
            priority=Priority.CRITIQUE.name,
            titre=text(f"alert.{alert['kind']}.title", "fr", **shown),
            message=text(f"alert.{alert['kind']}.message", "fr", **shown),
            recipient="alert" if needs else address,
            nom=text("alert.recipient", "fr"),
            email=address if "email" in needs or "@" in address else None,
            telephone=address if "telephone" in needs or address.startswith("+") else None,
            langue="fr",
            at_ms=self._clock.now_ms(),
        )

    async def _send(self, channel: Channel, message: Message) -> None:
        for pause_s in TRIES_AFTER_S:
            if pause_s:
                await self._clock.sleep(pause_s)
            match await channel.deliver(message, Priority.CRITIQUE, lambda: True):
                case Sent():
                    return
                case RetryLater() as outcome:
                    log.warning("alert %s: %s: %s", message.id, channel.name, outcome.reason)
                case outcome:
                    log.error("alert %s: %s: not sent: %s", message.id, channel.name, outcome)
                    return


__all__ = ["Alerts", "Window", "verdict"]
