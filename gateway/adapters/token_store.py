"""Refresh tokens, their families, and revocations in the database. Owns the rotation; knows tokens only by their hashes."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.adapters.change_log import announce_change
from gateway.adapters.database import Database
from gateway.adapters.schema import FAMILIES, REFRESH_TOKENS, REVOCATIONS
from gateway.core.accounts import fingerprint
from gateway.core.principal import TokenIdentity
from gateway.runtime.identity_ports import Family, Rotation
from gateway.runtime.ports import Change, ChangeKind

# A client whose answer was lost asks again within this time.
REPEAT_S = 10.0

_LIVE, _SPENT, _VOID = "live", "spent", "void"


class DatabaseRefreshTokens:
    """`RefreshTokens` in SQL.

    Args:
        database: Where.
        issuer: The `iss` of the access tokens, which revocations name.
    """

    def __init__(self, database: Database, issuer: str) -> None:
        self._database = database
        self._issuer = issuer

    async def open(self, family: Family, token: str, access_until: float, now: float) -> None:
        """Keep a new family with its first token; its access tokens end by `access_until`."""
        async with self._database.write() as connection:
            await connection.execute(
                FAMILIES.insert().values(
                    id=family.id,
                    subject=family.subject,
                    generation=family.generation,
                    client_id=family.client_id,
                    roles=None if family.roles is None else list(family.roles),
                    created_at=now,
                    expires_at=family.expires_at,
                    access_until=access_until,
                    revoked=family.revoked,
                )
            )
            await _keep(connection, fingerprint(token), family.id)

    async def family_of(self, token: str) -> Family | None:
        """Find the family of a token, spent or not."""
        query = (
            sa.select(FAMILIES)
            .join(REFRESH_TOKENS, REFRESH_TOKENS.c.family == FAMILIES.c.id)
            .where(REFRESH_TOKENS.c.hash == fingerprint(token))
        )
        async with self._database.read() as connection:
            row = (await connection.execute(query)).first()
        return None if row is None else _family(row)

    async def rotate(self, token: str, successor: str, access_until: float, now: float) -> Rotation:
        """Spend a token and keep its successor, in one step that no other can come between.

        The first statement is the one that spends, with its condition: of two callers only one gets a row, and on every
        database the second one sees what the first has done.
        """
        spent, kept = fingerprint(token), fingerprint(successor)
        tokens = REFRESH_TOKENS
        spend = (
            tokens.update()
            .where(tokens.c.hash == spent, tokens.c.state == _LIVE)
            .values(state=_SPENT, spent_at=now, successor=kept)
            .returning(tokens.c.family)
        )
        async with self._database.write() as connection:
            family_id = (await connection.execute(spend)).scalar()
            if family_id is None:
                family_id = await self._repeat(connection, spent, kept, now)
            if isinstance(family_id, Rotation):
                return family_id
            alive = (
                FAMILIES.update()
                .where(FAMILIES.c.id == family_id, FAMILIES.c.revoked.is_(False), FAMILIES.c.expires_at > now)
                .values(access_until=_later_of(FAMILIES.c.access_until, access_until))
                .returning(FAMILIES.c.id)
            )
            if (await connection.execute(alive)).first() is None:
                return Rotation.REFUSED
            await _keep(connection, kept, family_id)
        return Rotation.ROTATED

    async def _repeat(self, connection: AsyncConnection, spent: str, kept: str, now: float) -> str | Rotation:
        """Let a spent token work once more, as after a lost answer; answer its family, or what became of it."""
        tokens = REFRESH_TOKENS
        row = (await connection.execute(sa.select(tokens).where(tokens.c.hash == spent).with_for_update())).first()
        if row is None or row.state != _SPENT:
            return Rotation.REFUSED
        if not row.repeated and now - row.spent_at <= REPEAT_S:
            unused = (
                tokens.update()
                .where(tokens.c.hash == row.successor, tokens.c.state == _LIVE)
                .values(state=_VOID)
                .returning(tokens.c.hash)
            )
            if (await connection.execute(unused)).first() is not None:
                again = tokens.update().where(tokens.c.hash == spent).values(repeated=True, successor=kept)
                await connection.execute(again)
                return str(row.family)
        await self._revoke(connection, row.family, now)
        return Rotation.REUSED

    async def _revoke(self, connection: AsyncConnection, family_id: str, now: float) -> None:
        statement = (
            FAMILIES.update()
            .where(FAMILIES.c.id == family_id, FAMILIES.c.revoked.is_(False))
            .values(revoked=True)
            .returning(FAMILIES.c.subject, FAMILIES.c.access_until)
        )
        family = (await connection.execute(statement)).first()
        if family is None:
            return
        await connection.execute(
            REVOCATIONS.insert().values(
                kind=ChangeKind.FAMILY_REVOKED.value,
                issuer=self._issuer,
                key=family_id,
                expires_at=max(family.access_until, now),
            )
        )
        change = Change(ChangeKind.FAMILY_REVOKED, subject=family.subject, key=family_id, issuer=self._issuer, at=now)
        await announce_change(connection, change)


def _later_of(column: sa.Column[float], time: float) -> sa.ColumnElement[float]:
    return sa.case((column > time, column), else_=time)


async def _keep(connection: AsyncConnection, token_hash: str, family_id: str) -> None:
    await connection.execute(
        REFRESH_TOKENS.insert().values(hash=token_hash, family=family_id, state=_LIVE, repeated=False)
    )


def _family(row: sa.Row[Any]) -> Family:
    return Family(
        id=row.id,
        subject=row.subject,
        generation=row.generation,
        client_id=row.client_id,
        roles=None if row.roles is None else tuple(row.roles),
        expires_at=row.expires_at,
        revoked=row.revoked,
    )


class DatabaseRevocations:
    """`Revocations` in SQL.

    Args:
        database: Where.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def is_revoked(self, token: TokenIdentity) -> bool:
        """Look a token up by issuer and `jti`, and by its family."""
        revoked = REVOCATIONS.c
        query = (
            sa.select(sa.literal(1))
            .where(
                revoked.issuer == token.issuer,
                sa.or_(
                    sa.and_(revoked.kind == ChangeKind.TOKEN_REVOKED.value, revoked.key == token.jti),
                    sa.and_(revoked.kind == ChangeKind.FAMILY_REVOKED.value, revoked.key == token.family),
                ),
            )
            .limit(1)
        )
        async with self._database.read() as connection:
            return (await connection.execute(query)).first() is not None

    async def revoke(self, change: Change, expires_at: float) -> bool:
        """Revoke a token and tell every node; answer False where it has been revoked before."""
        row = {"kind": change.kind.value, "issuer": change.issuer, "key": change.key, "expires_at": expires_at}
        try:
            async with self._database.write() as connection:
                await connection.execute(REVOCATIONS.insert().values(row))
                await announce_change(connection, change)
        except IntegrityError:
            return False
        return True

    async def live(self, now: float, most: int) -> list[Change]:
        """List at most so many of the revocations whose tokens have not ended, each as its change."""
        query = sa.select(REVOCATIONS).where(REVOCATIONS.c.expires_at > now).limit(most)
        async with self._database.read() as connection:
            rows = (await connection.execute(query)).all()
        return [Change(ChangeKind(row.kind), key=row.key, issuer=row.issuer) for row in rows]
