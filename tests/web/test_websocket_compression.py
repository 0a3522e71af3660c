"""permessage-deflate (RFC 7692) over a real socket: what is agreed on, both directions, and what inflates beyond its bounds."""

from __future__ import annotations

import asyncio
import random
import zlib

import pytest
from edge_server import PATIENCE_S, Raw, frame, serving, text, upgrade
from websockets.asyncio.client import connect

LIMIT = 65_536


def compressed(payload: bytes) -> bytes:
    """Deflate a message as RFC 7692 has it."""
    deflate = zlib.compressobj(wbits=-12)
    return (deflate.compress(payload) + deflate.flush(zlib.Z_SYNC_FLUSH))[:-4]


def with_context(payload: bytes) -> bytes:
    """Deflate a message that has been sent before, as where that is remembered."""
    deflate = zlib.compressobj(wbits=-12)
    deflate.compress(payload)
    deflate.flush(zlib.Z_SYNC_FLUSH)
    return (deflate.compress(payload) + deflate.flush(zlib.Z_SYNC_FLUSH))[:-4]


async def deflating(raw: Raw, **headers: str) -> bool:
    """Upgrade with an offer of permessage-deflate; tell whether it was taken."""
    raw.send(upgrade(sec_websocket_extensions="permessage-deflate; client_max_window_bits", **headers))
    status, headers, _ = await raw.response()
    assert status == 101
    return "permessage-deflate" in headers.get("sec-websocket-extensions", "")


async def test_compression_is_off_by_default() -> None:
    async with serving() as served, await served.raw() as raw:
        assert not await deflating(raw)
        assert await raw.frame() == (0x81, b"welcome")


async def test_compression_is_negotiated_where_it_is_on() -> None:
    async with serving(compression=True) as served:
        async with connect(f"ws://127.0.0.1:{served.port}/ws?token=good") as client:
            assert await client.recv() == "welcome"
            await client.send("x" * LIMIT)
            assert await client.recv() == "x" * LIMIT
            await client.send("\0" * LIMIT)
            assert await client.recv() == "\0" * LIMIT
        async with await served.upgraded() as raw:
            raw.send(text("plain"))
            assert await raw.frame() == (0x81, b"plain")


@pytest.mark.parametrize(
    ("size", "passes"), [(LIMIT, True), (LIMIT + 1, False), (LIMIT + 2000, False), (50_000_000, False)]
)
async def test_limit_is_on_the_message_after_inflation(size: int, passes: bool) -> None:  # noqa: FBT001 - as above
    async with serving(compression=True) as served, await served.raw() as raw:
        assert await deflating(raw)
        assert await raw.frame() == (0x81, b"welcome"), "too short to gain by compression"
        raw.send(frame(0xC1, compressed(b"\0" * size)))
        echo = await served.connection()
        if passes:
            assert (await raw.frame())[0] == 0xC1
            assert echo.messages == [b"\0" * size]
        else:
            await raw.gone(1009, "frame_too_large")


async def test_message_that_grows_by_deflate_is_held_against_its_own_size() -> None:
    payload = b"quiet " + random.Random(7).randbytes(LIMIT - 6)  # noqa: S311 - no secret
    assert len(compressed(payload)) > LIMIT
    async with serving(compression=True) as served, await served.raw() as raw:
        assert await deflating(raw, sec_websocket_protocol="gateway.v1.msgpack")
        await raw.frame()
        raw.send(frame(0xC2, compressed(payload)), frame(0x89))
        assert await raw.frame() == (0x8A, b"")
        assert (await served.connection()).messages[0] == payload


@pytest.mark.parametrize("bits", [9, 10, 12])
async def test_server_keeps_to_the_window_that_the_client_asks_for(bits: int) -> None:
    message = b"".join(b"%06d," % n for n in range(500)) * 5
    async with serving(compression=True) as served, await served.raw() as raw:
        raw.send(upgrade(sec_websocket_extensions=f"permessage-deflate; server_max_window_bits={bits}"))
        status, headers, _ = await raw.response()
        assert (status, headers["sec-websocket-extensions"].split("; ")) == (
            101,
            [
                "permessage-deflate",
                "server_no_context_takeover",
                "client_no_context_takeover",
                f"server_max_window_bits={bits}",
            ],
        )
        await raw.frame()
        for _ in range(2):  # the second like the first: no context is taken over
            raw.send(frame(0xC1, compressed(message)))
            first, zipped = await raw.frame()
            assert first == 0xC1
            assert len(zipped) < len(message)
            assert zlib.decompressobj(wbits=-bits).decompress(zipped + b"\0\0\xff\xff") == message


@pytest.mark.parametrize("offer", ["permessage-deflate; server_max_window_bits=8", "permessage-bzip2"])
async def test_where_no_offer_can_be_met_nothing_may_be_compressed(offer: str) -> None:
    async with serving(compression=True) as served, await served.raw() as raw:
        raw.send(upgrade(sec_websocket_extensions=offer))
        status, headers, _ = await raw.response()
        assert (status, "sec-websocket-extensions" in headers) == (101, False)
        await raw.frame()
        raw.send(text("x" * 1000))
        assert await raw.frame() == (0x81, b"x" * 1000)
        raw.send(frame(0xC1, compressed(b"x" * 1000)))
        await raw.gone(1002, "protocol_error")


async def test_compressed_message_may_come_in_fragments_and_octet_by_octet() -> None:
    zipped = compressed("quiet κόσμε".encode() * 10)
    octets = b"".join(
        (frame(0x41, zipped[:3]), frame(0x89, b"1"), frame(0x00), frame(0x00, zipped[3:9]), frame(0x80, zipped[9:]))
    )
    async with serving(compression=True) as served, await served.raw() as raw:
        assert await deflating(raw)
        await raw.frame()
        for octet in octets:
            raw.send(bytes((octet,)))
            await asyncio.sleep(0)
        raw.send(octets)
        assert await raw.frame() == (0x8A, b"1")
        assert await raw.until_pong() == [(0x8A, b"1")]
        assert (await served.connection()).messages == ["quiet κόσμε".encode() * 10] * 2


BOMB, LARGEST = compressed(bytes(20_000_000)), compressed(bytes(LIMIT))
ZIPPED = compressed(b"quiet and a longer text, a longer text")
DEFLATE_FAULTS = {
    "junk": (frame(0xC1, b"\xff\xff\xff\xff"), 1002, frame(0xC1, ZIPPED)),
    "nothing": (frame(0xC1), 1002, frame(0xC1, b"\x00") + frame(0xC1, ZIPPED)),
    "cut off": (frame(0xC1, ZIPPED[:-4]), 1002, frame(0xC1, ZIPPED)),
    "cut off in a block without compression": (
        frame(0xC1, b"\x00\x64\x00\x9b\xffquiet "),
        1002,
        frame(0xC1, b"\x00\x06\x00\xf9\xffquiet \x00"),
    ),
    "something behind the end": (frame(0xC1, b"\xf3\x48\xcd\xc9\xc9\x07\x00\x00?"), 1002, frame(0xC1, ZIPPED)),
    "rsv1 on a last fragment": (
        frame(0x41, ZIPPED[:9]) + frame(0xC0, ZIPPED[9:]),
        1002,
        frame(0x41, ZIPPED[:9]) + frame(0x80, ZIPPED[9:]),
    ),
    "rsv1 on a fragment": (
        frame(0x41, ZIPPED[:9]) + frame(0x40, ZIPPED[9:]),
        1002,
        frame(0x41, ZIPPED[:9]) + frame(0x00, ZIPPED[9:]),
    ),
    "rsv1 behind a message that is not compressed": (
        frame(0x01, b"quiet ") + frame(0xC0, ZIPPED),
        1002,
        frame(0x01, b"quiet ") + frame(0x80, b"more"),
    ),
    **{f"rsv1 on {first:x}": (frame(first), 1002, frame(0x8A)) for first in (0xC8, 0xC9, 0xCA)},
    "rsv2": (frame(0xE1, ZIPPED), 1002, frame(0xC1, ZIPPED)),
    "rsv3": (frame(0xD1, ZIPPED), 1002, frame(0xC1, ZIPPED)),
    "a context of the message before": (
        frame(0xC1, with_context(b"quiet and a longer text, a longer text")),
        1002,
        frame(0xC1, ZIPPED) + frame(0xC1, ZIPPED),
    ),
    "text that is no UTF-8": (frame(0xC1, compressed(b"quiet \xff" * 20)), 1007, frame(0xC2, compressed(b"\xff" * 20))),
    "text that ends within a character": (
        frame(0xC1, compressed(b"quiet" * 20 + b"\xc3")),
        1007,
        frame(0xC1, compressed(b"quiet" + b" x" * 20 + b"\xc3\xa4")),
    ),
    "a bomb in fragments": (
        frame(0x41, BOMB[:1000]) + frame(0x00, BOMB[1000:2000]) + frame(0x80, BOMB[2000:]),
        1009,
        frame(0x42, LARGEST[:20]) + frame(0x00, LARGEST[20:40]) + frame(0x80, LARGEST[40:]),
    ),
    "more octets than any message takes": (
        frame(0x42, bytes(40_000)) + frame(0x80, bytes(40_000)),
        1009,
        frame(0xC2, LARGEST),
    ),
}
CODES = {1002: "protocol_error", 1007: "invalid_utf8", 1009: "frame_too_large"}


@pytest.mark.parametrize(("faulty", "code", "sound"), DEFLATE_FAULTS.values(), ids=DEFLATE_FAULTS)
async def test_fault_ends_the_connection_with_its_code_and_its_absence_does_not(
    faulty: bytes, code: int, sound: bytes
) -> None:
    async with serving(compression=True) as served:
        async with await served.raw() as raw:
            assert await deflating(raw)
            await raw.frame()
            raw.send(sound)
            assert [payload for first, payload in await raw.until_pong() if payload] == []
            await served.connection()
        async with await served.raw() as raw:
            assert await deflating(raw)
            await raw.frame()
            raw.send(faulty, frame(0x89, b"behind the fault"))
            await raw.gone(code, CODES[code])
            echo = await served.connection()
            assert await asyncio.wait_for(echo.gone, PATIENCE_S) == code
            assert echo.messages == []
