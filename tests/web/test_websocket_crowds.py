"""Thousands that come or go at once: so many in a turn of the loop, nobody forgotten, nobody overtaken, and little kept of each."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator
from typing import cast

from edge_server import Raw, Served, frame, serving, until, upgrade
from fastapi import APIRouter
from loop_turns import Turns

from gateway.runtime.ports import VerifiedCredential
from gateway.web.edge import EdgeConfig, EdgeLimits
from gateway.web.turnstile import Turnstile

CROWD = 40
GET = b"GET /here HTTP/1.1\r\nHost: a\r\n\r\n"
SHUT = EdgeLimits(heard_per_turn=0)


def router() -> APIRouter:
    """Answer."""
    routes = APIRouter()

    @routes.get("/here")
    async def here() -> str:
        return "here"

    return routes


@contextlib.asynccontextmanager
async def crowd(served: Served, many: int = CROWD) -> AsyncIterator[list[Raw]]:
    """Connect so many clients, which have sent nothing yet."""
    async with contextlib.AsyncExitStack() as stack:
        yield [await stack.enter_async_context(await served.raw()) for _ in range(many)]


def door(served: Served) -> Turnstile:
    return cast("EdgeConfig", served.config).door


async def test_of_a_crowd_that_comes_at_once_so_many_are_heard_in_a_turn() -> None:
    async with serving(limits=EdgeLimits(heard_per_turn=2)) as served, crowd(served) as clients:
        verify = served.verifier.verify_token
        with Turns() as turns:

            async def verify_token(token: str, now: float) -> VerifiedCredential:
                turns.note()
                return await verify(token, now)

            served.verifier.verify_token = verify_token  # type: ignore[method-assign] # the real one, watched
            for client in clients:
                client.send(upgrade())
            for client in clients:
                assert (await client.response())[0] == 101
        assert turns.happened.total() == CROWD
        assert max(turns.happened.values()) <= 2


async def test_of_a_crowd_that_goes_at_once_so_many_ends_are_told_in_a_turn() -> None:
    async with serving(limits=EdgeLimits(ends_per_turn=3)) as served, crowd(served) as clients:
        for client in clients:
            client.send(upgrade())
            assert (await client.response())[0] == 101
        echoes = [await served.connection() for _ in clients]
        with Turns() as turns:
            for echo in echoes:
                echo.gone.add_done_callback(lambda _: turns.note())
            for client in clients:
                client.writer.transport.abort()
            await asyncio.wait([echo.gone for echo in echoes])
            await until(lambda: turns.happened.total() == CROWD)
        assert max(turns.happened.values()) <= 3
        assert {echo.gone.result() for echo in echoes} == {1006}


async def test_an_end_that_waits_to_be_told_is_told_with_the_code_that_the_peer_sent() -> None:
    async with serving(limits=EdgeLimits(ends_per_turn=1)) as served, crowd(served, 10) as clients:
        for client in clients:
            client.send(upgrade())
            assert (await client.response())[0] == 101
        echoes = [await served.connection() for _ in clients]
        for client in clients:
            client.send(frame(0x88, b"\x03\xe9"))  # 1001
        for echo in echoes:
            await echo.gone
        assert {echo.gone.result() for echo in echoes} == {1001}


async def test_nothing_reaches_a_connection_whose_end_waits_to_be_told() -> None:
    async with serving(limits=EdgeLimits(ends_per_turn=0)) as served, await served.upgraded() as client:
        echo = await served.connection()
        client.send(frame(0x88, b"\x03\xe8"), frame(0x81, b"late"))
        assert await client.closing() == (1000, "")
        echo.transport.send([b"too late"])
        assert await client.rest() == b""
        assert echo.messages == []
        assert not echo.gone.done()


async def test_what_comes_in_pieces_while_its_connection_waits_is_put_together() -> None:
    async with serving(limits=SHUT, routers=[router()]) as served, await served.raw() as client:
        for piece in (GET[:9], GET[9:20], GET[20:]):
            client.send(piece)
            await client.writer.drain()
        client.writer.write_eof()  # whoever ends has not to wait
        assert (await client.response())[0] == 200


async def test_who_sends_more_than_is_kept_while_waiting_waits_itself() -> None:
    async with serving(limits=SHUT, routers=[router()]) as served, await served.raw() as client:
        client.writer.transport.set_write_buffer_limits(high=0)
        await until(lambda: served.uvicorn.connections)
        (connection,) = served.uvicorn.connections
        transport = connection.transport
        client.send(GET * 400_000)
        await until(lambda: not transport.is_reading())
        assert client.writer.transport.get_write_buffer_size() > 0
        assert len(connection._held) < 1_000_000  # type: ignore[union-attr] # one read of the loop's


async def test_who_was_told_to_wait_is_read_again_behind_the_door() -> None:
    limits = EdgeLimits(heard_per_turn=0, pipelined=10_000)
    async with serving(limits=limits, routers=[router()]) as served, await served.raw() as client:
        await until(lambda: served.uvicorn.connections)
        (connection,) = served.uvicorn.connections
        client.send(GET * 1000)
        await until(lambda: not connection.transport.is_reading())
        cast("EdgeConfig", served.config).door = Turnstile(4)
        connection._take_held()  # type: ignore[union-attr] # what the other door does
        for _ in range(1000):
            assert (await client.response())[0] == 200


async def test_a_connection_that_is_lost_while_it_waits_is_not_asked_about() -> None:
    async with serving(limits=SHUT) as served:
        async with await served.raw() as client:
            client.send(upgrade())
            await until(lambda: len(door(served)))
            (connection,) = served.uvicorn.connections
            # Gone, and not only at its end: that would be no reason to wait for its turn.
            client.writer.get_extra_info("socket").setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
            )
            client.writer.transport.abort()
            await until(lambda: not served.uvicorn.connections)
        connection._take_held()  # type: ignore[union-attr] # its turn comes
        assert not served.uvicorn.tasks
        assert not served.metrics.attempts


async def test_the_time_for_a_head_does_not_run_out_on_one_that_waits_for_its_turn() -> None:
    limits = EdgeLimits(heard_per_turn=0, head_s=0.05)
    async with serving(limits=limits, routers=[router()]) as served, await served.raw() as patient:
        patient.send(GET)
        async with await served.raw() as silent:
            assert await silent.rest() == b""  # its time has run out, and the other's was before
        patient.writer.write_eof()
        assert (await patient.response())[0] == 200


async def test_a_connection_that_is_kept_alive_is_not_idle_while_it_waits_for_its_turn() -> None:
    limits = EdgeLimits(keep_alive_s=0.2)
    async with serving(limits=limits, routers=[router()]) as served, crowd(served, 2) as (patient, other):
        patient.send(GET)
        assert (await patient.response())[0] == 200
        config = cast("EdgeConfig", served.config)
        config.door = Turnstile(0)
        patient.send(GET)
        await until(lambda: len(config.door))
        config.door = Turnstile(1)
        other.send(GET)
        assert (await other.response())[0] == 200
        assert await other.rest() == b""  # it has been idle for its time, and the other would have been before
        patient.writer.write_eof()
        assert (await patient.response())[0] == 200
