"""Folds what may come in floods: the first ten events of a name in a second stand alone, the others become one count.

Owns the counting. Refuses to own the clock, and what is done with an event or a count.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Fold:
    """Events that were left out.

    Args:
        name: Their name.
        count: How many.
    """

    name: str
    count: int


class _Window:
    """What has come of one name since `opened_at`."""

    __slots__ = ("folded", "opened_at", "passed")

    def __init__(self, opened_at: float) -> None:
        self.opened_at = opened_at
        self.passed = 0
        self.folded = 0


class Folding:
    """Tells of each event whether it stands alone.

    Names come from an enum, so that what it keeps is bounded by that.

    Args:
        limit: How many events of a name stand alone in one window.
        window_s: The length of the window in seconds.
    """

    __slots__ = ("_windows", "limit", "window_s")

    def __init__(self, limit: int = 10, window_s: float = 1.0) -> None:
        self.limit = limit
        self.window_s = window_s
        self._windows: dict[str, _Window] = {}

    def admit(self, name: str, now: float) -> tuple[bool, Fold | None]:
        """Note one event; answer whether it stands alone, and what was folded in the window that it ends, if any.

        Args:
            name: The event's name.
            now: Seconds on a clock that does not run backwards.
        """
        window = self._windows.get(name)
        fold = None
        if window is None:
            window = self._windows[name] = _Window(now)
        elif now - window.opened_at >= self.window_s:
            fold = Fold(name, window.folded) if window.folded else None
            window.opened_at, window.passed, window.folded = now, 0, 0
        if window.passed < self.limit:
            window.passed += 1
            return True, fold
        window.folded += 1
        return False, None

    def due(self, now: float) -> list[Fold]:
        """Give the folds of windows that have ended and forget those windows, so that no count waits for a next event."""
        ended = [name for name, window in self._windows.items() if now - window.opened_at >= self.window_s]
        windows = [(name, self._windows.pop(name)) for name in ended]
        return [Fold(name, window.folded) for name, window in windows if window.folded]

    def rest(self) -> list[Fold]:
        """Give every fold and forget all windows: nothing more will come."""
        folds = [Fold(name, window.folded) for name, window in self._windows.items() if window.folded]
        self._windows.clear()
        return folds
