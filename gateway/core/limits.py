"""Rates as functions of a state and a time: token buckets and counts in a sliding window. Owns no clock and no keys."""

from __future__ import annotations

from collections import deque


class TokenBucket:
    """A bucket that fills at `per_s` tokens a second up to `burst`.

    Args:
        per_s: Tokens a second; above 0.
        burst: The most that it holds, and what it starts with; at least 1.
        now: Seconds on any clock; the same clock is given to every call.
    """

    __slots__ = ("at", "burst", "per_s", "tokens")

    def __init__(self, per_s: float, burst: float, now: float) -> None:
        self.per_s = per_s
        self.burst = burst
        self.tokens = burst
        self.at = now

    def fill(self, now: float) -> float:
        """Let in what has come since; answer the tokens that there are now."""
        if now > self.at:  # a wall clock may be set back: that neither takes nor gives tokens
            tokens = self.tokens + (now - self.at) * self.per_s
            self.tokens = min(self.burst, tokens)
        self.at = now
        return self.tokens

    def take(self, now: float) -> float:
        """Take one token; answer 0.0, or, taking none, the seconds until there will be one."""
        tokens = self.fill(now)
        if tokens >= 1.0:
            self.tokens = tokens - 1.0
            return 0.0
        return (1.0 - tokens) / self.per_s

    def wait_s(self, now: float) -> float:
        """Tell, taking none, the seconds until there is a token; 0.0 where there is one."""
        tokens = min(self.burst, self.tokens + max(0.0, now - self.at) * self.per_s)
        return 0.0 if tokens >= 1.0 else (1.0 - tokens) / self.per_s


class SlidingCount:
    """Counts events of the last `window_s` seconds, and tells when they are `limit`.

    Args:
        limit: The count that is too many; its memory is bounded by it.
        window_s: The length of the window in seconds.
    """

    __slots__ = ("_times", "limit", "window_s")

    def __init__(self, limit: int, window_s: float) -> None:
        self.limit = limit
        self.window_s = window_s
        self._times: deque[float] = deque(maxlen=limit)

    def add(self, now: float) -> bool:
        """Note one event; answer whether the window now holds `limit` of them."""
        times = self._times
        times.append(now)
        return len(times) == self.limit and now - times[0] < self.window_s
