"""Octets to messages and control frames, sans I/O: each rule of RFC 6455 alone, then properties, and an independent parser as oracle."""

from __future__ import annotations

import importlib.util
import logging
import struct
import sys
import tracemalloc
import zlib
from collections.abc import Iterable, Iterator, Sequence
from types import ModuleType

import pytest
from edge_server import close_frame, frame, text
from hypothesis import example, given, settings
from hypothesis import strategies as st
from websockets.exceptions import ProtocolError
from websockets.frames import Opcode
from websockets.protocol import State
from websockets.server import ServerProtocol

from gateway.core.errors import Close, Closes
from gateway.core.wire_frames import BINARY, TEXT
from gateway.web import wire_parser
from gateway.web.wire_parser import (
    TURN_BYTES,
    TURN_MESSAGES,
    Fragment,
    Message,
    PeerClose,
    Ping,
    Pong,
    WireError,
    WireEvent,
    WireParser,
    whole_messages,
)

LIMIT = 1000
ROOM = 100_000


def feed(parser: WireParser, parts: Iterable[bytes]) -> tuple[list[WireEvent], Close | None]:
    """Feed octets part by part until they end, or the conversation does; give what they say, and what is wrong."""
    events: list[WireEvent] = []
    try:
        for part in parts:
            for event in parser.feed(part):
                events.append(event)
                if isinstance(event, PeerClose):
                    return events, None
    except WireError as error:
        return events, error.close
    return events, None


def read(*parts: bytes, limit: int = ROOM, inflates: bool = False) -> tuple[list[WireEvent], Close | None]:
    """Feed octets to a parser of their own."""
    return feed(WireParser(limit, inflates=inflates), parts)


def octet_by_octet(octets: bytes) -> Iterator[bytes]:
    """Cut everywhere."""
    for at in range(len(octets)):
        yield octets[at : at + 1]


def compressed(payload: bytes) -> bytes:
    """Deflate a message as RFC 7692 has it."""
    deflate = zlib.compressobj(wbits=-12)
    return (deflate.compress(payload) + deflate.flush(zlib.Z_SYNC_FLUSH))[:-4]


def head(first: int, size: int, extra: int) -> bytes:
    """Write a masked frame's head, its length in `extra` octets behind the second one."""
    second = {0: size, 2: 126, 8: 127}[extra]
    return bytes((first, 0x80 | second)) + (size.to_bytes(extra, "big") if extra else b"") + b"mask"


# ------------------------------------------------------------------------------------------------- frames


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 65_535, 65_536, 70_000])
@pytest.mark.parametrize(("first", "is_text"), [(TEXT, True), (BINARY, False)])
def test_message_in_one_frame_comes_out_with_its_kind(first: int, size: int, *, is_text: bool) -> None:
    assert read(frame(first, b"x" * size)) == ([Message(b"x" * size, is_text)], None)


@pytest.mark.parametrize("mask", [bytes(4), b"\xff\xff\xff\xff", b"\x01\x02\x03\x04"])
def test_mask_is_undone_wherever_the_frame_is_cut(mask: bytes) -> None:
    payload = bytes(range(256))
    octets = frame(BINARY, payload, mask=mask)

    for cut in range(1, len(octets)):
        assert read(octets[:cut], octets[cut:]) == ([Message(payload, text=False)], None)


def test_control_frames_come_out_between_the_fragments_of_a_message() -> None:
    octets = frame(0x01, b"a\xc3") + frame(0x89, b"1") + frame(0x00) + frame(0x8A, b"2") + frame(0x80, b"\xa4b")
    events: list[WireEvent] = [Fragment(), Ping(b"1"), Fragment(), Pong(), Message("aäb".encode(), text=True)]

    assert read(octets) == (events, None)
    assert read(*octet_by_octet(octets)) == (events, None)


def test_longest_control_frame_passes() -> None:
    assert read(frame(0x89, b"x" * 125)) == ([Ping(b"x" * 125)], None)


def test_parser_tells_whether_it_stands_between_messages() -> None:
    parser = WireParser(ROOM)
    stands = [parser.between_messages]
    for octet in octet_by_octet(text("hi") + frame(0x01) + frame(0x80)):
        list(parser.feed(octet))
        stands.append(parser.between_messages)

    assert [at for at, between in enumerate(stands) if between] == [0, 8, 20]


def test_nothing_behind_a_close_is_looked_at() -> None:
    parser = WireParser(ROOM)

    assert list(parser.feed(close_frame(1000) + b"\xff\xff")) == [PeerClose(1000, b"")]


# ------------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    "octets",
    [
        pytest.param(head(0xC1, 1, 0), id="rsv1"),
        pytest.param(head(0xA1, 1, 0), id="rsv2"),
        pytest.param(head(0x91, 1, 0), id="rsv3"),
        pytest.param(head(0x91, 0, 0), id="rsv3 on an empty frame"),
        *[pytest.param(head(0x80 | opcode, 0, 0), id=f"opcode {opcode}") for opcode in (3, 4, 5, 6, 7)],
        *[pytest.param(head(0x80 | opcode, 0, 0), id=f"opcode {opcode}") for opcode in range(11, 16)],
        pytest.param(b"\x81\x00", id="unmasked"),
        pytest.param(b"\x89\x00", id="unmasked ping"),
        pytest.param(head(0x09, 0, 0), id="fragmented ping"),
        pytest.param(head(0x0A, 0, 0), id="fragmented pong"),
        pytest.param(head(0x08, 0, 0), id="fragmented close"),
        pytest.param(head(0x89, 126, 2), id="ping of 126 octets"),
        pytest.param(head(0x89, 65_536, 8), id="ping of 65,536 octets"),
        pytest.param(head(0x88, 126, 2), id="close of 126 octets"),
        pytest.param(head(0xC9, 0, 0), id="rsv1 on a ping"),
        pytest.param(head(0x80, 0, 0), id="last fragment of nothing"),
        pytest.param(head(0x00, 0, 0), id="fragment of nothing"),
    ],
)
def test_wrong_head_is_1002_with_its_second_octet(octets: bytes) -> None:
    parser = WireParser(ROOM, inflates=False)

    assert feed(parser, [octets[:1]]) == ([], None)
    assert feed(parser, [octets[1:2]]) == ([], Closes.PROTOCOL_ERROR)
    assert read(octets) == ([], Closes.PROTOCOL_ERROR)


@pytest.mark.parametrize("octets", [head(TEXT, 0, 0), head(BINARY, 0, 0), head(0x01, 0, 0), head(0x02, 0, 0)])
def test_message_within_a_message_is_1002(octets: bytes) -> None:
    assert read(frame(0x01, b"x") + octets[:2]) == ([Fragment()], Closes.PROTOCOL_ERROR)


@pytest.mark.parametrize(("size", "extra"), [(0, 2), (125, 2), (0, 8), (125, 8), (126, 8), (65_535, 8)])
def test_length_in_more_octets_than_it_takes_is_1002(size: int, extra: int) -> None:
    octets = head(BINARY, size, extra)

    assert read(octets) == ([], Closes.PROTOCOL_ERROR)
    assert read(octets[:-1]) == ([], None)


@pytest.mark.parametrize(("size", "extra"), [(126, 2), (65_535, 2), (65_536, 8)])
def test_length_in_as_many_octets_as_it_takes_passes(size: int, extra: int) -> None:
    assert read(head(BINARY, size, extra) + bytes(size), limit=65_536)[1] is None


@pytest.mark.parametrize("size", [2**63, 2**64 - 1])
def test_length_whose_first_bit_is_set_is_1002(size: int) -> None:
    assert read(head(BINARY, size, 8)) == ([], Closes.PROTOCOL_ERROR)
    assert read(head(BINARY, 2**63 - 1, 8)) == ([], Closes.FRAME_TOO_LARGE)


def test_frame_beyond_the_limit_is_1009_as_soon_as_its_head_is_there() -> None:
    assert read(head(TEXT, LIMIT, 2), limit=LIMIT) == ([], None)
    assert read(head(TEXT, LIMIT + 1, 2), limit=LIMIT) == ([], Closes.FRAME_TOO_LARGE)


def test_fragments_beyond_the_limit_are_1009_as_soon_as_the_head_of_the_last_one_is_there() -> None:
    begun = frame(0x02, bytes(LIMIT - 10)) + frame(0x00, b"")

    assert read(begun + head(0x00, 10, 0), limit=LIMIT)[1] is None
    assert read(begun + head(0x00, 11, 0), limit=LIMIT)[1] is Closes.FRAME_TOO_LARGE


def test_control_frame_counts_for_no_limit() -> None:
    assert read(frame(0x01, b"x") + frame(0x89, b"123") + frame(0x80), limit=1)[1] is None


# ------------------------------------------------------------------------------------------------- UTF-8

WRONG = {
    "continuation alone": (b"a\x80", 1),
    "overlong in two octets": (b"\xc0\xaf", 0),
    "overlong in two octets, the largest": (b"\xc1\xbf", 0),
    "overlong in three octets": (b"ab\xe0\x9f\xbf", 3),
    "overlong in four octets": (b"\xf0\x8f\xbf\xbf", 1),
    "surrogate": (b"\xed\xa0\x80", 1),
    "beyond Unicode": ("κόσμε".encode() + b"\xf4\x90\x80\x80", len("κόσμε".encode()) + 1),
    "five octets": (b"\xf8\x88\x80\x80\x80", 0),
    "no octet of UTF-8": (b"ok\xff", 2),
    "two octets broken off": (b"\xc3(", 1),
    "three octets broken off": (b"\xe2\x82(", 2),
    "four octets broken off": (b"\xf0\x9f\x98(", 3),
}


@pytest.mark.parametrize(("payload", "wrong_at"), WRONG.values(), ids=WRONG)
def test_bad_utf8_is_1007_with_the_first_octet_that_makes_it_so(payload: bytes, wrong_at: int) -> None:
    octets = frame(TEXT, payload + b"and much more")
    begin = 6

    for cut in range(wrong_at + 1):
        assert read(octets[: begin + cut], octets[begin + cut : begin + wrong_at]) == ([], None), "all is well so far"
        assert read(octets[: begin + cut], octets[begin + cut : begin + wrong_at + 1]) == ([], Closes.INVALID_UTF8)


@pytest.mark.parametrize(("payload", "wrong_at"), WRONG.values(), ids=WRONG)
def test_bad_utf8_is_found_across_fragments_too(payload: bytes, wrong_at: int) -> None:
    for cut in range(wrong_at + 1):
        begun = frame(0x01, payload[:cut]) + frame(0x00)
        octets = begun + frame(0x80, payload[cut:])[: 6 + wrong_at + 1 - cut]
        assert read(octets) == ([Fragment(), Fragment()], Closes.INVALID_UTF8)


@pytest.mark.parametrize("payload", [b"\xc3", b"\xe2\x82", b"\xf0\x9f\x98"])
def test_text_that_ends_within_a_character_is_1007(payload: bytes) -> None:
    assert read(frame(TEXT, payload)) == ([], Closes.INVALID_UTF8)
    assert read(frame(0x01, payload) + frame(0x80)) == ([Fragment()], Closes.INVALID_UTF8)


def test_characters_may_be_cut_anywhere() -> None:
    payload = "κόσμε €😀\ufeff\U0010ffff\0".encode()

    for cut in range(len(payload) + 1):
        octets = frame(0x01, payload[:cut]) + frame(0x80, payload[cut:])
        assert read(*octet_by_octet(octets))[0] == [Fragment(), Message(payload, text=True)]


def test_binary_may_hold_anything() -> None:
    assert read(frame(0x02, b"\xff") + frame(0x80, b"\xc3")) == ([Fragment(), Message(b"\xff\xc3", text=False)], None)


# ------------------------------------------------------------------------------------------------- closes


@pytest.mark.parametrize(
    "code", [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3999, 4000, 4999]
)
def test_close_comes_out_with_code_and_reason(code: int) -> None:
    reason = "€".encode() * 41

    assert read(close_frame(code, reason)) == ([PeerClose(code, reason)], None)
    assert read(*octet_by_octet(close_frame(code, b"bye"))) == ([PeerClose(code, b"bye")], None)


def test_empty_close_has_no_code() -> None:
    assert read(frame(0x88)) == ([PeerClose(None, b"")], None)


@pytest.mark.parametrize("code", [0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 1999, 2000, 2999, 5000, 65_535])
def test_close_with_a_code_that_no_frame_may_hold_is_1002(code: int) -> None:
    assert read(close_frame(code)) == ([], Closes.PROTOCOL_ERROR)


def test_every_other_code_is_refused_and_no_more() -> None:
    # RFC 6455, section 7.4, and of IANA's registry 1012 to 1014; from 3000 on they are anybody's.
    sound = {*range(1000, 1004), *range(1007, 1015), *range(3000, 5000)}

    assert {code for code in range(65_536) if read(close_frame(code))[1] is None} == sound


@pytest.mark.parametrize("octet", range(0, 256, 5))
def test_close_of_one_octet_is_1002(octet: int) -> None:
    assert read(frame(0x88, bytes((octet,)))) == ([], Closes.PROTOCOL_ERROR)


@pytest.mark.parametrize("reason", [b"\xff", b"bye\xc3", b"\xed\xa0\x80"])
def test_close_whose_reason_is_no_utf8_is_1007(reason: bytes) -> None:
    assert read(close_frame(1000, reason)) == ([], Closes.INVALID_UTF8)


# ------------------------------------------------------------------------------------------------- permessage-deflate


def test_compressed_messages_come_out_inflated() -> None:
    octets = frame(0xC1, compressed(b"one" * 100)) + frame(0xC2, compressed(b"\xff" * 100)) + text("plain")
    events: list[WireEvent] = [
        Message(b"one" * 100, text=True),
        Message(b"\xff" * 100, text=False),
        Message(b"plain", text=True),
    ]

    assert read(octets, inflates=True) == (events, None)
    assert read(*octet_by_octet(octets), inflates=True) == (events, None)


def test_fragments_of_a_compressed_message_have_the_bit_on_the_first_only() -> None:
    zipped = compressed("€ and more".encode() * 10)
    begun = frame(0x41, zipped[:5]) + frame(0x89, b"?")

    sound = begun + frame(0x00, zipped[5:9]) + frame(0x80, zipped[9:])
    events: list[WireEvent] = [Fragment(), Ping(b"?"), Fragment(), Message("€ and more".encode() * 10, text=True)]
    assert read(sound, inflates=True) == (events, None)
    for wrong in (0x40, 0xC0):
        assert read(begun + frame(wrong, zipped[5:])[:2], inflates=True) == (events[:2], Closes.PROTOCOL_ERROR)


@pytest.mark.parametrize("first", [0xC8, 0xC9, 0xCA])
def test_control_frame_is_never_compressed(first: int) -> None:
    assert read(frame(first)[:2], inflates=True) == ([], Closes.PROTOCOL_ERROR)


@pytest.mark.parametrize(
    ("zipped", "payload"),
    [
        pytest.param(b"\xf2\x48\xcd\xc9\xc9\x07\x00", b"Hello", id="one block"),
        pytest.param(b"\x00\x05\x00\xfa\xff\x48\x65\x6c\x6c\x6f\x00", b"Hello", id="a block without compression"),
        pytest.param(b"\xf3\x48\xcd\xc9\xc9\x07\x00\x00", b"Hello", id="a final block"),
        pytest.param(b"\xf3\x48\xcd\xc9\xc9\x07\x00", b"Hello", id="a final block and nothing behind it"),
        pytest.param(b"\xf2\x48\x05\x00\x00\x00\xff\xff\xca\xc9\xc9\x07\x00", b"Hello", id="two blocks"),
        pytest.param(b"\x02\x00", b"", id="an empty message"),
        pytest.param(b"\x00", b"", id="an empty message, shorter"),
    ],
)
def test_every_form_of_the_rfc_is_inflated(zipped: bytes, payload: bytes) -> None:
    assert read(frame(0xC1, zipped), inflates=True) == ([Message(payload, text=True)], None)


@pytest.mark.parametrize(
    "zipped",
    [
        pytest.param(b"\xff\xff\xff\xff", id="no deflate at all"),
        pytest.param(b"", id="nothing"),
        pytest.param(compressed(b"some longer text, some longer text")[:-4], id="cut off within a block"),
        pytest.param(b"\x00\x05\x00\xfa\xff\x48\x65", id="cut off within a block without compression"),
        pytest.param(b"\x00\x64\x00\x9b\xff\x48\x65", id="cut off within a longer one"),
        pytest.param(b"\xf3\x48\xcd\xc9\xc9\x07\x00\x00more", id="something behind a final block"),
        pytest.param(b"\xf3\x48\xcd\xc9\xc9\x07\x00" * 2, id="two streams"),
    ],
)
def test_what_is_no_compressed_message_is_1002(zipped: bytes) -> None:
    assert read(frame(0xC1, zipped), inflates=True) == ([], Closes.PROTOCOL_ERROR)


@pytest.mark.parametrize("payload", [b"\xff", b"a" * 100 + b"\xc3"])
def test_compressed_text_that_is_no_utf8_is_1007(payload: bytes) -> None:
    assert read(frame(0xC1, compressed(payload)), inflates=True) == ([], Closes.INVALID_UTF8)
    assert read(frame(0xC2, compressed(payload)), inflates=True) == ([Message(payload, text=False)], None)


def test_limit_holds_for_the_inflated_message() -> None:
    largest = frame(0xC2, compressed(bytes(LIMIT)))

    assert read(largest, limit=LIMIT, inflates=True) == ([Message(bytes(LIMIT), text=False)], None)
    for size in (LIMIT + 1, 100 * LIMIT):
        octets = frame(0xC2, compressed(bytes(size)))
        assert read(octets, limit=LIMIT, inflates=True) == ([], Closes.FRAME_TOO_LARGE)


def test_bomb_takes_no_more_memory_than_the_largest_message() -> None:
    octets = frame(0xC2, compressed(bytes(50_000_000)))
    tracemalloc.start()
    try:
        assert read(octets, limit=100_000, inflates=True) == ([], Closes.FRAME_TOO_LARGE)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


def test_compressed_octets_may_be_more_than_the_message_but_not_without_bound() -> None:
    stored = zlib.compressobj(0, wbits=-12)
    zipped = (stored.compress(bytes(LIMIT)) + stored.flush(zlib.Z_SYNC_FLUSH))[:-4]
    assert len(zipped) > LIMIT

    assert read(frame(0xC2, zipped), limit=LIMIT, inflates=True) == ([Message(bytes(LIMIT), text=False)], None)
    assert read(head(0xC2, LIMIT + 1024, 2), limit=LIMIT, inflates=True) == ([], None)
    assert read(head(0xC2, LIMIT + 1025, 2), limit=LIMIT, inflates=True) == ([], Closes.FRAME_TOO_LARGE)


# ------------------------------------------------------------------------------------------------- whole messages


def taken(octets: bytes, first: int = TEXT, limit: int = ROOM) -> tuple[list[bytes], int]:
    """Take whole messages: give them, and where the rest begins."""
    payloads: list[bytes] = []
    at = whole_messages(first, limit)(octets, payloads)
    return payloads, at


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 65_535])
@pytest.mark.parametrize("first", [TEXT, BINARY])
def test_whole_messages_are_taken_one_behind_the_other(first: int, size: int) -> None:
    octets = frame(first, b"x" * size)

    many = 1 if size > TURN_BYTES // 2 else 3  # with so much the connection's turn ends
    assert taken(octets * 3, first) == ([b"x" * size] * many, many * len(octets))


@pytest.mark.parametrize("cut", [1, 2, 3, 6, 9])
def test_message_that_is_not_whole_is_left(cut: int) -> None:
    one = text("one more")

    assert taken(one + one[:-cut]) == ([b"one more"], len(one))
    assert taken(one[:cut]) == ([], 0)


@pytest.mark.parametrize(
    "octets",
    [
        pytest.param(frame(BINARY, b"x"), id="the other kind"),
        pytest.param(frame(0x01, b"x"), id="a fragment"),
        pytest.param(frame(0x80, b"x"), id="a last fragment"),
        pytest.param(frame(0x89, b"x"), id="a ping"),
        pytest.param(close_frame(), id="a close"),
        pytest.param(frame(0xC1, b"xxxxxx"), id="rsv1"),
        pytest.param(frame(0x81, b"xxxxxx", masked=False), id="unmasked"),
        pytest.param(text(b"\xc3"), id="no UTF-8"),
        pytest.param(text("x" * 65_536), id="a long one"),
        pytest.param(head(TEXT, 125, 2) + bytes(125), id="a length in more octets than it takes"),
        pytest.param(head(TEXT, 125, 8) + bytes(125), id="a length in far more octets than it takes"),
    ],
)
def test_anything_else_is_left_to_the_parser(octets: bytes) -> None:
    one = text("€")

    assert taken(one + octets + one) == (["€".encode()], len(one))


def test_message_beyond_the_limit_is_left_to_the_parser() -> None:
    assert taken(text("xx") + text("xxx"), limit=2) == ([b"xx"], 8)
    assert taken(text("x" * 200), limit=199) == ([], 0)
    assert taken(text("x" * 199), limit=199)[0] == [b"x" * 199]


def test_no_more_messages_are_taken_than_a_turn_has() -> None:
    one = text("x")

    assert taken(one * (TURN_MESSAGES + 1)) == ([b"x"] * TURN_MESSAGES, TURN_MESSAGES * len(one))


# ------------------------------------------------------------------------------------------------- without the compiled part


@pytest.fixture
def slow_parser(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Load the module once more, as it is where `websockets` has no compiled part."""
    assert wire_parser.__file__ is not None
    monkeypatch.setitem(sys.modules, "websockets.speedups", None)
    spec = importlib.util.spec_from_file_location("slow_wire_parser", wire_parser.__file__)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_parser_does_without_compiled_masking(slow_parser: ModuleType) -> None:
    assert slow_parser.apply_mask is not wire_parser.apply_mask
    octets = text("") + text("€") + frame(0x01, b"a") + frame(0x80, b"bcdefg")
    payloads: list[bytes] = []

    at = slow_parser.whole_messages(TEXT, ROOM)(octets, payloads)
    assert payloads == [b"", "€".encode()]
    events = [each for part in octet_by_octet(octets[at:]) for each in slow_parser.WireParser(ROOM).feed(part)]
    assert events == []
    events = list(slow_parser.WireParser(ROOM).feed(octets[at:]))
    assert events[1].payload == b"abcdefg"


# ------------------------------------------------------------------------------------------------- properties

MASKS = st.binary(min_size=4, max_size=4)
TEXTS = st.text(max_size=40).map(str.encode)
PINGS = st.tuples(st.sampled_from([0x89, 0x8A]), st.binary(max_size=125))


@st.composite
def cut_up(draw: st.DrawFn, octets: st.SearchStrategy[bytes]) -> list[bytes]:
    """Cut octets into parts, some of them a single one or empty."""
    whole = draw(octets)
    cuts = sorted(draw(st.lists(st.integers(0, len(whole)), max_size=12)))
    return [whole[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(whole)], strict=True)]


@st.composite
def sound_frames(draw: st.DrawFn, *, deflate: bool = False) -> tuple[bytes, list[WireEvent]]:
    """Write a valid conversation of a client, and what it says."""
    octets, events = b"", list[WireEvent]()

    def control() -> None:
        nonlocal octets
        first, payload = draw(PINGS)
        octets += frame(first, payload, mask=draw(MASKS))
        events.append(Ping(payload) if first == 0x89 else Pong())

    for _ in range(draw(st.integers(0, 5))):
        if draw(st.integers(0, 4)) == 0:
            control()
            continue
        is_text = draw(st.booleans())
        payload = draw(TEXTS if is_text else st.binary(max_size=40)) * draw(st.sampled_from([1, 1, 1, 4, 2000]))
        zipped = deflate and draw(st.booleans())
        sent = compressed(payload) if zipped else payload
        cuts = sorted(draw(st.lists(st.integers(0, len(sent)), max_size=4)))
        parts = [sent[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(sent)], strict=True)]
        for number, part in enumerate(parts):
            first = (0x01 if is_text else 0x02) | 0x40 * zipped if number == 0 else 0x00
            last = number == len(parts) - 1
            octets += frame(first | 0x80 * last, part, mask=draw(MASKS))
            events.append(Message(payload, is_text) if last else Fragment())
            if not last and draw(st.integers(0, 3)) == 0:
                control()
    if draw(st.booleans()):
        reason = draw(st.text(max_size=10).map(str.encode))
        octets += close_frame(1000, reason) + draw(st.binary(max_size=5))
        events.append(PeerClose(1000, reason))
    return octets, events


@settings(deadline=None, max_examples=300)
@given(st.data(), st.booleans())
def test_valid_frames_say_the_same_wherever_they_are_cut(data: st.DataObject, deflate: bool) -> None:  # noqa: FBT001 - a given value
    octets, events = data.draw(sound_frames(deflate=deflate))
    parts = data.draw(cut_up(st.just(octets)))

    assert read(*parts, limit=200_000, inflates=deflate) == (events, None)
    assert read(octets, limit=200_000, inflates=deflate) == (events, None)


HEADS = st.builds(
    lambda first, size, mask: struct.pack("!BB", first, 0x80 | size) + mask,
    st.sampled_from([0x81, 0x82, 0x01, 0x02, 0x00, 0x80, 0x88, 0x89, 0x8A]) | st.integers(0, 255),
    st.integers(0, 127),
    MASKS,
)
FRAMES = st.builds(
    lambda first, payload, mask: frame(first, payload, mask=mask),
    st.sampled_from([0x81, 0x81, 0x82, 0x01, 0x02, 0x00, 0x80, 0x88, 0x89, 0x8A, 0xC1, 0x91]),
    TEXTS | st.binary(max_size=140) | st.just(b"\x03\xe8bye"),
    MASKS,
)
WIDE_HEADS = st.builds(
    head,
    st.sampled_from([0x81, 0x82, 0x00, 0x80]),
    st.sampled_from([0, 125, 126, 1000, 1001, 65_535]),
    st.sampled_from([2, 8]),
)
STREAMS = st.lists(FRAMES | HEADS | WIDE_HEADS | st.binary(max_size=8), max_size=8).map(b"".join)


def heads_of(octets: bytes) -> Iterator[tuple[int, int, int, int]]:
    """Give of each frame where it begins, its first octet, its length, and in how many octets that stands; a naive walk."""
    at = 0
    while at + 2 <= len(octets):
        first, size = octets[at], octets[at + 1] & 0x7F
        extra = {126: 2, 127: 8}.get(size, 0)
        if extra:
            size = int.from_bytes(octets[at + 2 : at + 2 + extra], "big")
        yield at, first, size, extra
        at += 2 + extra + 4 * (octets[at + 1] >> 7) + size


def as_strict(octets: bytes) -> bytes:
    """Put a frame that everybody refuses with 1002 in the place of the first one whose length is in too many octets.

    `websockets` takes those; RFC 6455, section 5.2, forbids them: "the minimal number of bytes MUST be used".
    """
    for at, _, size, extra in heads_of(octets):
        least = 0 if size < 126 else 2 if size < 65_536 else 8
        if extra > least and at + 2 + extra + 4 <= len(octets):
            return octets[:at] + b"\x91\x80mask"
    return octets


def is_text(octets: bytes) -> bool:
    """Tell whether octets are UTF-8."""
    try:
        octets.decode()
    except UnicodeDecodeError:
        return False
    return True


def may_become_text(octets: bytes) -> bool:
    """Tell whether octets are the beginning of UTF-8: whether continuations make it so, of which the least or the greatest always do."""
    return any(is_text(octets + more * times) for more in (b"\x80", b"\xbf") for times in range(4))


def oracle(octets: bytes) -> tuple[list[WireEvent], int | None]:
    """Give what `websockets` makes of the same octets: what they say, and the code of the close that ends it."""
    protocol = ServerProtocol(state=State.OPEN, max_size=LIMIT, logger=logging.getLogger("oracle"))
    protocol.receive_data(octets)
    events: list[WireEvent] = []
    begun, kind = b"", Opcode.TEXT
    for each in protocol.events_received():
        opcode, data = each.opcode, bytes(each.data)
        if opcode is Opcode.PING:
            events.append(Ping(data))
        elif opcode is Opcode.PONG:
            events.append(Pong())
        elif opcode is Opcode.CLOSE:
            events.append(PeerClose(None if not data else int.from_bytes(data[:2], "big"), data[2:]))
            return events, None
        else:
            begun, kind = (data, opcode) if opcode is not Opcode.CONT else (begun + data, kind)
            # It leaves text to be decoded by its user.
            if kind is Opcode.TEXT and not (is_text(begun) if each.fin else may_become_text(begun)):
                return events, 1007
            events.append(Message(begun, kind is Opcode.TEXT) if each.fin else Fragment())
    if isinstance(protocol.parser_exc, ProtocolError) and str(protocol.parser_exc) == "incomplete fragmented message":
        # A close between two fragments. RFC 6455, section 5.4: control frames may be there, and 5.5.1 makes no exception.
        assert protocol.close_rcvd is not None
        code = None if protocol.close_rcvd.code == 1005 else int(protocol.close_rcvd.code)
        return [*events, PeerClose(code, protocol.close_rcvd.reason.encode())], None
    assert protocol.close_sent is not None, "the filler ends every conversation"
    return events, int(protocol.close_sent.code)


ZIPPED = st.one_of(
    st.builds(compressed, TEXTS | st.binary(max_size=40) | st.just(bytes(LIMIT)) | st.just(bytes(LIMIT + 1))),
    st.binary(max_size=12),
)
ZIPPED_STREAMS = st.lists(
    FRAMES
    | st.builds(
        lambda first, payload, mask: frame(first, payload, mask=mask),
        st.sampled_from([0xC1, 0xC2, 0x41, 0x42, 0x00, 0x80]),
        ZIPPED,
        MASKS,
    ),
    max_size=6,
).map(b"".join)


@settings(deadline=None, max_examples=500)
@given(cut_up(STREAMS | ZIPPED_STREAMS), st.booleans())
def test_arbitrary_octets_say_the_same_wherever_they_are_cut(parts: list[bytes], deflate: bool) -> None:  # noqa: FBT001 - a given value
    whole = read(b"".join(parts), limit=LIMIT, inflates=deflate)

    assert read(*parts, limit=LIMIT, inflates=deflate) == whole
    assert read(*octet_by_octet(b"".join(parts)), limit=LIMIT, inflates=deflate) == whole


FILLER = bytes(2 * LIMIT)
"""It completes the frame in hand, and is an unmasked one behind it: so whatever is wrong with a frame that is not there yet, which we
find at once and `websockets` when it is, both have found in the end."""


@settings(deadline=None, max_examples=1500)
@given(cut_up(STREAMS))
@example([frame(0x01, b"\xe2\x82"), frame(0x80, b"\xac")])
@example([frame(0x01, b"x"), close_frame(1000)])
@example([frame(0x91, bytes(LIMIT + 1))])
@example([head(TEXT, 5, 8) + b"hello"])
@example([b"\x08\x7e"])
@example([frame(0x01, b"\xed\xa0")])
@example([frame(0x02, b"12345"), head(0x01, LIMIT - 4, 2)])
def test_arbitrary_octets_say_what_websockets_makes_of_them(parts: list[bytes]) -> None:
    octets = b"".join(parts)
    events, close = read(*parts, FILLER, limit=LIMIT)
    expected, code = oracle(as_strict(octets + FILLER))

    assert events == expected
    if close is Closes.PROTOCOL_ERROR and code in {1007, 1009}:
        # Of two faults in one frame we tell that of its head or of its code, and `websockets` that of its length, which counts with
        # those of the fragments before, or of its reason.
        sizes = [(first, size) for _, first, size, _ in heads_of(octets + FILLER)]
        if code == 1009:
            assert sum(size for _, size in sizes) > LIMIT
        else:
            assert any(first == 0x88 and size > 2 for first, size in sizes)
    else:
        assert (None if close is None else close.code) == code


def on_both_ways(parts: Sequence[bytes], first: int) -> tuple[list[WireEvent], Close | None]:
    """Take octets as a wire does: whole messages where one can begin, everything else by the parser."""
    take, parser = whole_messages(first, LIMIT), WireParser(LIMIT)
    events: list[WireEvent] = []
    for part in parts:
        rest = part
        if parser.between_messages:
            payloads: list[bytes] = []
            rest = part[take(part, payloads) :]
            events += [Message(payload, first == TEXT) for payload in payloads]
        more, close = feed(parser, [rest])
        events += more
        if close is not None or (more and isinstance(more[-1], PeerClose)):
            return events, close
    return events, None


@settings(deadline=None, max_examples=500)
@given(cut_up(STREAMS), st.sampled_from([TEXT, BINARY]))
def test_both_ways_together_say_what_the_parser_alone_says(parts: list[bytes], first: int) -> None:
    assert on_both_ways(parts, first) == read(*parts, limit=LIMIT)


@settings(deadline=None, max_examples=300)
@given(st.data(), st.sampled_from([TEXT, BINARY]))
def test_both_ways_together_say_what_valid_frames_say(data: st.DataObject, first: int) -> None:
    octets, events = data.draw(sound_frames())
    parts = data.draw(cut_up(st.just(octets)))
    events, close = read(*parts, limit=LIMIT)

    assert on_both_ways(parts, first) == (events, close)
