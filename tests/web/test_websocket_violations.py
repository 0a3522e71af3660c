"""What a client must not send (RFC 6455), over a real socket: each fault ends the connection with its code, and its sound twin does not."""

from __future__ import annotations

import asyncio

import pytest
from edge_server import PATIENCE_S, close_frame, frame, serving, text, until

from gateway.web.edge import EdgeLimits

CLOSES = {1002: "protocol_error", 1007: "invalid_utf8", 1009: "frame_too_large"}
QUIET = b"quiet"


def long_frame(first: int, size: int, extra: int) -> bytes:
    """Write a masked frame of zeros, or the beginning of it, whose length stands in `extra` octets behind the second one."""
    return bytes((first, 0xFE if extra == 2 else 0xFF)) + size.to_bytes(extra, "big") + bytes(4 + min(size, 70_000))


# The faulty octets, the code of the close, and the same without the fault: what is sound is quiet, so that nothing answers it.
FAULTS = {
    # Section 5.2: reserved bits and opcodes.
    **{f"rsv{n} on a text": (frame(0x81 | 0x80 >> n, QUIET), 1002, frame(0x81, QUIET)) for n in (1, 2, 3)},
    **{f"rsv{n} on a ping": (frame(0x89 | 0x80 >> n), 1002, frame(0x8A)) for n in (1, 2, 3)},
    **{f"rsv{n} on a pong": (frame(0x8A | 0x80 >> n), 1002, frame(0x8A)) for n in (1, 2, 3)},
    **{f"rsv{n} on a close": (frame(0x88 | 0x80 >> n), 1002, frame(0x8A)) for n in (1, 2, 3)},
    **{
        f"rsv{n} on a continuation": (
            frame(0x01) + frame(0x80 | 0x80 >> n, QUIET),
            1002,
            frame(0x01) + frame(0x80, QUIET),
        )
        for n in (1, 2, 3)
    },
    "all reserved bits": (frame(0xF1, QUIET), 1002, frame(0x81, QUIET)),
    **{f"opcode {n}": (frame(0x80 | n, QUIET), 1002, frame(0x81, QUIET)) for n in (3, 4, 5, 6, 7)},
    **{f"opcode {n}": (frame(0x80 | n, QUIET), 1002, frame(0x8A, QUIET)) for n in (11, 12, 13, 14, 15)},
    "opcode 3 between fragments": (frame(0x01) + frame(0x83), 1002, frame(0x01) + frame(0x80, QUIET)),
    # Section 5.1: a server takes nothing unmasked.
    "unmasked text": (frame(0x81, QUIET, masked=False), 1002, frame(0x81, QUIET, mask=bytes(4))),
    "unmasked and empty": (frame(0x01, masked=False), 1002, frame(0x01, mask=bytes(4))),
    "unmasked ping": (frame(0x89, b"?", masked=False), 1002, frame(0x8A, b"?", mask=bytes(4))),
    "unmasked close": (frame(0x88, b"\x03\xe8", masked=False), 1002, frame(0x8A, b"\x03\xe8", mask=bytes(4))),
    "unmasked continuation": (frame(0x01) + frame(0x80, masked=False), 1002, frame(0x01, QUIET) + frame(0x80)),
    # Section 5.5: control frames are whole and short.
    "fragmented ping": (frame(0x09), 1002, frame(0x8A)),
    "fragmented pong": (frame(0x0A), 1002, frame(0x8A)),
    "fragmented close": (frame(0x08), 1002, frame(0x8A)),
    "ping of 126 octets": (frame(0x89, b"x" * 126), 1002, frame(0x8A, b"x" * 125)),
    "pong of 126 octets": (frame(0x8A, b"x" * 126), 1002, frame(0x8A, b"x" * 125)),
    "close of 126 octets": (frame(0x88, b"\x03\xe8" + b"x" * 124), 1002, frame(0x8A, b"x" * 125)),
    "pong of 65,536 octets": (frame(0x8A, bytes(65_536)), 1002, frame(0x8A, b"x" * 125)),
    "pong with its length in 2 octets": (long_frame(0x8A, 5, 2), 1002, frame(0x8A, bytes(5))),
    "pong with its length in 8 octets": (long_frame(0x8A, 5, 8), 1002, frame(0x8A, bytes(5))),
    # Section 5.4: the order of fragments.
    "last fragment of nothing": (frame(0x80, QUIET), 1002, frame(0x01) + frame(0x80, QUIET)),
    "fragment of nothing": (frame(0x00, QUIET), 1002, frame(0x01) + frame(0x00, QUIET) + frame(0x80)),
    "text within a message": (frame(0x01) + frame(0x81, QUIET), 1002, frame(0x01) + frame(0x80, QUIET)),
    "binary within a message": (frame(0x01) + frame(0x82, QUIET), 1002, frame(0x01) + frame(0x80, QUIET)),
    "text begun within a message": (frame(0x01) + frame(0x01, QUIET), 1002, frame(0x01) + frame(0x00, QUIET)),
    # Section 5.2: a length takes the least number of octets, and 63 bits at most.
    **{
        f"length {size} in {extra} octets": (long_frame(0x82, size, extra), 1002, frame(0x82, bytes(size)))
        for size, extra in ((0, 2), (125, 2), (0, 8), (125, 8), (126, 8), (65_535, 8))
    },
    "length of 64 bits": (long_frame(0x82, 2**63, 8), 1002, frame(0x82, bytes(65_536))),
    "length of 64 bits, all set": (long_frame(0x82, 2**64 - 1, 8), 1002, frame(0x82, bytes(65_536))),
    "length of 63 bits": (long_frame(0x82, 2**63 - 1, 8), 1009, frame(0x82, bytes(65_536))),
    "one octet too much": (frame(0x82, bytes(65_537)), 1009, frame(0x82, bytes(65_536))),
    "one octet too much in fragments": (
        frame(0x02, bytes(65_000)) + frame(0x00) + frame(0x80, bytes(537)),
        1009,
        frame(0x02, bytes(65_000)) + frame(0x00) + frame(0x80, bytes(536)),
    ),
    # Section 5.5.1: a close has no payload, or a code and a reason in UTF-8.
    "close of one octet": (frame(0x88, b"\x03"), 1002, frame(0x8A, b"\x03")),
    "reason that is no UTF-8": (close_frame(1000, b"\xff"), 1007, frame(0x8A, b"\x03\xe8\xff")),
    "reason that ends within a character": (close_frame(1000, b"bye\xc3"), 1007, frame(0x8A, b"\x03\xe8bye\xc3")),
    # Section 8.1 and RFC 3629: UTF-8, each beside the nearest octets that are.
    **{
        f"text {faulty.hex()}": (text(QUIET + b" " + faulty), 1007, text(QUIET + b" " + sound))
        for faulty, sound in (
            (b"\xff", b"\x7f"),
            (b"\x80", b"\xc2\x80"),
            (b"a\xbfb", b"a\xdf\xbfb"),
            (b"\xc3", b"\xc3\xa4"),
            (b"\xc3(", b"\xc3\xa4("),
            (b"\xe2\x82", b"\xe2\x82\xac"),
            (b"\xf0\x9f\x98", b"\xf0\x9f\x98\x80"),
            (b"\xc0\xaf", b"\xc2\xaf"),
            (b"\xc1\xbf", b"\xc2\xbf"),
            (b"\xe0\x9f\xbf", b"\xe0\xa0\xbf"),
            (b"\xf0\x8f\xbf\xbf", b"\xf0\x90\xbf\xbf"),
            (b"\xed\xa0\x80", b"\xed\x9f\x80"),
            (b"\xed\xbf\xbf", b"\xee\xbf\xbf"),
            (b"\xf4\x90\x80\x80", b"\xf4\x8f\x80\x80"),
            (b"\xf5\x80\x80\x80", b"\xf3\x80\x80\x80"),
            (b"\xf8\x88\x80\x80\x80", b"\xf2\x88\x80\x80"),
        )
    },
    "UTF-8 broken by fragments": (
        frame(0x01, b"quiet \xc3") + frame(0x80, b"x"),
        1007,
        frame(0x01, b"quiet \xc3") + frame(0x80, b"\xa4"),
    ),
    "fragments that end within a character": (
        frame(0x01, b"quiet \xc3") + frame(0x80),
        1007,
        frame(0x01, b"quiet \xc3\xa4") + frame(0x80),
    ),
}


@pytest.mark.parametrize(("faulty", "code", "sound"), FAULTS.values(), ids=FAULTS)
async def test_fault_ends_the_connection_with_its_code_and_its_absence_does_not(
    faulty: bytes, code: int, sound: bytes
) -> None:
    async with serving() as served:
        async with await served.upgraded() as raw:
            raw.send(sound)
            assert await raw.until_pong() == []
            await served.connection()
        async with await served.upgraded() as raw:
            raw.send(faulty, frame(0x89, b"behind the fault"))
            await raw.gone(code, CLOSES[code])
            echo = await served.connection()
            assert await asyncio.wait_for(echo.gone, PATIENCE_S) == code
            assert echo.messages == []
            assert echo.unsupporteds == 0


# Where messages are binary, all octets may be those of one: nothing but its head says that a frame is none.
BINARY_FAULTS = {
    "unmasked": (frame(0x82, bytes(20), masked=False), 1002),
    "unmasked medium": (frame(0x82, bytes(200), masked=False), 1002),
    "unmasked and empty": (frame(0x82, masked=False), 1002),
    **{f"rsv{n}": (frame(0x82 | 0x80 >> n, bytes(20)), 1002) for n in (1, 2, 3)},
    **{f"opcode {n}": (frame(0x80 | n, bytes(20)), 1002) for n in (0, 3, 7, 11, 15)},
    **{
        f"length {size} in {extra} octets": (long_frame(0x82, size, extra), 1002)
        for size, extra in ((0, 2), (20, 2), (125, 2), (0, 8), (20, 8), (125, 8), (126, 8), (65_535, 8), (2**63, 8))
    },
    "one octet too much": (frame(0x82, bytes(65_537)), 1009),
}


@pytest.mark.parametrize(("faulty", "code"), BINARY_FAULTS.values(), ids=BINARY_FAULTS)
async def test_fault_among_binary_messages_is_found_too(faulty: bytes, code: int) -> None:
    quiet = frame(0x82, QUIET)
    async with serving() as served:
        for before in ([], [quiet]):
            async with await served.upgraded(greeted=False, sec_websocket_protocol="gateway.v1.msgpack") as raw:
                assert await raw.frame() == (0x82, b"welcome")
                raw.send(*before, faulty, quiet)
                await raw.gone(code, CLOSES[code])
                assert (await served.connection()).messages == [QUIET] * len(before)


@pytest.mark.parametrize(
    "before",
    [
        pytest.param(frame(0x81, QUIET), id="a whole message"),
        pytest.param(frame(0x01) + frame(0x80, QUIET), id="the last one"),
    ],
)
@pytest.mark.parametrize("first", [0x80, 0x00])
async def test_fragment_behind_a_message_is_of_none(before: bytes, first: int) -> None:
    async with serving() as served, await served.upgraded() as raw:
        raw.send(before, frame(first))
        await raw.gone(1002, "protocol_error")
        assert (await served.connection()).messages == [QUIET]


SHORT = {name: fault[:2] for name, fault in FAULTS.items() if len(fault[0]) <= 30}


@pytest.mark.parametrize(("faulty", "code"), SHORT.values(), ids=SHORT)
async def test_fault_is_the_same_octet_by_octet(faulty: bytes, code: int) -> None:
    async with serving() as served, await served.upgraded() as raw:
        for octet in faulty:
            raw.send(bytes((octet,)))
            await asyncio.sleep(0)
        await raw.gone(code, CLOSES[code])


@pytest.mark.parametrize(
    ("octets", "code"),
    [
        pytest.param(frame(0x83)[:2], 1002, id="two octets"),
        pytest.param(frame(0x01) + frame(0x81)[:2], 1002, id="two octets of a second frame"),
        pytest.param(long_frame(0x81, 5, 2)[:8], 1002, id="a head, its length too long"),
        pytest.param(long_frame(0x81, 65_537, 8)[:14], 1009, id="a head, beyond the limit"),
        pytest.param(frame(0x02, b"x") + long_frame(0x80, 65_536, 8)[:14], 1009, id="a head, beyond what is left"),
        pytest.param(text(b"a\xff and more")[:8], 1007, id="the first wrong octet"),
        pytest.param(frame(0x01, b"\xc3") + frame(0x80, b"x and more")[:7], 1007, id="that of a second frame"),
    ],
)
async def test_fault_is_found_before_the_rest_of_its_frame_comes(octets: bytes, code: int) -> None:
    async with serving() as served, await served.upgraded() as raw:
        raw.send(octets)
        await raw.gone(code, CLOSES[code])


WRONG = {
    "continuation alone": (b"a\x80", 1),
    "overlong in two octets": (b"\xc0\xaf", 0),
    "overlong in three octets": (b"ab\xe0\x9f\xbf", 3),
    "overlong in four octets": (b"\xf0\x8f\xbf\xbf", 1),
    "surrogate": (b"\xed\xa0\x80", 1),
    "beyond Unicode": ("κόσμε".encode() + b"\xf4\x90\x80\x80", len("κόσμε".encode()) + 1),
    "no octet of UTF-8": (b"ok\xff", 2),
    "two octets broken off": (b"\xc3(", 1),
    "three octets broken off": (b"\xe2\x82(", 2),
    "four octets broken off": (b"\xf0\x9f\x98(", 3),
}
"""Octets, and the first of them that no UTF-8 can have in its place."""


@pytest.mark.parametrize(("payload", "wrong_at"), WRONG.values(), ids=WRONG)
async def test_bad_utf8_is_found_with_its_first_octet_and_not_before(payload: bytes, wrong_at: int) -> None:
    async with serving() as served:
        for cut in range(wrong_at + 1):
            async with await served.upgraded() as raw:
                raw.send(frame(0x01, payload[:cut]), frame(0x00, payload[cut:wrong_at]))
                assert await raw.until_pong() == [], "all is well so far"
                raw.send(frame(0x00, payload[wrong_at:] + b" and more")[:7])
                await raw.gone(1007, "invalid_utf8")


async def test_binary_may_hold_what_text_may_not() -> None:
    async with (
        serving() as served,
        await served.upgraded(sec_websocket_protocol="gateway.v1.msgpack", greeted=False) as raw,
    ):
        assert await raw.frame() == (0x82, b"welcome")
        raw.send(frame(0x82, b"\xff"), frame(0x02, b"\xc3"), frame(0x80, b"\xed\xa0\x80"))
        assert [await raw.frame(), await raw.frame()] == [(0x82, b"\xff"), (0x82, b"\xc3\xed\xa0\x80")]


# ------------------------------------------------------------------------------------------------- before and behind


@pytest.mark.parametrize(
    ("fault", "code"), [(frame(0x83, b"?"), 1002), (text(b"\xff"), 1007), (long_frame(0x81, 65_537, 8), 1009)]
)
async def test_messages_before_a_fault_are_delivered_and_those_behind_it_dropped(fault: bytes, code: int) -> None:
    async with serving() as served, await served.upgraded() as raw:
        raw.send(text("quiet 1"), text("quiet 2"), fault, text("quiet 3"), frame(0x89), close_frame(1000))
        await raw.gone(code, CLOSES[code])
        echo = await served.connection()
        assert await asyncio.wait_for(echo.gone, PATIENCE_S) == code
        assert echo.messages == [b"quiet 1", b"quiet 2"]


async def test_fault_of_one_is_nobody_elses() -> None:
    async with serving() as served, await served.upgraded() as raw, await served.upgraded() as other:
        raw.send(frame(0x01, b"a"), frame(0x83))
        other.send(frame(0x01, b"b"))
        await raw.gone(1002, "protocol_error")
        other.send(frame(0x80, b"c"), text("d"))
        assert [await other.frame(), await other.frame()] == [(0x81, b"bc"), (0x81, b"d")]


async def test_peer_that_does_not_leave_after_its_fault_is_dropped() -> None:
    async with serving(limits=EdgeLimits(close_s=0.05)) as served, await served.upgraded() as raw:
        raw.send(frame(0x83))
        assert await raw.closing() == (1002, "protocol_error")
        assert await raw.rest() == b""
        await until(lambda: not served.uvicorn.connections)
