from __future__ import annotations

import contextlib

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.cli.connect_input import completions
from gateway.cli.connect_lines import VERBS, LineError, Local, Raw, Request, parse_line
from gateway.core.commands import BUILT_IN_ACTIONS


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ('publish room:acme:1 {"text": "hi there"}', Request("channel.publish", "room:acme:1", {"text": "hi there"})),
        ("  PUBLISH a   null ", Request("channel.publish", "a", None)),
        ("subscribe a", Request("channel.subscribe", "a")),
        ("subscribe a epoch=e offset=3", Request("channel.subscribe", "a", {"recover": {"epoch": "e", "offset": 3}})),
        ("unsubscribe a", Request("channel.unsubscribe", "a")),
        ("history a", Request("channel.history", "a", {})),
        ("history a limit=10 after=0", Request("channel.history", "a", {"limit": 10, "after": 0})),
        ("presence a", Request("channel.presence", "a")),
        ("send bob [1]", Request("user.send", data={"to": "bob", "data": [1]})),
        ('broadcast "x"', Request("broadcast", data="x")),
        ("permissions", Request("session.permissions")),
        ("permissions a", Request("session.permissions", "a")),
        ("describe", Request("session.describe")),
        ("ping", Request("ping")),
        ("do orders.create", Request("orders.create")),
        ('do orders.create {"amount": 5}', Request("orders.create", None, {"amount": 5})),
        ("do orders.create null", Request("orders.create", None, None)),
        ("do x room:a 5", Request("x", "room:a", 5)),
        ("raw [1, {}]", Raw([1, {}])),
        ("refresh", Local.REFRESH),
        ("help publish", Local.HELP),
        ("quit", Local.QUIT),
        ("exit", Local.QUIT),
        ("", None),
        ("# a comment", None),
    ],
)
def test_line_means_what_it_says(text: str, line: object) -> None:
    assert parse_line(text) == line


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("frobnicate", "`frobnicate` is no command; `help` lists them"),
        ("publish", "a channel is missing; write `publish CHANNEL JSON`, such as"),
        ("publish a", "the JSON is missing"),
        ("publish a hello", "`hello` is no JSON (expecting value: line 1 column 1 (char 0)); text wants double quotes"),
        ("publish a {'x': 1}", "is no JSON"),
        ("publish a NaN", "nan is no value of json"),
        ("publish a " + "[" * 100_000, "that is nested too deep"),
        ("subscribe", "a channel is missing"),
        ("subscribe a epoch=e", "a position is an epoch and an offset"),
        ("unsubscribe a b", "`b` is too much"),
        ("history a limit=x", "`limit=x` is no whole number"),
        ("history a last=1", "`last=1` is none of `limit=`, `before=`, `after=`"),
        ("ping now", "`now` is too much"),
        ("send", "a user is missing"),
        ("do", "an action is missing"),
    ],
)
def test_line_that_cannot_be_read_says_how_it_is_written(text: str, problem: str) -> None:
    with pytest.raises(LineError) as caught:
        parse_line(text)
    assert problem in str(caught.value)
    assert len(str(caught.value)) < 400


@given(st.text(max_size=200))
def test_any_line_is_read_or_refused(text: str) -> None:
    for line in (text, *(f"{verb} {text}" for verb in VERBS)):
        with contextlib.suppress(LineError):
            parse_line(line)


def test_every_example_of_the_help_can_be_read() -> None:
    for verb in VERBS.values():
        assert parse_line(verb.example) is not None


def test_every_built_in_action_has_a_word() -> None:
    reached = {line.action for verb in VERBS.values() if isinstance(line := parse_line(verb.example), Request)}
    assert {spec.name for spec in BUILT_IN_ACTIONS} - {"session.refresh"} <= reached


def test_absent_data_is_not_null() -> None:
    line = parse_line("ping")
    assert isinstance(line, Request)
    assert line.data is msgspec.UNSET


@pytest.mark.parametrize(
    ("text", "choices"),
    [
        ("pu", ["publish"]),
        ("p", ["publish", "presence", "permissions", "ping"]),
        ("publish ", ["a:1", "b:1"]),
        ("publish b", ["b:1"]),
        ("history a:1 ", ["limit=", "before=", "after="]),
        ("history a:1 li", ["limit="]),
        ("help pi", ["ping"]),
        ("broadcast ", []),
        ("publish a:1 ", []),
    ],
)
def test_completion_offers_words_channels_and_options(text: str, choices: list[str]) -> None:
    assert completions(text, ["b:1", "a:1"]) == choices
