"""`null:` counts and drops: what is left when sending costs nothing. For benchmarks and rehearsals."""

from __future__ import annotations

from notifiers.base import Message, Sent, Spec

SENT = Sent()


class Null:
    """Reaches everybody, at once, and nobody."""

    needs: frozenset[str] = frozenset()

    def __init__(self) -> None:
        self.delivered = 0

    async def deliver(self, message: Message) -> Sent:
        self.delivered += 1
        return SENT

    async def check(self) -> str:
        return "counts and drops; reaches nobody"

    async def aclose(self) -> None:
        """Nothing is held."""


def open_null(spec: Spec) -> Null:
    """`null:`, and nothing after it."""
    if spec.url.rstrip("/") != "null:":
        raise ValueError('expected "null:" alone')
    return Null()
