"""The compiled policy: from documents to what a session holds.

Owns the merging of roles, the binding to principals and the options of channels. Refuses to own files, the language of conditions,
and (`bound_policy`) the meaning of rules.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

from gateway.core.bound_policy import BoundRules, CacheLimits
from gateway.core.conditions import Condition, ConditionCompiler, ConditionTextError, PrincipalPart
from gateway.core.decision import ChannelOptions
from gateway.core.documents import DocumentFile, Finding
from gateway.core.errors import GatewayError
from gateway.core.patterns import PatternIndex, channel_segments
from gateway.core.policy_document import PolicyText, Route, read_policy
from gateway.core.principal import Principal
from gateway.core.rules import RateTable, RoleSet, Rule, compiled_rule, rule_number

DEFAULT_LIMITS: Final = CacheLimits()
_NO_OPTIONS: Final = ChannelOptions()
_NO_VALUES: Final[Mapping[str, str | None]] = {}


class PolicyRefusedError(GatewayError):
    """A policy that is refused whole.

    Args:
        findings: Everything that is wrong with it; at least one.
    """

    def __init__(self, findings: tuple[Finding, ...]) -> None:
        more = f" (and {len(findings) - 1} more)" if len(findings) > 1 else ""
        super().__init__(f"{findings[0]}{more}")
        self.findings = findings


class CompiledPolicy:
    """A compiled, immutable policy; see `gateway.core.decision.Policy`.

    Args:
        text: The merged documents, without findings.
        conditions: The compiled condition of each text that stands in them.
        version: What logs and metrics call it.
        limits: How much it keeps.
    """

    def __init__(
        self, text: PolicyText, conditions: Mapping[str, Condition], version: str, limits: CacheLimits = DEFAULT_LIMITS
    ) -> None:
        self.text = text
        self._limits = limits
        self._version = version
        self._roles = frozenset(text.roles)
        self._rates = RateTable()
        self._bound: dict[tuple[object, ...], BoundRules] = {}
        self._role_sets: dict[tuple[str, ...], RoleSet] = {}
        self._rules: dict[str, list[Rule]] = {}
        number = 0
        for role in text.roles.values():
            self._rules[role.name] = []
            for rule in role.rules:
                condition = None if rule.when is None else conditions[rule.when]
                self._rules[role.name].append(compiled_rule(number, rule, condition))
                number += 1
        self._channels: PatternIndex[tuple[int, ChannelOptions]] = PatternIndex(missing_matches=False)
        for place, entry in enumerate(text.channels):
            options = ChannelOptions(entry.history_messages, entry.history_ttl_s, entry.presence)
            self._channels.add(entry.match, (place, options))
        self._options: dict[str, ChannelOptions] = {}

    @property
    def version(self) -> str:
        """Give the version that logs and metrics name."""
        return self._version

    @property
    def roles(self) -> frozenset[str]:
        """Give the names of the roles that it defines."""
        return self._roles

    @property
    def routes(self) -> tuple[Route, ...]:
        """Give the upstream routes; the first match counts."""
        return tuple(self.text.routes)

    def channel_patterns(self) -> list[tuple[str, ChannelOptions]]:
        """List the `channels` entries, in the order in which they count: the pattern and what its channels have."""
        return [
            (":".join(entry.match), ChannelOptions(entry.history_messages, entry.history_ttl_s, entry.presence))
            for entry in self.text.channels
        ]

    def rules_of(self, role: str) -> tuple[Rule, ...]:
        """Give a role's own rules and those it inherits; none for an unknown role."""
        return self._role_set((role,)).rules

    def inherited(self, roles: Iterable[str]) -> list[str]:
        """Give known roles and all that they inherit from, each once, heirs first."""
        reached: dict[str, None] = {}
        waiting = deque(roles)
        while waiting:
            name = waiting.popleft()
            if name not in reached:
                reached[name] = None
                waiting.extend(parent for parent, _ in self.text.roles[name].inherits)
        return list(reached)

    def bind(self, principal: Principal) -> BoundRules:
        """Give the policy for one principal, from a bounded cache keyed by all that a rule can read of it."""
        rules = self._role_set(principal.roles)
        values = rules.values(principal)
        reads = rules.reads
        claims = b""
        if PrincipalPart.CLAIMS in reads:
            try:
                claims = msgspec.json.encode(dict(principal.claims), order="sorted")
            except (TypeError, ValueError, RecursionError):
                # Claims that are not JSON's cannot be told apart, so nobody shares what is bound to them.
                return BoundRules(rules, principal, values, self._rates, self._limits)
        key = (
            principal.roles,
            tuple(values.values()),
            principal.subject if PrincipalPart.SUBJECT in reads else None,
            principal.tenant if PrincipalPart.TENANT in reads else None,
            claims,
        )
        bound = self._bound.get(key)
        if bound is None:
            bound = BoundRules(rules, principal, values, self._rates, self._limits)
            if len(self._bound) >= self._limits.bound_policies:
                del self._bound[next(iter(self._bound))]
            self._bound[key] = bound
        return bound

    def channel_options(self, channel: str) -> ChannelOptions:
        """Give the options of a channel: the first match in file-name order counts."""
        options = self._options.get(channel)
        if options is None:
            matches = self._channels.match(channel_segments(channel), _NO_VALUES)
            options = min(matches, key=_place)[1] if matches else _NO_OPTIONS
            if len(self._options) >= self._limits.channels:
                self._options.clear()
            self._options[channel] = options
        return options

    def forget_rates(self) -> None:
        """Fill all buckets, so that policy tests do not use up each other's."""
        self._rates.clear()

    def _role_set(self, roles: tuple[str, ...]) -> RoleSet:
        known = tuple(sorted(self._roles.intersection(roles)))
        role_set = self._role_sets.get(known)
        if role_set is None:
            gathered = (rule for role in self.inherited(known) for rule in self._rules[role])
            role_set = RoleSet(tuple(sorted(gathered, key=rule_number)))
            if len(self._role_sets) >= self._limits.role_sets:
                del self._role_sets[next(iter(self._role_sets))]
            self._role_sets[known] = role_set
        return role_set


def _place(match: tuple[int, ChannelOptions]) -> int:
    return match[0]


def compile_policy(
    files: Iterable[DocumentFile], compiler: ConditionCompiler, version: str = "", limits: CacheLimits = DEFAULT_LIMITS
) -> CompiledPolicy:
    """Compile documents into a policy.

    Args:
        files: The documents, in file-name order.
        compiler: What makes conditions of the texts of `when`.
        version: What logs and metrics will call the policy.
        limits: How much it may keep.

    Raises:
        PolicyRefusedError: Anything is wrong with any of them.
    """
    text = read_policy(files)
    conditions: dict[str, Condition] = {}
    findings = list(text.findings)
    for role in text.roles.values():
        for rule in role.rules:
            if rule.when is None or rule.when in conditions:
                continue
            try:
                conditions[rule.when] = compiler.compile(rule.when)
            except ConditionTextError as error:
                findings.append(Finding(rule.file, rule.when_line, f"`when` is refused: {error}"))
    if findings:
        raise PolicyRefusedError(tuple(sorted(findings, key=_where)))
    return CompiledPolicy(text, conditions, version, limits)


def _where(finding: Finding) -> tuple[str, int]:
    return finding.file, finding.line
