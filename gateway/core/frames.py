"""Bytes to typed frames and back, in JSON and MessagePack.

Owns the wire types, the caps on what a frame may hold, and the one data model of both encodings (JSON's, RFC 8259, with integers
of 64 bits). Refuses to own signatures (`signing`) and meaning (`commands`). The parser raises FrameError and nothing else.
"""

from __future__ import annotations

import enum
import json
import math
from collections.abc import Callable, Mapping
from typing import Annotated, Final

import msgspec

from gateway.core.errors import FrameError

MAX_DEPTH = 32
"""Containers inside each other, the command's object being the first: far beyond any payload, far below the recursion limit."""

MAX_BATCH = 64
"""Commands in one array."""

MAX_MEMBERS = 8192
"""Members of all objects of one command together: what 64 KiB of honest payload stays under."""

MAX_ID = 2**53 - 1
"""The largest integer that every JSON implementation keeps exact (RFC 8259 section 6)."""

_MIN_INTEGER, _MAX_INTEGER = -(2**63), 2**63 - 1


class Encoding(enum.Enum):
    """How frames are written: JSON in text frames, MessagePack in binary ones."""

    JSON = "json"
    MSGPACK = "msgpack"


# ------------------------------------------------------------------------------------------------ client frames


class Command(msgspec.Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """What a client asks for.

    Args:
        id: Chosen by the client, unique among its commands in flight.
        action: A dotted name.
        channel: Where the action takes one.
        data: What the action takes; UNSET where absent, which is not the same as null.
    """

    id: Annotated[int, msgspec.Meta(ge=1, le=MAX_ID)]
    action: str
    channel: str | msgspec.UnsetType = msgspec.UNSET
    data: object = msgspec.UNSET


class _CommandId(msgspec.Struct, gc=False):
    id: Annotated[int, msgspec.Meta(ge=1, le=MAX_ID)]


_Batch = Annotated[list[msgspec.Raw], msgspec.Meta(min_length=1, max_length=MAX_BATCH)]


# ------------------------------------------------------------------------------------------------ server frames


class SigningWelcome(msgspec.Struct, frozen=True):
    """The server's half of the key material, base64url."""

    nonce: str


class LimitsWelcome(msgspec.Struct, frozen=True):
    """What a client must stay under: bytes in a frame, commands a second, subscribed channels."""

    frame_bytes: int
    commands_per_s: float
    channels: int


class Welcome(msgspec.Struct, frozen=True, tag_field="type", tag="welcome", omit_defaults=True):
    """Always the first frame. Times are Unix seconds."""

    session: str
    subject: str
    roles: tuple[str, ...]
    tenant: str
    expires_at: float
    server_time: float
    heartbeat_s: float
    limits: LimitsWelcome
    signing: SigningWelcome | msgspec.UnsetType = msgspec.UNSET


class Reply(msgspec.Struct, frozen=True, tag_field="type", tag="reply", gc=False):
    """The answer to a command that was carried out."""

    id: int
    data: object


class ErrorBody(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """A code, a sentence, and after `rate_limited` the seconds to wait."""

    code: str
    message: str
    retry_after_s: float | msgspec.UnsetType = msgspec.UNSET


class ErrorFrame(msgspec.Struct, frozen=True, tag_field="type", tag="error", omit_defaults=True, gc=False):
    """The answer to a command that was not carried out; without an id where none could be read."""

    error: ErrorBody
    id: int | msgspec.UnsetType = msgspec.UNSET


class MessagePush(msgspec.Struct, frozen=True, tag_field="type", tag="message", omit_defaults=True, gc=False):
    """A publication on a subscribed channel."""

    channel: str
    data: object
    sender: str
    at: float
    offset: int | msgspec.UnsetType = msgspec.UNSET
    epoch: str | msgspec.UnsetType = msgspec.UNSET


class PresencePush(msgspec.Struct, frozen=True, tag_field="type", tag="presence", gc=False):
    """A subject's first join to a channel, or its last leave."""

    channel: str
    event: str
    subject: str


class DirectPush(msgspec.Struct, frozen=True, tag_field="type", tag="direct", gc=False):
    """A message to this user."""

    data: object
    sender: str
    at: float


class BroadcastPush(msgspec.Struct, frozen=True, tag_field="type", tag="broadcast", gc=False):
    """A message to this tenant."""

    data: object
    sender: str
    at: float


class UnsubscribedPush(msgspec.Struct, frozen=True, tag_field="type", tag="unsubscribed", gc=False):
    """The end of a subscription that the client did not ask for: permission_revoked or position_lost."""

    channel: str
    reason: str


class ExpiringPush(msgspec.Struct, frozen=True, tag_field="type", tag="expiring", gc=False):
    """The token ends soon: refresh the session."""

    expires_at: float


class DrainingPush(msgspec.Struct, frozen=True, tag_field="type", tag="draining", gc=False):
    """This node goes away: come back after so many seconds."""

    reconnect_after_s: float


Push = MessagePush | PresencePush | DirectPush | BroadcastPush | UnsubscribedPush | ExpiringPush | DrainingPush
ServerFrame = Welcome | Reply | ErrorFrame | Push

_encode_json = msgspec.json.Encoder().encode
_encode_msgpack = msgspec.msgpack.Encoder().encode

ENCODERS = {Encoding.JSON: _encode_json, Encoding.MSGPACK: _encode_msgpack}
"""One frame, or a list of frames for a batch, to its bytes."""


class SharedPush:
    """A push that many connections get: encoded at most once in each encoding.

    Args:
        push: The frame.
        about: Whose presence it tells, (tenant, subject): it is not for them, and only for who may see presence. None: for all.
    """

    __slots__ = ("_json", "_msgpack", "about", "push")

    def __init__(self, push: Push, about: tuple[str, str] | None = None) -> None:
        self.push = push
        self.about = about
        self._json: bytes | None = None
        self._msgpack: bytes | None = None

    def body(self, encoding: Encoding) -> bytes:
        """Give the encoded frame, the same object for every recipient of that encoding."""
        if encoding is Encoding.JSON:
            if self._json is None:
                self._json = _encode_json(self.push)
            return self._json
        if self._msgpack is None:
            self._msgpack = _encode_msgpack(self.push)
        return self._msgpack


# ------------------------------------------------------------------------------------------------ parsing


UNREADABLE: Final = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, FrameError)
"""All that reading a frame raises."""


def check(data: object) -> None:
    """Hold what has been decoded against the one data model of both encodings, and against the caps.

    Raises:
        FrameError: It is beyond them.
    """
    kind = data.__class__
    if kind is dict or kind is list:
        _check_container(data, 2, [0])
    elif kind is not str and data is not msgspec.UNSET:
        _check_scalar(data)


class FrameParser:
    """Bytes of one data frame, its signature taken off, to commands.

    Args:
        encoding: How the connection writes its frames.
    """

    __slots__ = ("_array_markers", "_decode_anything", "_decode_batch", "_decode_id", "_object_markers", "decode")

    def __init__(self, encoding: Encoding) -> None:
        codec = msgspec.json if encoding is Encoding.JSON else msgspec.msgpack
        self.decode: Callable[[bytes | msgspec.Raw], Command] = codec.Decoder(Command).decode
        """The first step of `parse`: raises UNREADABLE, and `check` is yet to be asked of the data."""
        self._decode_id: Callable[[bytes | msgspec.Raw], _CommandId] = codec.Decoder(_CommandId).decode
        self._decode_batch: Callable[[bytes], list[msgspec.Raw]] = codec.Decoder(_Batch).decode
        # MessagePack's maps may have keys of any kind, and none but text is a member's name.
        self._decode_anything = _decode_surrogates if encoding is Encoding.JSON else msgspec.msgpack.decode
        self._array_markers = _JSON_ARRAY if encoding is Encoding.JSON else _MSGPACK_ARRAY
        self._object_markers = _JSON_OBJECT if encoding is Encoding.JSON else _MSGPACK_OBJECT

    def is_batch(self, body: bytes) -> bool:
        """Tell whether the frame is an array, whatever is in it."""
        first = body[:1]
        if first in _JSON_SPACE and first and self._array_markers is _JSON_ARRAY:
            first = body.lstrip(b" \t\r\n")[:1]
        return first in self._array_markers

    def split(self, body: bytes) -> list[msgspec.Raw]:
        """Take a batch apart without looking into its commands.

        Raises:
            FrameError: It is empty, too long, or no array of objects: nothing of it is to be done.
        """
        try:
            items = self._decode_batch(body)
        except UNREADABLE as error:
            raise FrameError(_say(error, f"a batch is an array of 1 to {MAX_BATCH} commands")) from None
        for item in items:
            if bytes(item)[:1] not in self._object_markers:
                raise FrameError("a batch holds objects only")
        return items

    def parse(self, body: bytes | msgspec.Raw) -> Command:
        """Read one command.

        Raises:
            FrameError: It is none; with the id where the text parses and an id can be read.
        """
        try:
            command = self.decode(body)
            check(command.data)
        except UNREADABLE as error:
            raise self.fault(body, error) from None
        return command

    def fault(self, body: bytes | msgspec.Raw, error: Exception) -> FrameError:
        """Say what is wrong with a frame that `decode` or `check` has raised for."""
        message = error.message if isinstance(error, FrameError) else _say(error, "not a command")
        return FrameError(message, self._read_id(body))

    def _read_id(self, body: bytes | msgspec.Raw) -> int | None:
        try:
            return self._decode_id(body).id
        except UNREADABLE:
            return _read_lenient_id(self._decode_anything, bytes(body))


def _read_lenient_id(decode: Callable[[bytes], object], body: bytes) -> int | None:
    """Read the id of what is well-formed by its grammar, yet holds what the strict decoder stops at."""
    try:
        document = decode(body)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None
    command_id = document.get("id") if isinstance(document, dict) else None
    return command_id if command_id.__class__ is int and 1 <= command_id <= MAX_ID else None


def _decode_surrogates(body: bytes) -> object:
    r"""Decode JSON text that may hold a lone `\ud800`, which RFC 8259's grammar lets through; nothing else is worth a second look."""
    return json.loads(body, parse_constant=_refuse_constant) if b"\\u" in body else None


def _refuse_constant(name: str) -> None:
    raise ValueError(name)


_JSON_SPACE = b" \t\r\n"
_JSON_ARRAY = frozenset([b"["])
_JSON_OBJECT = frozenset([b"{"])
_MSGPACK_ARRAY = frozenset([bytes([marker]) for marker in (*range(0x90, 0xA0), 0xDC, 0xDD)])
_MSGPACK_OBJECT = frozenset([bytes([marker]) for marker in (*range(0x80, 0x90), 0xDE, 0xDF)])


def _say(error: Exception, expected: str) -> str:
    """Say what is wrong in a sentence that holds none of the frame's content but the names of members."""
    match error:
        case RecursionError():
            return f"nested deeper than {MAX_DEPTH} containers"
        case UnicodeDecodeError():
            return "text that is not UTF-8"
        case _:
            return f"{expected}: {str(error)[:120]}"


def _check_scalar(value: object) -> None:
    kind = value.__class__
    if kind is str or kind is bool or value is None:
        return
    if kind is int:
        if not _MIN_INTEGER <= value <= _MAX_INTEGER:  # type: ignore[operator]  # the class has been asked
            raise FrameError("an integer outside the range of 64 bits")
    elif kind is float:
        if not math.isfinite(value):  # type: ignore[arg-type]  # as above
            raise FrameError("a number that is not finite")
    else:
        raise FrameError("a value that JSON does not have")


def _check_container(container: object, depth: int, members: list[int]) -> None:
    if depth > MAX_DEPTH:
        raise FrameError(f"nested deeper than {MAX_DEPTH} containers")
    if isinstance(container, Mapping):
        members[0] += len(container)
        if members[0] > MAX_MEMBERS:
            raise FrameError(f"more than {MAX_MEMBERS} members")
        for key in container:
            if key.__class__ is not str:
                raise FrameError("a key that is no string")
        values = container.values()
    else:
        values = container  # type: ignore[assignment]  # a list, by its class
    for value in values:
        kind = value.__class__
        if kind is str:
            continue
        if kind is dict or kind is list:
            _check_container(value, depth + 1, members)
        else:
            _check_scalar(value)
