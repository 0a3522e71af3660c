"""What connections share, a turn of the loop above all, and what none of them can do to another there."""

from __future__ import annotations

import asyncio
import os
import socket
import struct

import pytest
from edge_server import PATIENCE_S, Raw, Served, close_frame, frame, serving, text, until

WRONG_KIND = frame(0x82, b"binary on a text connection")
RESERVED = frame(0x83, b"x")


def put(raw: Raw, octets: bytes) -> None:
    """Send now, whatever the loop of the test does."""
    os.write(raw.writer.get_extra_info("socket").fileno(), octets)


def reset(raw: Raw) -> None:
    """End a connection by RST, now."""
    taken = socket.socket(fileno=os.dup(raw.writer.get_extra_info("socket").fileno()))
    taken.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    taken.close()
    raw.writer.transport.abort()


async def test_fault_of_one_takes_nothing_from_who_has_read_in_the_same_turn(caplog: pytest.LogCaptureFixture) -> None:
    async with serving() as served, await served.upgraded() as one, await served.upgraded() as other:
        faulty, sound = await served.connection(), await served.connection()

        def unsupported() -> None:
            message = "a bug"
            raise ValueError(message)

        faulty.unsupported = unsupported  # type: ignore[method-assign] # a receiver with a bug
        put(one, WRONG_KIND)
        put(other, frame(0x01, b"hal"))
        await asyncio.wait_for(faulty.gone, PATIENCE_S)
        put(other, frame(0x80, b"lo"))
        assert await other.frame() == (0x81, b"hallo")
        assert sound.messages == [b"hallo"]
        assert await one.rest() == b""
    (record,) = [each for each in caplog.records if each.levelname == "ERROR"]
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], ValueError)


async def test_reset_behind_a_violation_takes_nothing_from_who_has_read_in_the_same_turn(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with serving() as served, await served.upgraded() as one, await served.upgraded() as other:
        gone = await served.connection()
        await served.connection()
        one.send(text("close 1000 bye"))
        assert await one.closing() == (1000, "bye")
        put(one, RESERVED)
        put(other, frame(0x01, b"hal"))
        reset(one)
        await asyncio.wait_for(gone.gone, PATIENCE_S)
        put(other, frame(0x80, b"lo"))
        assert await other.frame() == (0x81, b"hallo")
    assert not [each for each in caplog.records if each.levelname == "ERROR"]


async def test_nobody_is_silent_who_is_not_listened_to() -> None:
    async with serving() as served, await served.upgraded() as raw:
        echo = await served.connection()
        echo.transport.ping()
        assert await raw.frame() == (0x89, b"")
        assert not echo.transport.heard
        raw.send(text("pause"))
        await until(lambda: echo.paused)
        assert echo.transport.heard
        echo.transport.ping()
        assert await raw.frame() == (0x89, b"")
        assert echo.transport.heard
        echo.resume()
        raw.send(text("hello"))
        assert await raw.frame() == (0x81, b"hello")
        echo.transport.ping()
        assert await raw.frame() == (0x89, b"")
        assert not echo.transport.heard


async def octets_of(served: Served) -> tuple[int, int]:
    traffic = served.metrics.traffic
    return traffic.received, traffic.sent


async def test_all_octets_of_frames_are_counted_and_those_of_the_handshake_are_not() -> None:
    async with serving() as served, await served.upgraded(greeted=False) as raw:
        echo = await served.connection()
        said = [
            text("hello"),
            frame(0x89, b"are you there"),
            frame(0x01, b"hal"),
            frame(0x80, b"lo"),
            close_frame(1001),
        ]
        echo.transport.ping()
        raw.send(*said)
        received = await raw.rest()
        await asyncio.wait_for(echo.gone, PATIENCE_S)
        assert await octets_of(served) == (len(b"".join(said)), len(received))


async def test_an_end_of_ours_is_counted_too() -> None:
    async with serving() as served, await served.upgraded(greeted=False) as raw:
        echo = await served.connection()
        raw.send(RESERVED)
        received = await raw.rest()
        await asyncio.wait_for(echo.gone, PATIENCE_S)
        assert await octets_of(served) == (len(RESERVED), len(received))


async def test_a_wire_whose_last_octets_meet_a_fault_is_freed_all_the_same(caplog: pytest.LogCaptureFixture) -> None:
    async with serving() as served, await served.upgraded() as raw:
        echo = await served.connection()

        def unsupported() -> None:
            raise ZeroDivisionError

        echo.unsupported = unsupported  # type: ignore[method-assign] # a receiver with a bug
        put(raw, WRONG_KIND)
        reset(raw)
        assert await asyncio.wait_for(echo.gone, PATIENCE_S) == 1006
        await until(lambda: not served.uvicorn.connections)
    assert all(each.exc_info is not None for each in caplog.records if each.levelname == "ERROR")
