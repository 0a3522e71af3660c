"""RFC 6455 over a real socket, octet by octet: what the server takes, what it closes, and with which code."""

from __future__ import annotations

import asyncio
import random
import struct
import zlib

import pytest
from edge_server import PATIENCE_S, Raw, close_frame, frame, serving, text, until, upgrade
from websockets.asyncio.client import connect

from gateway.web.edge import EdgeLimits

LIMIT = 65_536


async def gone(raw: Raw, code: int, reason: str) -> None:
    """Read a close frame, answer it, and read the end."""
    assert await raw.closing() == (code, reason)
    raw.send(close_frame(code))
    assert await raw.rest() == b""


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


async def test_every_octet_in_a_segment_of_its_own_makes_the_same_message() -> None:
    async with serving() as served, await served.upgraded() as raw:
        for octet in text("slowly"):
            raw.send(bytes((octet,)))
            await asyncio.sleep(0)
        assert await raw.frame() == (0x81, b"slowly")


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
        await gone(raw, 1009, "frame_too_large")
        assert await asyncio.wait_for((await served.connection()).gone, PATIENCE_S) == 1009


async def test_huge_announced_length_is_1009_before_it_comes() -> None:
    async with serving() as served, await served.upgraded() as raw:
        raw.send(struct.pack("!BBQ", 0x81, 0xFF, 2**62) + b"mask")
        await gone(raw, 1009, "frame_too_large")


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
            await gone(raw, 1009, "frame_too_large")


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


async def test_fragments_make_one_message_and_pings_between_them_are_answered() -> None:
    async with serving() as served, await served.upgraded() as raw:
        raw.send(frame(0x01, b"a\xc3"), frame(0x89, b"1"), frame(0x00, b"\xa4"), frame(0x89, b"2"), frame(0x80, b"b"))
        assert [await raw.frame() for _ in range(3)] == [(0x8A, b"1"), (0x8A, b"2"), (0x81, "aäb".encode())]


async def test_every_ping_is_answered_with_its_payload() -> None:
    async with serving() as served, await served.upgraded() as raw:
        raw.send(*[frame(0x89, bytes((n,)) * n) for n in range(126)])
        assert [await raw.frame() for _ in range(126)] == [(0x8A, bytes((n,)) * n) for n in range(126)]


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


# ------------------------------------------------------------------------------------------------- violations


@pytest.mark.parametrize(
    ("octets", "code", "reason"),
    [
        pytest.param(frame(0xC1, b"x"), 1002, "protocol_error", id="rsv1"),
        pytest.param(frame(0xA1, b"x"), 1002, "protocol_error", id="rsv2"),
        pytest.param(frame(0x91, b"x"), 1002, "protocol_error", id="rsv3"),
        pytest.param(frame(0xC9, b"x"), 1002, "protocol_error", id="rsv1 on a ping"),
        *[pytest.param(frame(0x80 | op, b"x"), 1002, "protocol_error", id=f"opcode {op}") for op in (3, 7, 11, 15)],
        pytest.param(frame(0x81, b"x", masked=False), 1002, "protocol_error", id="unmasked"),
        pytest.param(frame(0x89, b"x", masked=False), 1002, "protocol_error", id="unmasked ping"),
        pytest.param(frame(0x09, b"x"), 1002, "protocol_error", id="fragmented ping"),
        pytest.param(frame(0x08, b""), 1002, "protocol_error", id="fragmented close"),
        pytest.param(frame(0x89, b"x" * 126), 1002, "protocol_error", id="long ping"),
        pytest.param(frame(0x88, b"\x03\xe8" + b"x" * 124), 1002, "protocol_error", id="long close"),
        pytest.param(frame(0x80, b"x"), 1002, "protocol_error", id="continuation of nothing"),
        pytest.param(frame(0x01, b"x") + frame(0x81, b"y"), 1002, "protocol_error", id="text within a message"),
        pytest.param(frame(0x01, b"x") + frame(0x02, b"y"), 1002, "protocol_error", id="binary within a message"),
        pytest.param(frame(0x88, b"\x03"), 1002, "protocol_error", id="close of one octet"),
        *[
            pytest.param(close_frame(code), 1002, "protocol_error", id=f"close code {code}")
            for code in (0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65_535)
        ],
        pytest.param(close_frame(1000, b"\xff"), 1007, "invalid_utf8", id="close reason not UTF-8"),
        *[
            pytest.param(frame(0x81, octets), 1007, "invalid_utf8", id=f"text {octets.hex()}")
            for octets in (b"\xff", b"\xc3", b"\xc0\xaf", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"a\x80b")
        ],
        pytest.param(frame(0x01, b"a\xc3") + frame(0x80, b"x"), 1007, "invalid_utf8", id="UTF-8 broken by fragments"),
    ],
)
async def test_violation_ends_the_connection_with_its_code(octets: bytes, code: int, reason: str) -> None:
    async with serving() as served, await served.upgraded() as raw:
        raw.send(octets)
        await gone(raw, code, reason)
        echo = await served.connection()
        assert await asyncio.wait_for(echo.gone, PATIENCE_S) == code
        assert echo.messages == []


async def test_messages_before_a_violation_are_delivered_and_those_behind_it_dropped() -> None:
    async with serving() as served, await served.upgraded() as raw:
        raw.send(text("quiet 1"), text("quiet 2"), frame(0x83, b"?"), text("quiet 3"))
        await gone(raw, 1002, "protocol_error")
        echo = await served.connection()
        assert await asyncio.wait_for(echo.gone, PATIENCE_S) == 1002
        assert echo.messages == [b"quiet 1", b"quiet 2"]


async def test_messages_before_bad_utf8_are_delivered_and_those_behind_it_dropped() -> None:
    async with serving() as served, await served.upgraded() as raw:
        raw.send(text("quiet 1"), text(b"\xff"), text("quiet 3"), close_frame(1000))
        assert await raw.rest() != b""
        echo = await served.connection()
        await asyncio.wait_for(echo.gone, PATIENCE_S)
        assert echo.messages == [b"quiet 1"]


async def test_peer_that_does_not_leave_after_its_violation_is_dropped() -> None:
    async with serving(limits=EdgeLimits(close_s=0.05)) as served, await served.upgraded() as raw:
        raw.send(frame(0x83))
        assert await raw.closing() == (1002, "protocol_error")
        assert await raw.rest() == b""
        await until(lambda: not served.uvicorn.connections)


# ------------------------------------------------------------------------------------------------- goodbyes


@pytest.mark.parametrize(
    ("payload", "code"), [(b"\x03\xe8bye", 1000), (b"\x0b\xb8", 3000), (b"\x13\x87", 4999), (b"", 1005)]
)
async def test_clients_close_is_echoed_and_its_code_told(payload: bytes, code: int) -> None:
    async with serving() as served, await served.upgraded() as raw:
        raw.send(frame(0x88, payload))
        assert await raw.frame() == (0x88, payload)
        assert await raw.rest() == b""
        assert await asyncio.wait_for((await served.connection()).gone, PATIENCE_S) == code


async def test_messages_before_a_close_in_one_segment_are_carried_out() -> None:
    async with serving() as served, await served.upgraded() as raw:
        raw.send(*[text(f"quiet {n}") for n in range(100)], close_frame(1000), text("quiet late"))
        assert await raw.closing() == (1000, "")
        assert await raw.rest() == b""
        echo = await served.connection()
        assert await asyncio.wait_for(echo.gone, PATIENCE_S) == 1000
        assert echo.messages == [b"quiet %d" % n for n in range(100)]


async def test_client_may_leave_in_the_middle_of_a_message() -> None:
    async with serving() as served, await served.upgraded() as raw:
        raw.send(frame(0x01, b"quiet"), close_frame(1000), frame(0x80, b" late"))
        assert await raw.closing() == (1000, "")
        assert await raw.rest() == b""
        echo = await served.connection()
        assert await asyncio.wait_for(echo.gone, PATIENCE_S) == 1000
        assert echo.messages == []


async def test_bad_utf8_is_found_before_its_message_ends() -> None:
    async with serving() as served, await served.upgraded() as raw:
        raw.send(frame(0x01, b"a\xff"))
        await gone(raw, 1007, "invalid_utf8")


async def test_lost_socket_is_1006() -> None:
    async with serving() as served:
        async with await served.upgraded():
            echo = await served.connection()
        assert await asyncio.wait_for(echo.gone, PATIENCE_S) == 1006


async def test_end_without_a_close_frame_is_1006() -> None:
    async with serving() as served, await served.upgraded() as raw:
        raw.writer.write_eof()
        assert await raw.rest() == b""
        assert await asyncio.wait_for((await served.connection()).gone, PATIENCE_S) == 1006


async def test_servers_close_waits_for_its_answer_and_drops_what_comes_before() -> None:
    async with serving() as served, await served.upgraded() as raw:
        raw.send(text("close 1008 session_revoked"))
        assert await raw.closing() == (1008, "session_revoked")
        raw.send(text("late"), frame(0x89, b"late"), close_frame(1008))
        assert await raw.rest() == b""
        echo = await served.connection()
        assert await asyncio.wait_for(echo.gone, PATIENCE_S) == 1008
        assert len(echo.messages) == 1


async def test_servers_close_that_stays_unanswered_ends_in_an_abort() -> None:
    async with serving() as served, await served.upgraded() as raw:
        served.node.linger_s = 0.05
        raw.send(text("close 1008 session_revoked"))
        assert await raw.closing() == (1008, "session_revoked")
        assert await raw.rest() == b""
        assert await asyncio.wait_for((await served.connection()).gone, PATIENCE_S) == 1008


# ------------------------------------------------------------------------------------------------- compression


def compressed(payload: bytes) -> bytes:
    """Deflate a message as RFC 7692 has it."""
    deflate = zlib.compressobj(wbits=-12)
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
            await gone(raw, 1009, "frame_too_large")


async def test_message_that_grows_by_deflate_is_held_against_its_own_size() -> None:
    payload = b"quiet " + random.Random(7).randbytes(LIMIT - 6)  # noqa: S311 - no secret
    assert len(compressed(payload)) > LIMIT
    async with serving(compression=True) as served, await served.raw() as raw:
        assert await deflating(raw, sec_websocket_protocol="gateway.v1.msgpack")
        await raw.frame()
        raw.send(frame(0xC2, compressed(payload)), frame(0x89))
        assert await raw.frame() == (0x8A, b"")
        assert (await served.connection()).messages[0] == payload


async def test_junk_for_deflate_is_1002() -> None:
    async with serving(compression=True) as served, await served.raw() as raw:
        assert await deflating(raw)
        await raw.frame()
        raw.send(frame(0xC1, b"\xff\xff\xff\xff"))
        await gone(raw, 1002, "protocol_error")
