"""What this node knows of accounts and revocations without asking: caches that the change feed keeps true.

Owns the caches, their bounds, and when they may be believed: only while the feed has been heard from within a second. Else the
database is asked, so that a node without a feed, or with a broken one, is slow but never wrong.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

from gateway.core.accounts import Account
from gateway.core.principal import Principal, TokenIdentity
from gateway.runtime.identity_ports import AccountStore, Revocations
from gateway.runtime.ports import Change, ChangeKind

MAX_ACCOUNTS = 10_000
MAX_REVOKED = 100_000
BELIEVED_S = 1.0
_READS = 3

_Key = TypeVar("_Key")
_Value = TypeVar("_Value")


def _put(table: OrderedDict[_Key, _Value], key: _Key, value: _Value, most: int) -> None:
    table[key] = value
    table.move_to_end(key)
    if len(table) > most:
        table.popitem(last=False)


class AccountDirectory:
    """Accounts and revocations as this node sees them.

    Args:
        accounts: Where accounts are asked for.
        revocations: Where revocations are asked for.
        monotonic: Seconds on a clock that is never set.
    """

    def __init__(self, accounts: AccountStore, revocations: Revocations, monotonic: Callable[[], float]) -> None:
        self._accounts = accounts
        self._revocations = revocations
        self._monotonic = monotonic
        self._heard_at = float("-inf")
        self._known: OrderedDict[str, Account] = OrderedDict()
        self._roles: OrderedDict[str, tuple[str, ...]] = OrderedDict()
        self._ended: OrderedDict[str, str] = OrderedDict()
        self._revoked: OrderedDict[tuple[ChangeKind, str, str], None] = OrderedDict()
        self._heard = 0

    def believe(self, asked_at: float) -> None:
        """Note that every change up to a time on the monotonic clock has been heard."""
        self._heard_at = asked_at

    async def load(self, now: float) -> None:
        """Read all revocations that still matter, dropping those that no longer do."""
        heard = self._heard
        live = await self._revocations.live(now, MAX_REVOKED)
        if heard == self._heard:
            self._revoked = OrderedDict(((change.kind, change.issuer, change.key), None) for change in live)

    def hear(self, change: Change) -> None:
        """Take a change in, before anybody else is told of it."""
        self._heard += 1
        match change.kind:
            case ChangeKind.ROLES:
                self._known.pop(change.subject, None)
                _put(self._roles, change.subject, change.roles, MAX_ACCOUNTS)
            case ChangeKind.SUBJECT_ENDED:
                self._known.pop(change.subject, None)
                _put(self._ended, change.subject, change.key, MAX_ACCOUNTS)
            case ChangeKind.TOKEN_REVOKED | ChangeKind.FAMILY_REVOKED:
                _put(self._revoked, (change.kind, change.issuer, change.key), None, MAX_REVOKED)
            case ChangeKind.KEYS:
                pass

    def known(self, name: str) -> Account | None:
        """Give an account as it was within the last second, where this node knows it without asking."""
        account = self._known.get(name) if self._is_current() else None
        if account is not None:
            self._known.move_to_end(name)
        return account

    async def find(self, name: str) -> Account | None:
        """Ask for an account as it is now."""
        for _ in range(_READS):
            heard = self._heard
            account = await self._accounts.find(name)
            if heard == self._heard:
                break  # else a change was heard while the answer was on its way, and may be newer than it
        if account is not None and heard == self._heard:
            _put(self._roles, name, account.roles, MAX_ACCOUNTS)
        if account is not None and self._is_current() and heard == self._heard:
            _put(self._known, name, replace(account, password_hash=None), MAX_ACCOUNTS)
            if name in self._ended:
                self._ended[name] = account.generation  # a name created anew has an end behind it
        return account

    def newest_roles(self, name: str) -> tuple[str, ...] | None:
        """Give the roles of an account by the last news or answer of it, without asking; what is newer is yet to be heard."""
        return self._roles.get(name)

    async def is_revoked(self, token: TokenIdentity) -> bool:
        """Tell whether a token or its family has been revoked."""
        if self._knows_revoked(token):
            return True
        if self._is_current() and len(self._revoked) < MAX_REVOKED:
            return False
        return await self._revocations.is_revoked(token)

    def is_known_revoked(self, principal: Principal) -> bool:
        """Tell, without asking, whether this node knows the token, its family or its account to have ended."""
        token = principal.token
        if self._knows_revoked(token):
            return True
        if not token.generation:
            return False
        current = self._ended.get(principal.subject)
        return current is not None and current != token.generation

    def _knows_revoked(self, token: TokenIdentity) -> bool:
        revoked = self._revoked
        return (ChangeKind.TOKEN_REVOKED, token.issuer, token.jti) in revoked or (
            bool(token.family) and (ChangeKind.FAMILY_REVOKED, token.issuer, token.family) in revoked
        )

    def _is_current(self) -> bool:
        return self._monotonic() - self._heard_at <= BELIEVED_S
