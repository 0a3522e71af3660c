"""Account commands: what an operator does to users and service clients, with every rule checked.

Owns the rules of each command and what it ends. Refuses to own how it was typed. Each change reaches running servers through the
change table within a second.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from gateway.core.accounts import (
    PUBLIC_CLIENT,
    Account,
    AccountError,
    AccountKind,
    check_claims,
    check_name,
    check_password,
    check_roles,
    check_tenant,
    fingerprint,
    roles_in_force,
)
from gateway.runtime.identity_ports import AccountEdit, AccountStore, Passwords, Tokens
from gateway.runtime.ports import ChangeKind
from gateway.runtime.token_issue import TokenTerms, issue_token

OLD_SECRET_S = 86_400.0
MAX_TTL_S = 10 * 365 * 86_400

_SECRET_BYTES = 32
_GENERATION_BYTES = 9


@dataclass(frozen=True, slots=True)
class ClientSecret:
    """A client's secret, shown this once.

    Args:
        client_id: The client.
        client_secret: Its secret.
        previous_until: Unix seconds until which the secret before still counts; 0 where there is none.
    """

    client_id: str
    client_secret: str = field(repr=False)
    previous_until: float = 0.0


@dataclass(frozen=True, slots=True)
class IssuedAccess:
    """A token that an operator has issued.

    Args:
        access_token: The token.
        expires_in: Its life in seconds.
        scope: Its roles, space-separated.
        signing_key: The key behind its signed frames.
    """

    access_token: str = field(repr=False)
    expires_in: int
    scope: str
    signing_key: bytes = field(repr=False)


def _generation() -> str:
    return secrets.token_urlsafe(_GENERATION_BYTES)


class Accounts:
    """The account commands.

    Args:
        store: Where accounts are kept.
        passwords: Hashes them.
        known_roles: Gives the roles that the policy defines; asked only by the commands that take roles.
        clock: Tells the time in Unix seconds.
    """

    def __init__(
        self,
        store: AccountStore,
        passwords: Passwords,
        known_roles: Callable[[], frozenset[str]],
        clock: Callable[[], float],
    ) -> None:
        self._store = store
        self._passwords = passwords
        self._known_roles = known_roles
        self._clock = clock

    async def find(self, name: str) -> Account | None:
        """Find an account of either kind."""
        return await self._store.find(name)

    async def all(self, kind: AccountKind) -> list[Account]:
        """List the accounts of one kind by name."""
        return await self._store.all(kind)

    async def development_users(self) -> list[str]:
        """List the accounts that development mode made; production does not start while there is one."""
        return await self._store.development_users()

    async def add_user(
        self,
        name: str,
        password: str,
        *,
        roles: Iterable[str] = (),
        tenant: str = "",
        claims: Mapping[str, str] | None = None,
        development: bool = False,
    ) -> Account:
        """Add a user.

        Raises:
            AccountError: The name is taken or none, the password is too short, or a role, tenant or claim cannot be.
            StateUnavailableError: The database cannot be reached.
        """
        account = Account(
            name=check_name(name),
            kind=AccountKind.USER,
            generation=_generation(),
            tenant=check_tenant(tenant),
            roles=self._roles(roles),
            claims=check_claims(claims or {}),
            development=development,
            password_hash=await self._passwords.hash(check_password(password)),
            created_at=self._clock(),
        )
        await self._add(account)
        return account

    async def add_client(self, name: str, *, roles: Iterable[str] = (), tenant: str = "") -> ClientSecret:
        """Add a service client.

        Raises:
            AccountError: The name is taken or none, or a role or tenant cannot be.
            StateUnavailableError: The database cannot be reached.
        """
        secret = secrets.token_urlsafe(_SECRET_BYTES)
        account = Account(
            name=check_name(name),
            kind=AccountKind.CLIENT,
            generation=_generation(),
            tenant=check_tenant(tenant),
            roles=self._roles(roles),
            secret_hash=fingerprint(secret),
            created_at=self._clock(),
        )
        await self._add(account)
        return ClientSecret(name, secret)

    async def set_roles(self, name: str, roles: Iterable[str]) -> tuple[str, ...]:
        """Replace a user's roles; open sessions go on with the new ones.

        Raises:
            AccountError: There is no such user, or a role cannot be.
            StateUnavailableError: The database cannot be reached.
        """
        assigned = self._roles(roles)
        await self._edit(name, AccountKind.USER, ChangeKind.ROLES, AccountEdit(roles=assigned))
        return assigned

    async def set_password(self, name: str, password: str) -> None:
        """Replace a user's password; all tokens, families and connections end.

        Raises:
            AccountError: There is no such user, or the password is too short.
            StateUnavailableError: The database cannot be reached.
        """
        hashed = await self._passwords.hash(check_password(password))
        edit = AccountEdit(password_hash=hashed, generation=_generation())
        await self._edit(name, AccountKind.USER, ChangeKind.SUBJECT_ENDED, edit)

    async def disable(self, name: str) -> None:
        """Keep a user out; all tokens, families and connections end.

        Raises:
            AccountError: There is no such user.
            StateUnavailableError: The database cannot be reached.
        """
        edit = AccountEdit(disabled=True, generation=_generation())
        await self._edit(name, AccountKind.USER, ChangeKind.SUBJECT_ENDED, edit)

    async def enable(self, name: str) -> None:
        """Let a user in again; tokens issued before stay ended.

        Raises:
            AccountError: There is no such user.
            StateUnavailableError: The database cannot be reached.
        """
        await self._edit(name, AccountKind.USER, ChangeKind.ROLES, AccountEdit(disabled=False))

    async def delete(self, name: str, kind: AccountKind) -> None:
        """Forget an account; all tokens, families and connections end, and a new one of that name revives none.

        Raises:
            AccountError: There is no such account.
            StateUnavailableError: The database cannot be reached.
        """
        if not await self._store.delete(name, kind, self._clock()):
            raise _unknown(name, kind)

    async def rotate_secret(self, name: str, *, now: bool = False) -> ClientSecret:
        """Give a client a new secret; the one before counts for a day more.

        Args:
            name: The client.
            now: End the secret before at once, with all tokens and connections of the client.

        Raises:
            AccountError: There is no such client.
            StateUnavailableError: The database cannot be reached.
        """
        account = await self._store.find(name)
        if account is None or account.kind is not AccountKind.CLIENT:
            raise _unknown(name, AccountKind.CLIENT)
        secret = secrets.token_urlsafe(_SECRET_BYTES)
        edit = AccountEdit(secret_hash=fingerprint(secret), previous_secret_hash=None, previous_secret_until=0.0)
        announce = ChangeKind.SUBJECT_ENDED if now else ChangeKind.ROLES
        until = 0.0
        if now:
            edit["generation"] = _generation()
        else:
            until = self._clock() + OLD_SECRET_S
            edit["previous_secret_hash"] = account.secret_hash
            edit["previous_secret_until"] = until
        await self._edit(name, AccountKind.CLIENT, announce, edit)
        return ClientSecret(name, secret, until)

    def _roles(self, roles: Iterable[str]) -> tuple[str, ...]:
        wanted = tuple(roles)
        return check_roles(wanted, self._known_roles()) if wanted else ()

    async def _add(self, account: Account) -> None:
        if not await self._store.add(account):
            raise AccountError(f"there is an account `{account.name}` already; users and clients share one name space")

    async def _edit(self, name: str, kind: AccountKind, announce: ChangeKind, edit: AccountEdit) -> None:
        if not await self._store.edit(name, kind, announce, self._clock(), **edit):
            raise _unknown(name, kind)


async def issue_for(
    accounts: Accounts,
    tokens: Tokens,
    terms: TokenTerms,
    name: str,
    *,
    roles: Iterable[str],
    ttl_s: int | None,
    now: float,
) -> IssuedAccess:
    """Issue an access token for an existing account, as `token issue` does.

    Args:
        accounts: Where the account is.
        tokens: Signs.
        terms: Issuer, audience and the usual life.
        name: The account.
        roles: What to narrow its roles to; none for all of them.
        ttl_s: Its life in seconds; None for the usual.
        now: Unix seconds.

    Raises:
        AccountError: There is no such account, it is disabled, or it does not have a role.
        StateUnavailableError: The database cannot be reached.
    """
    account = await accounts.find(name)
    if account is None:
        raise AccountError(f"there is no account `{name}`; see `gateway users list` and `gateway clients list`")
    if account.disabled:
        raise AccountError(f"`{name}` is disabled; see `gateway users enable`")
    if ttl_s is not None and not 1 <= ttl_s <= MAX_TTL_S:
        raise AccountError(f"a token lives from 1 to {MAX_TTL_S} seconds")
    wanted = tuple(sorted(set(roles)))
    missing = [role for role in wanted if role not in account.roles]
    if missing:
        raise AccountError(f"`{name}` does not have role `{missing[0]}`; `--role` only narrows")
    if ttl_s is not None:
        await tokens.keep_for(ttl_s)
    narrowed = bool(wanted) and wanted != account.roles
    granted = roles_in_force(account.roles, wanted if narrowed else None)
    client_id = account.name if account.kind is AccountKind.CLIENT else PUBLIC_CLIENT
    issued = issue_token(
        tokens,
        terms,
        account,
        client_id=client_id,
        roles=granted,
        narrowed=narrowed,
        family="",
        now=now,
        ttl_s=ttl_s,
    )
    return IssuedAccess(
        access_token=issued.minted.token,
        expires_in=terms.access_ttl_s if ttl_s is None else ttl_s,
        scope=" ".join(granted),
        signing_key=issued.minted.signing_key,
    )


def _unknown(name: str, kind: AccountKind) -> AccountError:
    return AccountError(f"there is no {kind.value} `{name}`; see `gateway {kind.value}s list`")
