"""Between octets and whole messages: websockets' frame parser, and what it leaves to its caller.

Owns the joining of fragments, UTF-8, the limit on the whole message, and the reasons of the closes that follow a fault. Refuses to
own the connection: it writes nothing and closes nothing.
"""

from __future__ import annotations

import codecs
import logging
import struct
from collections.abc import Generator, MutableMapping
from typing import Any

from websockets.extensions.permessage_deflate import ServerPerMessageDeflateFactory
from websockets.frames import CloseCode, Frame, Opcode
from websockets.protocol import Protocol, State
from websockets.server import ServerProtocol

from gateway.core.errors import Close, Closes, GatewayError

try:
    from websockets.speedups import apply_mask
except ImportError:  # websockets without its compiled part
    from websockets.utils import apply_mask

Event = MutableMapping[str, Any]

_TEXT, _BINARY = 0x81, 0x82
_LEAST_FRAME = 6  # two octets and the mask
_MEDIUM_FRAME = 126  # a length in the two octets that follow (RFC 6455, section 5.2)
_LARGE_FRAME = 65_536

# Deflate may make what cannot be compressed a little longer (RFC 1951: 5 octets for each stored block). The parser holds the
# frame's own length against its limit, so it gets this much slack, and the exact limit is asked of the inflated message.
_DEFLATE_SLACK = 1024

_REASONS = {
    close.code: close.reason
    for close in (Closes.PROTOCOL_ERROR, Closes.INVALID_UTF8, Closes.FRAME_TOO_LARGE, Closes.INTERNAL)
}


class MessageError(GatewayError):
    """A message that ends its connection.

    Args:
        close: The close that says why.
    """

    def __init__(self, close: Close) -> None:
        super().__init__(close.reason)
        self.close = close


class _ErrorsOnly(logging.LoggerAdapter[logging.Logger]):
    """Lets errors through alone: below, websockets writes whole frames, and frames hold tokens."""

    def isEnabledFor(self, level: int) -> bool:  # noqa: N802 - logging's name
        return level >= logging.ERROR and super().isEnabledFor(level)


class FrameParser(ServerProtocol):
    """websockets' server side without the head of the request, which has been parsed already.

    Pings are left to the caller to answer, and closes of ours carry our reasons. `between_messages` tells whether the next octet
    begins a message: then the caller may take whole messages by `next_message`.

    Args:
        max_message_bytes: The largest message.
        deflate: Whether permessage-deflate is negotiated.
        logger: Where a fault of the parser itself is told.
    """

    between_messages = True

    def __init__(self, max_message_bytes: int, *, deflate: bool, logger: logging.Logger) -> None:
        super().__init__(
            extensions=[_deflate_factory()] if deflate else [],
            max_size=max_message_bytes + (_DEFLATE_SLACK if deflate else 0),
            logger=_ErrorsOnly(logger),
        )

    def receive_data(self, data: bytes | bytearray) -> None:
        """Take octets."""
        self.between_messages = False
        super().receive_data(data)

    def parse(self) -> Generator[None]:
        """Begin with the first frame."""
        return Protocol.parse(self)

    def recv_frame(self, frame: Frame) -> None:
        """Take a frame; a ping is only told."""
        match frame.opcode:
            case Opcode.PING:
                self.events.append(frame)
            case Opcode.CLOSE:
                # A peer may leave in the middle of a message (RFC 6455, section 5.4: control frames may come between).
                self.current_size = None
                super().recv_frame(frame)
            case _:
                super().recv_frame(frame)
        self.between_messages = not self.reader.buffer and self.current_size is None and self.state is State.OPEN

    def fail(self, code: CloseCode | int, reason: str = "") -> None:  # noqa: ARG002 - websockets' wording gives way to ours
        """End the connection with our reason for the code."""
        super().fail(code, _REASONS.get(code, ""))


def _deflate_factory() -> ServerPerMessageDeflateFactory:
    # 4 KiB windows: 16 KB of memory for a connection where zlib's defaults would take 300.
    return ServerPerMessageDeflateFactory(
        server_max_window_bits=12, client_max_window_bits=12, compress_settings={"memLevel": 5}
    )


def next_message(data: bytes, at: int, max_message_bytes: int) -> tuple[bytes, bool, int] | None:
    """Take one whole, unfragmented message: its payload, whether it is text, and where the next frame begins.

    What nearly all clients send nearly always, at a quarter of the parser's cost. Everything else, a fault above all, is left to
    the parser (None): this takes nothing but frames that the parser could not refuse.

    Args:
        data: Octets from the peer.
        at: Where a frame begins, with no message unfinished before it.
        max_message_bytes: The largest message.
    """
    end = len(data)
    if end - at < _LEAST_FRAME:
        return None
    first, second = data[at], data[at + 1]
    size, start = second & 0x7F, at + 6
    if (first != _TEXT and first != _BINARY) or size == second:  # noqa: PLR1714 - faster than a set; size == second: unmasked
        return None
    if size == _MEDIUM_FRAME:
        size, start = int.from_bytes(data[at + 2 : at + 4], "big"), at + 8
    elif size > _MEDIUM_FRAME:
        return None
    following = start + size
    if size > max_message_bytes or following > end:
        return None
    return apply_mask(data[start:following], data[start - 4 : start]), first == _TEXT, following


def message_event(payload: bytes, *, text: bool, max_message_bytes: int) -> Event:
    """Make the ASGI event of a whole message.

    Raises:
        MessageError: It is larger than the limit (1009), or text that is not UTF-8 (1007).
    """
    if len(payload) > max_message_bytes:
        raise MessageError(Closes.FRAME_TOO_LARGE)
    if not text:
        return {"type": "websocket.receive", "bytes": payload}
    try:
        return {"type": "websocket.receive", "text": payload.decode()}
    except UnicodeDecodeError:
        raise MessageError(Closes.INVALID_UTF8) from None


def data_frame(payload: bytes, *, text: bool) -> bytes:
    """Write a server's message in one frame (RFC 6455, section 5.2), uncompressed."""
    first, size = _TEXT if text else _BINARY, len(payload)
    if size < _MEDIUM_FRAME:
        return bytes((first, size)) + payload
    if size < _LARGE_FRAME:
        return struct.pack("!BBH", first, 126, size) + payload
    return struct.pack("!BBQ", first, 127, size) + payload


class Fragments:
    """Joins the frames of messages. Bad UTF-8 is found with the fragment that holds it, not with the last one.

    Args:
        max_message_bytes: The largest message.
    """

    __slots__ = ("_max_message_bytes", "_parts", "_text", "_utf8")

    def __init__(self, max_message_bytes: int) -> None:
        self._max_message_bytes = max_message_bytes
        self._parts: list[bytes] = []
        self._text = False
        self._utf8: codecs.IncrementalDecoder | None = None

    def add(self, frame: Frame) -> Event | None:
        """Take a data frame that the parser let through; give the event of the message that it ends.

        Raises:
            MessageError: As `message_event` does.
        """
        payload = bytes(frame.data)
        if frame.opcode is not Opcode.CONT:
            self._text = frame.opcode is Opcode.TEXT
            self._parts = []
            self._utf8 = codecs.getincrementaldecoder("utf-8")() if self._text and not frame.fin else None
        if payload:  # an empty frame is no octet of the message: kept, they would fill the memory below every limit
            self._parts.append(payload)
        if self._utf8 is not None:
            try:
                self._utf8.decode(payload, frame.fin)
            except UnicodeDecodeError:
                raise MessageError(Closes.INVALID_UTF8) from None
        if not frame.fin:
            return None
        parts, self._parts = self._parts, []
        whole = parts[0] if len(parts) == 1 else b"".join(parts)
        return message_event(whole, text=self._text, max_message_bytes=self._max_message_bytes)
