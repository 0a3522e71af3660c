"""How many of a kind may begin in one turn of the loop: a crowd at the door must not keep those inside waiting.

Owns the queue before the door. It is as long as there are sockets, for nobody waits twice. Refuses to own what is done behind it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable


class Turnstile:
    """Lets so many through in a turn of the loop, in the order in which they came; the loop looks at its sockets in between.

    Nobody waits while there is room: the first ones go at once. What is done behind it may take longer than the turn, as where a
    task begins; then the next ones come beside it.

    Args:
        per_turn: How many.
    """

    __slots__ = ("_left", "_per_turn", "_turning", "_waiting")

    def __init__(self, per_turn: int) -> None:
        self._per_turn = per_turn
        self._left = per_turn
        self._turning = False
        self._waiting: deque[Callable[[], None]] = deque()

    def __len__(self) -> int:
        """Tell how many wait."""
        return len(self._waiting)

    def enter(self, go: Callable[[], None]) -> None:
        """Call `go`: now, where this turn has room, else in the first one that has."""
        if not self._turning:
            self._turning = True
            asyncio.get_running_loop().call_soon(self._turn)
        if self._left:
            self._left -= 1
            go()
        else:
            self._waiting.append(go)

    def _turn(self) -> None:
        waiting = self._waiting
        let_in = min(len(waiting), self._per_turn)
        self._left = self._per_turn - let_in
        self._turning = bool(let_in)
        if let_in:
            # Before they go in: one that fails must not leave the others outside.
            asyncio.get_running_loop().call_soon(self._turn)
        for _ in range(let_in):
            waiting.popleft()()
