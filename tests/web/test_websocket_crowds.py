"""Thousands that come or go at once: so many in a turn of the loop, nobody forgotten, nobody overtaken, and little kept of each."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import cast

from edge_server import Raw, Served, frame, serving, text, until, upgrade
from fastapi import APIRouter, Response
from loop_turns import Turns

from gateway.runtime.ports import VerifiedCredential
from gateway.web.edge import EdgeConfig, EdgeLimits
from gateway.web.turnstile import Turnstile

CROWD = 40
GET = b"GET /here HTTP/1.1\r\nHost: a\r\n\r\n"
LARGE = b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n"
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


def open_door(served: Served) -> None:
    """Let those in that wait: somebody comes, and it has turned."""
    door(served)._per_turn = 4
    door(served).enter(lambda: None)


async def test_what_comes_while_its_connection_waits_stays_in_the_socket() -> None:
    async with serving(limits=SHUT, routers=[router()]) as served, await served.raw() as client:
        client.send(GET[:9])
        await until(lambda: len(door(served)))
        (connection,) = served.uvicorn.connections
        assert not connection.transport.is_reading()
        client.send(GET[9:])
        await client.writer.drain()
        open_door(served)
        assert (await client.response())[0] == 200


async def test_who_ends_what_it_sends_waits_as_long_as_the_others() -> None:
    async with serving(limits=SHUT, routers=[router()]) as served, crowd(served, 8) as clients:
        for client in clients:
            client.send(GET)
            client.writer.write_eof()
        await until(lambda: len(door(served)) == 8)
        open_door(served)
        for client in clients:
            assert (await client.response())[0] == 200
            assert await client.rest() == b""


async def test_those_that_wait_hold_so_much_together_and_whoever_brings_more_is_heard_at_once() -> None:
    limits = EdgeLimits(heard_per_turn=0, held_bytes=3 * len(GET))
    async with serving(limits=limits, routers=[router()]) as served, crowd(served, 4) as (*waiting, last):
        for number, client in enumerate(waiting, 1):
            client.send(GET)
            await until(lambda number=number: len(door(served)) == number)  # type: ignore[misc] # bound now
        last.send(GET)
        assert (await last.response())[0] == 200
        assert len(door(served)) == 3


async def test_drip_in_a_crowd_takes_nobody_elses_turn() -> None:
    """Each octet of its own is a turn of its own, and no read while it waits."""
    async with serving(limits=EdgeLimits(heard_per_turn=1), routers=[router()]) as served, crowd(served) as clients:
        *drips, honest = clients
        reads = 0
        with Turns() as turns:
            for drip in drips:
                drip.send(GET[:1])
            await until(lambda: served.uvicorn.connections and not len(door(served)))
            began = turns.turn
            for octet in GET[1:9]:
                for drip in drips:
                    drip.send(bytes((octet,)))
                reads += len(drips)
            honest.send(GET)
            assert (await honest.response())[0] == 200
            assert turns.turn - began < 6 * CROWD


async def test_a_connection_that_is_lost_while_it_waits_is_not_asked_about() -> None:
    async with serving(limits=SHUT) as served:
        async with await served.raw() as client:
            client.send(upgrade())
            await until(lambda: len(door(served)))
            (connection,) = served.uvicorn.connections
            connection.transport.abort()
            await until(lambda: not served.uvicorn.connections)
        open_door(served)
        await until(lambda: not len(door(served)))
        assert not served.uvicorn.tasks
        assert not served.metrics.attempts


async def test_who_has_sent_its_head_in_time_is_answered_however_long_it_waits() -> None:
    limits = EdgeLimits(heard_per_turn=0, head_s=0.05)
    async with serving(limits=limits, routers=[router()]) as served, await served.raw() as patient:
        patient.send(GET)
        assert (await patient.response())[0] == 200


async def test_who_has_not_is_dropped_while_it_waits() -> None:
    limits = EdgeLimits(heard_per_turn=0, head_s=0.05)
    async with serving(limits=limits, routers=[router()]) as served, await served.raw() as late:
        late.send(GET[:-1])
        assert (await late.problem())[0] == 408


async def test_a_connection_that_is_kept_alive_is_not_idle_while_it_waits_for_its_turn() -> None:
    limits = EdgeLimits(keep_alive_s=0.2)
    async with serving(limits=limits, routers=[router()]) as served, await served.raw() as patient:
        patient.send(GET)
        assert (await patient.response())[0] == 200
        cast("EdgeConfig", served.config).door = Turnstile(0)
        patient.send(GET)
        assert (await patient.response())[0] == 200


async def test_what_has_not_been_sent_yet_leaves_no_timer_on_the_websocket_that_follows() -> None:
    limits = EdgeLimits(stalled_s=1.0)
    large = APIRouter()

    @large.get("/large")
    async def send() -> Response:
        return Response(b"x" * 20_000_000)

    async with serving(limits=limits, routers=[large]) as served, await served.raw() as client:
        await until(lambda: served.uvicorn.connections)
        (connection,) = served.uvicorn.connections
        client.send(LARGE)
        await until(lambda: connection.cycle is not None and connection.cycle.response_complete)  # type: ignore[union-attr]
        client.send(upgrade())
        await until(lambda: connection not in served.uvicorn.connections)
        async with await served.raw() as other:  # whose time runs out behind that of the first one's answer
            other.send(LARGE)
            await until(lambda: len(served.uvicorn.connections) == 2)
            await until(lambda: len(served.uvicorn.connections) == 1)
        assert len((await client.response())[2]) == 20_000_000
        assert (await client.response())[0] == 101
        assert await client.frame() == (0x81, served.node.greeting)
        client.send(text("hello"))
        assert await client.frame() == (0x81, b"hello")
