"""The grants: the ways to get a token.

A grant is a set of hooks: what it needs, whom it proves, what it leaves behind. `token_endpoint` owns everything that all grants
have in common (the client, the scope, the claims, the log, the counting), so that no grant can forget any of it.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from gateway.core.accounts import PUBLIC_CLIENT, Account, AccountKind, is_name
from gateway.core.addresses import address_key
from gateway.core.events import Event
from gateway.core.oauth import ClientCredentials, OAuthError, OAuthErrorCode
from gateway.runtime.identity_ports import (
    AccountStore,
    Family,
    LoginThrottle,
    Passwords,
    RefreshTokens,
    Rotation,
    ThrottledError,
)
from gateway.runtime.ports import Log
from gateway.runtime.token_issue import TokenTerms

_TOKEN_BYTES = 32
_ID_BYTES = 16

# One text for every way in which a login can fail: it must not tell a wrong password from an unknown name.
_WRONG_LOGIN = "the name or the password is wrong"
_WRONG_REFRESH = "the refresh token is unknown, expired, spent or revoked"
WRONG_CLIENT = "the client is unknown or its secret is wrong"


@dataclass(frozen=True, slots=True)
class TokenRequest:
    """A request whose form has been read.

    Args:
        form: The parameters that have a value, each once.
        client: How the client named itself; None where it did not.
        address: Where it comes from.
    """

    form: Mapping[str, str] = field(repr=False)
    client: ClientCredentials | None
    address: str


@dataclass(frozen=True, slots=True)
class TokenAnswer:
    """A successful answer (RFC 6749 section 5.1).

    Args:
        access_token: The access token.
        expires_in: Its life in seconds.
        scope: Its roles, space-separated.
        signing_key: The 32 bytes behind signed frames.
        refresh_token: The refresh token, where the grant has one.
    """

    access_token: str = field(repr=False)
    expires_in: int
    scope: str
    signing_key: bytes = field(repr=False)
    refresh_token: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Proof:
    """Whom a grant has proven.

    Args:
        account: The account, as it was when it was proven.
        family: The family that the new token will belong to; empty for none.
        ceiling: The roles that an earlier scope has narrowed it to; None for all.
    """

    account: Account
    family: str = ""
    ceiling: tuple[str, ...] | None = None


class Grant(Protocol):
    """One way to get a token.

    `for_public_client` tells whom it is for: the public client, or service clients with a secret.
    """

    name: str
    needs: tuple[str, ...]
    for_public_client: bool

    async def prove(self, request: TokenRequest, client: Account | None, now: float) -> Proof:
        """Prove whom the token will be for.

        Raises:
            OAuthError: The proof does not hold.
        """
        ...

    async def leave(
        self, request: TokenRequest, proof: Proof, narrowed_to: tuple[str, ...] | None, now: float
    ) -> str | None:
        """Keep what outlives the request; answer the refresh token, where there is one.

        Raises:
            OAuthError: It was not to be had, and nothing is issued.
        """
        ...


class Logins:
    """The one way to try a secret: within the throttle, which counts the attempt before it runs.

    Args:
        throttle: Holds attempts up.
    """

    def __init__(self, throttle: LoginThrottle) -> None:
        self._throttle = throttle

    async def attempt(self, name: str, address: str, prove: Callable[[], Awaitable[bool]]) -> bool:
        """Try a secret, and count how it went.

        Raises:
            ThrottledError: It came before its wait was over.
            HashingBusyError: There is no room to try it now.
        """
        attempt = await self._throttle.begin(name, address_key(address))
        end = self._throttle.abandoned
        try:
            proven = await prove()
            end = self._throttle.succeeded if proven else self._throttle.failed
        finally:
            await asyncio.shield(end(attempt))
        return proven


class PasswordGrant:
    """RFC 6749 section 4.3: a name and a password. Begins a family.

    Args:
        accounts: Where accounts are.
        passwords: Checks them.
        logins: Holds guesses up.
        refresh: Where families are kept.
        terms: For how long.
    """

    name = "password"
    needs: tuple[str, ...] = ("username", "password")
    for_public_client = True

    def __init__(
        self,
        accounts: AccountStore,
        passwords: Passwords,
        logins: Logins,
        refresh: RefreshTokens,
        terms: TokenTerms,
    ) -> None:
        self._accounts = accounts
        self._passwords = passwords
        self._logins = logins
        self._refresh = refresh
        self._terms = terms

    async def prove(self, request: TokenRequest, client: Account | None, now: float) -> Proof:
        """Prove a password; unknown, disabled and service accounts take the same time and get the same answer."""
        del client, now
        name, password = request.form["username"], request.form["password"]
        account = await self._accounts.find(name) if is_name(name) else None
        stored = account.password_hash if account is not None and account.kind is AccountKind.USER else None
        better_hash: str | None = None

        async def check() -> bool:
            nonlocal better_hash
            checked = await self._passwords.check(password, stored)
            better_hash = checked.better_hash
            return checked.matches and account is not None and not account.disabled

        subject = None if account is None else account.name
        try:
            proven = await self._logins.attempt(name, request.address, check)
        except ThrottledError as error:
            raise slow_down(error, subject) from None
        if not proven or account is None:
            raise OAuthError(OAuthErrorCode.INVALID_GRANT, _WRONG_LOGIN, subject=subject)
        if better_hash is not None and stored is not None:
            await self._accounts.rehash(account.name, stored, better_hash)
        return Proof(account, family=secrets.token_urlsafe(_ID_BYTES))

    async def leave(
        self, request: TokenRequest, proof: Proof, narrowed_to: tuple[str, ...] | None, now: float
    ) -> str | None:
        """Keep the new family."""
        del request
        token = secrets.token_urlsafe(_TOKEN_BYTES)
        family = Family(
            id=proof.family,
            subject=proof.account.name,
            generation=proof.account.generation,
            client_id=PUBLIC_CLIENT,
            roles=narrowed_to,
            expires_at=now + self._terms.refresh_ttl_s,
        )
        await self._refresh.open(family, token, now + self._terms.access_ttl_s, now)
        return token


class RefreshGrant:
    """RFC 6749 section 6, with rotation (RFC 9700 section 4.14.2).

    Args:
        accounts: Where accounts are.
        refresh: Where families are kept.
        terms: How long access tokens live.
        log: Where a reuse is told.
    """

    name = "refresh_token"
    needs: tuple[str, ...] = ("refresh_token",)
    for_public_client = True

    def __init__(self, accounts: AccountStore, refresh: RefreshTokens, terms: TokenTerms, log: Log) -> None:
        self._accounts = accounts
        self._refresh = refresh
        self._terms = terms
        self._log = log

    async def prove(self, request: TokenRequest, client: Account | None, now: float) -> Proof:
        """Find the family and its account; the token is spent only when all else is well, in `leave`."""
        del client
        family = await self._refresh.family_of(request.form["refresh_token"])
        if family is None or family.client_id != PUBLIC_CLIENT:
            raise OAuthError(OAuthErrorCode.INVALID_GRANT, _WRONG_REFRESH)
        account = await self._accounts.find(family.subject)
        if (
            family.revoked
            or now >= family.expires_at
            or account is None
            or account.disabled
            or account.generation != family.generation
        ):
            raise OAuthError(OAuthErrorCode.INVALID_GRANT, _WRONG_REFRESH, subject=family.subject)
        return Proof(account, family.id, family.roles)

    async def leave(
        self, request: TokenRequest, proof: Proof, narrowed_to: tuple[str, ...] | None, now: float
    ) -> str | None:
        """Rotate the token. The family's own scope stays, whatever this request narrowed (RFC 6749 section 6)."""
        del narrowed_to
        successor = secrets.token_urlsafe(_TOKEN_BYTES)
        until = now + self._terms.access_ttl_s
        rotation = await self._refresh.rotate(request.form["refresh_token"], successor, until, now)
        if rotation is Rotation.REUSED:
            self._log.warning(
                Event.TOKEN_REVOKED,
                reason="refresh_token_reused",
                subject=proof.account.name,
                tenant=proof.account.tenant,
                family=proof.family,
                remote_addr=request.address,
            )
        if rotation is not Rotation.ROTATED:
            raise OAuthError(OAuthErrorCode.INVALID_GRANT, _WRONG_REFRESH, subject=proof.account.name)
        return successor


class ClientCredentialsGrant:
    """RFC 6749 section 4.4: a service client for itself; the endpoint has proven it already."""

    name = "client_credentials"
    needs: tuple[str, ...] = ()
    for_public_client = False

    async def prove(self, request: TokenRequest, client: Account | None, now: float) -> Proof:
        """Take the client that has authenticated."""
        del request, now
        if client is None:
            raise OAuthError(OAuthErrorCode.INVALID_CLIENT, WRONG_CLIENT)
        return Proof(client)

    async def leave(
        self, request: TokenRequest, proof: Proof, narrowed_to: tuple[str, ...] | None, now: float
    ) -> str | None:
        """Keep nothing: a client can always ask again (RFC 6749 section 4.4.3)."""
        del request, proof, narrowed_to, now
        return None


def slow_down(error: ThrottledError, subject: str | None) -> OAuthError:
    """Tell a client to wait (RFC 8628 has the code, RFC 6585 the status)."""
    return OAuthError(OAuthErrorCode.SLOW_DOWN, "too many failed logins; wait", error.retry_after_s, subject)
