"""The lines that a person types into `gateway connect`: from text to an action with its channel and data.

Owns the little language and its help. Refuses to own sending: see `connect_session`.
"""

from __future__ import annotations

import enum
import json
from collections.abc import Callable
from dataclasses import dataclass

import msgspec


class LineError(Exception):
    """A line that says nothing that could be done; its text says why and how it is written."""


class Local(enum.Enum):
    """What concerns the tool itself, not the gateway."""

    HELP = "help"
    QUIT = "quit"
    REFRESH = "refresh"


@dataclass(frozen=True, slots=True)
class Request:
    """One command for the gateway.

    Args:
        action: A dotted name.
        channel: Where the action takes one.
        data: UNSET where the action takes none.
    """

    action: str
    channel: str | None = None
    data: object = msgspec.UNSET


@dataclass(frozen=True, slots=True)
class Raw:
    """A frame or a batch as it was written, to be sent without a look at it."""

    frame: object


Line = Request | Raw | Local


@dataclass(frozen=True, slots=True)
class Verb:
    """One word that a line can start with.

    Args:
        usage: How it is written.
        summary: What it does.
        example: A line that can be copied.
        read: From what stands behind the word to the line's meaning.
    """

    usage: str
    summary: str
    example: str
    read: Callable[[str], Line]


def parse_line(text: str) -> Line | None:
    """Read one line; None for an empty one or a comment.

    Raises:
        LineError: It cannot be read.
    """
    text = text.strip()
    if not text or text.startswith("#"):
        return None
    word, rest = _cut(text)
    verb = VERBS.get(word.lower())
    if verb is None:
        raise LineError(f"`{word[:40]}` is no command; `help` lists them")
    try:
        return verb.read(rest)
    except LineError as wrong:
        raise LineError(f"{wrong}; write `{verb.usage}`, such as `{verb.example}`") from None


def _publish(rest: str) -> Line:
    channel, data = _cut(rest)
    return Request("channel.publish", _needed(channel, "a channel"), _json(data))


def _subscribe(rest: str) -> Line:
    channel, more = _cut(rest)
    options = _options(more, {"epoch": str, "offset": int})
    _needed(channel, "a channel")
    if not options:
        return Request("channel.subscribe", channel)
    if set(options) != {"epoch", "offset"}:
        raise LineError("a position is an epoch and an offset")
    return Request("channel.subscribe", channel, {"recover": options})


def _unsubscribe(rest: str) -> Line:
    return Request("channel.unsubscribe", _alone(rest, "a channel"))


def _history(rest: str) -> Line:
    channel, more = _cut(rest)
    return Request(
        "channel.history", _needed(channel, "a channel"), _options(more, {"limit": int, "before": int, "after": int})
    )


def _presence(rest: str) -> Line:
    return Request("channel.presence", _alone(rest, "a channel"))


def _send(rest: str) -> Line:
    subject, data = _cut(rest)
    return Request("user.send", data={"to": _needed(subject, "a user"), "data": _json(data)})


def _broadcast(rest: str) -> Line:
    return Request("broadcast", data=_json(rest))


def _permissions(rest: str) -> Line:
    return Request("session.permissions", _alone(rest, "a channel") if rest else None)


def _describe(rest: str) -> Line:
    return _bare(rest, Request("session.describe"))


def _ping(rest: str) -> Line:
    return _bare(rest, Request("ping"))


def _do(rest: str) -> Line:
    action, more = _cut(rest)
    _needed(action, "an action")
    channel: str | None = None
    if more and more[0] not in '{["-0123456789' and _cut(more)[0] not in {"true", "false", "null"}:
        channel, more = _cut(more)
    return Request(action, channel, _json(more) if more else msgspec.UNSET)


def _raw(rest: str) -> Line:
    return Raw(_json(rest))


def _refresh(rest: str) -> Line:
    return _bare(rest, Local.REFRESH)


def _help(_rest: str) -> Line:
    return Local.HELP


def _quit(rest: str) -> Line:
    return _bare(rest, Local.QUIT)


VERBS = {
    "subscribe": Verb(
        "subscribe CHANNEL [epoch=E offset=N]", "hear what is published", "subscribe room:acme:1", _subscribe
    ),
    "unsubscribe": Verb("unsubscribe CHANNEL", "stop hearing it", "unsubscribe room:acme:1", _unsubscribe),
    "publish": Verb("publish CHANNEL JSON", "publish to a channel", 'publish room:acme:1 {"text": "hi"}', _publish),
    "history": Verb(
        "history CHANNEL [limit=N] [before=N] [after=N]", "read past messages", "history room:acme:1 limit=10", _history
    ),
    "presence": Verb("presence CHANNEL", "see who is there", "presence room:acme:1", _presence),
    "send": Verb("send USER JSON", "send to every connection of a user", 'send bob {"text": "hi"}', _send),
    "broadcast": Verb("broadcast JSON", "send to everybody of your tenant", 'broadcast {"text": "hi"}', _broadcast),
    "permissions": Verb("permissions [CHANNEL]", "list what you may do", "permissions room:acme:1", _permissions),
    "describe": Verb("describe", "see who you are to the gateway", "describe", _describe),
    "refresh": Verb("refresh", "get a new token and go on with it", "refresh", _refresh),
    "ping": Verb("ping", "see how long an answer takes", "ping", _ping),
    "do": Verb("do ACTION [CHANNEL] [JSON]", "any other action", 'do orders.create {"amount": 5}', _do),
    "raw": Verb("raw JSON", "send a frame or a batch as it stands", 'raw {"id": 900, "action": "ping"}', _raw),
    "help": Verb("help", "print this list", "help", _help),
    "quit": Verb("quit", "close the connection and leave", "quit", _quit),
    "exit": Verb("exit", "the same as quit", "exit", _quit),
}
"""Every word that a line can start with."""

CHANNEL_VERBS = frozenset({"subscribe", "unsubscribe", "publish", "history", "presence", "permissions"})


def _cut(text: str) -> tuple[str, str]:
    head, *rest = text.split(None, 1) if text else [""]
    return head, rest[0].strip() if rest else ""


def _needed(word: str, what: str) -> str:
    if not word:
        raise LineError(f"{what} is missing")
    return word


def _alone(rest: str, what: str) -> str:
    word, more = _cut(rest)
    if more:
        raise LineError(f"`{more[:40]}` is too much")
    return _needed(word, what)


def _bare(rest: str, line: Line) -> Line:
    if rest:
        raise LineError(f"`{rest[:40]}` is too much")
    return line


def _json(text: str) -> object:
    if not text:
        raise LineError("the JSON is missing")
    try:
        return json.loads(text, parse_constant=_no_constant)
    except RecursionError:
        raise LineError("that is nested too deep") from None
    except ValueError as wrong:
        hint = "; text wants double quotes" if text[0].isalpha() or text[0] == "'" else ""
        raise LineError(f"`{text[:40]}` is no JSON ({str(wrong)[:80].lower()}){hint}") from None


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no value of JSON")


def _options(text: str, kinds: dict[str, Callable[[str], str | int]]) -> dict[str, str | int]:
    options: dict[str, str | int] = {}
    for part in text.split():
        name, separator, value = part.partition("=")
        if not separator or name not in kinds:
            raise LineError(f"`{part[:40]}` is none of {', '.join(f'`{kind}=`' for kind in kinds)}")
        try:
            options[name] = kinds[name](value)
        except ValueError:
            raise LineError(f"`{part[:40]}` is no whole number") from None
    return options
