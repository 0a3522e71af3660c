"""What a server writes on a WebSocket (RFC 6455, section 5): messages in one unmasked frame each, and control frames.

Owns the layout of outgoing frames, and one form for all that many connections are written alike. Refuses to own what comes in,
extensions, and when anything is sent.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Protocol

from gateway.core.frames import Encoding

TEXT, BINARY, CLOSE, PING, PONG = 0x81, 0x82, 0x88, 0x89, 0x8A
"""First octets: a whole message or a control frame, with no bit reserved."""

MEDIUM, LARGE = 126, 65_536
"""From these lengths on a payload's length takes two octets more, and eight."""

PING_FRAME = bytes((PING, 0))

_SMALL_HEADS = {first: tuple(bytes((first, size)) for size in range(MEDIUM)) for first in (TEXT, BINARY)}


def frame_head(first: int, size: int) -> bytes:
    """Write what stands before the payload.

    Args:
        first: The first octet, its reserved bits included.
        size: The length of the payload in octets.
    """
    if size < MEDIUM:
        return bytes((first, size))
    if size < LARGE:
        return struct.pack("!BBH", first, 126, size)
    return struct.pack("!BBQ", first, 127, size)


def control_frame(first: int, payload: bytes) -> bytes:
    """Write a control frame; its payload has at most 125 octets."""
    return bytes((first, len(payload))) + payload


def close_frame(code: int | None, reason: bytes) -> bytes:
    """Write a close frame; without a code it is empty."""
    return control_frame(CLOSE, b"" if code is None else code.to_bytes(2, "big") + reason)


class Framing(Protocol):
    """How the messages of a connection become octets. Connections with the same object are written the same octets."""

    @property
    def encoding(self) -> Encoding:
        """Give the encoding of the messages."""
        ...

    def frames(self, payloads: Sequence[bytes]) -> bytes:
        """Write messages, one behind the other."""
        ...


class PlainFraming:
    """Messages as they are, one frame each.

    Args:
        encoding: JSON stands in text frames, MessagePack in binary ones.
    """

    __slots__ = ("_first", "_small_heads", "encoding")

    def __init__(self, encoding: Encoding) -> None:
        self.encoding = encoding
        self._first = TEXT if encoding is Encoding.JSON else BINARY
        self._small_heads = _SMALL_HEADS[self._first]

    def frames(self, payloads: Sequence[bytes]) -> bytes:
        """Write messages, one behind the other."""
        if len(payloads) == 1:
            payload = payloads[0]
            size = len(payload)
            return (self._small_heads[size] if size < MEDIUM else frame_head(self._first, size)) + payload
        parts: list[bytes] = []
        for payload in payloads:
            size = len(payload)
            parts.append(self._small_heads[size] if size < MEDIUM else frame_head(self._first, size))
            parts.append(payload)
        return b"".join(parts)


PLAIN = {encoding: PlainFraming(encoding) for encoding in Encoding}
"""The framings without an extension."""
