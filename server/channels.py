"""The ways out: one Channel per [channels.NAME], with its notifier, gate and breaker.

A channel takes a message and gives what came of it; which channel a recipient is reached by is decided here too
(`Channels.route`). It knows nothing of tasks.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from msgspec import Struct

from notifiers import BadBody, Message, Notifier, NotifierError, Outcome, Refused, RetryLater, Sent, open_notifier
from server.clock import Clock
from server.config import Channel as ChannelSettings
from server.config import ConfigError, Settings
from server.gate import Breaker, Gate
from server.model import Person, chain

__all__ = ["Channel", "Channels", "Message", "NotCalled", "NotifierError", "Outcome", "Refused", "RetryLater", "Sent"]

log = logging.getLogger("tocsin.channels")


class NotCalled(Struct, frozen=True):
    """Nobody was called: the service is held to be down for `after_s` more seconds, or the caller changed its mind."""

    after_s: float


class Channel:
    """One way out, shared by every task of this node."""

    def __init__(self, name: str, settings: ChannelSettings, notifier: Notifier, clock: Clock):
        self.name = name
        self.settings = settings
        self.notifier = notifier
        self.gate = Gate(settings.concurrency, settings.rate_per_second, clock)
        self.breaker = Breaker(clock)
        self.on_breaker: list[Callable[[Channel], None]] = []
        self.on_outcome: list[Callable[[Channel, Outcome, float], None]] = []
        self._clock = clock

    async def deliver(self, message: Message, priority: int, still: Callable[[], bool]) -> Outcome | NotCalled:
        """Call the service, once it is this message's turn; not if it is down, nor if `still()` has become false."""
        gate = self.gate
        if not gate.try_enter(priority) and not await gate.enter(priority, still):
            return NotCalled(0)
        try:
            if not still():
                return NotCalled(0)
            if not self.breaker.admits():
                return NotCalled(self.breaker.wait_s)
            begun = self._clock.monotonic()
            try:
                outcome = await self.notifier.deliver(message)
                if not isinstance(outcome, Outcome):
                    raise TypeError(f"expected an outcome, got {type(outcome).__name__}")
            except asyncio.CancelledError:
                caller = asyncio.current_task()
                if caller is None or caller.cancelling():
                    self.breaker.forget()
                    raise
                log.exception("channel %s: its notifier was cancelled within", self.name)
                outcome = RetryLater("internal")
            except Exception:  # a notifier answers with a value: this is a bug of its, and must not stop the others
                log.exception("channel %s: its notifier failed", self.name)
                outcome = RetryLater("internal")
            if self.breaker.told(not (isinstance(outcome, RetryLater) and outcome.transport)):
                for told in self.on_breaker:
                    told(self)
            for seen in self.on_outcome:
                seen(self, outcome, self._clock.monotonic() - begun)
            return outcome
        finally:
            gate.leave()


class Channels(dict[str, Channel]):
    """All channels by name."""

    def __init__(self, settings: Settings, clock: Clock):
        """Raises ConfigError for a URL that no notifier understands."""
        super().__init__()
        self._types = settings.types
        self._fallbacks = {name: channel.fallback for name, channel in settings.channels.items()}
        self._routes: dict[tuple[str, str], list[Channel]] = {}
        for name, channel in settings.channels.items():
            try:
                notifier = open_notifier(
                    name, channel.url, body=channel.body, timeout_s=channel.timeout_s, concurrency=channel.concurrency,
                    base_dir=settings.base_dir,
                )  # fmt: skip
            except ValueError as error:
                key = "body" if isinstance(error, BadBody) else "url"
                raise ConfigError(f"{settings.place('channels', name, key)}: {error}") from None
            self[name] = Channel(name, channel, notifier, clock)

    def route(self, type_name: str, recipient: Person) -> list[str]:
        """The channels to try for `recipient`, in order; empty if none can reach them.

        The preferred channel first, then its fallbacks. Where the type names its channels, only those count, and if
        the preferred one is not among them, the type's own stand in for it, in their order.
        """
        channels = self._for(type_name, recipient.preferences.canal_prefere)
        return [channel.name for channel in channels if recipient.has(channel.notifier.needs)]

    def reach(self, type_name: str, recipient: Person) -> bool:
        """Is there a channel to try for `recipient`?"""
        for channel in self._for(type_name, recipient.preferences.canal_prefere):
            needs = channel.notifier.needs
            if not needs or recipient.has(needs):
                return True
        return False

    def _for(self, type_name: str, preferred: str) -> list[Channel]:
        """The channels for whoever prefers `preferred`, whatever they need; kept, as far as the settings name both."""
        known = self._routes.get((type_name, preferred))
        if known is not None:
            return known
        kind = self._types.get(type_name)
        only = kind.channels if kind else []
        if only and preferred not in only:
            names = [name for first in only for name in chain(first, self._fallbacks)]
        else:
            names = chain(preferred, self._fallbacks)
        channels = [self[name] for name in dict.fromkeys(names) if name in self and (not only or name in only)]
        if kind and preferred in self:  # senders make up names: those must not pile up here
            self._routes[type_name, preferred] = channels
        return channels

    def recheck(self) -> None:
        """Some `still()` has become untrue: nobody need wait for a turn that will not be used."""
        for channel in self.values():
            channel.gate.recheck()

    async def close(self) -> None:
        """Hang up everywhere."""
        for channel in self.values():
            await channel.gate.close()
            try:
                await channel.notifier.aclose()
            except Exception:  # a bug of one notifier's must not leave the others open
                log.exception("channel %s: its notifier did not close", channel.name)
