"""Tickets in the database. Owns their rows; knows a ticket only by its hash."""

from __future__ import annotations

from gateway.adapters.database import Database
from gateway.adapters.schema import TICKETS
from gateway.core.accounts import fingerprint
from gateway.runtime.identity_ports import StoredTicket


class DatabaseTickets:
    """A `TicketStore` in SQL.

    Args:
        database: Where.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def put(self, ticket: str, stored: StoredTicket) -> None:
        """Keep a ticket."""
        async with self._database.write() as connection:
            await connection.execute(
                TICKETS.insert().values(
                    hash=fingerprint(ticket),
                    payload=stored.payload,
                    kid=stored.kid,
                    origin=stored.origin,
                    expires_at=stored.expires_at,
                )
            )

    async def take(self, ticket: str) -> StoredTicket | None:
        """Take a ticket out, for the one caller that comes first; None where there is none."""
        statement = (
            TICKETS.delete()
            .where(TICKETS.c.hash == fingerprint(ticket))
            .returning(TICKETS.c.payload, TICKETS.c.kid, TICKETS.c.origin, TICKETS.c.expires_at)
        )
        async with self._database.write() as connection:
            row = (await connection.execute(statement)).first()
        if row is None:
            return None
        return StoredTicket(payload=row.payload, kid=row.kid, origin=row.origin, expires_at=row.expires_at)
