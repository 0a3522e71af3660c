"""What `gateway policy` shows of roles, rules and decisions: as records for programs and as lines for people."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from gateway.core.decision import Decision, Reason
from gateway.core.patterns import written_action, written_channel
from gateway.core.policy import CompiledPolicy
from gateway.core.policy_document import RoleText, RuleText
from gateway.core.policy_questions import Question


def rule_record(rule: RuleText) -> dict[str, object]:
    """Give a rule as data; members that the rule does not have are left out."""
    record: dict[str, object] = {
        "rule": rule.location,
        "role": rule.role,
        "effect": rule.effect.value,
        "actions": [written_action(pattern) for pattern in rule.actions],
    }
    if rule.channels is not None:
        record["channels"] = [written_channel(pattern) for pattern in rule.channels]
    if rule.signed:
        record["signed"] = True
    if rule.rate is not None:
        record["rate"] = {"per_s": rule.rate.per_s, "burst": rule.rate.burst}
    if rule.when is not None:
        record["when"] = rule.when
    return record


def rule_line(rule: RuleText) -> str:
    """Give a rule as one line."""
    parts = [f"{rule.effect.value:5}", ", ".join(written_action(pattern) for pattern in rule.actions)]
    if rule.channels is not None:
        parts.append("on " + ", ".join(written_channel(pattern) for pattern in rule.channels))
    if rule.signed:
        parts.append("signed")
    if rule.rate is not None:
        parts.append(f"at most {rule.rate.per_s:g} a second (burst {rule.rate.burst:g})")
    if rule.when is not None:
        parts.append("when " + " ".join(rule.when.split()))
    return f"{' '.join(parts)}  [{rule.location}]"


def role_record(role: RoleText) -> dict[str, object]:
    """Give a role as data, with its own rules."""
    return {
        "name": role.name,
        "description": role.description,
        "inherits": [parent for parent, _ in role.inherits],
        "rules": [rule_record(rule) for rule in role.rules],
    }


def role_lines(role: RoleText) -> Iterator[str]:
    """Give a role as lines, with its own rules."""
    inherits = f" (inherits {', '.join(parent for parent, _ in role.inherits)})" if role.inherits else ""
    yield f"{role.name}{inherits}"
    if role.description:
        yield f"  {' '.join(role.description.split())}"
    for rule in role.rules:
        yield f"  {rule_line(rule)}"


def policy_record(policy: CompiledPolicy, roles: Iterable[RoleText]) -> dict[str, object]:
    """Give a policy as data."""
    return {
        "version": policy.version,
        "roles": [role_record(role) for role in roles],
        "channels": [
            {
                "match": written_channel(entry.match),
                "history": {"messages": entry.history_messages, "ttl_s": entry.history_ttl_s},
                "presence": entry.presence,
            }
            for entry in policy.text.channels
        ],
        "routes": [
            {
                "rule": route.location,
                "actions": [written_action(pattern) for pattern in route.actions],
                "upstream": {"url": route.url, "timeout_s": route.timeout_s},
            }
            for route in policy.routes
        ],
    }


def policy_lines(policy: CompiledPolicy, roles: Iterable[RoleText]) -> Iterator[str]:
    """Give a policy as lines."""
    yield f"version {policy.version}"
    for role in roles:
        yield ""
        yield from role_lines(role)
    if policy.text.channels:
        yield ""
        yield "channels, the first match counting"
    for entry in policy.text.channels:
        history = (
            f"{entry.history_messages} messages for {entry.history_ttl_s:g} s" if entry.history_messages else "none"
        )
        presence = "yes" if entry.presence else "no"
        yield f"  {written_channel(entry.match)}  history: {history}, presence: {presence}"
    if policy.routes:
        yield ""
        yield "routes, the first match counting"
    for route in policy.routes:
        actions = ", ".join(written_action(pattern) for pattern in route.actions)
        yield f"  {actions}  to {route.url} within {route.timeout_s:g} s  [{route.location}]"


def decision_record(
    policy: CompiledPolicy, question: Question, decision: Decision, matching: Iterable[RuleText]
) -> dict[str, object]:
    """Give a decision and what led to it as data."""
    return {
        "effect": decision.effect.value,
        "reason": decision.reason.value,
        "rule": decision.rule,
        "code": None if decision.code is None else decision.code.value,
        "retry_after_s": decision.retry_after_s,
        "detail": decision.detail,
        "policy": policy.version,
        "action": question.action,
        "channel": question.channel,
        "principal": {
            "subject": question.principal.subject,
            "tenant": question.principal.tenant,
            "roles": list(question.principal.roles),
            "claims": dict(question.principal.claims),
        },
        "matching": [rule_record(rule) for rule in matching],
    }


def decision_lines(question: Question, decision: Decision, matching: Iterable[RuleText]) -> Iterator[str]:
    """Give a decision and what led to it as lines; the first says the effect, the second the rule."""
    where = "" if question.channel is None else f" on {question.channel}"
    yield f"{decision.effect.value}: {question.action}{where}"
    rules = list(matching)
    deciding = next((rule for rule in rules if rule.location == decision.rule), None)
    yield f"rule: {decision.rule}" + ("" if deciding is None else f", of role {deciding.role}")
    yield f"reason: {_reason(decision)}"
    if decision.code is not None:
        yield f"code: {decision.code.value}"
    if rules:
        yield "matching rules:"
    for rule in rules:
        yield f"  {rule_line(rule)}"


def _reason(decision: Decision) -> str:
    match decision.reason:
        case Reason.DEFAULT:
            return "no rule allows it"
        case Reason.RULE:
            return decision.detail or f"the rule says {decision.effect.value}"
        case Reason.CONDITION:
            return "`when` does not hold"
        case Reason.ERROR:
            return f"`when` has no answer: {decision.detail}"
        case Reason.OBLIGATION:
            return f"`{decision.detail}` is not met"
