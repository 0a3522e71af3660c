"""How a WebSocket ends (RFC 6455, sections 5.5.1 and 7), over a real socket: by either side, by both at once, and without a word."""

from __future__ import annotations

import asyncio
import struct

import pytest
from edge_server import PATIENCE_S, close_frame, frame, serving, text

VALID = [*range(1000, 1004), *range(1007, 1015), 3000, 3001, 3999, 4000, 4999]
"""RFC 6455, section 7.4, and of IANA's registry 1012 to 1014; from 3000 on they are anybody's."""

INVALID = [0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 1999, 2000, 2999, 5000, 32_768, 65_535]


# ------------------------------------------------------------------------------------------------- by the client


@pytest.mark.parametrize("reason", [b"", b"bye", "€".encode() * 41], ids=["no reason", "short", "123 octets"])
@pytest.mark.parametrize("code", VALID)
async def test_clients_close_is_echoed_and_its_code_told(code: int, reason: bytes) -> None:
    async with serving() as served, await served.upgraded() as raw:
        raw.send(close_frame(code, reason))
        assert await raw.frame() == (0x88, struct.pack("!H", code) + reason)
        assert await raw.rest() == b"", "the server closes the socket first"
        assert await asyncio.wait_for((await served.connection()).gone, PATIENCE_S) == code


async def test_empty_close_is_echoed_empty_and_told_as_1005() -> None:
    async with serving() as served, await served.upgraded() as raw:
        raw.send(frame(0x88))
        assert await raw.frame() == (0x88, b"")
        assert await raw.rest() == b""
        assert await asyncio.wait_for((await served.connection()).gone, PATIENCE_S) == 1005


@pytest.mark.parametrize("code", INVALID)
async def test_close_with_a_code_that_none_may_hold_is_1002(code: int) -> None:
    async with serving() as served, await served.upgraded() as raw:
        raw.send(close_frame(code, b"bye"))
        await raw.gone(1002, "protocol_error")
        assert await asyncio.wait_for((await served.connection()).gone, PATIENCE_S) == 1002


async def test_close_in_pieces_is_a_close() -> None:
    async with serving() as served, await served.upgraded() as raw:
        for octet in close_frame(4000, b"bye"):
            raw.send(bytes((octet,)))
            await asyncio.sleep(0)
        assert await raw.closing() == (4000, "bye")
        assert await raw.rest() == b""


@pytest.mark.parametrize(
    "late",
    [
        pytest.param(text("quiet late"), id="a message"),
        pytest.param(frame(0x89, b"?"), id="a ping"),
        pytest.param(close_frame(1001), id="another close"),
        pytest.param(frame(0x83), id="a fault"),
        pytest.param(b"\xff" * 1000, id="junk"),
        pytest.param(text("late")[:3], id="half a frame"),
    ],
)
async def test_nothing_behind_a_close_is_looked_at(late: bytes) -> None:
    async with serving() as served:
        async with await served.upgraded() as raw:
            raw.send(text("quiet"), close_frame(1000), late)
            assert await raw.closing() == (1000, "")
            assert await raw.rest() == b""
            echo = await served.connection()
            assert await asyncio.wait_for(echo.gone, PATIENCE_S) == 1000
            assert echo.messages == [b"quiet"]
        async with await served.upgraded() as raw:
            raw.send(text("quiet"), close_frame(1000))
            await asyncio.sleep(0)
            raw.send(late)
            assert await raw.closing() == (1000, "")
            assert await raw.rest() == b""
            echo = await served.connection()
            assert await asyncio.wait_for(echo.gone, PATIENCE_S) == 1000
            assert echo.messages == [b"quiet"]


async def test_answers_to_all_before_a_close_stand_before_its_answer() -> None:
    async with serving() as served, await served.upgraded() as raw:
        raw.send(*[text(f"{n}") for n in range(1000)], frame(0x89, b"?"), close_frame(1000))
        assert [await raw.frame() for _ in range(1000)] == [(0x81, b"%d" % n) for n in range(1000)]
        assert await raw.frame() == (0x8A, b"?")
        assert await raw.closing() == (1000, "")
        assert await raw.rest() == b""


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


# ------------------------------------------------------------------------------------------------- without a word


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


# ------------------------------------------------------------------------------------------------- by the server


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


async def test_closes_that_cross_are_one_close() -> None:
    async with serving() as served, await served.upgraded() as raw:
        echo = await served.connection()
        echo.transport.close(1001, "draining", 5.0)
        raw.send(close_frame(4000, b"bye"))
        assert await raw.closing() == (1001, "draining")
        assert await raw.rest() == b"", "the client's close is the answer, and not answered"
        assert await asyncio.wait_for(echo.gone, PATIENCE_S) == 1001


@pytest.mark.parametrize("octets", [frame(0x83), text(b"\xff"), close_frame(1005), frame(0x01) + text("x")])
async def test_fault_behind_the_servers_close_ends_the_connection_without_another_one(octets: bytes) -> None:
    async with serving() as served, await served.upgraded() as raw:
        echo = await served.connection()
        echo.transport.close(1001, "draining", 5.0)
        assert await raw.closing() == (1001, "draining")
        raw.send(octets)
        assert await raw.rest() == b""
        assert await asyncio.wait_for(echo.gone, PATIENCE_S) == 1001
        assert echo.messages == []


async def test_servers_close_in_the_middle_of_the_clients_message_is_answered_behind_it() -> None:
    async with serving() as served, await served.upgraded() as raw:
        echo = await served.connection()
        message = text("x" * 1000)
        raw.send(message[:500])
        echo.transport.close(1001, "draining", 5.0)
        assert await raw.closing() == (1001, "draining")
        raw.send(message[500:], frame(0x01, b"and"), frame(0x89), frame(0x80), close_frame(1001))
        assert await raw.rest() == b""
        assert await asyncio.wait_for(echo.gone, PATIENCE_S) == 1001
        assert echo.messages == []
