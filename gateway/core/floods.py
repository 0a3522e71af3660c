"""Who asks for more handshakes than an address may. Owns the buckets, one for each address key; owns no clock."""

from __future__ import annotations

from collections import OrderedDict

from gateway.core.limits import TokenBucket

_BURST_FACTOR = 10.0
# About 15 MB when full. The address that has been quiet for longest gives way, and its bucket is the fullest.
MAX_ADDRESSES = 65_536


class FloodGate:
    """Token buckets by address key, in a table of bounded size.

    Args:
        per_s: Handshakes a second for each key, with a burst of ten times that; 0 lets all pass.
        max_addresses: How many keys are remembered.
    """

    __slots__ = ("_buckets", "_max_addresses", "_per_s")

    def __init__(self, per_s: float, max_addresses: int = MAX_ADDRESSES) -> None:
        self._per_s = per_s
        self._max_addresses = max_addresses
        self._buckets: OrderedDict[str, TokenBucket] = OrderedDict()

    def take(self, key: str, now: float) -> float:
        """Count one handshake; answer 0.0 where it may go on, else the seconds until the next one may."""
        if self._per_s <= 0:
            return 0.0
        bucket = self._buckets.get(key)
        if bucket is None:
            if len(self._buckets) >= self._max_addresses:
                self._buckets.popitem(last=False)
            bucket = self._buckets[key] = TokenBucket(self._per_s, max(1.0, self._per_s * _BURST_FACTOR), now)
        else:
            self._buckets.move_to_end(key)
        return bucket.take(now)
