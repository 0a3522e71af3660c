"""Questions to a policy from people: `policy explain`, and the tests that stand beside a policy.

Owns what a question must be to make sense, and the running of policy tests, all without a clock. Refuses to own the answer: that is
the same `decide` that a session asks.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from gateway.core.channels import valid_channel
from gateway.core.commands import ActionRegistry, ChannelUse
from gateway.core.decision import Decision, Effect, Reason
from gateway.core.documents import (
    DocumentError,
    DocumentFile,
    Finding,
    Node,
    Scalar,
    flag,
    known_members,
    nodes,
    number,
    plain,
    plain_members,
    quoted,
    text,
    texts,
)
from gateway.core.patterns import ANY, REST, PatternError, parse_action_pattern
from gateway.core.policy import CompiledPolicy
from gateway.core.principal import ConnectionFacts, Principal

TEST_MEMBERS: Final = ("as", "action", "channel", "data", "signed", "ip", "origin", "now", "expect")
PRINCIPAL_MEMBERS: Final = ("role", "roles", "tenant", "subject", "claims")
NO_PERMISSION_NEEDED: Final = Decision(Effect.ALLOW, Reason.RULE, "built-in", detail="needs no permission")
_NO_FACTS: Final = ConnectionFacts()
_LATEST_NOW: Final = 253_402_300_799.0  # the last second of the year 9999, where calendars of four digits end


@dataclass(frozen=True, slots=True)
class Question:
    """May this principal do this?

    Args:
        principal: Who.
        action: What.
        channel: Where, or None.
        data: The command's data, JSON's model; None where absent.
        connection: Facts about the connection.
        now: Unix seconds; None for the time of asking.
    """

    principal: Principal
    action: str
    channel: str | None = None
    data: object = None
    connection: ConnectionFacts = _NO_FACTS
    now: float | None = None


@dataclass(frozen=True, slots=True)
class PolicyTest:
    """A question with the effect that its answer has to have, and where it stands."""

    file: str
    line: int
    question: Question
    expect: Effect


def unusable(question: Question, actions: ActionRegistry) -> str | None:
    """Tell why a question makes no sense, as the command would be refused before any policy is asked; None where it does."""
    try:
        pattern = parse_action_pattern(question.action)
    except PatternError as error:
        return f"{quoted(question.action)} is no action: {error}"
    if ANY in pattern or REST in pattern:
        return f"{quoted(question.action)} is a pattern; ask for one action"
    if question.channel is not None and not valid_channel(question.channel):
        return f"{quoted(question.channel)} is no channel name"
    spec = actions.find(question.action)
    if spec is not None and spec.channel is ChannelUse.REQUIRED and question.channel is None:
        return f"{quoted(question.action)} needs a channel"
    if spec is not None and spec.channel is ChannelUse.NONE and question.channel is not None:
        return f"{quoted(question.action)} takes no channel"
    return None


def ask(policy: CompiledPolicy, actions: ActionRegistry, question: Question, now: float) -> Decision:
    """Answer a question as a session would get it answered.

    Args:
        policy: The policy.
        actions: Which actions need no permission.
        question: A question that makes sense.
        now: Unix seconds that count where the question names none.
    """
    if not actions.needs_permission(question.action):
        return NO_PERMISSION_NEEDED
    at = now if question.now is None else question.now
    bound = policy.bind(question.principal)
    return bound.decide(question.action, question.channel, question.data, question.connection, at)


def read_policy_tests(files: Iterable[DocumentFile], actions: ActionRegistry) -> tuple[list[PolicyTest], list[Finding]]:
    """Read tests; what is no test is a finding."""
    tests: list[PolicyTest] = []
    findings: list[Finding] = []
    for file in files:
        for entry in _entries(file, findings):
            try:
                test = _policy_test(file.name, entry)
            except DocumentError as error:
                findings.append(Finding(file.name, error.line, error.reason))
                continue
            reason = unusable(test.question, actions)
            if reason is None:
                tests.append(test)
            else:
                findings.append(Finding(test.file, test.line, reason))
    return tests, findings


def run_policy_tests(
    policy: CompiledPolicy, tests: Iterable[PolicyTest], actions: ActionRegistry, now: float
) -> list[Finding]:
    """Ask every question; give a finding for each answer that is not the expected one.

    Args:
        policy: The policy.
        tests: The tests; none uses up another's rate.
        actions: Which actions need no permission.
        now: Unix seconds for the tests that name no time.
    """
    findings = []
    for test in tests:
        policy.forget_rates()
        decision = ask(policy, actions, test.question, now)
        if decision.effect is not test.expect:
            findings.append(Finding(test.file, test.line, _surprise(test, decision)))
    return findings


def _surprise(test: PolicyTest, decision: Decision) -> str:
    question = test.question
    where = "" if question.channel is None else f" on {quoted(question.channel)}"
    why = f"{decision.reason.value} {decision.rule}" if decision.rule != decision.reason.value else decision.rule
    more = f", {decision.detail}" if decision.detail else ""
    return (
        f"expected {test.expect.value}, got {decision.effect.value} of {quoted(question.action)}{where} ({why}{more})"
    )


def _entries(file: DocumentFile, findings: list[Finding]) -> tuple[Node, ...]:
    if file.root is None:
        return ()
    try:
        return nodes(file.root, "a file of policy tests")
    except DocumentError as error:
        findings.append(Finding(file.name, error.line, error.reason))
        return ()


def _policy_test(file: str, node: Node) -> PolicyTest:
    found = known_members(node, "a policy test", TEST_MEMBERS, ("as", "action", "expect"))
    connection = ConnectionFacts(
        ip=_address(found["ip"]) if "ip" in found else "",
        origin=text(found["origin"], "`origin`") if "origin" in found else "",
        signed=flag(found["signed"], "`signed`") if "signed" in found else False,
    )
    question = Question(
        principal=_principal(found["as"]),
        action=text(found["action"], "`action`"),
        channel=text(found["channel"], "`channel`") if "channel" in found else None,
        data=plain(found["data"]) if "data" in found else None,
        connection=connection,
        now=_instant(found["now"]) if "now" in found else None,
    )
    return PolicyTest(file, node.line, question, _effect(found["expect"]))


def _principal(node: Node) -> Principal:
    found = known_members(node, "`as`", PRINCIPAL_MEMBERS)
    if "role" in found and "roles" in found:
        raise DocumentError(node.line, "`as` takes `role` or `roles`, not both")
    roles: set[str] = set()
    if "role" in found:
        roles = {text(found["role"], "`role`")}
    elif "roles" in found:
        roles = {entry.value for entry in texts(found["roles"], "`roles`")}
    claims: Mapping[str, object] = plain_members(found["claims"], "`claims`") if "claims" in found else {}
    return Principal(
        subject=text(found["subject"], "`subject`") if "subject" in found else "",
        tenant=text(found["tenant"], "`tenant`") if "tenant" in found else "",
        roles=tuple(sorted(roles)),
        claims=claims,
    )


def _effect(node: Node) -> Effect:
    try:
        return Effect(text(node, "`expect`"))
    except ValueError as error:
        raise DocumentError(node.line, "`expect` must be allow or deny") from error


def _address(node: Node) -> str:
    address = text(node, "`ip`")
    try:
        return str(ipaddress.ip_address(address))
    except ValueError as error:
        raise DocumentError(node.line, f"{quoted(address)} is no IP address") from error


def _instant(node: Node) -> float:
    """Read Unix seconds, or a date and time with its zone (RFC 3339)."""
    if not isinstance(node, Scalar) or not isinstance(node.value, str):
        return number(node, "`now`", 0, _LATEST_NOW)
    try:
        instant = datetime.fromisoformat(node.value)
    except ValueError as error:
        raise DocumentError(node.line, f"{quoted(node.value)} is no time, such as 2026-01-31T12:00:00Z") from error
    if instant.tzinfo is None:
        raise DocumentError(node.line, f"{quoted(node.value)} lacks its zone, such as Z")
    return instant.timestamp()
