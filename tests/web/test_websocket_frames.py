"""RFC 6455 over a real socket, octet by octet: what the server takes.

What it refuses stands in `test_websocket_violations`, how a connection ends in `test_websocket_closing`, and RFC 7692 in
`test_websocket_compression`.
"""

from __future__ import annotations

import asyncio
import struct

import pytest
from edge_server import PATIENCE_S, Raw, frame, serving, text, until, upgrade

LIMIT = 65_536


# ------------------------------------------------------------------------------------------------- early octets


async def test_frame_behind_the_upgrade_in_its_segment_is_the_first_frame() -> None:
    async with serving() as served, await served.raw() as raw:
        raw.send(upgrade(), text("first"), text("second"))
        assert (await raw.response())[0] == 101
        assert [await raw.frame() for _ in range(3)] == [(0x81, b"welcome"), (0x81, b"first"), (0x81, b"second")]


@pytest.mark.parametrize("cut", [1, 2, 5, 6, 9])
async def test_half_a_frame_behind_the_upgrade_keeps_its_place(cut: int) -> None:
    message = text("first")
    async with serving() as served, await served.raw() as raw:
        raw.send(upgrade(), message[:cut])
        assert (await raw.response())[0] == 101
        assert await raw.frame() == (0x81, b"welcome")
        raw.send(message[cut:])
        assert await raw.frame() == (0x81, b"first")


async def test_flood_before_the_handshake_ends_is_held_back_and_then_taken() -> None:
    async with serving() as served, await served.raw() as raw:
        raw.send(upgrade("/ws?token=slow"), *[text("x" * 60_000)] * 10)
        await served.verifier.asked.wait()
        (protocol,) = served.uvicorn.connections
        await until(lambda: not protocol.transport.is_reading())
        raw.send(text("last"))
        served.verifier.answers.set()
        assert (await raw.response())[0] == 101
        assert await raw.frame() == (0x81, b"welcome")
        for _ in range(10):
            assert await raw.frame() == (0x81, b"x" * 60_000)
        assert await raw.frame() == (0x81, b"last")


# ------------------------------------------------------------------------------------------------- messages


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 65_535, LIMIT])
async def test_message_of_any_size_up_to_the_limit_passes(size: int) -> None:
    async with serving() as served, await served.upgraded() as raw:
        raw.send(text(b"\0" * size))
        echo = await served.connection()
        raw.send(text("quiet"), frame(0x89, b"done"))
        assert await raw.frame() == (0x81, b"\0" * size)
        assert await raw.frame() == (0x8A, b"done")
        assert echo.messages[0] == b"\0" * size


async def test_message_one_octet_over_the_limit_is_1009() -> None:
    async with serving() as served, await served.upgraded() as raw:
        raw.send(text("x" * (LIMIT + 1)))
        await raw.gone(1009, "frame_too_large")
        assert await asyncio.wait_for((await served.connection()).gone, PATIENCE_S) == 1009


async def test_huge_announced_length_is_1009_before_it_comes() -> None:
    async with serving() as served, await served.upgraded() as raw:
        raw.send(struct.pack("!BBQ", 0x81, 0xFF, 2**62) + b"mask")
        await raw.gone(1009, "frame_too_large")


async def test_client_reads_1009_though_it_is_still_sending() -> None:
    async with serving() as served, await served.upgraded() as raw:
        raw.send(frame(0x82, b"\0" * 4_000_000))
        assert await raw.closing() == (1009, "frame_too_large")


@pytest.mark.parametrize(("rest", "passes"), [(LIMIT - 10, True), (LIMIT - 9, False)])
async def test_limit_is_on_the_whole_message(rest: int, passes: bool) -> None:  # noqa: FBT001 - a parameter of the test
    async with serving() as served, await served.upgraded() as raw:
        raw.send(frame(0x01, b"a" * 10), frame(0x80, b"b" * rest))
        if passes:
            assert await raw.frame() == (0x81, b"a" * 10 + b"b" * rest)
        else:
            await raw.gone(1009, "frame_too_large")


@pytest.mark.parametrize(
    ("subprotocol", "right", "wrong"), [("gateway.v1.json", 0x01, 0x02), ("gateway.v1.msgpack", 0x02, 0x01)]
)
async def test_text_and_binary_are_told_apart(subprotocol: str, right: int, wrong: int) -> None:
    async with serving() as served, await served.upgraded(greeted=False, sec_websocket_protocol=subprotocol) as raw:
        assert await raw.frame() == (0x80 | right, b"welcome")
        raw.send(frame(0x80 | right, b"quiet 1"), frame(0x80 | wrong, b"quiet"), frame(0x80 | right, b"quiet 2"))
        raw.send(frame(right, b"qui"), frame(0x80, b"et 3"), frame(wrong, b"qui"), frame(0x80, b"et"), frame(0x89))
        assert await raw.frame() == (0x8A, b"")
        echo = await served.connection()
        assert echo.messages == [b"quiet 1", b"quiet 2", b"quiet 3"]
        assert echo.unsupporteds == 2


# A conversation with everything in it that a client may say, and what is answered.
EVERYTHING = [
    frame(0x81, b"whole"),
    frame(0x01, b"a\xc3"),
    frame(0x89, b"1"),
    frame(0x00),
    frame(0x8A, b"unasked"),
    frame(0x00, b"\xa4\xf0\x9f", mask=bytes(4)),
    frame(0x89, mask=b"\xff\x00\xff\x00"),
    frame(0x80, b"\x98\x80b" + b"x" * 200),
    frame(0x01),
    frame(0x80),
    frame(0x81, b"y" * 126, mask=b"\xff\xff\xff\xff"),
    frame(0x81, "κόσμε".encode()),
    frame(0x89, bytes(range(125))),
]
ANSWERS = [
    (0x81, b"whole"),
    (0x8A, b"1"),
    (0x8A, b""),
    (0x81, "aä😀b".encode() + b"x" * 200),
    (0x81, b""),
    (0x81, b"y" * 126),
    (0x81, "κόσμε".encode()),
    (0x8A, bytes(range(125))),
]


async def send_in_pieces(raw: Raw, octets: bytes, size: int) -> None:
    """Send octets in pieces, and let the server read each before the next."""
    for at in range(0, len(octets), size):
        raw.send(octets[at : at + size])
        await asyncio.sleep(0)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 100_000])
async def test_fragments_and_control_frames_between_them_are_the_same_in_pieces_of_any_size(size: int) -> None:
    async with serving() as served, await served.upgraded() as raw:
        await send_in_pieces(raw, b"".join(EVERYTHING), size)
        assert [await raw.frame() for _ in ANSWERS] == ANSWERS


async def test_message_may_come_in_very_many_fragments() -> None:
    async with serving() as served, await served.upgraded() as raw:
        raw.send(frame(0x01), *[frame(0x00, b"x")] * 5000, *[frame(0x00)] * 5000, frame(0x80))
        assert await raw.frame() == (0x81, b"x" * 5000)


@pytest.mark.parametrize("mask", [bytes(4), b"\xff\xff\xff\xff", b"\x00\x00\x00\x01", b"\xff\x00\x00\x00"])
async def test_any_mask_is_undone(mask: bytes) -> None:
    payload = bytes(range(128)) * 3
    async with serving() as served, await served.upgraded() as raw:
        for size in (0, 1, 2, 3, 4, 5, 125, 126, len(payload)):
            raw.send(frame(0x81, payload[:size], mask=mask))
            assert await raw.frame() == (0x81, payload[:size])
            for byte in (frame(0x01, payload[:size], mask=mask), frame(0x80, mask=mask)):
                await send_in_pieces(raw, byte, 7)
            assert await raw.frame() == (0x81, payload[:size])


@pytest.mark.parametrize(
    "payload",
    [
        *["\0", "\x7f", "\x80", "\u07ff", "\u0800", "\ud7ff", "\ue000", "\ufeff", "\uffff", "\U00010000", "\U0010ffff"],
        "κόσμε €😀",
    ],
    ids=ascii,
)
async def test_every_character_passes_wherever_it_is_cut(payload: str) -> None:
    octets = payload.encode()
    async with serving() as served, await served.upgraded() as raw:
        for cut in range(len(octets) + 1):
            raw.send(frame(0x01, octets[:cut]), frame(0x89, b"?"), frame(0x80, octets[cut:]))
            assert [await raw.frame(), await raw.frame()] == [(0x8A, b"?"), (0x81, octets)]


async def test_every_ping_is_answered_with_its_payload() -> None:
    async with serving() as served, await served.upgraded() as raw:
        raw.send(*[frame(0x89, bytes((n,)) * n) for n in range(126)])
        assert [await raw.frame() for _ in range(126)] == [(0x8A, bytes((n,)) * n) for n in range(126)]


async def test_flood_of_pings_is_answered_in_order_while_others_have_their_turns() -> None:
    async with serving() as served, await served.upgraded() as raw, await served.upgraded() as other:
        raw.send(*[frame(0x89, b"%d" % n) for n in range(5000)])
        for n in range(100):
            other.send(text(f"{n}"))
            assert await other.frame() == (0x81, b"%d" % n)
        assert [await raw.frame() for _ in range(5000)] == [(0x8A, b"%d" % n) for n in range(5000)]


async def test_unasked_pong_is_taken_for_a_sign_of_life() -> None:
    async with serving() as served, await served.upgraded() as raw:
        echo = await served.connection()
        echo.transport.ping()
        assert await raw.frame() == (0x89, b"")
        assert not echo.transport.heard
        raw.send(frame(0x8A, b"?"))
        await until(lambda: echo.transport.heard)


async def test_half_a_frame_is_a_sign_of_life() -> None:
    async with serving() as served, await served.upgraded() as raw:
        echo = await served.connection()
        echo.transport.ping()
        assert not echo.transport.heard
        raw.send(text("slow")[:3])
        await until(lambda: echo.transport.heard)
        assert echo.messages == []
