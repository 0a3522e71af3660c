"""The ending of single access tokens before their time (the first half of RFC 7009: what it does, not who may ask for it).

Owns which tokens can be revoked, and for how long that has to be remembered. Refuses to own who asks.
"""

from __future__ import annotations

from dataclasses import dataclass

from gateway.core.accounts import AccountError
from gateway.runtime.identity_ports import Revocations, Tokens
from gateway.runtime.ports import Change, ChangeKind

MAX_JTI_CHARS = 255


@dataclass(frozen=True, slots=True)
class Revoked:
    """What a revocation came to.

    Args:
        jti: The token.
        issuer: Its issuer.
        expired: Whether it had ended already, so that there was nothing to do.
        before: Whether it had been revoked before.
    """

    jti: str
    issuer: str
    expired: bool = False
    before: bool = False


async def revoke_token(tokens: Tokens, revocations: Revocations, token: str, now: float) -> Revoked:
    """Revoke an access token that a key of ours has signed.

    Its issuer and audience are not looked at: whoever has it may end it, whatever this process is called.

    Raises:
        HandshakeRefusedError: `invalid_token`: its signature does not hold, or its key has been dropped.
        StateUnavailableError: The database cannot be reached.
    """
    claims = tokens.prove(token).claims
    if now >= claims.exp:
        return Revoked(claims.jti, claims.iss, expired=True)
    change = Change(ChangeKind.TOKEN_REVOKED, subject=claims.sub, key=claims.jti, issuer=claims.iss, at=now)
    return Revoked(claims.jti, claims.iss, before=not await revocations.revoke(change, claims.exp))


async def revoke_jti(revocations: Revocations, issuer: str, jti: str, longest_ttl_s: int, now: float) -> Revoked:
    """Revoke a token by its name alone; whether there is one is not known.

    Args:
        revocations: Where that is kept.
        issuer: Its issuer.
        jti: The `jti` claim.
        longest_ttl_s: How long a token may live, in seconds: when this one ends is not known.
        now: Unix seconds.

    Raises:
        AccountError: It is no name of a token.
        StateUnavailableError: The database cannot be reached.
    """
    if not 1 <= len(jti) <= MAX_JTI_CHARS or not jti.isprintable():
        raise AccountError(f"a `jti` has 1 to {MAX_JTI_CHARS} printable characters")
    change = Change(ChangeKind.TOKEN_REVOKED, key=jti, issuer=issuer, at=now)
    return Revoked(jti, issuer, before=not await revocations.revoke(change, now + longest_ttl_s))
