"""The change table: how account commands and other nodes tell every node what they changed. Owns its rows and the clearing up."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.adapters.database import Database
from gateway.adapters.schema import CHANGES, FAMILIAR_ADDRESSES, FAMILIES, REVOCATIONS, SIGNING_KEYS, THROTTLES, TICKETS
from gateway.core.throttle import FAMILIAR_S
from gateway.runtime.ports import Change, ChangeKind

BATCH_ROWS = 1000
# A node that could not read for longer than this has outlived every token that a change could have been about.
KEPT_S = 7 * 86_400.0
# What a node may go on signing with a retired key before it has heard of the new one, with room for clocks that differ.
KEY_GRACE_S = 60.0

_NEWEST = sa.select(sa.func.coalesce(sa.func.max(CHANGES.c.id), 0))
_AFTER = sa.select(CHANGES).where(CHANGES.c.id > sa.bindparam("number")).order_by(CHANGES.c.id).limit(BATCH_ROWS)


async def announce_change(connection: AsyncConnection, change: Change) -> None:
    """Write a change's row in the transaction of the change itself."""
    await connection.execute(
        CHANGES.insert().values(
            kind=change.kind.value,
            subject=change.subject,
            key=change.key,
            issuer=change.issuer,
            roles=list(change.roles),
            at=change.at,
        )
    )


class DatabaseChanges:
    """A `ChangeLog` in SQL.

    Args:
        database: Where.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def newest(self) -> int:
        """Give the number of the newest change; 0 where there is none."""
        async with self._database.read() as connection:
            return int((await connection.execute(_NEWEST)).scalar_one())

    async def after(self, number: int) -> list[tuple[int, Change | None]]:
        """Read the changes after a number, at most 1,000, in order; None for a kind that only a later release knows."""
        async with self._database.read() as connection:
            rows = (await connection.execute(_AFTER, {"number": number})).all()
        return [(row.id, _change(row) if row.kind in _KINDS else None) for row in rows]

    async def prune(self, now: float) -> None:
        """Drop whatever has ended: old changes, tickets, families, revocations, idle throttle counters, retired keys."""
        ended = (
            TICKETS.delete().where(TICKETS.c.expires_at < now),
            FAMILIES.delete().where(FAMILIES.c.expires_at < now),
            REVOCATIONS.delete().where(REVOCATIONS.c.expires_at < now),
            THROTTLES.delete().where(THROTTLES.c.idle_at < now),
            FAMILIAR_ADDRESSES.delete().where(FAMILIAR_ADDRESSES.c.logged_in_at < now - FAMILIAR_S),
            CHANGES.delete().where(CHANGES.c.at < now - KEPT_S),
        )
        for statement in ended:
            async with self._database.write() as connection:
                await connection.execute(statement)
        async with self._database.write() as connection:
            if (await connection.execute(_ENDED_KEYS, {"now": now})).first() is not None:
                await announce_change(connection, Change(ChangeKind.KEYS, at=now))


_ENDED_KEYS = (
    SIGNING_KEYS.delete()
    .where(
        SIGNING_KEYS.c.retired_at.is_not(None),
        SIGNING_KEYS.c.retired_at + sa.func.coalesce(SIGNING_KEYS.c.longest_ttl_s, 0) + KEY_GRACE_S
        < sa.bindparam("now", type_=sa.Double),
    )
    .returning(SIGNING_KEYS.c.kid)
)

_KINDS = frozenset(kind.value for kind in ChangeKind)


def _change(row: sa.Row[Any]) -> Change:
    return Change(
        kind=ChangeKind(row.kind),
        subject=row.subject,
        key=row.key,
        issuer=row.issuer,
        roles=tuple(row.roles),
        at=row.at,
    )
