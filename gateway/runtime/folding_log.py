"""A log that stays readable in a flood: denials and refusals beyond ten a second become counts.

Wraps any `Log`, so that nobody who logs a denial has to think of it. Refuses to own what is a denial: see `FOLDED_EVENTS`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from gateway.core.events import Event
from gateway.core.folding import Fold, Folding
from gateway.runtime.ports import Log

# Everything that a peer can cause as often as it likes.
FOLDED_EVENTS = frozenset(
    {
        Event.CONNECTION_REFUSED,
        Event.COMMAND_DENIED,
        Event.SIGNATURE_INVALID,
        Event.TOKEN_REFUSED,
        Event.SESSION_REFRESHED,
    }
)


class FoldingLog:
    """Implements `Log` on top of another one.

    Args:
        log: Where the lines go.
        clock: Seconds on a clock that does not run backwards.
        limit: How many events of one name pass in a second.
    """

    __slots__ = ("_clock", "_folding", "_log")

    def __init__(self, log: Log, clock: Callable[[], float], limit: int = 10) -> None:
        self._log = log
        self._clock = clock
        self._folding = Folding(limit)

    def debug(self, event: str, **fields: object) -> None:
        """Log what only a developer wants."""
        if self._stands_alone(event):
            self._log.debug(event, **fields)

    def info(self, event: str, **fields: object) -> None:
        """Log what an operator reads in passing."""
        if self._stands_alone(event):
            self._log.info(event, **fields)

    def warning(self, event: str, **fields: object) -> None:
        """Log what someone should look at."""
        if self._stands_alone(event):
            self._log.warning(event, **fields)

    def error(self, event: str, **fields: object) -> None:
        """Log what someone must look at."""
        if self._stands_alone(event):
            self._log.error(event, **fields)

    async def run(self) -> None:
        """Log the counts of ended seconds until cancelled, and what is left then."""
        try:
            while True:
                await asyncio.sleep(self._folding.window_s)
                self._tell(self._folding.due(self._clock()))
        finally:
            self.flush()

    def flush(self) -> None:
        """Log every count that has not been logged yet."""
        self._tell(self._folding.rest())

    def _stands_alone(self, event: str) -> bool:
        if event not in FOLDED_EVENTS:
            return True
        alone, fold = self._folding.admit(event, self._clock())
        if fold is not None:
            self._tell([fold])
        return alone

    def _tell(self, folds: list[Fold]) -> None:
        for fold in folds:
            self._log.warning(Event.EVENTS_FOLDED, folded=fold.name, count=fold.count)
