"""A session under fire: bytes in, and a check that nothing comes out but what is documented."""

from __future__ import annotations

import json

import msgspec
from talk import PERMISSIVE, Talk, talk

from gateway.core import effects
from gateway.core.effects import End
from gateway.core.errors import Closes, ErrorCode
from gateway.core.frames import Encoding
from gateway.core.session import Phase
from gateway.core.session_events import Completed
from gateway.core.session_ports import SessionLimits

CODES = {code.value for code in ErrorCode}
CLOSES = {
    Closes.PROTOCOL_ABUSE,
    Closes.RATE_LIMITED,
    Closes.SIGNATURE_INVALID,
    Closes.SIGNATURE_REQUIRED,
    Closes.UNSUPPORTED_DATA,
}
ANSWERED = (
    effects.Publish,
    effects.Subscribe,
    effects.ReadHistory,
    effects.ReadPresence,
    effects.SendToUser,
    effects.SendToTenant,
    effects.VerifyToken,
)
LIMITS = SessionLimits(65_536, 1_000_000.0, 3, 25.0)

CORPUS = [
    {"id": 1, "action": "ping"},
    {"id": 2, "action": "session.describe"},
    {"id": 3, "action": "session.permissions", "channel": "room:acme:1"},
    {"id": 4, "action": "session.refresh", "data": {"token": "a.b.c"}},
    {
        "id": 5,
        "action": "channel.subscribe",
        "channel": "room:acme:1",
        "data": {"recover": {"epoch": "e", "offset": 4}},
    },
    {"id": 6, "action": "channel.unsubscribe", "channel": "room:acme:1"},
    {
        "id": 7,
        "action": "channel.publish",
        "channel": "room:acme:1",
        "data": {"text": "hi", "n": [1, -2.5, None, True]},
    },
    {"id": 8, "action": "channel.history", "channel": "room:acme:1", "data": {"limit": 10, "after": 2, "before": 9}},
    {"id": 9, "action": "channel.presence", "channel": "room:acme:1"},
    {"id": 10, "action": "user.send", "data": {"to": "bob", "data": {"x": {"y": ["z"]}}}},
    {"id": 2**53 - 1, "action": "broadcast", "data": "\u00e9\U0001f600"},
    [{"id": 11, "action": "ping"}, {"id": 12, "action": "channel.publish", "channel": "room:acme:2", "data": []}],
]


def seeds(encoding: Encoding) -> list[bytes]:
    """Give the well-formed frames that mutations start from."""
    encode = msgspec.json.encode if encoding is Encoding.JSON else msgspec.msgpack.encode
    return [encode(frame) for frame in CORPUS]


class UnderFire:
    """One session after the other: a new one where the old one has ended.

    Args:
        encoding: How it is spoken to.
        signed: Whether the bytes are signed properly before they are sent.
    """

    def __init__(self, encoding: Encoding, *, signed: bool) -> None:
        self._encoding = encoding
        self._signed = signed
        self._talk = self._new()
        self.outcomes: dict[str, int] = {}

    def _new(self) -> Talk:
        return talk(encoding=self._encoding, signed=self._signed, answers=PERMISSIVE, limits=LIMITS)

    def feed(self, body: bytes, *, raw: bool = False) -> None:
        """Send a frame's body, or with `raw` a payload as it is; hold what comes out against what is documented."""
        conversation = self._talk
        conversation.now += 2.0
        wanted = conversation.receive(body) if raw else conversation.send_bytes(body)
        todo = list(wanted)
        while todo:
            effect = todo.pop(0)
            if isinstance(effect, ANSWERED) or (isinstance(effect, effects.Unsubscribe) and effect.id is not None):
                todo += conversation.tell(Completed(effect.id, {}, conversation.now))
            elif isinstance(effect, End):
                assert effect.close in CLOSES, effect
            else:
                assert isinstance(effect, effects.PauseReading | effects.ResumeReading), effect
        for said in conversation.said():
            for frame in said if isinstance(said, list) else [said]:
                self._hold(frame)
        if conversation.session.phase is Phase.CLOSING:
            self._talk = self._new()

    def _hold(self, frame: dict[str, object]) -> None:
        if frame["type"] == "reply":
            assert set(frame) == {"type", "id", "data"}
            outcome = "ok"
        else:
            assert frame["type"] == "error"
            assert set(frame) <= {"type", "id", "error"}
            error = frame["error"]
            assert isinstance(error, dict)
            outcome = str(error["code"])
            assert outcome in CODES
            json.dumps(error["message"]).encode()
        self.outcomes[outcome] = self.outcomes.get(outcome, 0) + 1
