"""What a server writes: heads, control frames, and messages joined into one write; read back by another implementation."""

from __future__ import annotations

import pytest
from websockets.frames import Frame, Opcode
from websockets.streams import StreamReader

from gateway.core.frames import Encoding
from gateway.core.wire_frames import BINARY, PING_FRAME, PLAIN, PONG, TEXT, close_frame, control_frame, frame_head

SIZES = (0, 1, 125, 126, 127, 65_535, 65_536, 70_000)


def read_back(octets: bytes) -> list[Frame]:
    """Parse a server's frames with `websockets`, to the last octet."""
    reader = StreamReader()
    reader.feed_data(octets)
    frames = []
    while reader.buffer:
        parsing = Frame.parse(reader.read_exact, mask=False)
        try:
            next(parsing)
        except StopIteration as done:
            frames.append(done.value)
    return frames


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("first", [TEXT, BINARY])
def test_a_head_tells_the_length_in_the_least_number_of_octets(first: int, size: int) -> None:
    head = frame_head(first, size)
    assert len(head) == (2 if size < 126 else 4 if size < 65_536 else 10)
    (frame,) = read_back(head + bytes(size))
    assert (frame.opcode, frame.fin, len(frame.data)) == (Opcode(first & 0x0F), True, size)
    assert not (frame.rsv1)
    assert not (frame.rsv2)
    assert not (frame.rsv3)


@pytest.mark.parametrize(("encoding", "opcode"), [(Encoding.JSON, Opcode.TEXT), (Encoding.MSGPACK, Opcode.BINARY)])
def test_messages_are_joined_in_their_order_each_in_a_frame_of_its_own(encoding: Encoding, opcode: Opcode) -> None:
    payloads = [bytes([n]) * size for n, size in enumerate(SIZES)]
    frames = read_back(PLAIN[encoding].frames(payloads))
    assert [(frame.opcode, bytes(frame.data)) for frame in frames] == [(opcode, payload) for payload in payloads]
    assert PLAIN[encoding].encoding is encoding
    assert b"".join(PLAIN[encoding].frames([payload]) for payload in payloads) == PLAIN[encoding].frames(payloads)
    assert PLAIN[encoding].frames([]) == b""


def test_control_frames() -> None:
    ping, pong, close, empty = read_back(
        PING_FRAME + control_frame(PONG, b"hi") + close_frame(1008, b"rate_limited") + close_frame(None, b"")
    )
    assert (ping.opcode, bytes(ping.data)) == (Opcode.PING, b"")
    assert (pong.opcode, bytes(pong.data)) == (Opcode.PONG, b"hi")
    assert (close.opcode, bytes(close.data)) == (Opcode.CLOSE, b"\x03\xf0rate_limited")
    assert (empty.opcode, bytes(empty.data)) == (Opcode.CLOSE, b"")
