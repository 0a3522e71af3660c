"""Rules, compiled and indexed: what a set of roles may do, found without walking what does not match.

Owns the index of rules by action and channel, what rules read of a principal, and the table of their rates. Refuses to own which
of the matching rules decides; that is `bound_policy`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from gateway.core.conditions import Condition, PrincipalPart
from gateway.core.decision import Decision, Effect, Reason
from gateway.core.errors import ErrorCode
from gateway.core.limits import TokenBucket
from gateway.core.patterns import (
    SUBJECT,
    TENANT,
    PatternIndex,
    action_segments,
    channel_segments,
    claim_name,
    is_placeholder,
)
from gateway.core.policy_document import Rate, RuleText
from gateway.core.principal import Principal

MAX_RATE_BUCKETS: Final = 65_536
# A value with one of these could stand for more than one segment.
_UNUSABLE: Final = frozenset(":*")
_NO_VALUES: Final[Mapping[str, str | None]] = {}


@dataclass(frozen=True, slots=True, eq=False)
class Rule:
    """A rule that has been compiled.

    Args:
        number: Its place in the policy; names its rate.
        text: The rule as written.
        condition: Its condition, or None.
        granted: The decision where it decides an allow.
        refused: The decision where it decides a deny.
    """

    number: int
    text: RuleText
    condition: Condition | None
    granted: Decision
    refused: Decision

    @property
    def obliges(self) -> bool:
        """Tell whether an allow of it depends on more than its condition."""
        return self.text.signed or self.text.rate is not None

    def denial(self, reason: Reason, code: ErrorCode, detail: str, retry_after_s: float | None = None) -> Decision:
        """Make a deny that names this rule."""
        return Decision(Effect.DENY, reason, self.text.location, code, retry_after_s, detail)


def compiled_rule(number: int, text: RuleText, condition: Condition | None) -> Rule:
    """Make a rule, with the decisions that it will give again and again."""
    return Rule(
        number,
        text,
        condition,
        granted=Decision(Effect.ALLOW, Reason.RULE, text.location),
        refused=Decision(Effect.DENY, Reason.RULE, text.location, ErrorCode.PERMISSION_DENIED),
    )


class RateTable:
    """The buckets of all rules, tenants and subjects on this node.

    Bounded: beyond `limit` the one that was used longest ago is forgotten, which is the likeliest to be full again.
    """

    __slots__ = ("_buckets", "_limit")

    def __init__(self, limit: int = MAX_RATE_BUCKETS) -> None:
        self._limit = limit
        self._buckets: dict[tuple[int, str, str], TokenBucket] = {}

    def bucket(self, key: tuple[int, str, str], rate: Rate, now: float) -> TokenBucket:
        """Give the bucket of a rule, tenant and subject, as the one that was used last."""
        bucket = self._buckets.pop(key, None)
        if bucket is None:
            bucket = TokenBucket(rate.per_s, rate.burst, now)
            if len(self._buckets) >= self._limit:
                del self._buckets[next(iter(self._buckets))]
        elif now < bucket.at:
            # The wall clock was set back; without this the bucket would drain by the difference.
            bucket.at = now
        self._buckets[key] = bucket
        return bucket

    def clear(self) -> None:
        """Fill all buckets."""
        self._buckets.clear()


class _Cell:
    """The rules under one pattern of actions."""

    __slots__ = ("channel_rules", "plain_rules")

    def __init__(self, *, missing_matches: bool) -> None:
        self.plain_rules: list[Rule] = []
        self.channel_rules: PatternIndex[Rule] = PatternIndex(missing_matches=missing_matches)


class RuleIndex:
    """Rules of one effect, found by action and channel in time that does not grow with their number."""

    __slots__ = ("_actions", "_cells", "_missing_matches")

    def __init__(self, *, missing_matches: bool) -> None:
        self._missing_matches = missing_matches
        self._actions: PatternIndex[_Cell] = PatternIndex(missing_matches=missing_matches)
        self._cells: dict[tuple[str, ...], _Cell] = {}

    def add(self, rule: Rule) -> None:
        """Enter a rule under each of its patterns."""
        for pattern in rule.text.actions:
            cell = self._cells.get(pattern)
            if cell is None:
                cell = self._cells[pattern] = _Cell(missing_matches=self._missing_matches)
                self._actions.add(pattern, cell)
            if rule.text.channels is None:
                cell.plain_rules.append(rule)
            else:
                for channel_pattern in rule.text.channels:
                    cell.channel_rules.add(channel_pattern, rule)

    def match(self, action: str, channel: str | None, values: Mapping[str, str | None]) -> list[Rule]:
        """Give the rules that match, in the order of the policy, each once."""
        found: list[Rule] = []
        segments = None if channel is None else channel_segments(channel)
        for cell in self._actions.match(action_segments(action), _NO_VALUES):
            found.extend(cell.plain_rules if segments is None else cell.channel_rules.match(segments, values))
        if len(found) > 1:
            return sorted(set(found), key=rule_number)
        return found


def rule_number(rule: Rule) -> int:
    """Give what rules are ordered by: their place in the policy."""
    return rule.number


class RoleSet:
    """The rules of one set of roles, inherited ones included, and what they can read of a principal."""

    __slots__ = ("allows", "denies", "placeholders", "reads", "rules")

    def __init__(self, rules: tuple[Rule, ...]) -> None:
        self.rules = rules
        self.allows = RuleIndex(missing_matches=False)
        self.denies = RuleIndex(missing_matches=True)
        placeholders: set[str] = set()
        reads: set[PrincipalPart] = set()
        for rule in rules:
            (self.allows if rule.text.effect is Effect.ALLOW else self.denies).add(rule)
            placeholders.update(
                segment for pattern in rule.text.channels or () for segment in pattern if is_placeholder(segment)
            )
            if rule.condition is not None:
                reads |= rule.condition.reads
            if rule.text.rate is not None:
                reads |= {PrincipalPart.SUBJECT, PrincipalPart.TENANT}
        self.placeholders = tuple(sorted(placeholders))
        self.reads = frozenset(reads)

    def values(self, principal: Principal) -> dict[str, str | None]:
        """Give what each placeholder of these rules stands for; None where the principal has no usable value."""
        values: dict[str, str | None] = {}
        for placeholder in self.placeholders:
            if placeholder == SUBJECT:
                value: object = principal.subject
            elif placeholder == TENANT:
                value = principal.tenant
            else:
                value = principal.claims.get(claim_name(placeholder))
            values[placeholder] = (
                value if isinstance(value, str) and value and not _UNUSABLE.intersection(value) else None
            )
        return values
