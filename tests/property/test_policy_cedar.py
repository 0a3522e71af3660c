"""The policy engine against Cedar, which others wrote: the same roles and rules in both languages, the same answers.

What both have is translated: inheritance of roles, patterns, placeholders, denies that beat allows, conditions on the assigned
roles. Cedar skips a policy that errs, so conditions that err, and obligations, are the naive model's matter.
"""

from __future__ import annotations

import json
from typing import Any

import cedarpy
from hypothesis import given, settings
from hypothesis import strategies as st
from policy_texts import NOW, UNSIGNED, policy

from gateway.core.principal import Principal

ROLES = ("r0", "r1", "r2", "r3")
SEGMENTS = ("a", "b")
ATTRIBUTES = {"{subject}": "subject", "{tenant}": "tenant", "{claims.c}": "c"}
CONDITIONS = {
    "'r1' in principal.roles": 'principal.roles.contains("r1")',
    "!('r2' in principal.roles)": '!principal.roles.contains("r2")',
    "action == 'a.b'": 'context.action == "a.b"',
}

# ------------------------------------------------------------------------------------------------ the translation


def cedar_pattern(pattern: str, separator: str, prefix: str, *, denies: bool) -> str:
    """Write a pattern as a condition on the numbered segments that the request's context has."""
    parts = pattern.split(separator)
    open_ended = parts[-1] == "**"
    if open_ended:
        parts.pop()
        tests = [f"context.{prefix}n > {len(parts)}"]
    else:
        tests = [f"context.{prefix}n == {len(parts)}"]
    for place, part in enumerate(parts):
        segment = f"context.{prefix}{place}"
        attribute = ATTRIBUTES.get(part)
        if attribute is not None and denies:
            tests.append(f"(!(principal has {attribute}) || principal.{attribute} == {segment})")
        elif attribute is not None:
            tests.append(f"principal has {attribute} && principal.{attribute} == {segment}")
        elif part != "*":
            tests.append(f'{segment} == "{part}"')
    return "(" + " && ".join(tests) + ")"


def cedar_rule(role: str, effect: str, rule: dict[str, Any]) -> str:
    denies = effect == "deny"
    tests = [" || ".join(cedar_pattern(pattern, ".", "a", denies=denies) for pattern in rule["actions"])]
    if "channels" in rule:
        tests.append("context.cn > 0")
        tests.append(" || ".join(cedar_pattern(pattern, ":", "c", denies=denies) for pattern in rule["channels"]))
    else:
        tests.append("context.cn == 0")
    if "when" in rule:
        tests.append(CONDITIONS[rule["when"]])
    conditions = " && ".join(f"({test})" for test in tests)
    word = "forbid" if denies else "permit"
    return f'{word} (principal in Role::"{role}", action, resource) when {{ {conditions} }};'


def cedar_policies(roles: dict[str, Any]) -> str:
    return "\n".join(
        cedar_rule(role, effect, rule)
        for role, body in roles.items()
        for effect in ("allow", "deny")
        for rule in body[effect]
    )


def cedar_entities(roles: dict[str, Any], by: Principal) -> str:
    values = {"subject": by.subject, "tenant": by.tenant, "c": by.claims.get("c")}
    usable = {
        name: value
        for name, value in values.items()
        if isinstance(value, str) and value and ":" not in value and "*" not in value
    }
    entities = [
        {
            "uid": {"type": "Role", "id": role},
            "attrs": {},
            "parents": [{"type": "Role", "id": parent} for parent in body.get("inherits", ())],
        }
        for role, body in roles.items()
    ]
    entities.append(
        {
            "uid": {"type": "User", "id": "somebody"},
            "attrs": {**usable, "roles": list(by.roles)},
            "parents": [{"type": "Role", "id": role} for role in by.roles],
        }
    )
    return json.dumps(entities)


def cedar_request(action: str, channel: str | None) -> dict[str, Any]:
    actions = action.split(".")
    channels = [] if channel is None else channel.split(":")
    # Every place has a segment, so that no comparison errs; those beyond the end match nothing.
    context: dict[str, Any] = {"action": action, "an": len(actions), "cn": len(channels)}
    context |= {f"a{place}": actions[place] if place < len(actions) else "-" for place in range(8)}
    context |= {f"c{place}": channels[place] if place < len(channels) else "-" for place in range(8)}
    return {
        "principal": 'User::"somebody"',
        "action": 'Action::"ask"',
        "resource": 'Gateway::"this"',
        "context": context,
    }


# ------------------------------------------------------------------------------------------------ what is generated


def patterns(separator: str, placeholders: tuple[str, ...] = ()) -> st.SearchStrategy[str]:
    parts = st.lists(st.sampled_from(("*", *SEGMENTS, *placeholders)), max_size=2)
    last = st.sampled_from(("**", "*", *SEGMENTS, *placeholders))
    return st.builds(lambda before, end: separator.join([*before, end]), parts, last)


RULES = st.fixed_dictionaries(
    {"actions": st.lists(patterns("."), min_size=1, max_size=2)},
    optional={
        "channels": st.lists(patterns(":", tuple(ATTRIBUTES)), min_size=1, max_size=2),
        "when": st.sampled_from(tuple(CONDITIONS)),
    },
)


@st.composite
def role_tables(draw: st.DrawFn) -> dict[str, Any]:
    roles: dict[str, Any] = {}
    for place, name in enumerate(ROLES):
        roles[name] = {"allow": draw(st.lists(RULES, max_size=4)), "deny": draw(st.lists(RULES, max_size=2))}
        parents = draw(st.lists(st.sampled_from(ROLES[:place]), max_size=2, unique=True)) if place else []
        if parents:
            roles[name]["inherits"] = parents
    return roles


VALUES = st.sampled_from(("a", "b", "", "a:b", "**"))
PRINCIPALS = st.builds(
    Principal,
    subject=VALUES,
    tenant=VALUES,
    roles=st.lists(st.sampled_from((*ROLES, "unknown")), unique=True).map(lambda roles: tuple(sorted(roles))),
    claims=st.dictionaries(st.just("c"), VALUES | st.integers(-9, 9) | st.none()),
)
ACTIONS = st.lists(st.sampled_from(SEGMENTS), min_size=1, max_size=3).map(".".join)
CHANNELS = st.none() | st.lists(st.sampled_from(SEGMENTS), min_size=1, max_size=4).map(":".join)


@settings(max_examples=60)
@given(role_tables(), PRINCIPALS, st.lists(st.tuples(ACTIONS, CHANNELS), min_size=5, max_size=15))
def test_the_engine_decides_as_cedar_does(
    roles: dict[str, Any], by: Principal, questions: list[tuple[str, str | None]]
) -> None:
    bound = policy(json.dumps({"roles": roles}, indent=1)).bind(by)
    answers = cedarpy.is_authorized_batch(
        [cedar_request(action, channel) for action, channel in questions],
        cedar_policies(roles),
        cedar_entities(roles, by),
    )
    for (action, channel), answer in zip(questions, answers, strict=True):
        assert answer.diagnostics.errors == []
        decision = bound.decide(action, channel, None, UNSIGNED, NOW)
        assert decision.allowed is answer.allowed, (action, channel, decision)
