"""What is refused in a policy, with file and line; and what is read from one that is good."""

from __future__ import annotations

import pytest
from policy_texts import document, findings, policy

from gateway.core.documents import DocumentError, Finding, Items, Members, Scalar, plain, quoted
from gateway.core.policy import PolicyRefusedError
from gateway.core.policy_document import Rate, read_policy


def test_the_example_of_the_documentation_is_read_whole() -> None:
    text = read_policy(
        [
            document("""\
                version: 1
                roles:
                  member:
                    description: Talks in the rooms of its tenant.
                    inherits: [viewer]
                    allow:
                      - actions: [channel.subscribe, channel.publish]
                        channels: ["room:{tenant}:*"]
                      - actions: ["orders.*"]
                        signed: true
                        rate: {per_s: 20, burst: 40}
                        when: "data.amount <= 1000"
                    deny:
                      - actions: [channel.publish]
                        channels: ["room:*:announcements"]
                  viewer: {}
                channels:
                  - match: "room:*:*"
                    history: {messages: 1000, ttl_s: 600}
                    presence: true
                routes:
                  - actions: ["orders.*"]
                    upstream: {url: "http://orders.internal/actions", timeout_s: 5}
                """)
        ]
    )
    assert text.findings == []
    member = text.roles["member"]
    assert (member.description, member.inherits) == ("Talks in the rooms of its tenant.", (("viewer", 5),))
    assert [rule.location for rule in member.rules] == ["policy.yaml:7", "policy.yaml:9", "policy.yaml:14"]
    assert member.rules[0].actions == (("channel", "subscribe"), ("channel", "publish"))
    assert member.rules[0].channels == (("room", "{tenant}", "*"),)
    assert (member.rules[1].signed, member.rules[1].rate) == (True, Rate(20, 40))
    assert (member.rules[1].when, member.rules[1].when_line) == ("data.amount <= 1000", 12)
    assert text.channels[0].match == ("room", "*", "*")
    assert (text.channels[0].history_messages, text.channels[0].history_ttl_s, text.channels[0].presence) == (
        1000,
        600,
        True,
    )
    assert (text.routes[0].location, text.routes[0].url, text.routes[0].timeout_s) == (
        "policy.yaml:22",
        "http://orders.internal/actions",
        5,
    )


def test_what_is_left_out_has_a_default() -> None:
    text = read_policy(
        [
            document("""\
                roles: {member: {allow: [{actions: [a.b], rate: {per_s: 0.5}}, {actions: [a.c], rate: {per_s: 3}}]}}
                channels: [{match: "a:**", history: {messages: 5}}, {match: "**"}]
                routes: [{actions: [a.b], upstream: {url: "https://a.example:8443/x"}}]
                """)
        ]
    )
    assert text.findings == []
    assert [rule.rate for rule in text.roles["member"].rules] == [Rate(0.5, 1.0), Rate(3, 3)]
    assert (text.channels[0].history_ttl_s, text.channels[0].presence) == (3600.0, False)
    assert (text.channels[1].history_messages, text.channels[1].history_ttl_s) == (0, 0.0)
    assert text.routes[0].timeout_s == 5.0


def test_a_role_may_inherit_from_none_and_have_no_rules() -> None:
    assert policy("roles: {a: {inherits: [], allow: [], deny: []}}").rules_of("a") == ()


def test_a_file_of_nothing_but_comments_adds_nothing() -> None:
    assert policy("# later\n", "roles: {member: {}}").roles == {"member"}


@pytest.mark.parametrize(
    ("text", "finding"),
    [
        ("[]", "policy.yaml:1: the policy must be a mapping"),
        ("roles: {}\nrole: {}", "policy.yaml:2: unknown member `role` in the policy; known are version, roles, "),
        ("version: 2", "policy.yaml:1: `version` must be from 1 to 1"),
        ("version: one", "policy.yaml:1: `version` must be a number"),
        ("version: 1.0", "policy.yaml:1: `version` must be a whole number"),
        ("roles: [member]", "policy.yaml:1: `roles` must be a mapping"),
        ("roles:\n  member: []", "policy.yaml:2: role `member` must be a mapping"),
        ("roles:\n  5: {}", "policy.yaml:2: a key of `roles` must be a string"),
        ("roles:\n  ? [a]\n  : {}", "policy.yaml:2: a key of `roles` must be a string"),
        ("roles:\n  'a b': {}", "policy.yaml:2: `a b` is no name of a role"),
        ("roles:\n  member: {}\n  member: {}", "policy.yaml:3: duplicate key `member` in `roles`"),
        ("roles:\n  a:\n    alow: []", "policy.yaml:3: unknown member `alow` in role `a`; known are description,"),
        ("roles:\n  a:\n    description: 5", "policy.yaml:3: `description` must be a string"),
        ("roles:\n  a:\n    inherits: [[]]", "policy.yaml:3: an entry of `inherits` must be a string"),
        ("roles:\n  a:\n    inherits: b", "policy.yaml:3: `inherits` must be a list"),
        ("roles:\n  a:\n    inherits: [1]", "policy.yaml:3: an entry of `inherits` must be a string"),
        ("roles:\n  a:\n    inherits:\n      - b", "policy.yaml:4: role `a` inherits unknown role `b`"),
        ("roles:\n  a:\n    inherits: [a]", "policy.yaml:3: roles inherit in a cycle: a < a"),
        ("roles:\n  a:\n    allow: {}", "policy.yaml:3: `allow` must be a list"),
        ("roles:\n  a:\n    allow:\n      - x", "policy.yaml:4: `allow` must be a mapping"),
        ("roles:\n  a:\n    allow:\n      - signed: true", "policy.yaml:4: `allow` needs `actions`"),
        ("roles:\n  a:\n    allow:\n      - actions: []", "policy.yaml:4: `actions` must not be empty"),
        (
            "roles:\n  a:\n    allow:\n      - actions: [a]\n        chanels: [b]",
            "policy.yaml:5: unknown member `chanels` in `allow`; known are actions, channels, signed, rate, when",
        ),
        (
            "roles:\n  a:\n    allow:\n      - actions: [a]\n        actions: [b]",
            "policy.yaml:5: duplicate key `actions` in `allow`",
        ),
        (
            "roles:\n  a:\n    deny:\n      - actions: [a]\n        signed: true",
            "policy.yaml:5: unknown member `signed` in `deny`; known are actions, channels, when",
        ),
        (
            "roles:\n  a:\n    deny:\n      - actions: [a]\n        rate: {per_s: 1}",
            "policy.yaml:5: unknown member `rate` in `deny`; known are actions, channels, when",
        ),
        ("roles: {a: {allow: [{actions: [a], signed: 1}]}}", "policy.yaml:1: `signed` must be true or false"),
        ("roles: {a: {allow: [{actions: [a], signed: yes}]}}", "policy.yaml:1: `signed` must be true or false"),
        ("roles: {a: {allow: [{actions: [a], rate: 5}]}}", "policy.yaml:1: `rate` must be a mapping"),
        ("roles: {a: {allow: [{actions: [a], rate: {burst: 5}}]}}", "policy.yaml:1: `rate` needs `per_s`"),
        (
            "roles: {a: {allow: [{actions: [a], rate: {per_s: 0}}]}}",
            "policy.yaml:1: `per_s` must be from 0.0001 to 1e+06",
        ),
        ("roles: {a: {allow: [{actions: [a], rate: {per_s: true}}]}}", "policy.yaml:1: `per_s` must be a number"),
        ("roles: {a: {allow: [{actions: [a], rate: {per_s: [1]}}]}}", "policy.yaml:1: `per_s` must be a number"),
        (
            "roles: {a: {allow: [{actions: [a], rate: {per_s: 1, burst: 0.5}}]}}",
            "policy.yaml:1: `burst` must be from 1 to 1e+06",
        ),
        ("roles: {a: {allow: [{actions: [a], when: true}]}}", "policy.yaml:1: `when` must be a string"),
        (
            "roles:\n  a:\n    allow:\n      - actions: [a]\n        when: 'x == 1'",
            "policy.yaml:5: `when` is refused: 1:1: undeclared reference to 'x' (in container '')",
        ),
        ("channels: {}", "policy.yaml:1: `channels` must be a list"),
        ("channels: [{presence: true}]", "policy.yaml:1: an entry of `channels` needs `match`"),
        ("channels: [{match: [a]}]", "policy.yaml:1: `match` must be a string"),
        ("channels: [{match: a, history: {ttl_s: 5}}]", "policy.yaml:1: `history` needs `messages`"),
        (
            "channels: [{match: a, history: {messages: -1}}]",
            "policy.yaml:1: `messages` must be from 0 to 1e+06",
        ),
        ("channels: [{match: a, history: {messages: 1, ttl_s: 0}}]", "policy.yaml:1: `ttl_s` must be from 1 to "),
        ("channels: [{match: a, presence: 1}]", "policy.yaml:1: `presence` must be true or false"),
        (
            'channels: [{match: "a:{tenant}"}]',
            "policy.yaml:1: `a:{tenant}` is no pattern of channels: no placeholder may stand here",
        ),
        ("routes: [{actions: [a]}]", "policy.yaml:1: a route needs `upstream`"),
        ("routes: [{actions: [a], upstream: {}}]", "policy.yaml:1: `upstream` needs `url`"),
        (
            'routes: [{actions: [a], upstream: {url: "http://a", timeout_s: 0}}]',
            "policy.yaml:1: `timeout_s` must be from 0.0001 to 300",
        ),
    ],
)
def test_a_document_that_is_not_of_the_grammar_is_refused_with_its_line(text: str, finding: str) -> None:
    found = findings(text)
    assert len(found) == 1
    assert found[0].startswith(finding)


@pytest.mark.parametrize(
    ("pattern", "reason"),
    [
        ("", "a segment is empty"),
        ("a..b", "a segment is empty"),
        ("a.", "a segment is empty"),
        ("a.**.b", "`**` may stand only at the end"),
        ("a.b*", "`*`, `**` and `{…}` stand for whole segments only"),
        ("***", "`*`, `**` and `{…}` stand for whole segments only"),
        ("a.{tenant}", "placeholders stand in channels only"),
        ("a.b c", "a segment has a character that no name may have"),
        ("a.ö", "a segment has a character that no name may have"),
        ("a." + "b" * 65, "a segment is longer than 64 characters"),
        (".".join("a" * 17), "more than 16 segments"),
    ],
)
def test_what_is_no_pattern_of_actions_is_refused(pattern: str, reason: str) -> None:
    found = findings(f"roles:\n  a:\n    allow:\n      - actions:\n        - '{pattern}'\n")
    assert len(found) == 1
    assert found[0].startswith("policy.yaml:5: `")
    assert found[0].endswith(f"` is no pattern of actions: {reason}")


@pytest.mark.parametrize(
    ("pattern", "reason"),
    [
        ("", "a segment is empty"),
        ("a::b", "a segment is empty"),
        ("a:**:b", "`**` may stand only at the end"),
        ("a:b*", "`*`, `**` and `{…}` stand for whole segments only"),
        ("a:x{tenant}", "`*`, `**` and `{…}` stand for whole segments only"),
        ("a:{tenant}x", "`*`, `**` and `{…}` stand for whole segments only"),
        ("a:{tennant}", "unknown placeholder `{tennant}`; known are {subject}, {tenant} and {claims.NAME}"),
        ("a:{claims}", "unknown placeholder `{claims}`; known are {subject}, {tenant} and {claims.NAME}"),
        ("a:{claims.}", "unknown placeholder `{claims.}`; known are {subject}, {tenant} and {claims.NAME}"),
        ("a:{claims.a.b}", "unknown placeholder `{claims.a.b}`; known are {subject}, {tenant} and {claims.NAME}"),
        ("a:{roles}", "unknown placeholder `{roles}`; known are {subject}, {tenant} and {claims.NAME}"),
        ("a:b/c", "a segment has a character that no name may have"),
        ("a:" + "b" * 65, "a segment is longer than 64 characters"),
        (":".join("a" * 17), "more than 16 segments"),
    ],
)
def test_what_is_no_pattern_of_channels_is_refused(pattern: str, reason: str) -> None:
    found = findings(f"roles:\n  a:\n    allow:\n      - actions: [b]\n        channels:\n        - '{pattern}'\n")
    assert len(found) == 1
    assert found[0].startswith("policy.yaml:6: `")
    assert found[0].endswith(f"` is no pattern of channels: {reason}")


@pytest.mark.parametrize(
    "url",
    [
        "orders.internal",
        "ftp://orders.internal/",
        "http://",
        "http://[::1",
        "http://a:99999/",
        "http://a:0/",
        "http://a b/",
        "http://a/\\u00e9",
    ],
)
def test_an_upstream_without_a_usable_url_is_refused(url: str) -> None:
    found = findings(f'routes:\n  - actions: [a]\n    upstream:\n      url: "{url}"\n')
    assert len(found) == 1
    assert found[0].startswith("policy.yaml:4: ")
    assert found[0].endswith(" is no http or https URL")


@pytest.mark.parametrize("url", ["http://me:secret@orders.internal/", "http://me@orders.internal/"])
def test_credentials_in_a_url_are_refused_and_not_repeated(url: str) -> None:
    found = findings(f'routes: [{{actions: [a], upstream: {{url: "{url}"}}}}]')
    assert found == ["policy.yaml:1: `url` must not carry credentials: policies are read by many"]


def test_a_role_that_two_files_define_is_refused() -> None:
    assert findings("roles: {member: {}}", "roles:\n  member: {}\n") == [
        "policy1.yaml:2: role `member` is defined twice, first at policy.yaml:1"
    ]


def test_a_cycle_of_roles_is_refused_at_a_parent_that_closes_it() -> None:
    found = findings(
        """\
        roles:
          a:
            inherits: [b]
          b:
            inherits: [c]
          c:
            inherits: [a]
          d:
            inherits: [a]
        """
    )
    assert len(found) == 1
    line, _, reason = found[0].removeprefix("policy.yaml:").partition(": ")
    assert line in {"3", "5", "7"}
    names = reason.removeprefix("roles inherit in a cycle: ").split(" < ")
    assert (len(names), set(names)) == (4, {"a", "b", "c"})


def test_all_findings_are_told_at_once_in_the_order_of_files_and_lines() -> None:
    found = findings(
        """\
        roles:
          a:
            inherits: [nobody]
            allow:
              - actions: ["a b"]
              - actions: [fine]
                when: "1"
              - actions: [fine]
                when: "1"
        surprise: 1
        """,
        "version: 9\nroles: {b: {deny: [{actions: [x], signed: true}]}}\nroutes: {}\n",
    )
    assert found == [
        "policy.yaml:3: role `a` inherits unknown role `nobody`",
        "policy.yaml:5: `a b` is no pattern of actions: a segment has a character that no name may have",
        "policy.yaml:7: `when` is refused: it yields int, not a boolean",
        "policy.yaml:9: `when` is refused: it yields int, not a boolean",
        "policy.yaml:10: unknown member `surprise` in the policy; known are version, roles, channels, routes",
        "policy1.yaml:1: `version` must be from 1 to 1",
        "policy1.yaml:2: unknown member `signed` in `deny`; known are actions, channels, when",
        "policy1.yaml:3: `routes` must be a list",
    ]


def test_a_refused_policy_says_the_first_finding_and_how_many_more_there_are() -> None:
    one = Finding("a.yaml", 3, "is wrong")
    assert str(PolicyRefusedError((one,))) == "a.yaml:3: is wrong"
    assert str(PolicyRefusedError((one, one, one))) == "a.yaml:3: is wrong (and 2 more)"


def test_a_finding_without_a_line_names_the_file_alone() -> None:
    assert str(Finding("policies", 0, "is empty")) == "policies: is empty"
    assert str(Finding("", 0, "is empty")) == "is empty"


def test_input_is_quoted_cut_and_made_harmless() -> None:
    assert quoted("a\x1b[31m`b\n") == "`a?[31m?b?`"
    assert quoted("x" * 100) == f"`{'x' * 80}…`"
    assert quoted(5) == "`5`"


def test_plain_values_are_those_of_json() -> None:
    tree = Members(1, ((Scalar(1, "a"), Items(1, (Scalar(1, 1), Scalar(1, None)))), (Scalar(2, "b"), Members(2, ()))))
    assert plain(tree) == {"a": [1, None], "b": {}}


def test_a_plain_value_with_a_key_that_is_no_string_is_refused() -> None:
    with pytest.raises(DocumentError, match="a key of a value must be a string"):
        plain(Members(1, ((Scalar(1, 5), Scalar(1, 5)),)))
