"""The claims of an access token (RFC 9068) and the checks that they pass before anything believes them.

Owns types, times, issuer and audience. Refuses to own signatures (the adapter has proven them before it asks) and the state of
accounts. The time is asked of the caller.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import msgspec

from gateway.core.accounts import Account, roles_in_force
from gateway.core.errors import HandshakeRefusedError, Refusal
from gateway.core.principal import Principal, TokenIdentity

CLOCK_SKEW_S = 10.0
_END_OF_TIME = float(2**53)

# What is not handed to the policy as the token's own claims.
_REGISTERED = frozenset(
    {"iss", "sub", "aud", "exp", "iat", "nbf", "jti", "client_id", "scope", "roles", "tenant", "narrowed", "fam", "gen"}
)


class AccessClaims(msgspec.Struct, frozen=True, kw_only=True):
    """The claims of a token of ours.

    Args:
        iss: The issuer.
        sub: The account's name.
        aud: The audience, or several.
        exp: Unix seconds from which on the token is no longer good.
        iat: Unix seconds at which it was issued.
        nbf: Unix seconds from which on it is good.
        jti: Its identity, which revocations name and its signing key is derived from.
        client_id: The client that it was issued to.
        scope: The roles, space-separated.
        roles: The roles.
        tenant: The tenant.
        narrowed: Whether a requested scope cut the roles, so that only those in common with the store count.
        fam: The family of refresh tokens that it came with; empty where there is none.
        gen: The generation of the account at the issue.
    """

    iss: str
    sub: str
    aud: str | tuple[str, ...]
    exp: float
    iat: float
    nbf: float
    jti: str
    client_id: str
    scope: str
    roles: tuple[str, ...]
    tenant: str
    narrowed: bool = False
    fam: str = ""
    gen: str = ""


def _refuse(detail: str, subject: str | None = None) -> HandshakeRefusedError:
    return HandshakeRefusedError(Refusal.INVALID_TOKEN, detail, subject)


def read_claims(payload: bytes) -> tuple[AccessClaims, Mapping[str, object]]:
    """Read proven claims strictly: no bool is a number, no number is beyond what a double holds.

    Returns:
        The claims that have a meaning here, and the token's own beyond them.

    Raises:
        HandshakeRefusedError: `invalid_token`.
    """
    try:
        everything = msgspec.json.decode(payload, type=dict[str, object])
        claims = msgspec.convert(everything, AccessClaims)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise _refuse(f"claims: {type(error).__name__}") from None
    own = {name: value for name, value in everything.items() if name not in _REGISTERED}
    return claims, MappingProxyType(own)


def check_claims(claims: AccessClaims, issuer: str, audience: str, now: float) -> None:
    """Check whom the token is from and for, and its times (RFC 8725 sections 3.8 and 3.9, RFC 9068 section 4).

    `exp` has no leeway; `nbf` and `iat` allow for clocks that differ by 10 s.

    Raises:
        HandshakeRefusedError: `invalid_token`, and `expired_token` for a token with nothing else wrong.
    """
    audiences = (claims.aud,) if isinstance(claims.aud, str) else claims.aud
    if claims.iss != issuer:
        raise _refuse("another issuer")
    if audience not in audiences:
        raise _refuse("another audience", claims.sub)
    if not claims.sub or not claims.jti:
        raise _refuse("an empty `sub` or `jti`")
    if not all(0 <= time < _END_OF_TIME for time in (claims.exp, claims.iat, claims.nbf)):
        raise _refuse("a time out of range", claims.sub)
    if claims.nbf > now + CLOCK_SKEW_S:
        raise _refuse("`nbf` is in the future", claims.sub)
    if claims.iat > now + CLOCK_SKEW_S:
        raise _refuse("`iat` is in the future", claims.sub)
    if now >= claims.exp:
        raise HandshakeRefusedError(Refusal.EXPIRED_TOKEN, "", claims.sub)


def identity_of(claims: AccessClaims, kid: str = "") -> TokenIdentity:
    """Give what revocations of this token, its family, its account and its key are matched against."""
    return TokenIdentity(
        issuer=claims.iss,
        jti=claims.jti,
        family=claims.fam,
        issued_at=claims.iat,
        client_id=claims.client_id,
        generation=claims.gen,
        narrowed_to=claims.roles if claims.narrowed else None,
        kid=kid,
    )


def principal_of(claims: AccessClaims, own: Mapping[str, object], account: Account, kid: str = "") -> Principal:
    """Give the principal of a token whose account is known: for local users the store's roles rule, not the claim.

    Args:
        claims: What the token says.
        own: Its own claims beyond them.
        account: Its account now.
        kid: The key that signed it.

    Raises:
        HandshakeRefusedError: `revoked_token`: the account is disabled, or the token is of an earlier generation of it.
    """
    if account.disabled or account.generation != claims.gen or account.tenant != claims.tenant:
        raise HandshakeRefusedError(Refusal.REVOKED_TOKEN, "the account has ended this token", claims.sub)
    identity = identity_of(claims, kid)
    return Principal(
        subject=claims.sub,
        tenant=account.tenant,
        roles=roles_in_force(account.roles, identity.narrowed_to),
        claims=own,
        expires_at=claims.exp,
        token=identity,
    )
