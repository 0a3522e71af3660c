"""How `gateway connect` shows frames: one line each, with the time, the direction and what matters.

Owns the look. Refuses to own where lines go. All text that came over the network is made harmless first.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Any

from gateway.cli import meanings
from gateway.cli.terminal import Style, paint, printable, to_json

_SENT, _RECEIVED = "→", "←"
_PLAIN_SENT, _PLAIN_RECEIVED = "->", "<-"
_INDENT = " " * 15
MAX_COMMANDS_REMEMBERED = 4096


class FrameView:
    """Turns frames into lines, and remembers which command a reply answers.

    Args:
        colours: Whether the lines take colours.
        arrows: Whether the terminal has arrows; it writes UTF-8.
    """

    def __init__(self, *, colours: bool, arrows: bool) -> None:
        self._colours = colours
        self._out, self._in = (_SENT, _RECEIVED) if arrows else (_PLAIN_SENT, _PLAIN_RECEIVED)
        self._sent: dict[int, tuple[str, float]] = {}

    def sent(self, frame: object, now: float) -> list[str]:
        """Show a frame or a batch that goes out; `now` in Unix seconds."""
        return [self._command(command, now) for command in _each(frame)]

    def received(self, frame: object, now: float) -> list[str]:
        """Show a frame or a batch that came in; `now` in Unix seconds."""
        return [line for one in _each(frame) for line in self._frame(one, now)]

    def note(self, text: str, now: float, style: Style = Style.NOTE) -> str:
        """Show what happened to the connection."""
        return f"{self._time(now)} {paint('*', style, colours=self._colours)} {printable(text)}"

    def _command(self, command: Mapping[str, Any], now: float) -> str:
        action, command_id = str(command.get("action", "?")), command.get("id")
        if isinstance(command_id, int) and len(self._sent) < MAX_COMMANDS_REMEMBERED:
            self._sent[command_id] = (action, now)
        parts = [self._id(command_id), self._paint(action, Style.NAME)]
        if "channel" in command:
            parts.append(self._paint(str(command["channel"]), Style.PLACE))
        if "data" in command:
            data = {"token": "…"} if action == "session.refresh" else command["data"]
            parts.append(to_json(data))
        return self._line(self._out, " ".join(parts), now)

    def _frame(self, frame: Mapping[str, Any], now: float) -> list[str]:
        match frame.get("type"):
            case "welcome":
                self._sent.clear()  # ids start anew on each connection
                return [self._line(self._in, self._welcome(frame), now)]
            case "reply":
                return self._reply(frame, now)
            case "error":
                return self._error(frame, now)
            case _:
                return [self._line(self._in, self._push(frame), now)]

    def _welcome(self, frame: Mapping[str, Any]) -> str:
        roles = ", ".join(map(str, frame.get("roles", ()))) or "no role"
        tenant = f" of tenant {frame['tenant']}" if frame.get("tenant") else ""
        signed = ", signed" if "signing" in frame else ""
        until = _clock(frame.get("expires_at", 0))
        head = self._paint("welcome", Style.GOOD)
        who = printable(f"{frame.get('subject')}{tenant} as {roles}")
        return f"{head} {who}{signed}, until {until}"

    def _reply(self, frame: Mapping[str, Any], now: float) -> list[str]:
        action, since = self._sent.pop(frame.get("id", 0), ("", now))
        took = self._paint(f"{(now - since) * 1000:.1f} ms", Style.FAINT) if action else ""
        said, below = self._answer(action, frame.get("data"))
        head = " ".join(filter(None, [self._id(frame.get("id")), self._paint("ok", Style.GOOD), said, took]))
        return [self._line(self._in, head, now), *(f"{_INDENT}{line}" for line in below)]

    def _answer(self, action: str, data: object) -> tuple[str, list[str]]:
        """Show what a reply says: in words where the action is known, and as JSON where it is not."""
        match action, data:
            case "session.permissions", {"actions": list(actions)}:
                return "", [self._permission(each) for each in actions]
            case "channel.presence", {"members": list(members)}:
                return f"{len(members)} here", [self._member(each) for each in members]
            case "channel.history" | "channel.subscribe", {"messages": list(messages), **rest}:
                return to_json(rest), [self._past(each) for each in messages]
            case _:
                return to_json(data), []

    def _permission(self, permission: Mapping[str, Any]) -> str:
        conditional = self._paint(" under conditions", Style.FAINT) if permission.get("conditional") else ""
        return self._paint(str(permission.get("action")), Style.NAME) + conditional

    def _member(self, member: Mapping[str, Any]) -> str:
        connections = member.get("connections")
        return f"{self._paint(str(member.get('subject')), Style.HEADING)} {connections}x"

    def _past(self, message: Mapping[str, Any]) -> str:
        offset = self._paint(f"@{message.get('offset')}", Style.FAINT)
        sender = self._paint(str(message.get("sender")), Style.HEADING)
        return f"{_clock(message.get('at'))} {offset} {sender}: {to_json(message.get('data'))}"

    def _error(self, frame: Mapping[str, Any], now: float) -> list[str]:
        body = frame.get("error") or {}
        action, _ = self._sent.pop(frame.get("id", 0), ("", now))
        code = str(body.get("code"))
        wait = f", after {body['retry_after_s']:.1f} s" if isinstance(body.get("retry_after_s"), int | float) else ""
        text = f"{action}: {body.get('message', '')}{wait}" if action else f"{body.get('message', '')}{wait}"
        line = f"{self._id(frame.get('id'))} {self._paint(code, Style.BAD)} {printable(text)}".strip()
        meaning = meanings.of_error(code)
        hint = [_INDENT + self._paint(meaning, Style.FAINT)] if meaning else []
        return [self._line(self._in, line, now), *hint]

    def _push(self, frame: Mapping[str, Any]) -> str:
        kind = str(frame.get("type"))
        head = self._paint(kind, Style.NAME)
        place = self._paint(str(frame.get("channel", "")), Style.PLACE)
        who = self._paint(str(frame.get("sender", frame.get("subject", ""))), Style.HEADING)
        match kind:
            case "message":
                offset = self._paint(f"@{frame['offset']}", Style.FAINT) if "offset" in frame else ""
                return " ".join(filter(None, [head, place, offset, f"{who}:", to_json(frame.get("data"))]))
            case "direct" | "broadcast":
                return f"{head} {who}: {to_json(frame.get('data'))}"
            case "presence":
                return f"{head} {place} {who} {'joined' if frame.get('event') == 'join' else 'left'}"
            case "unsubscribed":
                return f"{head} {place} {self._paint(str(frame.get('reason')), Style.BAD)}"
            case "expiring":
                return f"{head} the token ends at {_clock(frame.get('expires_at', 0))}"
            case "draining":
                return f"{head} this node goes away; come back after {frame.get('reconnect_after_s', 0)} s"
            case _:
                return f"{head} {to_json({name: value for name, value in frame.items() if name != 'type'})}"

    def _id(self, command_id: object) -> str:
        return self._paint(f"#{command_id}", Style.FAINT) if command_id is not None else ""

    def _paint(self, text: str, style: Style) -> str:
        return paint(printable(text), style, colours=self._colours)

    def _line(self, direction: str, text: str, now: float) -> str:
        return f"{self._time(now)} {direction} {text}"

    def _time(self, now: float) -> str:
        return paint(f"{_clock(now)}.{int(now * 1000) % 1000:03d}", Style.FAINT, colours=self._colours)


def _each(frame: object) -> list[Mapping[str, Any]]:
    frames = frame if isinstance(frame, list) else [frame]
    return [one if isinstance(one, dict) else {"type": "frame", "data": one} for one in frames]


def _clock(at: object) -> str:
    """Give the time of day here; `?` for what is no time."""
    try:
        moment = dt.datetime.fromtimestamp(float(at), tz=dt.UTC)  # type: ignore[arg-type]  # tried
        return moment.astimezone().strftime("%H:%M:%S")
    except (TypeError, ValueError, OverflowError, OSError):
        return "?"
