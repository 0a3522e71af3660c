"""What rules mean: whom they reach, which of them decides, and what is kept."""

from __future__ import annotations

import pytest
from policy_texts import ALICE, NOW, SIGNED, UNSIGNED, decide, policy

from gateway.core.bound_policy import CacheLimits
from gateway.core.decision import ChannelOptions, Decision, Effect, Permission, Reason
from gateway.core.errors import ErrorCode
from gateway.core.patterns import parse_action_pattern, parse_channel_pattern, written_action, written_channel
from gateway.core.policy_document import Rate
from gateway.core.principal import Principal
from gateway.core.rules import RateTable

DEFAULT = Decision(Effect.DENY, Reason.DEFAULT, "default", ErrorCode.PERMISSION_DENIED)

ROOMS = """\
version: 1
roles:
  viewer:
    allow:
      - actions: [channel.subscribe]
        channels: ["room:{tenant}:*"]
  member:
    inherits: [viewer]
    allow:
      - actions: [channel.publish]
        channels: ["room:{tenant}:*"]
    deny:
      - actions: [channel.publish]
        channels: ["room:*:announcements"]
"""


def allowed(rule: str) -> Decision:
    return Decision(Effect.ALLOW, Reason.RULE, rule)


def denied(rule: str) -> Decision:
    return Decision(Effect.DENY, Reason.RULE, rule, ErrorCode.PERMISSION_DENIED)


# ------------------------------------------------------------------------------------------------ allow, deny, default


def test_what_no_rule_allows_is_denied_by_default() -> None:
    assert decide(policy(ROOMS), "channel.history", "room:acme:1") == DEFAULT


def test_an_allow_decides_and_is_named() -> None:
    assert decide(policy(ROOMS), "channel.publish", "room:acme:1") == allowed("policy.yaml:10")


def test_a_deny_beats_every_allow() -> None:
    assert decide(policy(ROOMS), "channel.publish", "room:acme:announcements") == denied("policy.yaml:13")


def test_inherited_rules_count_as_the_roles_own() -> None:
    assert decide(policy(ROOMS), "channel.subscribe", "room:acme:1") == allowed("policy.yaml:5")


def test_an_heir_cannot_allow_what_it_inherits_denied() -> None:
    compiled = policy(
        ROOMS,
        """\
        roles:
          moderator:
            inherits: [member]
            allow:
              - actions: [channel.publish]
                channels: ["room:{tenant}:announcements"]
        """,
    )
    by = Principal("mo", "acme", ("moderator",))
    assert decide(compiled, "channel.publish", "room:acme:announcements", by=by) == denied("policy.yaml:13")


def test_an_heir_escapes_an_inherited_deny_by_its_condition_on_the_assigned_roles() -> None:
    compiled = policy(
        """\
        roles:
          member:
            allow:
              - actions: [publish]
            deny:
              - actions: [publish]
                when: "!('moderator' in principal.roles)"
          moderator: {inherits: [member]}
          chief: {inherits: [moderator]}
        """
    )
    assert decide(compiled, "publish", by=Principal("m", "acme", ("member",))) == denied("policy.yaml:6")
    assert decide(compiled, "publish", by=Principal("m", "acme", ("moderator",))).allowed
    assert decide(compiled, "publish", by=Principal("m", "acme", ("chief",))) == denied("policy.yaml:6")


def test_a_role_that_the_policy_does_not_know_grants_nothing_and_takes_nothing() -> None:
    compiled = policy(ROOMS)
    assert decide(compiled, "channel.publish", "room:acme:1", by=Principal("a", "acme", ("root", "x" * 999))) == DEFAULT
    assert decide(compiled, "channel.publish", "room:acme:1", by=Principal("a", "acme", ("member", "root"))).allowed


def test_a_principal_without_roles_may_do_nothing() -> None:
    assert decide(policy(ROOMS), "channel.subscribe", "room:acme:1", by=Principal("alice", "acme")) == DEFAULT


def test_the_rules_of_all_roles_add_up_and_the_first_in_the_policy_is_named() -> None:
    compiled = policy(
        "roles: {b: {allow: [{actions: [x]}]}}",
        "roles: {a: {allow: [{actions: [x]}, {actions: [y]}]}}",
    )
    by = Principal("alice", roles=("a", "b"))
    assert decide(compiled, "x", by=by) == allowed("policy.yaml:1")
    assert decide(compiled, "y", by=by) == allowed("policy1.yaml:1")


def test_a_role_inherited_on_two_ways_counts_once() -> None:
    compiled = policy(
        "roles: {a: {allow: [{actions: [x]}]}, b: {inherits: [a]}, c: {inherits: [a]}, d: {inherits: [b, c]}}"
    )
    assert [rule.text.role for rule in compiled.rules_of("d")] == ["a"]
    assert compiled.inherited(("d",)) == ["d", "b", "c", "a"]
    assert compiled.rules_of("nobody") == ()


# ------------------------------------------------------------------------------------------------ patterns


@pytest.mark.parametrize(
    ("pattern", "action", "matches"),
    [
        ("a.b", "a.b", True),
        ("a.b", "a", False),
        ("a.b", "a.b.c", False),
        ("a.*", "a.b", True),
        ("a.*", "a.b.c", False),
        ("a.*", "a", False),
        ("*.b", "a.b", True),
        ("a.**", "a.b", True),
        ("a.**", "a.b.c", True),
        ("a.**", "a", False),
        ("a.**", "b.c", False),
        ("**", "a", True),
        ("**", "a.b.c", True),
        ("*", "a.b", False),
    ],
)
def test_a_pattern_of_actions_matches_segment_by_segment(pattern: str, action: str, *, matches: bool) -> None:
    compiled = policy(f"roles: {{member: {{allow: [{{actions: ['{pattern}']}}]}}}}")
    assert decide(compiled, action).allowed is matches


@pytest.mark.parametrize(
    ("pattern", "channel", "matches"),
    [
        ("room:acme:1", "room:acme:1", True),
        ("room:*:1", "room:acme:1", True),
        ("room:*", "room:acme:1", False),
        ("room:**", "room:acme:1", True),
        ("room:**", "room:acme", True),
        ("room:**", "room", False),
        ("**", "room", True),
        ("room:{tenant}:*", "room:acme:1", True),
        ("room:{tenant}:*", "room:globex:1", False),
        ("user:{tenant}:{subject}", "user:acme:alice", True),
        ("user:{tenant}:{subject}", "user:alice:acme", False),
        ("desk:{claims.desk}:**", "desk:fx:a:b", True),
        ("desk:{claims.desk}:**", "desk:rates:a:b", False),
        ("{tenant}", "acme", True),
        ("{tenant}", "{tenant}", False),
        ("room:*:1", "room:*:2", False),
    ],
)
def test_a_pattern_of_channels_matches_segment_by_segment(pattern: str, channel: str, *, matches: bool) -> None:
    compiled = policy(f"roles: {{member: {{allow: [{{actions: [x], channels: ['{pattern}']}}]}}}}")
    assert decide(compiled, "x", channel).allowed is matches


def test_a_rule_with_channels_applies_only_to_commands_with_one_and_one_without_only_to_commands_with_none() -> None:
    compiled = policy("roles: {member: {allow: [{actions: [x], channels: ['**']}, {actions: [y]}]}}")
    assert decide(compiled, "x", "room").allowed
    assert not decide(compiled, "x").allowed
    assert decide(compiled, "y").allowed
    assert not decide(compiled, "y", "room").allowed


def test_a_deny_without_channels_leaves_commands_with_a_channel_alone() -> None:
    compiled = policy("roles: {member: {allow: [{actions: [x], channels: ['**']}], deny: [{actions: ['**']}]}}")
    assert decide(compiled, "x", "room").allowed


UNUSABLE = [
    Principal("", "", ("member",)),
    Principal("a:b", "a:b", ("member",), {"desk": "a:b"}),
    Principal("a*", "*", ("member",), {"desk": "**"}),
    Principal("", "", ("member",), {"desk": 5}),
    Principal("", "", ("member",), {"desk": ["fx"]}),
    Principal("", "", ("member",), {"desk": None}),
    Principal("", "", ("member",), {"desk": True}),
    Principal("", "", ("member",), {"desk": ""}),
]


@pytest.mark.parametrize("by", UNUSABLE)
@pytest.mark.parametrize("placeholder", ["{subject}", "{tenant}", "{claims.desk}"])
@pytest.mark.parametrize("segment", ["fx", "acme", "5", "None", "True", "a", "b"])
def test_a_placeholder_without_a_usable_value_matches_nothing_in_an_allow(
    by: Principal, placeholder: str, segment: str
) -> None:
    compiled = policy(f"roles: {{member: {{allow: [{{actions: [x], channels: ['room:{placeholder}']}}]}}}}")
    assert decide(compiled, "x", f"room:{segment}", by=by) == DEFAULT


@pytest.mark.parametrize("by", UNUSABLE)
@pytest.mark.parametrize("placeholder", ["{subject}", "{tenant}", "{claims.desk}"])
def test_a_placeholder_without_a_usable_value_matches_any_segment_in_a_deny(by: Principal, placeholder: str) -> None:
    compiled = policy(
        f"roles: {{member: {{allow: [{{actions: [x], channels: ['**']}}],"
        f" deny: [{{actions: [x], channels: ['room:{placeholder}:*']}}]}}}}"
    )
    assert decide(compiled, "x", "room:whatever:1", by=by) == denied("policy.yaml:1")
    assert decide(compiled, "x", "room:whatever", by=by).allowed


def test_a_value_stands_for_one_literal_segment_and_never_for_a_pattern() -> None:
    compiled = policy("roles: {member: {allow: [{actions: [x], channels: ['room:{tenant}']}]}}")
    assert decide(compiled, "x", "room:{subject}", by=Principal("a", "{subject}", ("member",))).allowed
    assert not decide(compiled, "x", "room:a", by=Principal("a", "{subject}", ("member",))).allowed


def test_a_rule_under_several_matching_patterns_counts_once() -> None:
    compiled = policy("roles: {member: {allow: [{actions: [x, '*', '**'], channels: ['a', '*', '**']}]}}")
    assert len(compiled.bind(ALICE).matching("x", "a")) == 1
    assert decide(compiled, "x", "a").allowed


def test_patterns_that_begin_alike_are_told_apart() -> None:
    compiled = policy("roles: {member: {allow: [{actions: ['*.a', '*.b.*'], channels: ['*:a', '*:{tenant}', 'x:b']}]}}")
    assert decide(compiled, "x.a", "x:a").allowed
    assert decide(compiled, "x.b.y", "y:acme").allowed
    assert decide(compiled, "x.b.y", "x:b").allowed
    assert not decide(compiled, "x.c", "x:a").allowed
    assert not decide(compiled, "x.a", "y:b").allowed


def test_all_matching_rules_can_be_told_denies_first() -> None:
    bound = policy(ROOMS).bind(ALICE)
    assert [rule.text.location for rule in bound.matching("channel.publish", "room:acme:announcements")] == [
        "policy.yaml:13",
        "policy.yaml:10",
    ]


# ------------------------------------------------------------------------------------------------ conditions


CONDITIONS = """\
roles:
  member:
    allow:
      - actions: [small]
        when: data.amount <= 1000
      - actions: [either]
        when: data.a
      - actions: [either]
        when: data.b
      - actions: [open]
      - actions: [open]
        when: data.a
      - actions: [guarded]
    deny:
      - actions: [guarded]
        when: data.a
      - actions: [nowhere]
        when: data.a
"""


def test_a_condition_that_holds_allows() -> None:
    assert decide(policy(CONDITIONS), "small", data={"amount": 1000}) == allowed("policy.yaml:4")


def test_a_condition_that_does_not_hold_denies_with_its_rule() -> None:
    assert decide(policy(CONDITIONS), "small", data={"amount": 1001}) == Decision(
        Effect.DENY,
        Reason.CONDITION,
        "policy.yaml:4",
        ErrorCode.PERMISSION_DENIED,
        detail="the condition does not hold",
    )


@pytest.mark.parametrize("data", [None, {}, {"amount": "1"}, {"amount": None}, [], "amount", {"amount": True}])
def test_a_condition_that_errs_denies(data: object) -> None:
    decision = decide(policy(CONDITIONS), "small", data=data)
    assert (decision.effect, decision.reason, decision.rule) == (Effect.DENY, Reason.ERROR, "policy.yaml:4")
    assert decision.code is ErrorCode.PERMISSION_DENIED
    assert decision.detail


def test_a_division_by_zero_denies() -> None:
    compiled = policy("roles: {member: {allow: [{actions: [x], when: '1 / data.n == 1'}]}}")
    assert decide(compiled, "x", data={"n": 1}).allowed
    decision = decide(compiled, "x", data={"n": 0})
    assert (decision.reason, decision.detail) == (Reason.ERROR, "divide by zero")


def test_a_value_that_is_no_boolean_denies() -> None:
    decision = decide(policy(CONDITIONS), "either", data={"a": 1, "b": True})
    assert (decision.reason, decision.detail) == (Reason.ERROR, "it yields int, not a boolean")


def test_of_two_conditions_one_that_holds_suffices() -> None:
    assert decide(policy(CONDITIONS), "either", data={"a": False, "b": True}) == allowed("policy.yaml:8")
    assert decide(policy(CONDITIONS), "either", data={"a": False, "b": False}).rule == "policy.yaml:6"


def test_an_error_in_one_allow_denies_though_another_would_allow() -> None:
    assert decide(policy(CONDITIONS), "either", data={"b": True}).reason is Reason.ERROR
    assert decide(policy(CONDITIONS), "open", data={}).reason is Reason.ERROR
    assert decide(policy(CONDITIONS), "open", data={"a": False}) == allowed("policy.yaml:10")


def test_a_deny_counts_where_its_condition_holds_and_where_it_errs() -> None:
    compiled = policy(CONDITIONS)
    assert decide(compiled, "guarded", data={"a": False}) == allowed("policy.yaml:13")
    assert decide(compiled, "guarded", data={"a": True}) == denied("policy.yaml:15")
    assert decide(compiled, "guarded", data={}).reason is Reason.ERROR
    assert decide(compiled, "guarded", data={"a": "no"}).reason is Reason.ERROR


def test_a_conditional_deny_without_any_allow_leaves_the_default() -> None:
    assert decide(policy(CONDITIONS), "nowhere", data={"a": False}) == DEFAULT


def test_data_over_the_caps_denies_where_a_condition_reads_it_and_only_there() -> None:
    compiled = policy(
        "roles: {member: {allow: [{actions: [reads], when: 'data.a == 1'}, {actions: [looks], when: \"action == 'looks'\"}]}}"
    )
    at_cap = {"a": 1, "b": [0] * 253}
    assert decide(compiled, "reads", data=at_cap).allowed
    over = {"a": 1, "b": [0] * 254}
    decision = decide(compiled, "reads", data=over)
    assert (decision.reason, decision.detail) == (Reason.ERROR, "data has more than 256 values")
    assert decide(compiled, "looks", data=over).allowed
    long = {"a": 1, "b": "x" * 8192}
    assert decide(compiled, "reads", data=long).detail == "data is longer than 8192 bytes"
    assert decide(compiled, "looks", data=long).allowed
    assert decide(compiled, "reads", data={"a": 1, "b": object()}).detail == "data is not of JSON's model"


# ------------------------------------------------------------------------------------------------ obligations


OBLIGATIONS = """\
roles:
  member:
    allow:
      - actions: [signed]
        signed: true
      - actions: [limited]
        rate: {per_s: 1, burst: 2}
      - actions: [both]
        signed: true
        rate: {per_s: 1, burst: 1}
      - actions: [either]
        signed: true
      - actions: [either]
        rate: {per_s: 1, burst: 1}
      - actions: [free]
        rate: {per_s: 1, burst: 1}
      - actions: [free]
      - actions: [two]
        rate: {per_s: 0.1, burst: 1}
      - actions: [two]
        rate: {per_s: 1, burst: 1}
      - actions: [better]
        signed: true
        rate: {per_s: 1, burst: 1}
      - actions: [better]
        signed: true
"""


def needs_signature(rule: str) -> Decision:
    return Decision(Effect.DENY, Reason.OBLIGATION, rule, ErrorCode.SIGNATURE_REQUIRED, detail="signed")


def limited(rule: str, retry_after_s: float) -> Decision:
    return Decision(Effect.DENY, Reason.OBLIGATION, rule, ErrorCode.RATE_LIMITED, retry_after_s, "rate")


@pytest.mark.parametrize(
    ("allow", "deny", "plainly", "when_signed"),
    [
        ("{actions: [x]}", "", True, True),
        ("{actions: [y]}", "", False, False),
        ("{actions: [x]}", "{actions: [x]}", False, False),
        ("{actions: [x], when: 'true'}", "", False, False),
        ("{actions: [x]}", "{actions: [x], when: 'false'}", False, False),
        ("{actions: [x], signed: true}", "", False, True),
        ("{actions: [x], rate: {per_s: 5}}", "", False, False),
        ("{actions: [x], signed: true, rate: {per_s: 5}}", "", False, False),
        ("{actions: [x], rate: {per_s: 5}}, {actions: [x], signed: true}", "", False, True),
        ("{actions: [x], rate: {per_s: 5}}, {actions: [x]}", "", True, True),
        ("{actions: [x], signed: true}, {actions: [x], when: 'true'}", "", False, False),
        ("{actions: [x], signed: true}", "{actions: [x], when: 'false'}", False, False),
    ],
)
def test_an_answer_stands_where_nothing_but_another_policy_changes_it(
    allow: str, deny: str, *, plainly: bool, when_signed: bool
) -> None:
    bound = policy(f"roles: {{member: {{allow: [{allow}], deny: [{deny}]}}}}").bind(ALICE)
    assert bound.stands("x", None, signed=False) is plainly
    assert bound.stands("x", None, signed=True) is when_signed
    # What stands is what is decided, whatever is asked with it.
    for over, stands in ((UNSIGNED, plainly), (SIGNED, when_signed)):
        assert not stands or bound.decide("x", None, {"any": "data"}, over, NOW).allowed


def test_a_signed_rule_holds_on_a_signed_connection_only() -> None:
    compiled = policy(OBLIGATIONS)
    assert decide(compiled, "signed", over=SIGNED) == allowed("policy.yaml:4")
    assert decide(compiled, "signed", over=UNSIGNED) == needs_signature("policy.yaml:4")


def test_a_rate_is_a_burst_that_fills_again() -> None:
    compiled = policy(OBLIGATIONS)
    assert decide(compiled, "limited").allowed
    assert decide(compiled, "limited").allowed
    assert decide(compiled, "limited") == limited("policy.yaml:6", 1.0)
    assert decide(compiled, "limited", now=NOW + 0.25) == limited("policy.yaml:6", 0.75)
    assert decide(compiled, "limited", now=NOW + 1).allowed
    assert not decide(compiled, "limited", now=NOW + 1).allowed


def test_a_rate_counts_for_each_tenant_and_subject_apart() -> None:
    compiled = policy(OBLIGATIONS)
    for by in (
        Principal("alice", "acme", ("member",)),
        Principal("bob", "acme", ("member",)),
        Principal("alice", "globex", ("member",)),
    ):
        assert decide(compiled, "limited", by=by).allowed
        assert decide(compiled, "limited", by=by).allowed
        assert not decide(compiled, "limited", by=by).allowed


def test_a_rate_counts_for_a_subject_whatever_its_other_claims_and_roles_are() -> None:
    compiled = policy(OBLIGATIONS)
    decide(compiled, "limited", by=Principal("alice", "acme", ("member",), {"desk": "fx"}))
    decide(compiled, "limited", by=Principal("alice", "acme", ("member", "other"), {"desk": "rates"}))
    assert not decide(compiled, "limited").allowed


def test_a_rate_counts_for_each_rule_apart() -> None:
    compiled = policy(OBLIGATIONS)
    assert decide(compiled, "free").allowed
    assert decide(compiled, "limited").allowed


def test_a_clock_that_is_set_back_drains_no_bucket() -> None:
    compiled = policy(OBLIGATIONS)
    assert decide(compiled, "limited").allowed
    assert decide(compiled, "limited", now=NOW - 3600).allowed
    assert decide(compiled, "limited", now=NOW - 3600) == limited("policy.yaml:6", 1.0)
    assert decide(compiled, "limited", now=NOW - 3599).allowed


def test_no_token_is_taken_while_the_signature_is_missing() -> None:
    compiled = policy(OBLIGATIONS)
    for _ in range(3):
        assert decide(compiled, "both", over=UNSIGNED) == needs_signature("policy.yaml:8")
    assert decide(compiled, "both", over=SIGNED) == allowed("policy.yaml:8")
    assert decide(compiled, "both", over=SIGNED) == limited("policy.yaml:8", 1.0)


def test_a_rule_that_meets_neither_obligation_asks_for_the_signature_for_waiting_would_not_help() -> None:
    compiled = policy(OBLIGATIONS)
    assert decide(compiled, "both", over=SIGNED).allowed
    assert decide(compiled, "both", over=UNSIGNED) == needs_signature("policy.yaml:8")


def test_of_two_allows_the_one_with_fewer_unmet_obligations_counts() -> None:
    compiled = policy(OBLIGATIONS)
    assert decide(compiled, "either", over=UNSIGNED) == allowed("policy.yaml:13")
    assert decide(compiled, "either", over=SIGNED) == allowed("policy.yaml:11")
    decide(compiled, "better", over=SIGNED)
    assert decide(compiled, "better", over=UNSIGNED) == needs_signature("policy.yaml:22")


def test_an_allow_that_obliges_to_nothing_is_named_before_one_that_does() -> None:
    compiled = policy(
        """\
        roles:
          member:
            allow:
              - {actions: [x], signed: true}
              - {actions: [x], when: data.a}
              - {actions: [x], when: data.b, rate: {per_s: 1}}
        """
    )
    assert decide(compiled, "x", data={"a": True, "b": True}, over=SIGNED) == allowed("policy.yaml:5")
    assert decide(compiled, "x", data={"a": False, "b": True}, over=SIGNED) == allowed("policy.yaml:4")
    assert decide(compiled, "x", data={"a": False, "b": True}, over=UNSIGNED) == allowed("policy.yaml:6")


def test_of_one_unmet_obligation_each_rate_comes_before_signed() -> None:
    compiled = policy(OBLIGATIONS)
    assert decide(compiled, "either", over=UNSIGNED).allowed
    assert decide(compiled, "either", over=UNSIGNED) == limited("policy.yaml:13", 1.0)


def test_no_token_is_taken_where_another_rule_allows_without_a_rate() -> None:
    compiled = policy(OBLIGATIONS)
    for _ in range(5):
        assert decide(compiled, "free") == allowed("policy.yaml:17")
        assert decide(compiled, "either", over=SIGNED) == allowed("policy.yaml:11")
        assert decide(compiled, "better", over=SIGNED) == allowed("policy.yaml:25")
    assert decide(compiled, "either", over=UNSIGNED) == allowed("policy.yaml:13")


def test_of_two_rates_the_first_with_a_token_is_used_and_else_the_sooner_one_is_told() -> None:
    compiled = policy(OBLIGATIONS)
    assert decide(compiled, "two") == allowed("policy.yaml:18")
    assert decide(compiled, "two") == allowed("policy.yaml:20")
    assert decide(compiled, "two") == limited("policy.yaml:20", 1.0)


def test_an_unmet_obligation_never_hides_a_deny() -> None:
    compiled = policy("roles: {member: {allow: [{actions: [x], signed: true}], deny: [{actions: [x]}]}}")
    assert decide(compiled, "x", over=UNSIGNED) == denied("policy.yaml:1")


def test_buckets_are_bounded_and_the_one_used_longest_ago_goes_first() -> None:
    table = RateTable(limit=2)
    rate = Rate(1, 1)
    first, second, third = (1, "", "a"), (1, "", "b"), (1, "", "c")
    table.bucket(first, rate, NOW).take(NOW)
    table.bucket(second, rate, NOW).take(NOW)
    table.bucket(first, rate, NOW)
    table.bucket(third, rate, NOW)
    assert table.bucket(first, rate, NOW).wait_s(NOW) == 1.0
    assert table.bucket(second, rate, NOW).wait_s(NOW) == 0.0


def test_rates_can_be_forgotten() -> None:
    compiled = policy(OBLIGATIONS)
    assert decide(compiled, "free").allowed
    decide(compiled, "both", over=SIGNED)
    compiled.forget_rates()
    assert decide(compiled, "both", over=SIGNED).allowed


# ------------------------------------------------------------------------------------------------ permissions


def test_permissions_list_what_may_be_done_and_where_a_condition_decides() -> None:
    compiled = policy(
        """\
        roles:
          member:
            allow:
              - actions: [free, signed, denied, guarded]
              - actions: [asked]
                when: data.a
              - actions: [mixed]
              - actions: [mixed]
                when: data.a
              - actions: [signed]
                signed: true
              - actions: [slow]
                rate: {per_s: 1}
              - actions: [there]
                channels: ["room:{tenant}"]
            deny:
              - actions: [denied]
              - actions: [guarded]
                when: data.a
        """
    )
    actions = ("free", "signed", "denied", "guarded", "asked", "mixed", "slow", "there", "unknown")
    bound = compiled.bind(ALICE)
    assert bound.permissions(actions, None) == [
        Permission("free", conditional=False),
        Permission("signed", conditional=False),
        Permission("guarded", conditional=True),
        Permission("asked", conditional=True),
        Permission("mixed", conditional=False),
        Permission("slow", conditional=False),
    ]
    assert bound.permissions(actions, "room:acme") == [Permission("there", conditional=False)]
    assert bound.permissions(actions, "room:globex") == []


# ------------------------------------------------------------------------------------------------ what is kept


def test_principals_that_no_rule_can_tell_apart_share_what_is_bound() -> None:
    compiled = policy(ROOMS)
    alice = compiled.bind(Principal("alice", "acme", ("member",), {"a": 1}, 5.0))
    assert compiled.bind(Principal("bob", "acme", ("member",))) is alice
    assert compiled.bind(Principal("alice", "globex", ("member",))) is not alice
    assert compiled.bind(Principal("alice", "acme", ("viewer",))) is not alice


@pytest.mark.parametrize(
    ("rule", "same", "other"),
    [
        ("channels: ['{subject}']", Principal("a", "u", ("r",)), Principal("b", "t", ("r",))),
        ("channels: ['{tenant}']", Principal("b", "t", ("r",)), Principal("a", "u", ("r",))),
        (
            "channels: ['{claims.x}']",
            Principal("b", "u", ("r",), {"x": "1", "y": "2"}),
            Principal("a", "t", ("r",), {"x": "2"}),
        ),
        ("when: principal.subject == 'a'", Principal("a", "u", ("r",)), Principal("b", "t", ("r",))),
        ("when: principal.tenant == 't'", Principal("b", "t", ("r",)), Principal("a", "u", ("r",))),
        (
            "when: principal.claims.x == '1'",
            Principal("b", "u", ("r",), {"x": "1"}),
            Principal("a", "t", ("r",), {"x": "1", "y": 2}),
        ),
        ("rate: {per_s: 1}", Principal("a", "t", ("r",), {}), Principal("a", "u", ("r",), {"x": "1"})),
    ],
)
def test_the_cache_is_keyed_by_what_a_rule_can_read(rule: str, same: Principal, other: Principal) -> None:
    compiled = policy(f"roles: {{r: {{allow: [{{actions: [x], {rule}}}]}}}}")
    bound = compiled.bind(Principal("a", "t", ("r",), {"x": "1"}))
    assert compiled.bind(same) is bound
    assert compiled.bind(other) is not bound


def test_values_that_change_places_are_not_mistaken_for_each_other() -> None:
    compiled = policy("roles: {r: {allow: [{actions: [x], channels: ['{subject}:{tenant}:{claims.a}']}]}}")
    one = compiled.bind(Principal("a", "b", ("r",), {"a": "c"}))
    assert one is not compiled.bind(Principal("b", "a", ("r",), {"a": "c"}))
    assert one is not compiled.bind(Principal("c", "b", ("r",), {"a": "a"}))


def test_claims_that_are_not_jsons_are_bound_and_shared_with_nobody() -> None:
    compiled = policy("roles: {r: {allow: [{actions: [x], when: principal.claims.a == 1}]}}")
    odd = Principal("a", "t", ("r",), {"a": 1, "b": object()})
    assert compiled.bind(odd) is not compiled.bind(odd)
    assert decide(compiled, "x", by=odd).reason is Reason.ERROR


def test_no_cache_grows_without_bound() -> None:
    limits = CacheLimits(bound_policies=3, role_sets=2, channels=4, personal_answers=5, shared_answers=6)
    compiled = policy(
        "roles: {a: {allow: [{actions: [x], channels: ['{subject}:*']}]}, b: {}, c: {}}\n"
        "channels: [{match: 'n1:*', presence: true}]",
        limits=limits,
    )
    for number in range(20):
        for roles in (("a",), ("b",), ("c",), ("a", "b", "c")):
            bound = compiled.bind(Principal(f"n{number}", roles=roles))
            for channel in range(20):
                allows = bound.decide("x", f"n{number}:{channel}", None, UNSIGNED, NOW).allowed
                assert allows is ("a" in roles)
                assert compiled.channel_options(f"n{number}:{channel}").presence is (number == 1)
                assert len(bound._answers) <= (5 if "a" in roles else 6)
    assert len(compiled._bound) <= 3
    assert len(compiled._role_sets) <= 2
    assert len(compiled._options) <= 4


def test_an_answer_that_is_kept_is_the_answer_that_was_given() -> None:
    bound = policy(ROOMS).bind(ALICE)
    for _ in range(2):
        first = bound.decide("channel.publish", "room:acme:1", None, UNSIGNED, NOW)
        assert bound.decide("channel.publish", "room:acme:1", {"other": 1}, SIGNED, NOW + 9) is first


# ------------------------------------------------------------------------------------------------ channels and routes


def test_of_the_entries_for_a_channel_the_first_in_file_name_order_counts() -> None:
    compiled = policy(
        "channels: [{match: 'room:*:news', history: {messages: 5, ttl_s: 60}}, {match: 'room:**', presence: true}]",
        "channels: [{match: 'room:acme:*', history: {messages: 9, ttl_s: 9}}, {match: 'user:*'}]",
    )
    for _ in range(2):
        assert compiled.channel_options("room:acme:news") == ChannelOptions(5, 60, presence=False)
    assert compiled.channel_options("room:acme:1") == ChannelOptions(0, 0.0, presence=True)
    assert compiled.channel_options("user:1") == ChannelOptions()
    assert compiled.channel_options("other") == ChannelOptions()


def test_the_entries_of_channels_can_be_listed_as_they_were_written() -> None:
    compiled = policy("channels: [{match: 'room:*:**', presence: true}, {match: x, history: {messages: 1}}]")
    assert compiled.channel_patterns() == [
        ("room:*:**", ChannelOptions(0, 0.0, presence=True)),
        ("x", ChannelOptions(1, 3600.0, presence=False)),
    ]


def test_patterns_are_written_as_they_were_read() -> None:
    assert written_action(parse_action_pattern("a.*.**")) == "a.*.**"
    assert written_channel(parse_channel_pattern("a:{tenant}:**")) == "a:{tenant}:**"


def test_the_policy_tells_its_version_roles_and_routes() -> None:
    compiled = policy(ROOMS, "routes: [{actions: [a.b], upstream: {url: 'http://a'}}]")
    assert (compiled.version, compiled.roles) == ("0123456789ab", {"viewer", "member"})
    assert [route.url for route in compiled.routes] == ["http://a"]
