"""What an open wire relies on when it writes to a socket beside its transport, on both event loops; and that over TLS it does not."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
import struct
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import pytest
from certificates import certified
from echo_server import echo_config
from edge_server import PATIENCE_S, Raw, close_frame, frame, serving, text, until, upgrade
from fastapi import APIRouter, Response
from uvicorn.server import ServerState

LINGER_AND_RESET = struct.pack("ii", 1, 0)


# ------------------------------------------------------------------------------------------------- the descriptor


class Witness(asyncio.Protocol):
    """Looks at the end of its connection whether the descriptor is still its own."""

    def __init__(self) -> None:
        self.opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.lost: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self.descriptor = -1

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.descriptor = transport.get_extra_info("socket").fileno()
        self.inode = os.fstat(self.descriptor).st_ino
        self.opened.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the signature of asyncio's
        self.lost.set_result(os.fstat(self.descriptor).st_ino == self.inode)


@pytest.mark.parametrize("end", ["close", "close with octets that wait", "abort", "end of file", "reset", "broken"])
async def test_loop_gives_a_descriptor_back_only_when_the_end_has_been_told(end: str) -> None:
    witness = Witness()
    server = await asyncio.get_running_loop().create_server(lambda: witness, "127.0.0.1", 0)
    with socket.create_connection(server.sockets[0].getsockname()) as peer:
        await asyncio.wait_for(witness.opened, PATIENCE_S)
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_AND_RESET)
        match end:
            case "close":
                witness.transport.close()
            case "close with octets that wait":
                witness.transport.write(bytes(50_000_000))
                witness.transport.close()
                peer.close()
            case "abort":
                witness.transport.write(bytes(50_000_000))
                witness.transport.abort()
            case "end of file":
                peer.shutdown(socket.SHUT_WR)
            case "reset":
                peer.close()
            case _:
                peer.close()
                with contextlib.suppress(OSError):
                    os.write(witness.descriptor, b"x")
                witness.transport.write(b"x")
        assert await asyncio.wait_for(witness.lost, PATIENCE_S), "it was open, and the same file"
    server.close()

    def is_given_back() -> bool:
        try:
            return os.fstat(witness.descriptor).st_ino != witness.inode
        except OSError:
            return True

    await until(is_given_back)


# ------------------------------------------------------------------------------------------------- the order of octets


async def test_octets_are_in_order_when_the_socket_takes_a_part_and_the_transport_the_rest() -> None:
    async with serving() as served, await served.upgraded() as raw:
        echo = await served.connection()
        unread: list[bytes] = []
        waited = direct = 0
        for number in range(600):
            unread.append(b"%06d" % number * (number * 37 % 9000))
            echo.transport.send(unread[-1:])
            if not echo.transport.buffered_bytes():
                direct += 1
                continue
            waited += 1
            if number % 10 == 0:  # now and then the peer reads, until the socket is free again
                while echo.transport.buffered_bytes():
                    assert await raw.frame() == (0x81, unread.pop(0))
        assert [await raw.frame() for _ in unread] == [(0x81, each) for each in unread]
        assert direct
        assert waited


async def test_answer_that_the_client_has_not_read_yet_stands_before_the_upgrade() -> None:
    router = APIRouter()
    body = b"x" * 8_000_000

    @router.get("/large")
    async def large() -> Response:
        return Response(body)

    async with serving(routers=[router]) as served, await served.raw() as raw:
        raw.send(b"GET /large HTTP/1.1\r\nhost: x\r\n\r\n")
        await until(lambda: any(each.transport.get_write_buffer_size() for each in served.uvicorn.connections))
        raw.send(upgrade())
        echo = await served.connection()
        assert echo.transport.buffered_bytes() > 0
        echo.transport.send([b"more"])
        status, _, got = await raw.response()
        assert (status, got) == (200, body)
        assert (await raw.response())[0] == 101
        assert [(await raw.frame())[1] for _ in range(2)] == [b"welcome", b"more"]
        raw.send(text("late"))
        assert await raw.frame() == (0x81, b"late")


# ------------------------------------------------------------------------------------------------- broken sockets


async def test_reset_that_nobody_has_seen_yet_ends_the_connection_by_the_write_that_sees_it() -> None:
    async with serving() as served, await served.upgraded() as raw:
        echo = await served.connection()
        peer = raw.writer.get_extra_info("socket")
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_AND_RESET)
        raw.writer.transport.abort()
        await until(lambda: raw.reader.at_eof() or raw.reader.exception())
        for _ in range(3):
            echo.transport.send([b"to nobody"])
        assert await asyncio.wait_for(echo.gone, PATIENCE_S) == 1006
        echo.transport.send([b"to nobody"])
        await until(lambda: not served.uvicorn.connections)


async def test_write_behind_a_loss_reaches_nobody_else() -> None:
    async with serving() as served:
        async with await served.upgraded():
            gone = await served.connection()
            descriptor = gone.transport.transport.get_extra_info("socket").fileno()  # type: ignore[attr-defined]
        await asyncio.wait_for(gone.gone, PATIENCE_S)
        await until(lambda: not served.uvicorn.connections)
        async with contextlib.AsyncExitStack() as stack:
            others: list[Raw] = []
            descriptors: list[int] = []
            while descriptor not in descriptors and len(others) < 20:
                others.append(await stack.enter_async_context(await served.upgraded()))
                transport: Any = (await served.connection()).transport
                descriptors.append(transport.transport.get_extra_info("socket").fileno())
            assert descriptor in descriptors, "the socket of another connection has the number"
            for _ in range(3):
                gone.transport.send([b"secret"])
                gone.transport.write(b"secret")
                gone.transport.ping()
                gone.transport.close(1000, "secret", 0.0)
                await asyncio.sleep(0)
            for each in others:
                assert await each.until_pong() == []


# ------------------------------------------------------------------------------------------------- TLS


@contextlib.asynccontextmanager
async def over_tls(directory: Path) -> AsyncIterator[Raw]:
    """Serve the echo over TLS, and connect to it."""
    theirs, ours = certified(directory)
    config = echo_config()
    config.load()
    state = ServerState()
    make: Any = config.http_protocol_class
    server = await asyncio.get_running_loop().create_server(lambda: make(config, state, {}), "127.0.0.1", 0, ssl=theirs)
    port = server.sockets[0].getsockname()[1]
    try:
        async with Raw(*await asyncio.open_connection("127.0.0.1", port, ssl=ours)) as raw:
            raw.send(upgrade("/ws"))
            status, _, _ = await raw.response()
            assert status == 101
            yield raw
    finally:
        server.close()
        for connection in list(state.connections):
            connection.transport.abort()
        await until(lambda: not state.connections)


async def test_over_tls_all_octets_are_encrypted_and_in_order(tmp_path: Path) -> None:
    async with over_tls(tmp_path) as raw:
        messages = [b"%04d" % n * (n * 61 % 5000) for n in range(300)]
        for number, message in enumerate(messages):
            raw.send(text(message), frame(0x89, b"%d" % number))
        got = [await raw.frame() for _ in range(2 * len(messages))]
        assert [payload for first, payload in got if first == 0x81] == messages
        assert [payload for first, payload in got if first == 0x8A][-1] == b"299"
        raw.send(close_frame(4000, b"bye"))
        assert await raw.closing() == (4000, "bye")
        assert await raw.rest() == b""


async def test_over_tls_frames_before_a_close_in_its_record_are_carried_out(tmp_path: Path) -> None:
    async with over_tls(tmp_path) as raw:
        raw.send(frame(0x01, b"x"), *[frame(0x00)] * 1000, frame(0x80, b"y"), text("z"), close_frame(1000))
        assert [await raw.frame(), await raw.frame()] == [(0x81, b"xy"), (0x81, b"z")]
        assert await raw.closing() == (1000, "")


async def test_over_tls_a_fault_is_told_too(tmp_path: Path) -> None:
    async with over_tls(tmp_path) as raw:
        raw.send(frame(0x83))
        assert await raw.closing() == (1002, "protocol_error")
        raw.send(close_frame(1002))
        with contextlib.suppress(ssl.SSLError):
            assert await raw.rest() == b""
