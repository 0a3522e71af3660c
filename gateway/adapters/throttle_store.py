"""Failed logins, counted in the database for all nodes together.

Owns the counters' rows and the waiting of attempts; the arithmetic stands in `core.throttle`. Keys are hashes: people type
passwords into the field for the name, and those shall not be readable here.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeVar

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.adapters.database import Database
from gateway.adapters.schema import FAMILIAR_ADDRESSES, THROTTLES
from gateway.core.errors import StateUnavailableError
from gateway.core.throttle import (
    FAMILIAR_S,
    LEASE_S,
    Admission,
    Counter,
    ThrottleKind,
    admit,
    current,
    failed,
    leased,
    released,
    succeeded,
)
from gateway.runtime.identity_ports import Attempt, HashingBusyError, ThrottledError

# How long an attempt waits for those in flight, and how many may.
LONGEST_TURN_S = 10.0
MAX_WAITING = 256
# Another node's attempts end without a word to this one.
_LOOK_AGAIN_S = 0.1
_BUSY_RETRY_S = 1.0

_TRIES = 3

_Outcome = TypeVar("_Outcome")


def _key(*parts: str) -> str:
    """Hash the parts of a key, each with its length before it, so that no two keys can run together."""
    digest = hashlib.sha256()
    for part in parts:
        octets = part.encode("utf-8", "surrogatepass")
        digest.update(f"{len(octets)}:".encode("ascii") + octets)
    return digest.hexdigest()


def _keys(name: str, address: str) -> dict[ThrottleKind, str]:
    return {
        ThrottleKind.PAIR: _key("pair", name, address),
        ThrottleKind.ADDRESS: _key("address", address),
        ThrottleKind.NAME: _key("name", name),
    }


class DatabaseThrottle:
    """A `LoginThrottle` in SQL.

    Args:
        database: Where.
        clock: Tells the time in Unix seconds.
    """

    def __init__(self, database: Database, clock: Callable[[], float]) -> None:
        self._database = database
        self._clock = clock
        self._ended = asyncio.Condition()
        self._waiting = 0

    async def begin(self, name: str, address: str) -> Attempt:
        """Let an attempt through, waiting while others are in flight that may yet bring it to a limit.

        Raises:
            ThrottledError: It came before its wait was over; it is not counted.
            HashingBusyError: Too many wait already, or it waited too long.
        """
        attempt = await self._try(name, address)
        if attempt is not None:
            return attempt
        if self._waiting >= MAX_WAITING:
            raise HashingBusyError(_BUSY_RETRY_S)
        self._waiting += 1
        try:
            async with asyncio.timeout(LONGEST_TURN_S):
                while attempt is None:
                    await self._some_end()
                    attempt = await self._try(name, address)
        except TimeoutError:
            raise HashingBusyError(_BUSY_RETRY_S) from None
        finally:
            self._waiting -= 1
        return attempt

    async def _some_end(self) -> None:
        async with self._ended:
            try:
                async with asyncio.timeout(_LOOK_AGAIN_S):
                    await self._ended.wait()
            except TimeoutError:
                return

    async def _try(self, name: str, address: str) -> Attempt | None:
        """Take the leases of an attempt; None where it has to wait for those in flight."""
        now = self._clock()
        keys = _keys(name, address)

        async def decide(connection: AsyncConnection) -> tuple[Admission, Attempt]:
            spared = await _is_familiar(connection, keys[ThrottleKind.PAIR], now)
            attempt = Attempt(name, address, spared, now + LEASE_S)
            counters = await _read(connection, keys, now)
            applying = {kind: counters[kind] for kind in _applying(attempt)}
            admission = admit([(kind.value, counter) for kind, counter in applying.items()], now)
            if admission.runs:
                taken = {kind: leased(counter, attempt.lease_until) for kind, counter in applying.items()}
                await _write(connection, keys, taken, now)
            return admission, attempt

        admission, attempt = await self._serialized(decide)
        if admission.retry_after_s > 0:
            raise ThrottledError(admission.retry_after_s)
        return attempt if admission.runs else None

    async def failed(self, attempt: Attempt) -> None:
        """Count a failure: for all three, also where the last two do not apply."""
        await self._end(attempt, lambda kind, counter, now: failed(kind.value, counter, now))

    async def succeeded(self, attempt: Attempt) -> None:
        """Clear the pair's counter and remember the address as the name's own."""
        await self._end(
            attempt, lambda kind, counter, _now: succeeded(counter) if kind is ThrottleKind.PAIR else counter, own=True
        )

    async def abandoned(self, attempt: Attempt) -> None:
        """Give back an attempt that came to no end: nothing is counted."""
        await self._end(attempt, lambda _kind, counter, _now: counter)

    async def _end(
        self, attempt: Attempt, count: Callable[[ThrottleKind, Counter, float], Counter], *, own: bool = False
    ) -> None:
        now = self._clock()
        keys = _keys(attempt.name, attempt.address)
        applying = _applying(attempt)

        async def settle(connection: AsyncConnection) -> None:
            counters = await _read(connection, keys, now)
            after: dict[ThrottleKind, Counter] = {}
            for kind, counter in counters.items():
                free = released(counter, attempt.lease_until) if kind in applying else counter
                after[kind] = count(kind, free, now)
            await _write(connection, keys, {kind: new for kind, new in after.items() if new != counters[kind]}, now)
            if own:
                await _remember(connection, keys[ThrottleKind.PAIR], now)

        await self._serialized(settle)
        async with self._ended:
            self._ended.notify_all()

    async def _serialized(self, work: Callable[[AsyncConnection], Awaitable[_Outcome]]) -> _Outcome:
        """Do a read-modify-write; once more where another node has inserted the same row meanwhile."""
        for _ in range(_TRIES):
            try:
                async with self._database.write() as connection:
                    return await work(connection)
            except IntegrityError:
                continue
        raise StateUnavailableError("the throttle's counters are contended")


def _applying(attempt: Attempt) -> tuple[ThrottleKind, ...]:
    return (ThrottleKind.PAIR,) if attempt.spared else tuple(ThrottleKind)


async def _read(
    connection: AsyncConnection, keys: Mapping[ThrottleKind, str], now: float
) -> dict[ThrottleKind, Counter]:
    # Locked in the order of the keys, so that no two attempts wait for each other's.
    query = sa.select(THROTTLES).where(THROTTLES.c.key.in_(keys.values())).order_by(THROTTLES.c.key).with_for_update()
    rows = {row.key: row for row in await connection.execute(query)}
    counters: dict[ThrottleKind, Counter] = {}
    for kind, key in keys.items():
        row = rows.get(key)
        counter = (
            Counter()
            if row is None
            else Counter(tuple(row.failures), row.strikes, row.last_failure_at, tuple(row.leases))
        )
        counters[kind] = current(kind.value, counter, now)
    return counters


async def _write(
    connection: AsyncConnection, keys: Mapping[ThrottleKind, str], counters: Mapping[ThrottleKind, Counter], now: float
) -> None:
    for kind, counter in counters.items():
        values = {
            "failures": list(counter.failures),
            "strikes": counter.strikes,
            "last_failure_at": counter.last_failure_at,
            "leases": list(counter.leases),
            "idle_at": max(now + LEASE_S, counter.last_failure_at + kind.value.forget_s),
        }
        same = THROTTLES.c.key == keys[kind]
        if not (await connection.execute(THROTTLES.update().where(same).values(values))).rowcount:
            await connection.execute(THROTTLES.insert().values(key=keys[kind], **values))


async def _is_familiar(connection: AsyncConnection, key: str, now: float) -> bool:
    familiar = FAMILIAR_ADDRESSES.c
    query = sa.select(familiar.key).where(familiar.key == key, familiar.logged_in_at > now - FAMILIAR_S)
    return (await connection.execute(query)).first() is not None


async def _remember(connection: AsyncConnection, key: str, now: float) -> None:
    same = FAMILIAR_ADDRESSES.c.key == key
    if not (await connection.execute(FAMILIAR_ADDRESSES.update().where(same).values(logged_in_at=now))).rowcount:
        await connection.execute(FAMILIAR_ADDRESSES.insert().values(key=key, logged_in_at=now))
