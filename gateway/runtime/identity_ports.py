"""The ports behind identity: what accounts, logins and tokens ask of the outside.

Owns no implementation. Every method that reaches the database may raise `StateUnavailableError`.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol, TypedDict, Unpack

from gateway.core.accounts import Account, AccountKind
from gateway.core.claims import AccessClaims
from gateway.core.errors import GatewayError, HandshakeRefusedError, Refusal
from gateway.core.principal import TokenIdentity
from gateway.runtime.ports import Change, ChangeKind

# ---------------------------------------------------------------------------------------------- accounts


class AccountEdit(TypedDict, total=False):
    """The members of an account that a command may change, as `Account` names them."""

    generation: str
    roles: tuple[str, ...]
    disabled: bool
    password_hash: str
    secret_hash: str
    previous_secret_hash: str | None
    previous_secret_until: float


class AccountStore(Protocol):
    """Keeps accounts. A change and its row in the change table are committed together."""

    async def find(self, name: str) -> Account | None:
        """Read an account as it is now."""
        ...

    async def all(self, kind: AccountKind) -> list[Account]:
        """List the accounts of one kind by name."""
        ...

    async def development_users(self) -> list[str]:
        """List the names of the accounts that development mode made."""
        ...

    async def add(self, account: Account) -> bool:
        """Keep a new account; answer False where the name is taken."""
        ...

    async def edit(
        self, name: str, kind: AccountKind, announce: ChangeKind, now: float, **edit: Unpack[AccountEdit]
    ) -> bool:
        """Change an account and tell every node; answer False where there is none."""
        ...

    async def rehash(self, name: str, old_hash: str, new_hash: str) -> None:
        """Replace a password's hash by a better one of the same password, unless it has changed meanwhile."""
        ...

    async def delete(self, name: str, kind: AccountKind, now: float) -> bool:
        """Forget an account and tell every node; answer False where there was none."""
        ...


# ---------------------------------------------------------------------------------------------- passwords


class HashingBusyError(GatewayError):
    """The hashing queue is full: the login is refused with 503 rather than kept waiting.

    Args:
        retry_after_s: Seconds after which there is likely to be room.
    """

    def __init__(self, retry_after_s: float) -> None:
        super().__init__("the hashing queue is full")
        self.retry_after_s = retry_after_s


@dataclass(frozen=True, slots=True)
class PasswordCheck:
    """The outcome of a password check.

    Args:
        matches: Whether it is the password.
        better_hash: Its hash by today's parameters, where the stored one has others.
    """

    matches: bool
    better_hash: str | None = field(default=None, repr=False)


class Passwords(Protocol):
    """Hashes and checks passwords, off the event loop and with a bounded queue."""

    async def hash(self, password: str) -> str:
        """Hash a new password.

        Raises:
            HashingBusyError: The queue is full.
        """
        ...

    async def check(self, password: str, stored: str | None) -> PasswordCheck:
        """Check a password; with None, or junk, stored it takes as long and never matches.

        Raises:
            HashingBusyError: The queue is full.
        """
        ...


# ---------------------------------------------------------------------------------------------- throttle


@dataclass(frozen=True, slots=True)
class Attempt:
    """An attempt to log in that has been let through; it is ended by exactly one of `failed`, `succeeded`, `abandoned`.

    Args:
        name: The name as it was given.
        address: The key that limits by address count the client under.
        spared: Whether the limits of the address and of the name do not apply.
        lease_until: What the counters know it by.
    """

    name: str
    address: str
    spared: bool
    lease_until: float


class ThrottledError(GatewayError):
    """An attempt to log in before its wait is over.

    Args:
        retry_after_s: Seconds that are left of the wait.
    """

    def __init__(self, retry_after_s: float) -> None:
        super().__init__("too many failed logins")
        self.retry_after_s = retry_after_s


class LoginThrottle(Protocol):
    """Counts failed logins and holds up the next ones, for all nodes together."""

    async def begin(self, name: str, address: str) -> Attempt:
        """Let an attempt through, waiting while others are in flight that may yet bring it to a limit.

        Raises:
            ThrottledError: It came before its wait was over; it is not counted.
        """
        ...

    async def failed(self, attempt: Attempt) -> None:
        """Count a failure."""
        ...

    async def succeeded(self, attempt: Attempt) -> None:
        """Clear the pair's counter and remember the address as the name's own."""
        ...

    async def abandoned(self, attempt: Attempt) -> None:
        """Give back an attempt that came to no end: nothing is counted."""
        ...


# ---------------------------------------------------------------------------------------------- tokens


@dataclass(frozen=True, slots=True)
class MintedToken:
    """An access token and the key behind its signed frames."""

    token: str = field(repr=False)
    signing_key: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class ProvenToken:
    """What a good signature vouches for; its times, issuer and account are still to be checked.

    Args:
        claims: The claims that have a meaning here.
        own: The token's own claims beyond them.
        payload: The claims as they were signed.
        kid: The key that signed.
        signing_key: What signed frames of its connections are signed with, before both nonces.
    """

    claims: AccessClaims
    own: Mapping[str, object]
    payload: bytes = field(repr=False)
    kid: str = ""
    signing_key: bytes = field(default=b"", repr=False)


class UnknownKeyError(HandshakeRefusedError):
    """A token whose `kid` names no key that is known here: invented, dropped, or made a moment ago by another process."""

    def __init__(self) -> None:
        super().__init__(Refusal.INVALID_TOKEN, "an unknown `kid`")


class Tokens(Protocol):
    """Signs and proves access tokens with the keys of the key store."""

    def mint(self, claims: AccessClaims, own: Mapping[str, str]) -> MintedToken:
        """Sign a token with the active key."""
        ...

    def prove(self, token: str) -> ProvenToken:
        """Prove a token's signature before anything believes its claims.

        Raises:
            UnknownKeyError: `invalid_token`, for no key of its `kid`.
            HandshakeRefusedError: `invalid_token`.
        """
        ...

    def knows(self, kid: str) -> bool:
        """Tell whether tokens with that `kid` are still good."""
        ...

    def signing_key(self, kid: str, jti: str) -> bytes | None:
        """Derive the key behind signed frames; None where the key store no longer has `kid`."""
        ...

    def jwks(self) -> dict[str, list[dict[str, str]]]:
        """Give the public keys as a JWK set (RFC 7517)."""
        ...

    async def reload(self) -> None:
        """Read the key store again."""
        ...

    async def look_again(self) -> None:
        """Read it for a key that another process may just have made, unless that was done just now."""
        ...

    async def keep_for(self, ttl_s: int) -> None:
        """Have the active key kept, once it is retired, for as long as a token of that life needs it. Before one is signed."""
        ...


@dataclass(frozen=True, slots=True)
class Family:
    """A login and all that is refreshed from it.

    Args:
        id: The `fam` claim of its access tokens.
        subject: Whose it is.
        generation: The account's generation at the login.
        client_id: The client that it was issued to, and that alone may refresh it.
        roles: The roles that the login's scope narrowed it to; None for all.
        expires_at: Unix seconds, counted from the login.
        revoked: Whether it has been ended.
    """

    id: str
    subject: str
    generation: str
    client_id: str
    roles: tuple[str, ...] | None
    expires_at: float
    revoked: bool = False


class Rotation(enum.Enum):
    """What became of an attempt to rotate a refresh token."""

    ROTATED = "rotated"
    REFUSED = "refused"
    REUSED = "reused"


class RefreshTokens(Protocol):
    """Keeps families and their refresh tokens, which it knows only by their hashes."""

    async def open(self, family: Family, token: str, access_until: float, now: float) -> None:
        """Keep a new family with its first token; its access tokens end by `access_until`."""
        ...

    async def family_of(self, token: str) -> Family | None:
        """Find the family of a token, spent or not."""
        ...

    async def rotate(self, token: str, successor: str, access_until: float, now: float) -> Rotation:
        """Spend a token and keep its successor, in one step that no other can come between.

        A spent token works once more within 10 s while its successor is unused: the answer may have been lost. That successor
        is then refused. Any other use of a spent one revokes the family, its access tokens and its connections.
        """
        ...


class Revocations(Protocol):
    """Knows which tokens and families have been revoked before they ended."""

    async def is_revoked(self, token: TokenIdentity) -> bool:
        """Look a token up by issuer and `jti`, and by its family."""
        ...

    async def revoke(self, change: Change, expires_at: float) -> bool:
        """Revoke a token and tell every node; answer False where it has been revoked before.

        Args:
            change: Names it.
            expires_at: Unix seconds from which on the token is no longer good by itself.
        """
        ...

    async def live(self, now: float, most: int) -> list[Change]:
        """List at most so many of the revocations whose tokens have not ended, each as its change."""
        ...


@dataclass(frozen=True, slots=True)
class StoredTicket:
    """What a ticket was taken with.

    Args:
        payload: The claims of its token as they were signed.
        kid: The key that signed them.
        origin: The origin that it is bound to, if any.
        expires_at: Unix seconds.
    """

    payload: bytes = field(repr=False)
    kid: str = ""
    origin: str | None = None
    expires_at: float = 0.0


class TicketStore(Protocol):
    """Keeps tickets, which it knows only by their hashes."""

    async def put(self, ticket: str, stored: StoredTicket) -> None:
        """Keep a ticket."""
        ...

    async def take(self, ticket: str) -> StoredTicket | None:
        """Take a ticket out, for the one caller that comes first; None where there is none."""
        ...


# ---------------------------------------------------------------------------------------------- changes


class ChangeLog(Protocol):
    """The change table."""

    async def newest(self) -> int:
        """Give the number of the newest change; 0 where there is none."""
        ...

    async def after(self, number: int) -> list[tuple[int, Change | None]]:
        """Read the changes after a number, at most 1,000, in order; None for a kind that only a later release knows."""
        ...

    async def prune(self, now: float) -> None:
        """Drop whatever has ended: old changes, tickets, families, revocations, idle throttle counters, retired keys."""
        ...
