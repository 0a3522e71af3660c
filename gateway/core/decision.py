"""The answer of the policy to one question. Owns the types; how a policy reaches them stands in `policy`."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Protocol

from gateway.core.errors import ErrorCode
from gateway.core.principal import ConnectionFacts, Principal


class Effect(enum.StrEnum):
    """What a decision does."""

    ALLOW = "allow"
    DENY = "deny"


class Reason(enum.StrEnum):
    """Why: a label of `gateway_decisions_total`."""

    RULE = "rule"
    DEFAULT = "default"
    CONDITION = "condition"
    ERROR = "error"
    OBLIGATION = "obligation"


@dataclass(frozen=True, slots=True)
class Decision:
    """Effect, reason, and the rule that decided.

    Args:
        effect: Allow or deny.
        reason: `rule` on every allow; on a deny what denied.
        rule: `file:line` of the deciding rule, or `default`. For the log and `policy explain`, never for the peer.
        code: What the peer is told on a deny: `permission_denied`, `signature_required` or `rate_limited`.
        retry_after_s: Seconds until the rule's rate lets one more through; only with `rate_limited`.
        detail: For the log: the error of a `when`, the unmet obligation.
    """

    effect: Effect
    reason: Reason
    rule: str = "default"
    code: ErrorCode | None = None
    retry_after_s: float | None = None
    detail: str = ""

    @property
    def allowed(self) -> bool:
        """Whether the command may go on."""
        return self.effect is Effect.ALLOW


@dataclass(frozen=True, slots=True)
class Permission:
    """An action that a principal may do, for `session.permissions`.

    Args:
        action: The registered action.
        conditional: Whether a `when` has the last word.
    """

    action: str
    conditional: bool


@dataclass(frozen=True, slots=True)
class ChannelOptions:
    """What the first matching `channels` entry gives a channel; the defaults are those of an unmatched one.

    Args:
        history_messages: How many messages are kept; 0 keeps none.
        history_ttl_s: Seconds that a message is kept.
        presence: Whether members are kept and joins and leaves pushed.
    """

    history_messages: int = 0
    history_ttl_s: float = 0.0
    presence: bool = False


class BoundPolicy(Protocol):
    """A policy as it stands for one principal: what a session holds and asks before every single action."""

    def decide(
        self, action: str, channel: str | None, data: object, connection: ConnectionFacts, now: float
    ) -> Decision:
        """Decide one command; take a token of the rule's rate where the deciding allow has one. Never raises."""
        ...

    def stands(self, action: str, channel: str | None, *, signed: bool) -> bool:
        """Tell whether the answer is an allow whatever the data and whenever it is asked, on a connection of that kind."""
        ...

    def permissions(self, actions: tuple[str, ...], channel: str | None) -> list[Permission]:
        """List those of `actions` that may be done on `channel` (None: without one), obligations set aside."""
        ...


class Policy(Protocol):
    """A compiled, immutable policy.

    `version` is the first 12 hexadecimal digits of the SHA-256 over its files.
    """

    @property
    def version(self) -> str:
        """Give the version that logs and metrics name."""
        ...

    @property
    def roles(self) -> frozenset[str]:
        """Give the names of the roles that it defines."""
        ...

    def bind(self, principal: Principal) -> BoundPolicy:
        """Give the policy for one principal, from a bounded cache keyed by all that a rule can read of it."""
        ...

    def channel_options(self, channel: str) -> ChannelOptions:
        """Give the options of a channel: the first match in file-name order counts."""
        ...
