"""The news of what account commands and other nodes have changed, by polling the change table.

Owns the polling, its pace, and the clearing up of what has ended. Refuses to own what a change means to a connection.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from gateway.core.errors import StateUnavailableError
from gateway.core.events import Event
from gateway.runtime.account_directory import AccountDirectory
from gateway.runtime.identity_ports import ChangeLog, Tokens
from gateway.runtime.ports import Change, ChangeKind, Log

POLL_S = 0.2
RETRY_S = 0.5
PRUNE_S = 60.0
# Numbers are given before commits, so that a lower one may appear after a higher one: recent ones are read again for so long.
LATE_S = 5.0
_FULL_BATCH = 1000


class PolledChangeFeed:
    """A `ChangeFeed` over the change table; every change reaches the directory of accounts first.

    Args:
        changes: The table.
        directory: This node's caches.
        tokens: Whose keys are read again after a rotation.
        clock: Tells the time in Unix seconds.
        log: Where outages are told.
        prune_s: Seconds between two clearings of what has ended.
    """

    def __init__(
        self,
        changes: ChangeLog,
        directory: AccountDirectory,
        tokens: Tokens,
        clock: Callable[[], float],
        log: Log,
        prune_s: float = PRUNE_S,
    ) -> None:
        self._changes = changes
        self._directory = directory
        self._tokens = tokens
        self._clock = clock
        self._log = log
        self._prune_s = prune_s
        self._floor: int | None = None
        self._seen: dict[int, float] = {}
        self._reachable = True

    async def run(self, apply: Callable[[Change], None]) -> None:
        """Call `apply` for each change until cancelled; survive a database that is away for a while."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._follow(apply), name="change-feed")
            tasks.create_task(self._clear_up(), name="change-feed-prune")

    async def _follow(self, apply: Callable[[Change], None]) -> None:
        while True:
            try:
                await self.poll(apply)
            except StateUnavailableError as error:
                self._tell(reachable=False, detail=str(error))
                await asyncio.sleep(RETRY_S)
            else:
                self._tell(reachable=True)
                await asyncio.sleep(POLL_S)

    async def poll(self, apply: Callable[[Change], None]) -> None:
        """Read once.

        Raises:
            StateUnavailableError: The database cannot be read now; nothing is lost.
        """
        asked_at = asyncio.get_running_loop().time()
        if self._floor is None:
            newest = await self._changes.newest()
            await self._directory.load(self._clock())
            self._floor = newest
        keys: list[tuple[int, Change]] = []
        for number, change in await self._unseen(self._floor, asked_at):
            if change is not None and change.kind is ChangeKind.KEYS:
                keys.append((number, change))
                continue
            if change is not None:
                self._directory.hear(change)
                apply(change)
            self._seen[number] = asked_at
        if keys:
            # Last, and told whatever comes of it: keys that cannot be read must not hold up the news about accounts.
            try:
                await self._tokens.reload()
            finally:
                for _, change in keys:
                    self._directory.hear(change)
                    apply(change)
            self._seen.update((number, asked_at) for number, _ in keys)
        self._directory.believe(asked_at)

    async def _unseen(self, floor: int, asked_at: float) -> list[tuple[int, Change | None]]:
        settled = [number for number, seen_at in self._seen.items() if asked_at - seen_at > LATE_S]
        if settled:
            self._floor = floor = max(settled)
            self._seen = {number: seen_at for number, seen_at in self._seen.items() if number > floor}
        rows = await self._changes.after(floor)
        if len(rows) >= _FULL_BATCH:
            self._floor = rows[-1][0]
        return [(number, change) for number, change in rows if number not in self._seen]

    async def _clear_up(self) -> None:
        while True:
            await asyncio.sleep(self._prune_s)
            try:
                await self._changes.prune(self._clock())
                await self._directory.load(self._clock())
            except StateUnavailableError:
                continue  # `_follow` tells of it

    def _tell(self, *, reachable: bool, detail: str = "") -> None:
        if reachable == self._reachable:
            return
        self._reachable = reachable
        if reachable:
            self._log.info(Event.DATABASE_UP)
        else:
            self._log.error(Event.DATABASE_DOWN, detail=detail)
