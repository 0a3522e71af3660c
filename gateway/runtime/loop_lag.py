"""Measures by how much the event loop is late: the one number that tells that everything in this process waits."""

from __future__ import annotations

import asyncio

from gateway.runtime.ports import Metrics


async def watch_loop_lag(metrics: Metrics, interval_s: float = 0.25) -> None:
    """Observe the lag at every interval until cancelled.

    What a sleep lasts beyond what was asked for is what any callback ready in that moment had to wait.

    Args:
        metrics: Where the lag goes.
        interval_s: Seconds between two looks.
    """
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + interval_s
        await asyncio.sleep(interval_s)
        metrics.loop_lag(max(0.0, loop.time() - due))
