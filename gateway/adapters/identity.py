"""Identity put together over one database: what `compose` and the command line open.

Owns the order in which the parts are opened and closed. Refuses to own settings: it takes the numbers.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import make_url

from gateway.adapters.account_store import DatabaseAccounts
from gateway.adapters.change_log import DatabaseChanges
from gateway.adapters.database import Database
from gateway.adapters.key_store import KeyStore
from gateway.adapters.passwords import PasslibPasswords
from gateway.adapters.sealing import Sealer
from gateway.adapters.throttle_store import DatabaseThrottle
from gateway.adapters.ticket_store import DatabaseTickets
from gateway.adapters.token_store import DatabaseRefreshTokens, DatabaseRevocations
from gateway.adapters.tokens import JoseTokens
from gateway.core.errors import GatewayError, StateUnavailableError
from gateway.runtime.account_directory import AccountDirectory
from gateway.runtime.accounts import Accounts
from gateway.runtime.change_feed import PolledChangeFeed
from gateway.runtime.credentials import AccountCredentials
from gateway.runtime.grants import ClientCredentialsGrant, Grant, Logins, PasswordGrant, RefreshGrant
from gateway.runtime.ports import Log, Metrics
from gateway.runtime.token_endpoint import TokenEndpoint
from gateway.runtime.token_issue import TokenTerms


class SchemaBehindError(GatewayError):
    """A database whose tables are those of an earlier release, and which only an operator may change."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Everything about accounts and tokens that a running gateway needs.

    Args:
        database: For readiness, by `ping`.
        accounts: The account commands.
        tokens: Signs and proves.
        terms: What all tokens have in common.
        endpoint: Answers token requests.
        credentials: The `CredentialVerifier`; gives tickets too.
        changes: The `ChangeFeed`; it also keeps the caches true, so it has to run.
    """

    database: Database
    accounts: Accounts
    tokens: JoseTokens
    terms: TokenTerms
    endpoint: TokenEndpoint
    credentials: AccountCredentials
    changes: PolledChangeFeed


@dataclass(frozen=True, slots=True)
class AccountServices:
    """The account commands alone, for the command line.

    Args:
        accounts: The account commands.
    """

    accounts: Accounts


@dataclass(frozen=True, slots=True)
class TokenServices:
    """Accounts and signing keys, for the commands that issue and inspect tokens.

    Args:
        accounts: Where subjects are found.
        tokens: Signs and proves.
        terms: What all tokens have in common.
        credentials: Proves tokens with the state of accounts looked up.
        keys: The signing keys.
        revocations: The tokens that have been ended one by one.
    """

    accounts: Accounts
    tokens: JoseTokens
    terms: TokenTerms
    credentials: AccountCredentials
    keys: KeyStore
    revocations: DatabaseRevocations


@contextlib.asynccontextmanager
async def open_database(url: str, *, migrate: bool = True) -> AsyncIterator[Database]:
    """Open a database, the embedded one brought up to date.

    Args:
        url: `sqlite+aiosqlite:///PATH` or `postgresql+asyncpg://…`.
        migrate: Whether the schema has to be this release's; `db upgrade` opens without.

    Raises:
        SchemaBehindError: It is no embedded one and wants `gateway db upgrade`.
        StateUnavailableError: It cannot be reached.
    """
    await asyncio.to_thread(_claim_file, url)
    database = Database(url)
    try:
        if migrate and database.embedded:
            await database.migrate()
        elif migrate and not await database.is_current():
            raise SchemaBehindError("the database has the tables of an earlier release; run `gateway db upgrade`")
        yield database
    finally:
        await database.close()


def _claim_file(url: str) -> None:
    """Make the file of an embedded database its owner's alone, and see that it can be opened.

    What SQLite puts beside it takes its mode from it. It is opened here once by the plain driver, since a connection that fails
    within the asynchronous one leaves a thread behind, which would have the last word on the terminal.

    Raises:
        StateUnavailableError: Its directory does not exist, or it is no database that we may open.
    """
    parsed = make_url(url)
    if parsed.get_backend_name() != "sqlite" or not parsed.database:
        return
    path = Path(parsed.database)
    if not path.parent.is_dir():
        raise StateUnavailableError(f"the directory of the database, `{path.parent}`, does not exist; make it first")
    try:
        path.touch(mode=0o600)
        with contextlib.closing(sqlite3.connect(path)) as connection:
            connection.execute("PRAGMA schema_version")
    except (sqlite3.Error, OSError) as error:
        reason = str(error) if isinstance(error, sqlite3.Error) else error.strerror
        raise StateUnavailableError(f"the database `{path}` cannot be opened: {reason}") from None


@contextlib.asynccontextmanager
async def open_accounts(url: str, known_roles: Callable[[], frozenset[str]]) -> AsyncIterator[AccountServices]:
    """Open the account commands alone: no key is needed for them.

    Args:
        url: The database.
        known_roles: Gives the roles that the policy defines.
    """
    async with open_database(url) as database:
        passwords = PasslibPasswords()
        try:
            yield AccountServices(Accounts(DatabaseAccounts(database), passwords, known_roles, time.time))
        finally:
            passwords.close()


@contextlib.asynccontextmanager
async def open_token_services(
    url: str, *, secret_key: str, secret_key_previous: str | None, terms: TokenTerms
) -> AsyncIterator[TokenServices]:
    """Open accounts and signing keys for one command.

    Args:
        url: The database.
        secret_key: Seals the keys.
        secret_key_previous: Opens what it sealed.
        terms: What all tokens have in common.

    Raises:
        SealBrokenError: The keys were sealed with another secret.
    """
    async with open_database(url) as database:
        passwords = PasslibPasswords()
        try:
            keys = KeyStore(database, Sealer(secret_key, secret_key_previous), time.time, terms.access_ttl_s)
            tokens = JoseTokens(keys)
            await tokens.reload()
            store = DatabaseAccounts(database)
            yield TokenServices(
                accounts=Accounts(store, passwords, frozenset, time.time),
                tokens=tokens,
                terms=terms,
                credentials=_credentials(database, tokens, _directory(database, store), terms),
                keys=keys,
                revocations=DatabaseRevocations(database),
            )
        finally:
            passwords.close()


def _directory(database: Database, store: DatabaseAccounts) -> AccountDirectory:
    return AccountDirectory(store, DatabaseRevocations(database), asyncio.get_running_loop().time)


def _credentials(
    database: Database, tokens: JoseTokens, directory: AccountDirectory, terms: TokenTerms
) -> AccountCredentials:
    tickets = DatabaseTickets(database)
    return AccountCredentials(tokens, directory, tickets, issuer=terms.issuer, audience=terms.audience)


@contextlib.asynccontextmanager
async def open_identity(
    url: str,
    known_roles: Callable[[], frozenset[str]],
    *,
    secret_key: str,
    secret_key_previous: str | None,
    terms: TokenTerms,
    password_grant: bool,
    log: Log,
    metrics: Metrics,
    clock: Callable[[], float] = time.time,
) -> AsyncIterator[Identity]:
    """Open everything.

    Args:
        url: The database.
        known_roles: Gives the roles that the policy defines.
        secret_key: Seals the keys.
        secret_key_previous: Opens what it sealed.
        terms: What all tokens have in common.
        password_grant: Whether passwords get tokens.
        log: Where logins, refusals and outages are told.
        metrics: Where they are counted.
        clock: Tells the time in Unix seconds.

    Raises:
        SealBrokenError: The keys were sealed with another secret.
        SchemaBehindError: As for `open_database`.
        StateUnavailableError: The database cannot be reached.
    """
    async with open_database(url) as database:
        passwords = PasslibPasswords()
        try:
            await passwords.warm()
            sealer = Sealer(secret_key, secret_key_previous)
            tokens = JoseTokens(KeyStore(database, sealer, clock, terms.access_ttl_s))
            await tokens.reload()
            store = DatabaseAccounts(database)
            directory = _directory(database, store)
            logins = Logins(DatabaseThrottle(database, clock))
            refresh = DatabaseRefreshTokens(database, terms.issuer)
            grants: list[Grant] = [RefreshGrant(store, refresh, terms, log), ClientCredentialsGrant()]
            if password_grant:
                grants.append(PasswordGrant(store, passwords, logins, refresh, terms))
            yield Identity(
                database=database,
                accounts=Accounts(store, passwords, known_roles, clock),
                tokens=tokens,
                terms=terms,
                endpoint=TokenEndpoint(
                    grants, store, logins, tokens, terms=terms, clock=clock, log=log, metrics=metrics
                ),
                credentials=_credentials(database, tokens, directory, terms),
                changes=PolledChangeFeed(DatabaseChanges(database), directory, tokens, clock, log),
            )
        finally:
            passwords.close()
