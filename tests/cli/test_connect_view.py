from __future__ import annotations

import re

import pytest

from gateway.cli import meanings
from gateway.cli.connect_view import FrameView
from gateway.core.errors import Close, Closes, ErrorCode, Refusal

AT = 1_800_000_000.25


def view(*, colours: bool = False) -> FrameView:
    return FrameView(colours=colours, arrows=True)


def shown(frame: object, before: object = None) -> list[str]:
    frames = view()
    if before is not None:
        frames.sent(before, AT - 0.0015)
    return [re.sub(r"^\d\d:\d\d:\d\d\.250 ", "", line) for line in frames.received(frame, AT)]


@pytest.mark.parametrize(
    ("frame", "line"),
    [
        (
            {"type": "message", "channel": "a", "data": {"x": 1}, "sender": "bob", "offset": 7, "epoch": "e", "at": AT},
            '← message a @7 bob: {"x": 1}',
        ),
        ({"type": "message", "channel": "a", "data": None, "sender": "bob", "at": AT}, "← message a bob: null"),
        ({"type": "direct", "data": 1, "sender": "bob", "at": AT}, "← direct bob: 1"),
        ({"type": "broadcast", "data": "x", "sender": "bob", "at": AT}, '← broadcast bob: "x"'),
        ({"type": "presence", "channel": "a", "event": "join", "subject": "bob"}, "← presence a bob joined"),
        ({"type": "presence", "channel": "a", "event": "leave", "subject": "bob"}, "← presence a bob left"),
        ({"type": "unsubscribed", "channel": "a", "reason": "position_lost"}, "← unsubscribed a position_lost"),
        ({"type": "draining", "reconnect_after_s": 1.5}, "← draining this node goes away; come back after 1.5 s"),
        ({"type": "of-a-later-version", "x": 1}, '← of-a-later-version {"x": 1}'),
        (5, '← frame {"data": 5}'),
        (
            {"type": "message", "channel": "\x1b[2J", "sender": "\u202e", "data": "\x07"},
            '← message \\x1b[2J \\u202e: "\\u0007"',
        ),
    ],
)
def test_push_is_one_harmless_line(frame: object, line: str) -> None:
    assert shown(frame) == [line]


def test_expiring_and_welcome_tell_times_of_day() -> None:
    assert re.fullmatch(
        r"← expiring the token ends at \d\d:\d\d:\d\d", shown({"type": "expiring", "expires_at": AT})[0]
    )
    assert shown({"type": "expiring", "expires_at": "soon"}) == ["← expiring the token ends at ?"]
    welcome = {
        "type": "welcome",
        "subject": "alice",
        "tenant": "acme",
        "roles": ["a", "b"],
        "expires_at": AT,
        "signing": {},
    }
    assert re.fullmatch(r"← welcome alice of tenant acme as a, b, signed, until \d\d:\d\d:\d\d", shown(welcome)[0])
    bare = {"type": "welcome", "subject": "alice", "tenant": "", "roles": [], "expires_at": 1e300}
    assert shown(bare) == ["← welcome alice as no role, until ?"]


def test_reply_tells_its_time_and_known_answers_stand_in_words() -> None:
    def answer(action: str, data: object) -> list[str]:
        return shown({"type": "reply", "id": 1, "data": data}, {"id": 1, "action": action})

    assert answer("ping", {}) == ["← #1 ok {} 1.5 ms"]
    assert shown({"type": "reply", "id": 9, "data": {}}) == ["← #9 ok {}"]
    assert [
        line.strip() for line in answer("channel.presence", {"members": [{"subject": "bob", "connections": 2}]})
    ] == [
        "← #1 ok 1 here 1.5 ms",
        "bob 2x",
    ]
    actions = [{"action": "ping", "conditional": False}, {"action": "x", "conditional": True}]
    assert [line.strip() for line in answer("session.permissions", {"actions": actions})] == [
        "← #1 ok 1.5 ms",
        "ping",
        "x under conditions",
    ]
    past = {"messages": [{"offset": 1, "data": "\x1b", "sender": "bob", "at": AT}], "epoch": "e", "offset": 1}
    first, second = answer("channel.history", past)
    assert first == '← #1 ok {"epoch": "e", "offset": 1} 1.5 ms'
    assert re.fullmatch(r' {15}\d\d:\d\d:\d\d @1 bob: "\\u001b"', second)
    assert answer("channel.presence", {"members": "odd"}) == ['← #1 ok {"members": "odd"} 1.5 ms']


def test_refusal_says_what_it_means() -> None:
    error = {"type": "error", "id": 1, "error": {"code": "rate_limited", "message": "slow down", "retry_after_s": 0.25}}
    first, second = shown(error, {"id": 1, "action": "ping"})
    assert first == "← #1 rate_limited ping: slow down, after 0.2 s"
    assert second.strip() == meanings.ERRORS[ErrorCode.RATE_LIMITED]
    assert shown({"type": "error", "error": {"code": "new_code", "message": "x"}}) == ["← new_code x"]


def test_sent_commands_show_no_token() -> None:
    (line,) = view().sent({"id": 3, "action": "session.refresh", "data": {"token": "the-token"}}, AT)
    assert "the-token" not in line
    lines = view().sent([{"id": 1, "action": "ping"}, {"id": 2, "action": "x", "channel": "a", "data": None}], AT)
    assert [line.split(" ", 1)[1] for line in lines] == ["→ #1 ping", "→ #2 x a null"]


def test_colours_stand_around_harmless_text_only() -> None:
    line = view(colours=True).received({"type": "presence", "channel": "\x1b[0m", "event": "join", "subject": "b"}, AT)[
        0
    ]
    assert "\\x1b[0m" in line
    assert "\x1b[36mpresence\x1b[0m" in line


def test_terminal_without_arrows_gets_plain_ones() -> None:
    plain = FrameView(colours=False, arrows=False)
    assert " -> #1 ping" in plain.sent({"id": 1, "action": "ping"}, AT)[0]
    assert " <- #1 ok" in plain.received({"type": "reply", "id": 1, "data": {}}, AT)[0]


def test_every_error_refusal_and_close_has_a_meaning() -> None:
    assert set(meanings.ERRORS) == set(ErrorCode)
    for refusal in Refusal:
        assert meanings.of_close(1008, refusal.value)
    for close in vars(Closes).values():
        if isinstance(close, Close):
            assert meanings.of_close(close.code, close.reason), close
    assert meanings.of_close(1006, "")
    assert (
        meanings.of_close(4999, "x") == meanings.of_close(1008, "unheard-of") == meanings.of_error("unheard-of") == ""
    )
