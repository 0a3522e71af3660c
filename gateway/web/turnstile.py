"""How many of a kind may begin in one turn of the loop: a crowd at the door must not keep those inside waiting.

Owns the queue before the door, and what those in it hold together. It is as long as there are sockets, for nobody waits twice. Refuses
to own what is done behind it.
"""

from __future__ import annotations

import asyncio
import sys
from collections import deque
from collections.abc import Callable


class Turnstile:
    """Lets so many through in a turn of the loop, in the order in which they came; the loop looks at its sockets in between.

    Nobody waits while there is room: the first ones go at once. What is done behind it may take longer than the turn, as where a
    task begins; then the next ones come beside it.

    Args:
        per_turn: How many.
        most_bytes: What those that wait may hold together. Whoever brings more goes at once: memory is dearer than a turn.
    """

    __slots__ = ("_held_bytes", "_left", "_most_bytes", "_per_turn", "_turning", "_waiting")

    def __init__(self, per_turn: int, most_bytes: int = sys.maxsize) -> None:
        self._per_turn = per_turn
        self._most_bytes = most_bytes
        self._left = per_turn
        self._turning = False
        self._waiting: deque[tuple[Callable[[], None], int]] = deque()
        self._held_bytes = 0

    def __len__(self) -> int:
        """Tell how many wait."""
        return len(self._waiting)

    def enter(self, go: Callable[[], None], held_bytes: int = 0) -> None:
        """Call `go`: now, where this turn has room, else in the first one that has.

        Args:
            go: What is done behind the door.
            held_bytes: What is kept for it meanwhile.
        """
        if not self._turning:
            self._turning = True
            asyncio.get_running_loop().call_soon(self._turn)
        if self._left:
            self._left -= 1
            go()
        elif self._held_bytes + held_bytes > self._most_bytes:
            go()
        else:
            self._held_bytes += held_bytes
            self._waiting.append((go, held_bytes))

    def _turn(self) -> None:
        waiting = self._waiting
        let_in = min(len(waiting), self._per_turn)
        self._left = self._per_turn - let_in
        self._turning = bool(let_in)
        if let_in:
            # Before they go in: one that fails must not leave the others outside.
            asyncio.get_running_loop().call_soon(self._turn)
        for _ in range(let_in):
            go, held_bytes = waiting.popleft()
            self._held_bytes -= held_bytes
            go()
