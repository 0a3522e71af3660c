"""Accounts as values: users and service clients, the names, passwords and claims they may have, and which roles count.

Owns the rules that a new account must meet. Refuses to own how accounts are kept and how passwords are proven.
"""

from __future__ import annotations

import enum
import hashlib
import hmac
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from gateway.core.errors import GatewayError

# The public first-party client. Its name is nobody's, or a token of that client and one of that account would look alike.
PUBLIC_CLIENT = "gateway"

MIN_PASSWORD_CHARS, MAX_PASSWORD_CHARS = 12, 128
MAX_TENANT_CHARS = 255
MAX_CLAIM_CHARS = 1024
MAX_CLAIMS = 32

_NAME = re.compile(r"[A-Za-z0-9_.@+-]{1,64}")
_ROLE = re.compile(r"[!#-\[\]-~]{1,255}")  # scope-token, RFC 6749 section 3.3
_CLAIM_NAME = re.compile(r"[A-Za-z0-9_.:/-]{1,64}")
_TENANT = re.compile(r"[^\x00-\x1f\x7f]*")

# What RFC 7519, RFC 9068 and this gateway give a meaning to: no account may set one of its own.
RESERVED_CLAIMS = frozenset(
    {"iss", "sub", "aud", "exp", "nbf", "iat", "jti", "client_id", "scope", "roles", "tenant", "narrowed", "fam", "gen"}
    | {"auth_time", "acr", "amr", "azp", "cnf", "act", "may_act", "groups", "entitlements", "sid", "nonce", "typ"}
)


class AccountError(GatewayError):
    """An account command that cannot be carried out; the message says what to do."""


class AccountKind(enum.StrEnum):
    """Who logs in with a password, and who with a client secret."""

    USER = "user"
    CLIENT = "client"


@dataclass(frozen=True, slots=True)
class Account:
    """A user or a service client.

    Args:
        name: The subject of its tokens, one name space for both kinds.
        kind: User or client.
        generation: Random; made anew by whatever ends all tokens of the account, which carry it, so that neither enabling nor
            a new account of the same name revives one.
        tenant: The tenant; the empty string is a tenant of its own.
        roles: The assigned roles, sorted.
        claims: What its tokens carry beyond the claims of RFC 9068.
        disabled: Whether it may neither log in nor connect.
        development: Whether development mode made it; production does not start while there is one.
        password_hash: A user's password, hashed.
        secret_hash: A client's secret, hashed.
        previous_secret_hash: The secret before, hashed.
        previous_secret_until: Unix seconds until which the previous secret still counts.
        created_at: Unix seconds.
    """

    name: str
    kind: AccountKind
    generation: str
    tenant: str = ""
    roles: tuple[str, ...] = ()
    claims: Mapping[str, str] = field(default_factory=dict)
    disabled: bool = False
    development: bool = False
    password_hash: str | None = field(default=None, repr=False)
    secret_hash: str | None = field(default=None, repr=False)
    previous_secret_hash: str | None = field(default=None, repr=False)
    previous_secret_until: float = 0.0
    created_at: float = 0.0


def is_name(text: str) -> bool:
    """Tell whether an account can have this name."""
    return _NAME.fullmatch(text) is not None


def check_name(name: str) -> str:
    """Take a name for a new account.

    Raises:
        AccountError: It has a character that no name has, is too long, or is the public client's.
    """
    if not is_name(name):
        raise AccountError("an account's name has 1 to 64 characters of A-Z, a-z, 0-9 and `_.@+-`")
    if name == PUBLIC_CLIENT:
        raise AccountError(f"`{PUBLIC_CLIENT}` is the name of the public client; choose another")
    return name


def check_password(password: str) -> str:
    """Take a new password, as it is to be typed at the login.

    Raises:
        AccountError: It is too short, too long, or cannot be typed (control characters, lone surrogates).
    """
    if not MIN_PASSWORD_CHARS <= len(password) <= MAX_PASSWORD_CHARS:
        raise AccountError(f"a password has {MIN_PASSWORD_CHARS} to {MAX_PASSWORD_CHARS} characters")
    if any(character < " " or character == "\x7f" or "\ud800" <= character <= "\udfff" for character in password):
        raise AccountError("a password has no control characters and is valid UTF-8")
    return password


def read_password(line: str) -> str:
    """Strip the one newline that a pipe leaves behind a password."""
    return line.removesuffix("\n").removesuffix("\r") if line.endswith("\n") else line


def check_tenant(tenant: str) -> str:
    """Take the tenant of a new account.

    Raises:
        AccountError: It is too long or has a control character.
    """
    if len(tenant) > MAX_TENANT_CHARS or _TENANT.fullmatch(tenant) is None:
        raise AccountError(f"a tenant has at most {MAX_TENANT_CHARS} characters, none of them a control character")
    return tenant


def check_roles(roles: Iterable[str], known: frozenset[str]) -> tuple[str, ...]:
    """Take the roles of an account: sorted, each once.

    Raises:
        AccountError: The policy defines no such role.
    """
    assigned = tuple(sorted(set(roles)))
    for role in assigned:
        if role not in known:
            names = ", ".join(f"`{name}`" for name in sorted(known)) or "none"
            raise AccountError(f"the policy defines no role `{role}`; it defines {names}")
        if _ROLE.fullmatch(role) is None:
            raise AccountError(f"role `{role}` cannot stand in a scope (RFC 6749); rename it in the policy")
    return assigned


def check_claims(claims: Mapping[str, str]) -> dict[str, str]:
    """Take the claims that an account's tokens carry of their own.

    Raises:
        AccountError: A name is JWT's own or none at all, a value is too long, or there are too many.
    """
    if len(claims) > MAX_CLAIMS:
        raise AccountError(f"an account has at most {MAX_CLAIMS} claims")
    for name, value in claims.items():
        if name in RESERVED_CLAIMS:
            raise AccountError(f"claim `{name}` belongs to the token itself; choose another name")
        if _CLAIM_NAME.fullmatch(name) is None:
            raise AccountError("a claim's name has 1 to 64 characters of A-Z, a-z, 0-9 and `_.:/-`")
        if len(value) > MAX_CLAIM_CHARS or any("\ud800" <= character <= "\udfff" for character in value):
            raise AccountError(f"the value of claim `{name}` has more than {MAX_CLAIM_CHARS} characters or is no UTF-8")
    return dict(claims)


def fingerprint(secret: str) -> str:
    """Hash a random secret of at least 256 bits: what cannot be guessed needs neither salt nor slowness."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def secret_matches(account: Account | None, secret: str, now: float) -> bool:
    """Compare a client's secret, in constant time, with its present one and with the one before while that still counts."""
    given = fingerprint(secret)
    present = previous = None
    if account is not None and account.kind is AccountKind.CLIENT:
        present = account.secret_hash
        previous = account.previous_secret_hash if now < account.previous_secret_until else None
    matches = [hmac.compare_digest(given, known or "") for known in (present, previous)]
    return any(matches)


def roles_in_force(stored: tuple[str, ...], narrowed_to: tuple[str, ...] | None) -> tuple[str, ...]:
    """Give the roles that count: the store's, and of a narrowed token only those that it has in common with the store.

    Args:
        stored: The account's roles now.
        narrowed_to: The roles of a token that a requested scope has narrowed; None for any other token.
    """
    if narrowed_to is None:
        return stored
    return tuple(role for role in stored if role in narrowed_to)
