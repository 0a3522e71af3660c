"""What is allowed to be written in a policy and yet cannot be meant.

Owns the findings of `policy lint` beyond refusals: rules that never decide anything. Such a policy starts all the same, for a rule
without effect grants nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from gateway.core.commands import ActionRegistry, ChannelUse
from gateway.core.decision import Effect
from gateway.core.documents import Finding, quoted
from gateway.core.patterns import ANY, REST, action_matches, written_action
from gateway.core.policy import CompiledPolicy
from gateway.core.policy_document import RuleText

_OWN_NAMESPACES: Final = frozenset({"channel", "session"})
_API_CHANNEL_ACTIONS: Final = frozenset({"api.publish", "api.channels.presence", "api.channels.history"})


def lint(policy: CompiledPolicy, actions: ActionRegistry) -> list[Finding]:
    """List the rules that decide nothing, in the order of the policy.

    Args:
        policy: The policy.
        actions: The actions that the gateway itself carries out.
    """
    findings: list[Finding] = []
    for role in policy.text.roles.values():
        for rule in role.rules:
            for pattern, line in zip(rule.actions, rule.action_lines, strict=True):
                findings.extend(Finding(rule.file, line, reason) for reason in _reasons(rule, pattern, actions))
    return findings


def _reasons(rule: RuleText, pattern: tuple[str, ...], actions: ActionRegistry) -> Iterator[str]:
    written = quoted(written_action(pattern))
    known = [spec for spec in map(actions.find, actions.names()) if spec and action_matches(pattern, spec.name)]
    literal = ANY not in pattern and REST not in pattern
    if literal and pattern[0] in _OWN_NAMESPACES and not known:
        yield f"{written} is no action of the gateway"
    if literal and rule.effect is Effect.DENY and known and not known[0].permission:
        yield f"{written} needs no permission, so a deny does not stop it"
    all_on_channels = bool(known) and all(spec.channel is ChannelUse.REQUIRED for spec in known)
    if rule.channels is None and (all_on_channels or written_action(pattern) in _API_CHANNEL_ACTIONS):
        yield f"{written} always has a channel, and a rule without `channels` applies only where there is none"
    if rule.channels is not None and known and all(spec.channel is ChannelUse.NONE for spec in known):
        yield f"{written} never has a channel, and a rule with `channels` applies only where there is one"
