"""permessage-deflate (RFC 7692): what is agreed on, and how messages are written under it.

Owns negotiation and compression. Refuses to own inflation: see `wire_parser`.

No context is taken over in either direction. So a connection keeps no window, of which two take more memory than all the rest of
it, and a message to many is compressed once for all that have agreed on the same window.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence

from websockets.exceptions import NegotiationError
from websockets.extensions.permessage_deflate import ServerPerMessageDeflateFactory
from websockets.headers import build_extension, parse_extension

from gateway.core.frames import Encoding
from gateway.core.wire_frames import BINARY, TEXT, Framing, frame_head

_RSV1 = 0x40
_TAIL_OCTETS = 4  # RFC 7692, section 7.2.1: 00 00 ff ff, which the sender cuts off
# 4 KiB windows and small tables: to prepare them costs less than the compressing of a usual message.
_WINDOW_BITS = 12
_LEAST_WINDOW_BITS = 9  # zlib has no smaller one
_MEMORY_LEVEL = 5

LEAST_COMPRESSED = 64
"""Messages below this length are sent as they are: what they could save is less than a packet's head."""

_FACTORY = ServerPerMessageDeflateFactory(
    server_no_context_takeover=True, client_no_context_takeover=True, server_max_window_bits=_WINDOW_BITS
)


class DeflateFraming:
    """Messages compressed where that makes them shorter, one frame each.

    Args:
        encoding: JSON stands in text frames, MessagePack in binary ones.
        window_bits: The window agreed on, from 9 to 12.
    """

    __slots__ = ("_first", "_window_bits", "encoding")

    def __init__(self, encoding: Encoding, window_bits: int) -> None:
        self.encoding = encoding
        self._first = TEXT if encoding is Encoding.JSON else BINARY
        self._window_bits = window_bits

    def frames(self, payloads: Sequence[bytes]) -> bytes:
        """Write messages, one behind the other."""
        parts: list[bytes] = []
        for payload in payloads:
            first, data = self._first, payload
            if len(payload) >= LEAST_COMPRESSED:
                zipped = self._compress(payload)
                if len(zipped) < len(payload):
                    first, data = first | _RSV1, zipped
            parts += (frame_head(first, len(data)), data)
        return b"".join(parts)

    def _compress(self, payload: bytes) -> bytes:
        deflate = zlib.compressobj(wbits=-self._window_bits, memLevel=_MEMORY_LEVEL)
        return (deflate.compress(payload) + deflate.flush(zlib.Z_SYNC_FLUSH))[:-_TAIL_OCTETS]


_FRAMINGS = {
    (encoding, bits): DeflateFraming(encoding, bits)
    for encoding in Encoding
    for bits in range(_LEAST_WINDOW_BITS, _WINDOW_BITS + 1)
}


def deflate_framing(encoding: Encoding, window_bits: int) -> Framing:
    """Give the framing that all connections of an encoding and a window share."""
    return _FRAMINGS[encoding, window_bits]


def negotiate_deflate(offers: Sequence[str]) -> tuple[str, int] | None:
    """Take the first offer of permessage-deflate that can be met; None where there is none.

    Args:
        offers: The values of all `Sec-WebSocket-Extensions` fields.

    Returns:
        What the response says, and the size of the server's window in bits.

    Raises:
        websockets.exceptions.InvalidHeader: They are malformed.
    """
    for value in offers:
        for name, parameters in parse_extension(value):
            if name != _FACTORY.name:
                continue
            try:
                agreed, extension = _FACTORY.process_request_params(parameters, [])
            except NegotiationError:
                continue
            return build_extension([(name, agreed)]), extension.local_max_window_bits
    return None
