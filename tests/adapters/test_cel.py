"""Conditions in CEL: what compiles, what it reads, what it answers, and that nothing but a ConditionError ever comes out."""

from __future__ import annotations

import pytest
from policy_texts import conditions

from gateway.core.conditions import Ask, ConditionError, ConditionTextError, PrincipalPart
from gateway.core.principal import ConnectionFacts, Principal

ALICE = Principal("alice", "acme", ("member",), {"desk": "fx", "level": 3, "groups": ["a", "b"]})
FACTS = ConnectionFacts("192.0.2.7", "https://app.example", signed=True)
NOON = 1_800_014_400.0  # 2027-01-15 12:00:00 UTC, a Friday


def holds(
    text: str, data: object = None, *, channel: str | None = None, by: Principal = ALICE, now: float = NOON
) -> bool:
    return conditions().compile(text).bind(by).holds(Ask("orders.place", channel, data, FACTS, now))


@pytest.mark.parametrize(
    "text",
    [
        "principal.subject == 'alice' && principal.tenant == 'acme'",
        "'member' in principal.roles && !('moderator' in principal.roles)",
        "principal.roles.exists(role, role.startsWith('mem'))",
        "principal.claims.desk == 'fx' && principal.claims['level'] > 2",
        "has(principal.claims.desk) && !has(principal.claims.nothing)",
        "'b' in principal.claims.groups",
        "action == 'orders.place' && action.startsWith('orders.')",
        "channel == 'room:acme:1'",
        "data.amount <= 1000 && data.amount > 9.5",
        "data.items.all(item, item.price < 5)",
        "has(data.note) ? data.note.size() < 10 : true",
        "connection.ip == '192.0.2.7' && connection.origin.endsWith('.example') && connection.signed",
        "now.getHours('UTC') == 12 && now.getDayOfWeek('UTC') == 5",
        "now > timestamp('2026-01-01T00:00:00Z') && now - timestamp('2026-01-01T00:00:00Z') > duration('24h')",
        "data.name.matches('^[a-z]+$')",
        "true",
    ],
)
def test_a_condition_can_ask_for_all_that_is_documented(text: str) -> None:
    data = {"amount": 10, "items": [{"price": 1}, {"price": 4.5}], "name": "abc"}
    assert holds(text, data, channel="room:acme:1")


def test_what_is_absent_is_null() -> None:
    assert holds("data == null")
    assert holds("channel == null")
    assert not holds("channel == 'room'")
    assert not holds("data == null", {"a": 1})
    assert not holds("channel == null", channel="room")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("user == 'alice'", "1:1: undeclared reference to 'user' (in container '')"),
        ("principal.name == 'alice'", "1:10: undeclared reference to 'principal.name' (in container '')"),
        ("connection.port == 1", "1:11: undeclared reference to 'connection.port' (in container '')"),
        ("admin(principal.subject)", "1:6: undeclared reference to 'admin' (in container '')"),
        ("principal.subject == 1", "1:19: found no matching overload for '_==_' applied to '(string, int)'"),
        ("channel == 1", "1:9: found no matching overload for '_==_' applied to '(wrapper(string), int)'"),
        ("principal.subject", "it yields string, not a boolean"),
        ("1", "it yields int, not a boolean"),
        ("null", "it yields null, not a boolean"),
        ("principal.roles", "it yields list, not a boolean"),
    ],
)
def test_what_the_checker_refuses_refuses_the_policy(text: str, reason: str) -> None:
    with pytest.raises(ConditionTextError) as refused:
        conditions().compile(text)
    assert str(refused.value) == reason


@pytest.mark.parametrize(
    "text", ["", " ", "&&", "a ==", "(true", "true)", "'", "true\x00", "data.", "{", "ø", "\ud800"]
)
def test_what_is_no_expression_refuses_the_policy(text: str) -> None:
    with pytest.raises(ConditionTextError):
        conditions().compile(text)


def test_a_text_of_2048_bytes_passes_and_one_of_2049_is_refused() -> None:
    text = "true" + " " * 2044
    assert holds(text)
    with pytest.raises(ConditionTextError, match="longer than 2048 bytes"):
        conditions().compile(text + " ")
    with pytest.raises(ConditionTextError, match="longer than 2048 bytes"):
        conditions().compile("'" + "ä" * 1030 + "' == ''")


@pytest.mark.parametrize("text", ["(" * 900 + "true" + ")" * 900, "[" * 900 + "]" * 900 + " == []"])
def test_an_expression_that_nests_too_deep_is_refused(text: str) -> None:
    with pytest.raises(ConditionTextError):
        conditions().compile(text)


@pytest.mark.parametrize(
    ("text", "data", "detail"),
    [
        ("1 / data.n == 1", {"n": 0}, "divide by zero"),
        ("data.n % 0 == 1", {"n": 1}, "modulus by zero"),
        ("data.a == 1", {}, 'Key not found in map : "a"'),
        ("data.a == 1", None, ""),
        ("data.a == 1", 5, ""),
        ("data[5] == 1", [1], ""),
        ("data < 5", "x", ""),
        ("data + 1 > 0", 2**63 - 1, ""),
        ("int(data) > 0", "x", ""),
        ("timestamp(data) < now", "yesterday", ""),
        ("channel.startsWith('room')", None, ""),
        ("principal.claims.nothing == 'x'", None, ""),
        ("now.getHours(data) > 0", "Mars/Olympus", ""),
        ("'x'.matches(data)", "(", ""),
        ("data", None, "it yields null, not a boolean"),
        ("data", 1, "it yields int, not a boolean"),
        ("data", "true", "it yields string, not a boolean"),
        ("data", {"a": True}, "it yields map, not a boolean"),
        ("data", [True], "it yields list, not a boolean"),
    ],
)
def test_an_expression_without_an_answer_is_an_error(text: str, data: object, detail: str) -> None:
    with pytest.raises(ConditionError) as error:
        holds(text, data)
    assert str(error.value).startswith(detail)
    assert "\n" not in str(error.value)
    assert 0 < len(str(error.value)) <= 200


def test_a_value_known_only_when_asked_may_be_a_boolean() -> None:
    assert holds("data", data=True)
    assert not holds("data", data=False)
    assert holds("principal.claims.ok", by=Principal("a", claims={"ok": True}))


def test_more_than_10000_iterations_are_an_error() -> None:
    data = {"xs": ["a"] * 99}
    assert holds("data.xs.all(x, data.xs.all(y, x == y))", data)
    data = {"xs": ["a"] * 101}
    with pytest.raises(ConditionError, match="Iteration budget exceeded"):
        holds("data.xs.all(x, data.xs.all(y, x == y))", data)
    with pytest.raises(ConditionError, match="Iteration budget exceeded"):
        holds("data.xs.map(x, data.xs.map(y, data.xs)).size() > 0", data)


@pytest.mark.parametrize("data", ["\ud800", {"\udfff": 1}, 2**64, {1, 2}, object(), {"a": [2**70]}])
def test_data_that_is_no_value_of_the_language_is_an_error(data: object) -> None:
    with pytest.raises(ConditionError):
        holds("data == 'x'", data)


@pytest.mark.parametrize("now", [float("nan"), float("inf"), -float("inf"), 1e18, -1e18])
def test_a_time_outside_the_calendar_is_an_error(now: float) -> None:
    with pytest.raises(ConditionError):
        holds("now > timestamp('2026-01-01T00:00:00Z')", now=now)


def test_claims_that_are_no_value_of_the_language_are_an_error_only_where_they_are_read() -> None:
    by = Principal("alice", claims={"x": 2**70, "y": "\ud800"})
    assert holds("principal.subject == 'alice'", by=by)
    with pytest.raises(ConditionError):
        holds("principal.claims.x == 1", by=by)


@pytest.mark.parametrize(
    ("text", "reads", "reads_data"),
    [
        ("true", set(), False),
        ("principal.subject == 'a'", {PrincipalPart.SUBJECT}, False),
        ("principal.tenant == data.tenant", {PrincipalPart.TENANT}, True),
        ("'a' in principal.roles && has(principal.claims.x)", {PrincipalPart.ROLES, PrincipalPart.CLAIMS}, False),
        ("action == 'data' && channel == 'data'", set(), False),
        ("[1].exists(data, data == 1)", set(), False),
        ("[1].exists(x, x == data)", set(), True),
        ("'principal.subject' == 'data'", set(), False),
    ],
)
def test_a_condition_knows_what_it_reads(text: str, reads: set[PrincipalPart], *, reads_data: bool) -> None:
    condition = conditions().compile(text)
    assert condition.reads == reads
    assert condition.reads_data is reads_data


def test_one_condition_serves_many_principals() -> None:
    condition = conditions().compile("principal.subject == data.owner")
    alice, bob = condition.bind(ALICE), condition.bind(Principal("bob"))
    ask = Ask("x", None, {"owner": "bob"}, FACTS, NOON)
    assert not alice.holds(ask)
    assert bob.holds(ask)
