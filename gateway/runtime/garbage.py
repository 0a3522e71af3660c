"""When the garbage collector looks through what lives long: hardly ever.

CPython stops everything while it collects, and a full collection goes through all that lives: what the process began with takes a
tenth of a second alone, and every open connection adds to it, again and again while thousands of them come. A connection that goes is
freed without it, for nothing of it is a cycle. So what lives long is moved out of the collector's sight (`gc.freeze`), and what little
there is of cycles, from requests that failed, is looked for in the young generations, and rarely in all.

Owns the schedule of this process. Refuses to own what is freed, and to say when a young generation is collected: CPython does.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable

LOOK_S = 0.25
"""Seconds between two looks at how many connections have come."""

PIN_AFTER = 64
"""Connections that have come before the living are moved out of sight again."""

COLLECT_AFTER = 100_000
"""Connections that have come before all that lives is looked through once."""

_YOUNG = 1  # the generations up to this one hold what is not known to live long


class Garbage:
    """Keeps what lives long out of the collector's sight while it runs.

    Args:
        opened: Tells how many connections have come since the start.
    """

    def __init__(self, opened: Callable[[], int]) -> None:
        self._opened = opened
        self._pinned_at = 0
        self._collected_at = 0

    async def run(self) -> None:
        """Begin with what the process has opened, and go on until cancelled."""
        self._collect_all()
        try:
            while True:
                await asyncio.sleep(LOOK_S)
                self.look()
        finally:
            gc.unfreeze()

    def look(self) -> None:
        """Do what is due after the connections that have come."""
        opened = self._opened()
        if opened - self._collected_at >= COLLECT_AFTER:
            self._collect_all()
        elif opened - self._pinned_at >= PIN_AFTER:
            self._pinned_at = opened
            gc.collect(_YOUNG)
            gc.freeze()

    def _collect_all(self) -> None:
        self._pinned_at = self._collected_at = self._opened()
        gc.unfreeze()
        gc.collect()
        gc.freeze()
