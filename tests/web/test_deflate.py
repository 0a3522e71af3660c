"""permessage-deflate (RFC 7692): what is agreed on, what is written under it, and that another's endpoint reads it."""

from __future__ import annotations

import random
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.client import ClientProtocol
from websockets.exceptions import InvalidHeader
from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.frames import Frame, Opcode
from websockets.protocol import State
from websockets.uri import parse_uri

from gateway.core.frames import Encoding
from gateway.core.wire_frames import BINARY, TEXT
from gateway.web.deflate import LEAST_COMPRESSED, deflate_framing, negotiate_deflate
from gateway.web.wire_parser import Fragment, Message, WireEvent, WireParser

WINDOWS = range(9, 13)
NO_CONTEXT = "permessage-deflate; server_no_context_takeover; client_no_context_takeover"


# ------------------------------------------------------------------------------------------------- what is agreed on


@pytest.mark.parametrize(
    ("offer", "answer"),
    [
        ("permessage-deflate", "server_max_window_bits=12"),
        ("permessage-deflate; server_no_context_takeover", "server_max_window_bits=12"),
        ("permessage-deflate; client_no_context_takeover", "server_max_window_bits=12"),
        ("permessage-deflate; client_max_window_bits", "server_max_window_bits=12"),
        ("permessage-deflate; client_max_window_bits=8", "server_max_window_bits=12; client_max_window_bits=8"),
        ("permessage-deflate; client_max_window_bits=15", "server_max_window_bits=12; client_max_window_bits=15"),
        ("permessage-deflate; server_max_window_bits=15", "server_max_window_bits=12"),
        ("permessage-deflate; server_max_window_bits=12", "server_max_window_bits=12"),
        ("permessage-deflate; server_max_window_bits=11", "server_max_window_bits=11"),
        ("permessage-deflate; server_max_window_bits=9", "server_max_window_bits=9"),
        ('permessage-deflate; server_max_window_bits="10"', "server_max_window_bits=10"),
        (
            f"{NO_CONTEXT}; server_max_window_bits=10; client_max_window_bits=9",
            "server_max_window_bits=10; client_max_window_bits=9",
        ),
    ],
)
def test_offer_is_answered_with_what_both_sides_keep_to(offer: str, answer: str) -> None:
    bits = int(answer.partition("=")[2].partition(";")[0])

    assert negotiate_deflate([offer]) == (f"{NO_CONTEXT}; {answer}", bits)


@pytest.mark.parametrize(
    "offer",
    [
        "permessage-bzip2",
        "x-webkit-deflate-frame",
        # zlib makes no raw stream for a window of 256 octets: an offer that cannot be kept to must be declined.
        "permessage-deflate; server_max_window_bits=8",
        "permessage-deflate; server_max_window_bits=7",
        "permessage-deflate; server_max_window_bits=16",
        "permessage-deflate; server_max_window_bits=010",
        "permessage-deflate; server_max_window_bits",
        "permessage-deflate; client_max_window_bits=16",
        "permessage-deflate; client_max_window_bits=+9",
        "permessage-deflate; client_no_context_takeover=1",
        "permessage-deflate; server_no_context_takeover=true",
        "permessage-deflate; server_no_context_takeover; server_no_context_takeover",
        "permessage-deflate; client_max_window_bits; client_max_window_bits=9",
        "permessage-deflate; level=9",
    ],
)
def test_offer_with_what_the_rfc_does_not_know_or_we_cannot_keep_to_is_declined(offer: str) -> None:
    assert negotiate_deflate([offer]) is None


def test_first_offer_that_can_be_met_is_taken_in_whichever_field_it_stands() -> None:
    offers = [
        "permessage-bzip2, permessage-deflate; server_max_window_bits=8",
        "permessage-deflate; server_max_window_bits=9, permessage-deflate",
    ]

    assert negotiate_deflate(offers) == (f"{NO_CONTEXT}; server_max_window_bits=9", 9)
    assert negotiate_deflate(offers[:1]) is None
    assert negotiate_deflate([]) is None


@pytest.mark.parametrize("offer", ["permessage-deflate;", "permessage-deflate; =9", ",;", "permessage deflate"])
def test_malformed_offer_is_no_offer(offer: str) -> None:
    with pytest.raises(InvalidHeader):
        negotiate_deflate([offer])


# ------------------------------------------------------------------------------------------------- what is written


def inflate(zipped: bytes, window_bits: int) -> bytes:
    """Inflate a message by an endpoint whose window is no larger than was agreed on."""
    return zlib.decompressobj(wbits=-window_bits).decompress(zipped + b"\x00\x00\xff\xff")


def split(octets: bytes) -> list[tuple[int, bytes]]:
    """Cut a server's octets into frames."""
    frames: list[tuple[int, bytes]] = []
    while octets:
        first, size, at = octets[0], octets[1], 2
        assert size < 128, "a server does not mask"
        if size >= 126:
            extra = 2 if size == 126 else 8
            size, at = int.from_bytes(octets[2 : 2 + extra], "big"), 2 + extra
        frames.append((first, octets[at : at + size]))
        octets = octets[at + size :]
    return frames


@pytest.mark.parametrize("window_bits", WINDOWS)
@pytest.mark.parametrize(("encoding", "first"), [(Encoding.JSON, TEXT), (Encoding.MSGPACK, BINARY)])
def test_message_is_compressed_within_the_window_agreed_on(encoding: Encoding, first: int, window_bits: int) -> None:
    # What is repeated stands farther behind than the smaller windows reach.
    payload = b"".join(b"%06d," % n for n in range(500)) * 5

    ((got, zipped),) = split(deflate_framing(encoding, window_bits).frames([payload]))

    assert got == first | 0x40
    assert len(zipped) < len(payload)
    assert inflate(zipped, window_bits) == payload


def test_short_messages_and_those_that_would_grow_are_sent_as_they_are() -> None:
    random_octets = random.Random(7).randbytes(3000)  # noqa: S311 - no secret
    short, long = b"x" * (LEAST_COMPRESSED - 1), b"x" * LEAST_COMPRESSED

    framing = deflate_framing(Encoding.MSGPACK, 12)
    frames = split(framing.frames([short, long, random_octets, b""]))

    assert [first for first, _ in frames] == [BINARY, BINARY | 0x40, BINARY, BINARY]
    assert [frames[0][1], inflate(frames[1][1], 12), frames[2][1], frames[3][1]] == [short, long, random_octets, b""]


def test_connections_of_a_kind_share_their_framing() -> None:
    framings = {id(deflate_framing(encoding, bits)) for encoding in Encoding for bits in WINDOWS for _ in range(2)}

    assert len(framings) == len(Encoding) * len(WINDOWS)
    assert deflate_framing(Encoding.JSON, 9).encoding is Encoding.JSON


# ------------------------------------------------------------------------------------------------- another's endpoint

PAYLOADS = st.lists(st.text(max_size=30).map(str.encode) | st.binary(max_size=10), max_size=40).map(b"".join)
TEXTS = st.lists(st.text(max_size=30), max_size=40).map("".join).map(str.encode)


def client_of(window_bits: int, *, client_bits: int = 15) -> ClientProtocol:
    """Make the client's side of what is agreed on, by `websockets`."""
    client = ClientProtocol(parse_uri("ws://gate.example/"), state=State.OPEN)
    client.extensions = [
        PerMessageDeflate(
            remote_no_context_takeover=True,
            local_no_context_takeover=True,
            remote_max_window_bits=window_bits,
            local_max_window_bits=client_bits,
        )
    ]
    return client


@settings(deadline=None, max_examples=150)
@given(st.lists(PAYLOADS, max_size=5), st.sampled_from(WINDOWS))
def test_websockets_reads_what_we_write(payloads: list[bytes], window_bits: int) -> None:
    client = client_of(window_bits)

    client.receive_data(deflate_framing(Encoding.MSGPACK, window_bits).frames(payloads))

    frames = [frame for frame in client.events_received() if isinstance(frame, Frame)]
    assert client.parser_exc is None
    assert [(frame.opcode, frame.fin, bytes(frame.data)) for frame in frames] == [
        (Opcode.BINARY, True, payload) for payload in payloads
    ]


@settings(deadline=None, max_examples=150)
@given(st.lists(st.tuples(TEXTS, st.booleans(), st.integers(0, 400)), max_size=5), st.integers(9, 15))
def test_we_read_what_websockets_writes(messages: list[tuple[bytes, bool, int]], client_bits: int) -> None:
    client = client_of(12, client_bits=client_bits)
    expected: list[WireEvent] = []
    for payload, text, cut in messages:
        (client.send_text if text else client.send_binary)(payload[:cut], fin=False)
        client.send_continuation(payload[cut:], fin=True)
        expected += [Fragment(), Message(payload, text)]
    octets = b"".join(client.data_to_send())

    parser = WireParser(100_000, inflates=True)
    assert list(parser.feed(octets)) == expected if octets else not expected
    parser = WireParser(100_000, inflates=True)
    assert [event for at in range(len(octets)) for event in parser.feed(octets[at : at + 1])] == expected
