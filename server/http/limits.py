"""Token buckets: how often a key may call, and how often an address may be wrong.

A bucket holds `size` tokens and refills evenly over `window_s`. Buckets live in memory, per node, and are bounded in
number: full ones go first, since a full bucket is the same as none.
"""

from __future__ import annotations

from server.clock import Clock

MAX_BUCKETS = 50_000


class Bucket:
    """Tokens left, as of a moment."""

    __slots__ = ("at", "tokens")

    def __init__(self, tokens: float, at: float) -> None:
        self.tokens = tokens
        self.at = at


class Limiter:
    """One bucket per name."""

    def __init__(self, clock: Clock, size: int, window_s: float = 60, max_buckets: int = MAX_BUCKETS) -> None:
        self.size = size
        self.window_s = window_s
        self._clock = clock
        self._rate = size / window_s
        self._max = max_buckets
        self._buckets: dict[str, Bucket] = {}
        self.policy = f'"default";q={size};w={int(window_s)}'

    def _bucket(self, name: str) -> Bucket:
        now = self._clock.monotonic()
        bucket = self._buckets.get(name)
        if bucket is None:
            if len(self._buckets) >= self._max:
                self._sweep(now)
            bucket = self._buckets[name] = Bucket(self.size, now)
        else:
            bucket.tokens = min(self.size, bucket.tokens + (now - bucket.at) * self._rate)
            bucket.at = now
        return bucket

    def _sweep(self, now: float) -> None:
        """Forget the buckets that are full again; if none is, the older half."""
        full = [
            name
            for name, bucket in self._buckets.items()
            if bucket.tokens + (now - bucket.at) * self._rate >= self.size
        ]
        for name in full or list(self._buckets)[: self._max // 2]:
            del self._buckets[name]

    def take(self, name: str) -> float:
        """Take one token from `name`'s bucket: 0 if there was one, else the seconds until there is."""
        bucket = self._bucket(name)
        if bucket.tokens >= 1:
            bucket.tokens -= 1
            return 0.0
        return (1 - bucket.tokens) / self._rate

    def wait_s(self, name: str) -> float:
        """Seconds until `name` has a token, 0 if it has; takes none."""
        if name not in self._buckets:
            return 0.0
        return max(0.0, (1 - self._bucket(name).tokens) / self._rate)

    def headers(self, name: str) -> dict[str, str]:
        """`RateLimit` and `RateLimit-Policy` as of now (draft-ietf-httpapi-ratelimit-headers)."""
        bucket = self._bucket(name)
        full_s = -int(-(self.size - bucket.tokens) / self._rate // 1)
        return {"RateLimit-Policy": self.policy, "RateLimit": f'"default";r={int(bucket.tokens)};t={full_s}'}
