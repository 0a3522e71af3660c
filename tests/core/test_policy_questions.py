"""Questions from people, and the tests that stand beside a policy."""

from __future__ import annotations

import pytest
from policy_texts import NOW, document, policy, written

from gateway.core.commands import ActionRegistry
from gateway.core.policy_questions import (
    NO_PERMISSION_NEEDED,
    Question,
    ask,
    read_policy_tests,
    run_policy_tests,
    unusable,
)
from gateway.core.principal import Principal

ACTIONS = ActionRegistry()
ALICE = Principal("alice", "acme", ("member",))


@pytest.mark.parametrize(
    ("action", "channel", "reason"),
    [
        ("", None, "`` is no action: a segment is empty"),
        ("a b", None, "`a b` is no action: a segment has a character that no name may have"),
        ("channel.*", None, "`channel.*` is a pattern; ask for one action"),
        ("**", None, "`**` is a pattern; ask for one action"),
        ("channel.publish", None, "`channel.publish` needs a channel"),
        ("channel.publish", "room:", "`room:` is no channel name"),
        ("broadcast", "room", "`broadcast` takes no channel"),
        ("orders.place", "room:*", "`room:*` is no channel name"),
        ("channel.publish", "room", None),
        ("broadcast", None, None),
        ("orders.place", None, None),
        ("orders.place", "room", None),
        ("session.permissions", None, None),
        ("session.permissions", "room", None),
    ],
)
def test_a_question_that_no_policy_would_be_asked_is_unusable(
    action: str, channel: str | None, reason: str | None
) -> None:
    assert unusable(Question(ALICE, action, channel), ACTIONS) == reason


def test_an_action_that_needs_no_permission_is_allowed_whatever_the_policy_says() -> None:
    compiled = policy("roles: {member: {deny: [{actions: ['**']}]}}")
    assert ask(compiled, ACTIONS, Question(ALICE, "ping"), NOW) is NO_PERMISSION_NEEDED
    assert not ask(compiled, ACTIONS, Question(ALICE, "broadcast"), NOW).allowed


def test_the_time_of_asking_counts_where_a_question_names_none() -> None:
    compiled = policy("roles: {member: {allow: [{actions: [x], when: \"now < timestamp('2027-01-01T00:00:00Z')\"}]}}")
    assert ask(compiled, ACTIONS, Question(ALICE, "x"), 0.0).allowed
    assert not ask(compiled, ACTIONS, Question(ALICE, "x"), 1_900_000_000.0).allowed
    assert ask(compiled, ACTIONS, Question(ALICE, "x", now=0.0), 1_900_000_000.0).allowed


POLICY = """\
roles:
  member:
    allow:
      - actions: [channel.publish]
        channels: ["room:{tenant}:*"]
      - actions: [once]
        rate: {per_s: 0.01}
      - actions: [sealed]
        signed: true
      - actions: [desk]
        when: principal.claims.desk == 'fx' && data.amount < 10
      - actions: [home]
        when: connection.ip == '192.0.2.7' && connection.origin == 'https://app.example'
      - actions: [late]
        when: now.getHours() >= 18
  other:
    allow:
      - actions: [other]
"""


def test_tests_that_hold_give_no_finding() -> None:
    file = document(
        """\
        - {as: {role: member, tenant: acme, subject: alice}, action: channel.publish, channel: "room:acme:1", expect: allow}
        - {as: {role: member, tenant: acme}, action: channel.publish, channel: "room:globex:1", expect: deny}
        - {as: {roles: [member, other]}, action: other, expect: allow}
        - {as: {role: member}, action: other, expect: deny}
        - {as: {}, action: other, expect: deny}
        - {as: {role: member}, action: sealed, expect: deny}
        - {as: {role: member}, action: sealed, signed: true, expect: allow}
        - {as: {role: member, claims: {desk: fx}}, action: desk, data: {amount: 9}, expect: allow}
        - {as: {role: member, claims: {desk: fx}}, action: desk, data: {amount: 10}, expect: deny}
        - {as: {role: member}, action: home, ip: 192.0.2.7, origin: "https://app.example", expect: allow}
        - {as: {role: member}, action: home, ip: "2001:db8::1", expect: deny}
        - {as: {role: member}, action: late, now: 2026-01-31T20:00:00+01:00, expect: allow}
        - {as: {role: member}, action: late, now: 2026-01-31T12:00:00Z, expect: deny}
        - {as: {role: member}, action: late, now: 68400, expect: allow}
        - {as: {role: nobody}, action: ping, expect: allow}
        """
    )
    tests, findings = read_policy_tests([file, document("# none\n", "empty.yaml")], ACTIONS)
    assert (len(tests), findings) == (15, [])
    assert run_policy_tests(policy(POLICY), tests, ACTIONS, NOW) == []


def test_no_test_uses_up_the_rate_of_another() -> None:
    file = document("- {as: {role: member}, action: once, expect: allow}\n" * 3)
    tests, _ = read_policy_tests([file], ACTIONS)
    assert run_policy_tests(policy(POLICY), tests, ACTIONS, NOW) == []


def test_a_test_that_does_not_hold_says_what_was_decided_and_by_which_rule() -> None:
    file = document(
        """\
        - {as: {role: member, tenant: acme}, action: channel.publish, channel: "room:acme:1", expect: deny}
        - {as: {role: member}, action: other, expect: allow}
        - {as: {role: member}, action: sealed, expect: allow}
        """,
        "tests.yaml",
    )
    tests, _ = read_policy_tests([file], ACTIONS)
    assert written(run_policy_tests(policy(POLICY), tests, ACTIONS, NOW)) == [
        "tests.yaml:1: expected deny, got allow of `channel.publish` on `room:acme:1` (rule policy.yaml:4)",
        "tests.yaml:2: expected allow, got deny of `other` (default)",
        "tests.yaml:3: expected allow, got deny of `sealed` (obligation policy.yaml:8, signed)",
    ]


@pytest.mark.parametrize(
    ("text", "finding"),
    [
        ("a: b", "policy.yaml:1: a file of policy tests must be a list"),
        ("- x", "policy.yaml:1: a policy test must be a mapping"),
        ("- {action: x, expect: deny}", "policy.yaml:1: a policy test needs `as`"),
        ("- {as: {}, action: x}", "policy.yaml:1: a policy test needs `expect`"),
        ("- {as: {}, action: x, expect: maybe}", "policy.yaml:1: `expect` must be allow or deny"),
        ("- {as: {}, action: x, expect: deny, chanel: x}", "policy.yaml:1: unknown member `chanel` in a policy test;"),
        ("- {as: {rôle: x}, action: x, expect: deny}", "policy.yaml:1: unknown member `rôle` in `as`; known are role,"),
        ("- {as: {role: a, roles: [b]}, action: x, expect: deny}", "policy.yaml:1: `as` takes `role` or `roles`, not"),
        ("- {as: {claims: [a]}, action: x, expect: deny}", "policy.yaml:1: `claims` must be a mapping"),
        ("- {as: {}, action: x, ip: house, expect: deny}", "policy.yaml:1: `house` is no IP address"),
        ("- {as: {}, action: x, now: later, expect: deny}", "policy.yaml:1: `later` is no time, such as 2026-01-31T12"),
        ("- {as: {}, action: x, now: 2026-01-31, expect: deny}", "policy.yaml:1: `2026-01-31` lacks its zone, such as"),
        ("- {as: {}, action: x, now: -5, expect: deny}", "policy.yaml:1: `now` must be from 0 to "),
        ("- {as: {}, action: x, now: [], expect: deny}", "policy.yaml:1: `now` must be a number"),
        ("- {as: {}, action: channel.publish, expect: deny}", "policy.yaml:1: `channel.publish` needs a channel"),
        ("- {as: {}, action: x, data: {a: 1, a: 2}, expect: deny}", "policy.yaml:1: duplicate key `a` in a value"),
    ],
)
def test_what_is_no_test_is_a_finding(text: str, finding: str) -> None:
    tests, findings = read_policy_tests([document(text)], ACTIONS)
    assert tests == []
    assert len(findings) == 1
    assert str(findings[0]).startswith(finding)
