"""The turns of the event loop, counted: what is fair or joined is told in turns, and never in seconds."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Self


class Turns:
    """Counts the turns of the running loop while it is entered, and what happens in each."""

    def __init__(self) -> None:
        self.turn = 0
        self.happened: Counter[int] = Counter()

    def __enter__(self) -> Self:
        self._handle = asyncio.get_running_loop().call_soon(self._next)
        return self

    def __exit__(self, *_: object) -> None:
        self._handle.cancel()

    def _next(self) -> None:
        self.turn += 1
        self._handle = asyncio.get_running_loop().call_soon(self._next)

    def note(self) -> None:
        """Count something that happens now."""
        self.happened[self.turn] += 1
