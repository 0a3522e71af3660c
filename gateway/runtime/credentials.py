"""The proving of access tokens and tickets, with the state of accounts behind them.

Owns the order of the checks: signature, claims, expiry, revocation. Refuses to own how a signature is checked (the adapter) and
where in a request a credential stands (the handshake).
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from gateway.core.accounts import roles_in_force
from gateway.core.claims import AccessClaims, check_claims, identity_of, principal_of, read_claims
from gateway.core.errors import HandshakeRefusedError, Refusal
from gateway.core.origins import parse_origin
from gateway.core.principal import Principal
from gateway.core.signing import decode_base64url, derive_ticket_key
from gateway.runtime.account_directory import AccountDirectory
from gateway.runtime.identity_ports import ProvenToken, StoredTicket, TicketStore, Tokens, UnknownKeyError
from gateway.runtime.ports import VerifiedCredential

TICKET_TTL_S = 30
_TICKET_BYTES = 32


@dataclass(frozen=True, slots=True)
class Ticket:
    """A single-use credential for a URL.

    Args:
        ticket: What stands in `?ticket=`.
        expires_in: Seconds.
        subject: Whose it is.
    """

    ticket: str = field(repr=False)
    expires_in: int
    subject: str


class AccountCredentials:
    """A `CredentialVerifier` for the accounts of this gateway; also gives out tickets.

    Args:
        tokens: Proves signatures.
        directory: What this node knows of accounts and revocations.
        tickets: Where tickets are kept.
        issuer: The `iss` that tokens must have.
        audience: The `aud` that tokens must have.
    """

    def __init__(
        self, tokens: Tokens, directory: AccountDirectory, tickets: TicketStore, *, issuer: str, audience: str
    ) -> None:
        self._tokens = tokens
        self._directory = directory
        self._tickets = tickets
        self._issuer = issuer
        self._audience = audience

    async def verify_token(self, token: str, now: float) -> VerifiedCredential:
        """Prove an access token.

        Raises:
            HandshakeRefusedError: `invalid_token`, `expired_token` or `revoked_token`, in this order of precedence.
            StateUnavailableError: The state of accounts could not be read.
        """
        proven = await self._prove(token)
        principal = await self._principal(proven.claims, proven.own, proven.kid, now)
        if not self._tokens.knows(proven.kid):
            raise _dropped_key(proven.claims)
        return VerifiedCredential(principal, proven.signing_key)

    async def redeem_ticket(self, ticket: str, origin: str | None, now: float) -> VerifiedCredential:
        """Spend a ticket; it is spent when it is looked up.

        Raises:
            HandshakeRefusedError: `invalid_ticket`, or what its token has become: `expired_token`, `revoked_token`.
            StateUnavailableError: The state could not be read.
        """
        raw = decode_base64url(ticket)
        if raw is None or len(raw) != _TICKET_BYTES:
            raise HandshakeRefusedError(Refusal.INVALID_TICKET, "not the shape of a ticket")
        stored = await self._tickets.take(ticket)
        if stored is None:
            raise HandshakeRefusedError(Refusal.INVALID_TICKET, "unknown or spent")
        claims, own = read_claims(stored.payload)
        if now >= stored.expires_at:
            raise HandshakeRefusedError(Refusal.INVALID_TICKET, "expired", claims.sub)
        if stored.origin is not None and stored.origin != parse_origin(origin or ""):
            raise HandshakeRefusedError(Refusal.INVALID_TICKET, "bound to another origin", claims.sub)
        principal = await self._principal(claims, own, stored.kid, now)
        if not self._tokens.knows(stored.kid):  # a ticket may be newer than the news of the key
            await self._tokens.look_again()
        return VerifiedCredential(principal, derive_ticket_key(self._signing_key(claims, stored.kid), ticket))

    async def issue_ticket(self, token: str, origin: str | None, now: float) -> Ticket:
        """Give a ticket for an access token.

        Args:
            token: The token that the ticket will stand for.
            origin: The origin that it shall be bound to, as `parse_origin` gives it; None for any.
            now: Unix seconds.

        Raises:
            HandshakeRefusedError: As for `verify_token`.
            StateUnavailableError: The state could not be read or written.
        """
        proven = await self._prove(token)
        principal = await self._principal(proven.claims, proven.own, proven.kid, now)
        ticket = secrets.token_urlsafe(_TICKET_BYTES)
        await self._tickets.put(ticket, _stored(proven, origin, now))
        return Ticket(ticket, TICKET_TTL_S, principal.subject)

    def is_revoked(self, principal: Principal) -> bool:
        """Look once more, without waiting, whether this node knows the token, its family, account or key to be gone."""
        kid = principal.token.kid
        return self._directory.is_known_revoked(principal) or (bool(kid) and not self._tokens.knows(kid))

    def current(self, principal: Principal) -> Principal:
        """Give the principal with the newest roles of its account that this node knows, without waiting."""
        token = principal.token
        newest = self._directory.newest_roles(principal.subject) if token.generation else None
        if newest is None:
            return principal
        roles = roles_in_force(newest, token.narrowed_to)
        return principal if roles == principal.roles else replace(principal, roles=roles)

    async def _prove(self, token: str) -> ProvenToken:
        try:
            return self._tokens.prove(token)
        except UnknownKeyError:
            await self._tokens.look_again()
        return self._tokens.prove(token)

    def _signing_key(self, claims: AccessClaims, kid: str) -> bytes:
        key = self._tokens.signing_key(kid, claims.jti)
        if key is None:
            raise _dropped_key(claims)
        return key

    async def _principal(self, claims: AccessClaims, own: Mapping[str, object], kid: str, now: float) -> Principal:
        check_claims(claims, self._issuer, self._audience, now)
        principal = await self._of_account(claims, own, kid)
        if await self._directory.is_revoked(identity_of(claims)):
            raise HandshakeRefusedError(Refusal.REVOKED_TOKEN, "revoked before it ended", claims.sub)
        return principal

    async def _of_account(self, claims: AccessClaims, own: Mapping[str, object], kid: str) -> Principal:
        known = self._directory.known(claims.sub)
        if known is not None and known.generation == claims.gen:
            return principal_of(claims, own, known, kid)
        # Unknown here, or known otherwise: the token may be newer than the news of its account, as after a new password.
        account = await self._directory.find(claims.sub)
        if account is None:
            raise HandshakeRefusedError(Refusal.REVOKED_TOKEN, "the account has been deleted", claims.sub)
        return principal_of(claims, own, account, kid)


def _dropped_key(claims: AccessClaims) -> HandshakeRefusedError:
    return HandshakeRefusedError(Refusal.REVOKED_TOKEN, "its key has been dropped", claims.sub)


def _stored(proven: ProvenToken, origin: str | None, now: float) -> StoredTicket:
    return StoredTicket(payload=proven.payload, kid=proven.kid, origin=origin, expires_at=now + TICKET_TTL_S)
