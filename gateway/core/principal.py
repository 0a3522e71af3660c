"""Who acts: the verified identity behind a connection. Owns no verification: adapters prove, this is what they have proven."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

_NO_CLAIMS: Mapping[str, object] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class TokenIdentity:
    """What a revocation names.

    Args:
        issuer: The `iss` claim.
        jti: The `jti` claim, or for foreign tokens without one the SHA-256 of the signed part.
        family: The refresh family that the token came from; empty where there is none.
        issued_at: The `iat` claim, Unix seconds.
        client_id: The OAuth client that the token was issued to.
        narrowed_to: The roles that the token was narrowed to by its scope; None for one that carries all roles.
        generation: The generation of the account at the issue: whatever ends all tokens of an account begins a new one. Empty
            for subjects of other issuers.
        kid: The key that signed it, without which it is no longer good; empty for other issuers.
    """

    issuer: str
    jti: str
    family: str = ""
    issued_at: float = 0.0
    client_id: str = ""
    narrowed_to: tuple[str, ...] | None = None
    generation: str = ""
    kid: str = ""


@dataclass(frozen=True, slots=True)
class Principal:
    """Subject, tenant, roles, claims and expiry.

    Args:
        subject: A stable id; `name|sub` for subjects of other issuers.
        tenant: The tenant; the empty string is a tenant of its own, never all of them.
        roles: The assigned roles, sorted, without duplicates; inherited ones are the policy's matter.
        claims: The token's own claims beyond those of JWT and RFC 9068.
        expires_at: Unix seconds after which the token is no longer good.
        token: What a revocation of this token names.
    """

    subject: str
    tenant: str = ""
    roles: tuple[str, ...] = ()
    claims: Mapping[str, object] = field(default_factory=lambda: _NO_CLAIMS, hash=False)
    expires_at: float = 0.0
    token: TokenIdentity = TokenIdentity("", "")


@dataclass(frozen=True, slots=True)
class ConnectionFacts:
    """What a policy may ask about the connection that a command came over.

    Args:
        ip: The client's address.
        origin: The `Origin` header, or the empty string.
        signed: Whether every frame of the connection is signed.
    """

    ip: str = ""
    origin: str = ""
    signed: bool = False
