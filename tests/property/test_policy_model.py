"""The policy engine against a naive model: the rules of the documentation written down plainly, without an index or a cache."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from policy_texts import NOW, SIGNED, UNSIGNED, policy

from gateway.core.decision import Decision
from gateway.core.errors import ErrorCode
from gateway.core.principal import ConnectionFacts, Principal

ROLES = ("r0", "r1", "r2", "r3")
SEGMENTS = ("a", "b")
CONDITIONS = (
    "data.ok",
    "principal.subject == 'a'",
    "'r1' in principal.roles",
    "has(principal.claims.c)",
    "1 / 0 == 1",
    "true",
)

# ------------------------------------------------------------------------------------------------ the model


def holds(text: str, by: Principal, data: object) -> bool | None:
    """Tell what a condition says; None for an error."""
    answers = {
        "data.ok": data["ok"] if isinstance(data, dict) and isinstance(data.get("ok"), bool) else None,
        "principal.subject == 'a'": by.subject == "a",
        "'r1' in principal.roles": "r1" in by.roles,
        "has(principal.claims.c)": "c" in by.claims,
        "1 / 0 == 1": None,
        "true": True,
    }
    return answers[text]


def pattern_matches(pattern: str, separator: str, name: str, values: Mapping[str, object], *, denies: bool) -> bool:
    parts, segments = pattern.split(separator), name.split(separator)
    if parts[-1] == "**":
        parts.pop()
        if len(segments) <= len(parts):
            return False
        segments = segments[: len(parts)]
    if len(parts) != len(segments):
        return False
    for part, segment in zip(parts, segments, strict=True):
        if part.startswith("{"):
            value = values.get(part)
            if not isinstance(value, str) or value == "" or ":" in value or "*" in value:
                if not denies:
                    return False
            elif value != segment:
                return False
        elif part not in ("*", segment):
            return False
    return True


@dataclass
class Model:
    """A policy, its rules in the order of the document, and the tokens that are left of each rate."""

    roles: Mapping[str, Any]
    tokens: dict[tuple[int, str, str], int] = field(default_factory=dict)

    def rules(self) -> list[tuple[int, str, str, Mapping[str, Any]]]:
        listed = [
            (role, effect, rule)
            for role, body in self.roles.items()
            for effect in ("allow", "deny")
            for rule in body[effect]
        ]
        return [(number, *entry) for number, entry in enumerate(listed)]

    def effective(self, roles: tuple[str, ...]) -> set[str]:
        reached: set[str] = set()
        for role in roles:
            if role in self.roles:
                reached |= {role} | self.effective(tuple(self.roles[role].get("inherits", ())))
        return reached

    def matching(self, by: Principal, action: str, channel: str | None) -> Iterator[tuple[int, str, Mapping[str, Any]]]:
        """Give number, effect and text of each rule whose patterns match."""
        values = {"{subject}": by.subject, "{tenant}": by.tenant, "{claims.c}": by.claims.get("c")}
        mine = self.effective(by.roles)
        for number, role, effect, rule in self.rules():
            denies = effect == "deny"
            if role not in mine or (channel is None) is ("channels" in rule):
                continue
            if not any(pattern_matches(pattern, ".", action, {}, denies=denies) for pattern in rule["actions"]):
                continue
            if channel is None or any(
                pattern_matches(pattern, ":", channel, values, denies=denies) for pattern in rule["channels"]
            ):
                yield number, effect, rule

    def decide(self, by: Principal, action: str, channel: str | None, data: object, *, signed: bool) -> tuple[Any, ...]:
        """Give the effect, the reason, the number of the rule, and the code."""
        holding: dict[str, list[tuple[int, Mapping[str, Any]]]] = {"allow": [], "deny": []}
        erring: dict[str, list[int]] = {"allow": [], "deny": []}
        false: list[int] = []
        for number, effect, rule in self.matching(by, action, channel):
            verdict = holds(rule["when"], by, data) if "when" in rule else True
            if verdict is None:
                erring[effect].append(number)
            elif verdict:
                holding[effect].append((number, rule))
            elif effect == "allow":
                false.append(number)
        if holding["deny"] or erring["deny"]:
            return ("deny", {number for number, _ in holding["deny"]}, set(erring["deny"]))
        if erring["allow"]:
            return ("deny", "error", erring["allow"][0], ErrorCode.PERMISSION_DENIED)
        if not holding["allow"]:
            if false:
                return ("deny", "condition", false[0], ErrorCode.PERMISSION_DENIED)
            return ("deny", "default", None, ErrorCode.PERMISSION_DENIED)
        return self.oblige(by, holding["allow"], signed=signed)

    def oblige(self, by: Principal, allows: list[tuple[int, Mapping[str, Any]]], *, signed: bool) -> tuple[Any, ...]:
        ranked = []
        for number, rule in allows:
            unmet = []
            if "rate" in rule:
                left = self.tokens.setdefault((number, by.tenant, by.subject), rule["rate"]["burst"])
                if left == 0:
                    unmet.append("rate")
            if rule.get("signed") and not signed:
                unmet.append("signed")
            # Fewest unmet; of one each, rate before signed; then what obliges to least; then the order of the policy.
            obliges = 2 * ("rate" in rule) + rule.get("signed", False) * ("rate" not in rule)
            ranked.append((len(unmet), unmet != ["rate"] and bool(unmet), obliges, number, unmet))
        _, _, obliges, number, unmet = min(ranked)
        if not unmet:
            if obliges == 2:
                self.tokens[number, by.tenant, by.subject] -= 1
            return ("allow", "rule", number, None)
        code = ErrorCode.SIGNATURE_REQUIRED if "signed" in unmet else ErrorCode.RATE_LIMITED
        return ("deny", "obligation", None, code)


# ------------------------------------------------------------------------------------------------ what is generated


def patterns(separator: str, placeholders: tuple[str, ...] = ()) -> st.SearchStrategy[str]:
    """Patterns that match more often than not, or else nearly every answer would be the default."""
    parts = st.lists(st.sampled_from(("*", *SEGMENTS, *placeholders)), max_size=2)
    return st.builds(lambda before, end: separator.join([*before, end]), parts, st.sampled_from(("**", "*", *SEGMENTS)))


CHANNEL_PATTERNS = patterns(":", ("{subject}", "{tenant}", "{claims.c}"))


def rules(*, allow: bool) -> st.SearchStrategy[dict[str, Any]]:
    optional: dict[str, st.SearchStrategy[Any]] = {
        "channels": st.lists(CHANNEL_PATTERNS, min_size=1, max_size=2),
        "when": st.sampled_from(CONDITIONS),
    }
    if allow:
        optional["signed"] = st.booleans()
        optional["rate"] = st.fixed_dictionaries({"per_s": st.just(1), "burst": st.integers(1, 2)})
    return st.fixed_dictionaries({"actions": st.lists(patterns("."), min_size=1, max_size=2)}, optional=optional)


@st.composite
def policies(draw: st.DrawFn) -> dict[str, Any]:
    roles = {}
    for place, name in enumerate(ROLES[: draw(st.integers(1, 4))]):
        roles[name] = {
            "allow": draw(st.lists(rules(allow=True), max_size=4)),
            "deny": draw(st.lists(rules(allow=False), max_size=2)),
        }
        parents = draw(st.lists(st.sampled_from(ROLES[:place]), max_size=2, unique=True)) if place else []
        if parents:
            roles[name]["inherits"] = parents
    return roles


VALUES = st.sampled_from(("a", "b", "", "a:b", "*"))
# Few sets of roles in one example, so that its principals meet in the caches.
ROLE_SETS = st.lists(st.sampled_from((*ROLES, "unknown")), unique=True).map(lambda roles: tuple(sorted(roles)))
PRINCIPALS = st.builds(
    Principal,
    subject=VALUES,
    tenant=VALUES,
    roles=ROLE_SETS,
    claims=st.dictionaries(st.just("c"), st.one_of(VALUES, st.integers(-9, 9), st.none())),
)
QUESTIONS = st.tuples(
    PRINCIPALS,
    st.lists(st.sampled_from(SEGMENTS), min_size=1, max_size=3).map(".".join),
    st.none() | st.lists(st.sampled_from(SEGMENTS), min_size=1, max_size=4).map(":".join),
    st.sampled_from((None, {}, {"ok": True}, {"ok": False}, {"ok": 1})),
    st.sampled_from((SIGNED, UNSIGNED)),
)


@given(policies(), ROLE_SETS, st.lists(QUESTIONS, min_size=2, max_size=8))
def test_the_engine_decides_as_the_model_does(
    roles: dict[str, Any],
    assigned: tuple[str, ...],
    questions: list[tuple[Principal, str, str | None, object, ConnectionFacts]],
) -> None:
    compiled = policy(json.dumps({"roles": roles}, indent=1))
    places = {rule.location: number for number, rule in enumerate(_written(compiled.text.roles))}
    model = Model(roles)
    for by_any_role, action, channel, data, connection in questions * 3:
        by = dataclasses.replace(by_any_role, roles=assigned)
        decision = compiled.bind(by).decide(action, channel, data, connection, NOW)
        expected = model.decide(by, action, channel, data, signed=connection.signed)
        _compare(decision, expected, places)


def _written(roles: Mapping[str, Any]) -> list[Any]:
    return [rule for role in roles.values() for rule in role.rules]


def _compare(decision: Decision, expected: tuple[Any, ...], places: Mapping[str, int]) -> None:
    number = places.get(decision.rule)
    assert decision.effect == expected[0]
    if isinstance(expected[1], set):
        # Several denies may hold or err; whichever is asked first is named, and both deny.
        assert (decision.reason, decision.code) in (
            ("rule", ErrorCode.PERMISSION_DENIED),
            ("error", ErrorCode.PERMISSION_DENIED),
        )
        assert number in (expected[1] if decision.reason == "rule" else expected[2])
        return
    assert (decision.reason, decision.code) == (expected[1], expected[3])
    if expected[1] == "obligation":
        assert number is not None
        assert (decision.retry_after_s is not None) is (decision.code is ErrorCode.RATE_LIMITED)
    else:
        assert number == expected[2]


@given(policies(), PRINCIPALS, st.none() | st.just("a:b"))
def test_permissions_are_what_could_be_allowed(roles: dict[str, Any], by: Principal, channel: str | None) -> None:
    """Whatever is allowed to some data is listed; what is listed as unconditional is allowed whatever the data is."""
    compiled = policy(json.dumps({"roles": roles}, indent=1))
    bound = compiled.bind(by)
    actions = ("a", "b", "a.a", "a.b")
    listed = {permission.action: permission.conditional for permission in bound.permissions(actions, channel)}
    for action in actions:
        compiled.forget_rates()
        answers = [bound.decide(action, channel, data, SIGNED, NOW) for data in (None, {"ok": True}, {"ok": False})]
        if any(answer.allowed for answer in answers):
            assert action in listed
        if action in listed and not listed[action]:
            assert all(answer.reason in ("rule", "error", "obligation") for answer in answers)
