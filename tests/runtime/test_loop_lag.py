"""A loop that is kept busy shows."""

from __future__ import annotations

import asyncio
import time

import pytest

from gateway.runtime.loop_lag import watch_loop_lag
from gateway.runtime.null_metrics import NullMetrics


class Lags(NullMetrics):
    """Keeps the observed lags."""

    __slots__ = ("first", "second", "seen")

    def __init__(self) -> None:
        self.seen: list[float] = []
        self.first = asyncio.Event()
        self.second = asyncio.Event()

    def loop_lag(self, seconds: float) -> None:
        self.seen.append(seconds)
        (self.second if len(self.seen) > 1 else self.first).set()


async def test_a_blocked_loop_is_observed_as_late_by_as_long() -> None:
    lags = Lags()
    task = asyncio.create_task(watch_loop_lag(lags, interval_s=0.01))
    await asyncio.wait_for(lags.first.wait(), 30)

    time.sleep(0.2)  # noqa: ASYNC251 - blocking the loop is the point
    await asyncio.wait_for(lags.second.wait(), 30)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert min(lags.seen) >= 0.0
    assert max(lags.seen) >= 0.15
