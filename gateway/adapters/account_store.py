"""Accounts in the database. Owns their rows, and the row of the change table that goes with each change."""

from __future__ import annotations

from typing import Any, Unpack

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from gateway.adapters.change_log import announce_change
from gateway.adapters.database import Database
from gateway.adapters.schema import ACCOUNTS
from gateway.core.accounts import Account, AccountKind
from gateway.runtime.identity_ports import AccountEdit
from gateway.runtime.ports import Change, ChangeKind


class DatabaseAccounts:
    """An `AccountStore` in SQL.

    Args:
        database: Where.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def find(self, name: str) -> Account | None:
        """Read an account as it is now."""
        async with self._database.read() as connection:
            row = (await connection.execute(_BY_NAME, {"wanted": name})).first()
        return None if row is None else _account(row)

    async def all(self, kind: AccountKind) -> list[Account]:
        """List the accounts of one kind by name."""
        query = sa.select(ACCOUNTS).where(ACCOUNTS.c.kind == kind.value).order_by(ACCOUNTS.c.name)
        async with self._database.read() as connection:
            return [_account(row) for row in await connection.execute(query)]

    async def development_users(self) -> list[str]:
        """List the names of the accounts that development mode made."""
        query = sa.select(ACCOUNTS.c.name).where(ACCOUNTS.c.development.is_(True)).order_by(ACCOUNTS.c.name)
        async with self._database.read() as connection:
            return list((await connection.execute(query)).scalars())

    async def add(self, account: Account) -> bool:
        """Keep a new account; answer False where the name is taken."""
        try:
            async with self._database.write() as connection:
                await connection.execute(
                    ACCOUNTS.insert().values(
                        name=account.name,
                        kind=account.kind.value,
                        generation=account.generation,
                        tenant=account.tenant,
                        roles=list(account.roles),
                        claims=dict(account.claims),
                        disabled=account.disabled,
                        development=account.development,
                        password_hash=account.password_hash,
                        secret_hash=account.secret_hash,
                        previous_secret_hash=account.previous_secret_hash,
                        previous_secret_until=account.previous_secret_until,
                        created_at=account.created_at,
                    )
                )
        except IntegrityError:
            return False
        return True

    async def edit(
        self, name: str, kind: AccountKind, announce: ChangeKind, now: float, **edit: Unpack[AccountEdit]
    ) -> bool:
        """Change an account and tell every node; answer False where there is none."""
        values: dict[str, object] = dict(edit)
        if "roles" in edit:
            values["roles"] = list(edit["roles"])
        statement = (
            ACCOUNTS.update()
            .where(ACCOUNTS.c.name == name, ACCOUNTS.c.kind == kind.value)
            .values(**values)
            .returning(ACCOUNTS.c.generation, ACCOUNTS.c.roles)
        )
        async with self._database.write() as connection:
            row = (await connection.execute(statement)).first()
            if row is None:
                return False
            change = Change(announce, subject=name, key=row.generation, roles=tuple(row.roles), at=now)
            await announce_change(connection, change)
        return True

    async def rehash(self, name: str, old_hash: str, new_hash: str) -> None:
        """Replace a password's hash by a better one of the same password, unless it has changed meanwhile."""
        same = (ACCOUNTS.c.name == name, ACCOUNTS.c.password_hash == old_hash)
        async with self._database.write() as connection:
            await connection.execute(ACCOUNTS.update().where(*same).values(password_hash=new_hash))

    async def delete(self, name: str, kind: AccountKind, now: float) -> bool:
        """Forget an account and tell every node; answer False where there was none."""
        statement = (
            ACCOUNTS.delete()
            .where(ACCOUNTS.c.name == name, ACCOUNTS.c.kind == kind.value)
            .returning(ACCOUNTS.c.generation)
        )
        async with self._database.write() as connection:
            if (await connection.execute(statement)).first() is None:
                return False
            await announce_change(connection, Change(ChangeKind.SUBJECT_ENDED, subject=name, at=now))
        return True


_BY_NAME = sa.select(ACCOUNTS).where(ACCOUNTS.c.name == sa.bindparam("wanted"))


def _account(row: sa.Row[Any]) -> Account:
    return Account(
        name=row.name,
        kind=AccountKind(row.kind),
        generation=row.generation,
        tenant=row.tenant,
        roles=tuple(row.roles),
        claims=dict(row.claims),
        disabled=row.disabled,
        development=row.development,
        password_hash=row.password_hash,
        secret_hash=row.secret_hash,
        previous_secret_hash=row.previous_secret_hash,
        previous_secret_until=row.previous_secret_until,
        created_at=row.created_at,
    )
