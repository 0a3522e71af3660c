"""Octets from a WebSocket client to whole messages and control frames (RFC 6455, section 5; RFC 7692): sans I/O, and strict.

Owns masks, lengths, reserved bits, the order of fragments, UTF-8, close codes, inflation and the limit on a message. Refuses to own
the connection: it writes nothing and closes nothing, and says what is wrong by one exception.

There are two ways through it. `whole_messages` takes what nearly all clients send nearly always, several messages in one read,
each whole and in one frame, and stops before anything else. `WireParser` takes that rest, octet by octet where it comes so: a
frame that is not there yet, fragments, control frames, compression, and every fault. Bad UTF-8 is found with the first octet that
makes it so, in the middle of a frame too.
"""

from __future__ import annotations

import codecs
import struct
import zlib
from collections.abc import Callable, Iterator

import msgspec

from gateway.core.errors import Close, Closes, GatewayError
from gateway.core.wire_frames import BINARY, CLOSE, LARGE, MEDIUM, PING, PONG, TEXT

try:
    from websockets.speedups import apply_mask
except ImportError:  # websockets without its compiled part
    from websockets.utils import apply_mask

_FIN, _RSV1, _RSV23, _OPCODE = 0x80, 0x40, 0x30, 0x0F
_CONTINUATION, _CONTROL = 0x0, 0x8
_MASKED, _MASKED_MEDIUM = 0x80, 0xFE
_MAX_CONTROL = 125
_LEAST_HEAD = 2
_LEAST_FRAME = 6  # a head, the mask, no payload
_HEAD_AND_SIZE = struct.Struct("!HH")  # the two octets of a head, and what is its length where it is a medium one
_MASK_OCTETS = 4
_SIZE_END = 2**63
_UTF8 = codecs.getincrementaldecoder("utf-8")
_FIRST_SURROGATE = b"\xed\xa0"
# RFC 7692, section 7.2.1: what the sender has cut off every message; then an empty final block (RFC 1951, section 3.2.4), which
# is read as such only where the blocks before it are whole.
_DEFLATE_TAIL = b"\x00\x00\xff\xff\x01\x00\x00\xff\xff"
# RFC 7692, section 7.2.3.4: what may stand behind a final block of the sender's own.
_BEHIND_FINAL = (b"", _DEFLATE_TAIL, b"\x00" + _DEFLATE_TAIL)
# RFC 6455, section 7.4: what a close frame may hold; 1004 to 1006 and 1015 never stand in one, 1012 to 1014 are IANA's.
_CLOSE_CODES = frozenset((1000, 1001, 1002, 1003, *range(1007, 1015)))
_FIRST_PRIVATE_CODE, _LAST_PRIVATE_CODE = 3000, 4999


TURN_MESSAGES = 256
"""Messages, or any other frames, of one connection that are taken in one turn of the loop before others have theirs: of the most
costly ones, commands, a millisecond's worth."""

TURN_BYTES = 65_536
"""Octets of messages, after inflation, with which the turn of one connection ends: the most costly ones take ten milliseconds."""


class WireError(GatewayError):
    """What a peer must not send; it ends the connection.

    Args:
        close: The close that says why.
    """

    def __init__(self, close: Close) -> None:
        super().__init__(close.reason)
        self.close = close


class Message(msgspec.Struct, frozen=True, gc=False):
    """A whole message."""

    payload: bytes
    text: bool


class Ping(msgspec.Struct, frozen=True, gc=False):
    """A ping, which wants a pong with its payload."""

    payload: bytes


class Pong(msgspec.Struct, frozen=True, gc=False):
    """A pong."""


class Fragment(msgspec.Struct, frozen=True, gc=False):
    """A frame of a message whose last frame is still to come; nothing follows from it, but it took its time."""


class PeerClose(msgspec.Struct, frozen=True, gc=False):
    """The peer's close frame; nothing behind it counts. Without a code it was empty."""

    code: int | None
    reason: bytes


WireEvent = Message | Fragment | Ping | Pong | PeerClose


Taker = Callable[[bytes, list[bytes]], int]
"""Takes whole messages of one kind from octets that begin with a frame, puts their payloads into a list, and tells how far."""


def whole_messages(first: int, max_message_bytes: int) -> Taker:
    """Make what takes whole messages of one kind from the beginning of octets, at most TURN_MESSAGES, and tells where the rest begins.

    It takes only what `WireParser` could not refuse: masked, final, without reserved bits, within the limit and, where text, UTF-8.
    One serves all connections of a kind, so that what never changes is not handed to it again and again.

    Args:
        first: The first octet of such a frame, TEXT or BINARY.
        max_message_bytes: The largest message.
    """
    text = first == TEXT
    head_and_size, small, medium = _HEAD_AND_SIZE.unpack_from, first << 8 | _MASKED, first << 8 | _MASKED_MEDIUM

    def take(octets: bytes, into: list[bytes]) -> int:
        at, end = 0, len(octets)
        while at + _LEAST_FRAME <= end:
            head, size = head_and_size(octets, at)
            if head == medium:
                start = at + 8
                if size < MEDIUM:
                    break
            else:
                size, start = head - small, at + _LEAST_FRAME
                if not 0 <= size < MEDIUM:
                    break
            following = start + size
            if following > end or size > max_message_bytes:
                break
            payload = apply_mask(octets[start:following], octets[start - 4 : start])
            if text and not payload.isascii() and not _is_utf8(payload):
                break
            into.append(payload)
            at = following
            if len(into) == TURN_MESSAGES or at >= TURN_BYTES:
                break
        return at

    return take


def _is_utf8(payload: bytes) -> bool:
    try:
        payload.decode()
    except UnicodeDecodeError:
        return False
    return True


class WireParser:
    """Takes octets as they come, and gives what they make.

    Args:
        max_message_bytes: The largest message, after inflation.
        inflates: Whether permessage-deflate is negotiated, without context takeover by the client.
    """

    __slots__ = (
        "_begun",
        "_first",
        "_head",
        "_inflates",
        "_left",
        "_mask",
        "_max_message_bytes",
        "_message",
        "_payload",
        "_text",
        "_utf8",
        "_zipped",
    )

    def __init__(self, max_message_bytes: int, *, inflates: bool = False) -> None:
        self._max_message_bytes = max_message_bytes
        self._inflates = inflates
        # The frame in hand: its head as far as it has come, then its first octet, what is left of it, and the mask for that.
        self._head = bytearray()
        self._first: int | None = None
        self._left = 0
        self._mask = b""
        self._payload = bytearray()
        # The message in hand, whose last frame is still to come.
        self._begun = False
        self._message = bytearray()
        self._text = False
        self._zipped = False
        self._utf8: codecs.IncrementalDecoder | None = None

    @property
    def between_messages(self) -> bool:
        """Tell whether the next octet begins a frame, and no message is unfinished."""
        return not self._begun and self._first is None and not self._head

    def feed(self, octets: bytes) -> Iterator[WireEvent]:
        """Take octets and give what they complete; the next ones only when all of it has been taken.

        Raises:
            WireError: They violate the protocol (1002), are text that is not UTF-8 (1007), or belong to a message beyond the limit
                (1009). What came before has been given; nothing can be fed any more.
        """
        at, end = 0, len(octets)
        while True:
            if self._first is None:
                at = self._take_head(octets, at)
                if self._first is None:
                    return
            part = octets[at : at + self._left]
            at += len(part)
            if part:
                self._take_payload(part)
            if self._left:
                return
            event = self._end_frame()
            yield event
            if at == end or event.__class__ is PeerClose:
                return

    # ------------------------------------------------------------------------------------------ heads

    def _take_head(self, octets: bytes, at: int) -> int:
        """Take what there is of a head, and check it as soon as it can be; tell how far."""
        head = self._head
        if len(head) < _LEAST_HEAD:
            part = octets[at : at + _LEAST_HEAD - len(head)]
            head += part
            at += len(part)
            if len(head) < _LEAST_HEAD:
                return at
            self._check_first_octets(head[0], head[1])
        size = head[1] & 0x7F
        extra = 2 if size == MEDIUM else 8 if size > MEDIUM else 0
        whole = _LEAST_HEAD + extra + _MASK_OCTETS
        part = octets[at : at + whole - len(head)]
        head += part
        if len(head) == whole:
            if extra:
                size = int.from_bytes(head[2 : 2 + extra], "big")
                # Section 5.2: the least number of octets must be used, and the first bit of eight must be 0.
                if not (MEDIUM <= size < LARGE if extra == 2 else LARGE <= size < _SIZE_END):  # noqa: PLR2004 - octets, as above
                    raise WireError(Closes.PROTOCOL_ERROR)
            self._begin_frame(head[0], size, bytes(head[-_MASK_OCTETS:]))
        return at + len(part)

    def _check_first_octets(self, first: int, second: int) -> None:
        """Refuse what is wrong whatever follows: section 5.2 and, for what may stand between fragments, 5.4 and 5.5."""
        opcode, final, zipped = first & _OPCODE, first & _FIN, first & _RSV1
        if opcode & _CONTROL:
            sound = opcode <= PONG & _OPCODE and final and not zipped and second & 0x7F <= _MAX_CONTROL
        elif opcode == _CONTINUATION:
            sound = self._begun and not zipped
        else:
            sound = opcode <= BINARY & _OPCODE and not self._begun and (not zipped or self._inflates)
        if not sound or first & _RSV23 or not second & _MASKED:
            raise WireError(Closes.PROTOCOL_ERROR)

    def _begin_frame(self, first: int, size: int, mask: bytes) -> None:
        """Begin with the payload of a frame whose head is sound."""
        self._head.clear()
        self._first, self._left, self._mask = first, size, mask
        opcode = first & _OPCODE
        if opcode & _CONTROL:
            return
        if opcode != _CONTINUATION:
            self._begun = True
            self._text, self._zipped = opcode == TEXT & _OPCODE, bool(first & _RSV1)
            self._utf8 = _UTF8() if self._text and not self._zipped else None
        limit = self._max_message_bytes + (_deflate_growth(self._max_message_bytes) if self._zipped else 0)
        if len(self._message) + size > limit:
            raise WireError(Closes.FRAME_TOO_LARGE)

    # ------------------------------------------------------------------------------------------ payloads

    def _take_payload(self, part: bytes) -> None:
        """Take a part of the payload of the frame in hand."""
        size = len(part)
        data = apply_mask(part, self._mask)
        self._left -= size
        turned = size % _MASK_OCTETS
        if turned:
            self._mask = self._mask[turned:] + self._mask[:turned]
        if (self._first or 0) & _CONTROL:
            self._payload += data
        else:
            self._message += data
            if self._utf8 is not None:
                _decode(self._utf8, data, final=False)

    def _end_frame(self) -> WireEvent:
        """Give what the frame in hand completes."""
        first, self._first = self._first or 0, None
        if first & _CONTROL:
            payload, self._payload = bytes(self._payload), bytearray()
            return Ping(payload) if first == PING else _peer_close(payload) if first == CLOSE else Pong()
        if not first & _FIN:
            return Fragment()
        message, self._message, self._begun = bytes(self._message), bytearray(), False
        if self._zipped:
            message = self._inflate(message)
            if self._text and not _is_utf8(message):
                raise WireError(Closes.INVALID_UTF8)
        elif self._utf8 is not None:
            _decode(self._utf8, b"", final=True)
        return Message(message, self._text)

    def _inflate(self, zipped: bytes) -> bytes:
        """Inflate a message (RFC 7692, section 7.2.2), no further than its limit."""
        inflater = zlib.decompressobj(wbits=-zlib.MAX_WBITS)
        limit = self._max_message_bytes
        try:
            message = inflater.decompress(zipped + _DEFLATE_TAIL, limit + 1)
        except zlib.error:
            raise WireError(Closes.PROTOCOL_ERROR) from None
        if len(message) > limit:
            raise WireError(Closes.FRAME_TOO_LARGE)
        if not inflater.eof or inflater.unused_data not in _BEHIND_FINAL:
            raise WireError(Closes.PROTOCOL_ERROR)  # cut off in the middle of a block, or more than one stream
        return message


def _deflate_growth(size: int) -> int:
    """Tell by how much deflate may make longer what cannot be compressed: 5 octets for each stored block (RFC 1951)."""
    return 1024 + size // 1024


def _decode(decoder: codecs.IncrementalDecoder, data: bytes, *, final: bool) -> None:
    """Hold octets against UTF-8.

    Raises:
        WireError: They, behind those before, cannot be it any more.
    """
    try:
        decoder.decode(data, final)
    except UnicodeDecodeError:
        raise WireError(Closes.INVALID_UTF8) from None
    # Two octets of a surrogate are kept like those of any character: the decoder cannot know yet that nobody wants one.
    pending = decoder.getstate()[0]
    if len(pending) == 2 and pending >= _FIRST_SURROGATE and pending[0] == _FIRST_SURROGATE[0]:  # noqa: PLR2004 - octets
        raise WireError(Closes.INVALID_UTF8)


def _peer_close(payload: bytes) -> PeerClose:
    """Read a close frame's payload (RFC 6455, sections 5.5.1 and 7.4)."""
    if not payload:
        return PeerClose(None, b"")
    code, reason = int.from_bytes(payload[:2], "big"), payload[2:]
    private = _FIRST_PRIVATE_CODE <= code <= _LAST_PRIVATE_CODE
    if not (code in _CLOSE_CODES or private):  # as is that of a single octet
        raise WireError(Closes.PROTOCOL_ERROR)
    if not _is_utf8(reason):
        raise WireError(Closes.INVALID_UTF8)
    return PeerClose(code, reason)
