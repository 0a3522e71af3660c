"""What all that is read in one turn of the event loop has in common: its time, and what is counted of it when it ends.

Owns the numbers of one turn. Refuses to own clocks and the loop. To read a clock costs as much as a check, and counting as much as
publishing: a turn shares them among all that came in it.
"""

from __future__ import annotations


class Turn:
    """One turn.

    Args:
        now: The time at which it begins, Unix seconds.
        began: The same on the clock for durations.
    """

    __slots__ = ("began", "decided_s", "ends", "now", "published_s", "timed")

    def __init__(self, now: float, began: float) -> None:
        self.now = now
        self.began = began
        self.ends: list[float] = []
        """When each publication that was carried out at once was done, on the clock for durations."""
        self.timed = False
        """Whether one of them has been timed, as the first one is."""
        self.decided_s = 0.0
        """How long the decision about it took."""
        self.published_s = 0.0
        """How long its publishing took."""
