"""From an account to a signed access token: the one place where claims are put together."""

from __future__ import annotations

import secrets
from dataclasses import dataclass

from gateway.core.accounts import Account
from gateway.core.claims import AccessClaims
from gateway.runtime.identity_ports import MintedToken, Tokens

_JTI_BYTES = 16


@dataclass(frozen=True, slots=True)
class TokenTerms:
    """What all tokens of this gateway have in common.

    Args:
        issuer: Their `iss`.
        audience: Their `aud`.
        access_ttl_s: The life of an access token, in seconds.
        refresh_ttl_s: The life of a family, in seconds from the login.
    """

    issuer: str
    audience: str
    access_ttl_s: int
    refresh_ttl_s: int


@dataclass(frozen=True, slots=True)
class IssuedToken:
    """A token with the identity that a revocation would name."""

    jti: str
    minted: MintedToken


def issue_token(
    tokens: Tokens,
    terms: TokenTerms,
    account: Account,
    *,
    client_id: str,
    roles: tuple[str, ...],
    narrowed: bool,
    family: str,
    now: float,
    ttl_s: int | None = None,
) -> IssuedToken:
    """Sign an access token for an account.

    Args:
        tokens: Signs it.
        terms: Issuer, audience and life.
        account: Whom it is for.
        client_id: The client that asked.
        roles: The roles that it carries.
        narrowed: Whether a requested scope cut them.
        family: The family of refresh tokens; empty for none.
        now: Unix seconds.
        ttl_s: Its life in seconds, where it is not that of the terms.
    """
    issued_at = int(now)
    claims = AccessClaims(
        iss=terms.issuer,
        sub=account.name,
        aud=terms.audience,
        exp=issued_at + (terms.access_ttl_s if ttl_s is None else ttl_s),
        iat=issued_at,
        nbf=issued_at,
        jti=secrets.token_urlsafe(_JTI_BYTES),
        client_id=client_id,
        scope=" ".join(roles),
        roles=roles,
        tenant=account.tenant,
        narrowed=narrowed,
        fam=family,
        gen=account.generation,
    )
    return IssuedToken(claims.jti, tokens.mint(claims, account.claims))
