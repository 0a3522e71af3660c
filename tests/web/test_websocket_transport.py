"""The transport of a connection: one suite on the gateway's own protocol class and on uvicorn's, and what only ours can do."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from typing import Any

import pytest
from edge_server import PATIENCE_S, Served, close_frame, frame, serving, text, until, upgrade
from loop_turns import Turns

from gateway.core.frames import Encoding
from gateway.runtime.ports import Answer, Intake, Read, Traffic
from gateway.web.asgi_transport import AsgiTransport
from gateway.web.edge import EdgeLimits
from gateway.web.wire_parser import TURN_MESSAGES

MEGABYTE = b"x" * 1_000_000


@pytest.fixture(params=["ours", "stock"])
async def served(request: pytest.FixtureRequest) -> AsyncIterator[Served]:
    async with serving(stock=request.param == "stock") as running:
        yield running


# ------------------------------------------------------------------------------------------------- on any server


async def test_messages_keep_their_order(served: Served) -> None:
    async with await served.upgraded() as raw:
        raw.send(*[text(f"{n}") for n in range(500)])
        assert [await raw.frame() for _ in range(500)] == [(0x81, b"%d" % n) for n in range(500)]


async def test_messagepack_connection_sends_binary(served: Served) -> None:
    async with await served.upgraded(greeted=False, sec_websocket_protocol="gateway.v1.msgpack") as raw:
        assert await raw.frame() == (0x82, b"welcome")
        raw.send(frame(0x82, b"\x80"))
        assert await raw.frame() == (0x82, b"\x80")


async def test_close_stands_behind_all_that_was_sent(served: Served) -> None:
    async with await served.upgraded() as raw:
        raw.send(text("flood 50"), text("close 1001 draining"), text("flood 1"))
        for _ in range(50):
            assert (await raw.frame())[1] == served.node.flood_payload
        assert await raw.closing() == (1001, "draining")
        raw.send(close_frame(1001))
        assert await raw.rest() == b""
        assert await asyncio.wait_for((await served.connection()).gone, PATIENCE_S) == 1001


async def test_client_that_leaves_is_told_with_its_code(served: Served) -> None:
    async with await served.upgraded() as raw:
        raw.send(text("quiet"), close_frame(3999))
        assert await raw.closing() == (3999, "")
        echo = await served.connection()
        assert await asyncio.wait_for(echo.gone, PATIENCE_S) == 3999
        assert echo.messages == [b"quiet"]


async def test_refusal_and_limit_close_without_a_message(served: Served) -> None:
    served.node.full = True
    for path, close in (("/ws", (1008, "missing_credentials")), ("/ws?token=good", (1013, "connection_limit"))):
        async with await served.raw() as raw:
            raw.send(upgrade(path))
            assert (await raw.response())[0] == 101
            assert await raw.closing() == close
            raw.send(close_frame(close[0]))
            assert await raw.rest() == b""


async def test_upgrade_elsewhere_is_denied(served: Served) -> None:
    async with await served.raw() as raw:
        raw.send(upgrade("/elsewhere"))
        assert (await raw.response())[0] == 404


async def test_abort_drops_the_connection_at_once(served: Served) -> None:
    async with await served.upgraded() as raw:
        raw.send(text("flood 3"), text("abort"))
        assert b"\x88" not in await raw.rest()
        assert await asyncio.wait_for((await served.connection()).gone, PATIENCE_S) == 1006


async def test_sending_after_the_end_is_dropped(served: Served) -> None:
    async with await served.upgraded() as raw:
        echo = await served.connection()
        raw.send(close_frame(1000))
        await asyncio.wait_for(echo.gone, PATIENCE_S)
        echo.transport.send([b"late"])
        echo.transport.ping()
        echo.transport.close(1000, "", 5.0)
        echo.transport.abort()
        echo.transport.pause_reading([])
        echo.transport.resume_reading()
        assert await raw.closing() == (1000, "")


async def test_every_message_is_a_sign_of_life(served: Served) -> None:
    async with await served.upgraded() as raw:
        echo = await served.connection()
        assert echo.transport.heard
        raw.send(text("hi"))
        assert await raw.frame() == (0x81, b"hi")
        assert echo.transport.heard


async def test_paused_connection_takes_nothing_until_it_is_resumed(served: Served) -> None:
    async with await served.upgraded() as raw:
        echo = await served.connection()
        raw.send(text("pause"), *[text(f"{n}") for n in range(200)])
        await until(lambda: echo.messages)
        assert echo.messages == [b"pause"]
        async with await served.upgraded() as other:  # the others go on meanwhile
            other.send(text("hi"))
            assert await other.frame() == (0x81, b"hi")
        assert echo.messages == [b"pause"]
        echo.resume()
        assert [await raw.frame() for _ in range(200)] == [(0x81, b"%d" % n) for n in range(200)]


async def test_close_wakes_a_paused_connection(served: Served) -> None:
    async with await served.upgraded() as raw:
        echo = await served.connection()
        raw.send(text("pause"))
        await until(lambda: echo.messages)
        echo.transport.close(1008, "session_revoked", 5.0)
        assert await raw.closing() == (1008, "session_revoked")
        raw.send(close_frame(1008))
        assert await asyncio.wait_for(echo.gone, PATIENCE_S) == 1008


async def test_stalled_peer_stops_nobody_else_and_is_dropped_after_its_time(served: Served) -> None:
    served.node.flood_payload = MEGABYTE
    async with await served.upgraded() as stalled:
        echo = await served.connection()
        stalled.send(text("flood 40"))
        await until(lambda: echo.transport.buffered_bytes() > 2 * len(MEGABYTE))
        async with await served.upgraded() as other:
            other.send(text("hi"))
            assert await other.frame() == (0x81, b"hi")
        echo.transport.close(1013, "slow_consumer", 0.05)
        # Too slow for its close frame too: the code of the close is the connection's to tell, the transport saw none.
        assert await asyncio.wait_for(echo.gone, PATIENCE_S) in {1006, 1013}


async def test_more_than_may_wait_is_told_in_the_next_turn(served: Served) -> None:
    served.node.flood_payload = MEGABYTE
    served.node.max_buffered_bytes = 5 * len(MEGABYTE)
    async with await served.upgraded() as raw:
        echo = await served.connection()
        raw.send(text("flood 3"))
        for _ in range(3):
            await raw.frame()
        assert echo.overflows == 0
        raw.send(text("flood 40"))
        await until(lambda: echo.overflows)
        assert echo.messages == [b"flood 3", b"flood 40"]


# ------------------------------------------------------------------------------------------------- on ours alone


async def test_ping_is_sent_and_its_answer_heard() -> None:
    async with serving() as served, await served.upgraded() as raw:
        echo = await served.connection()
        raw.send(text("ping"))
        assert await raw.frame() == (0x89, b"")
        assert not echo.transport.heard
        raw.send(frame(0x8A))
        await until(lambda: echo.transport.heard)


async def test_buffered_bytes_counts_what_the_server_holds() -> None:
    async with serving() as served, await served.upgraded() as raw:
        served.node.flood_payload = MEGABYTE
        echo = await served.connection()
        raw.send(text("flood 30"))
        await until(lambda: echo.transport.buffered_bytes() > 0)
        for _ in range(30):
            await raw.frame()
        await until(lambda: echo.transport.buffered_bytes() == 0)


async def test_peer_that_pings_and_reads_nothing_fills_no_memory() -> None:
    async with serving() as served, await served.upgraded() as raw:
        echo = await served.connection()
        served.node.flood_payload = MEGABYTE
        raw.send(text("flood 30"))
        (protocol,) = served.uvicorn.connections
        sizes: list[int] = []

        def stalled() -> bool:
            sizes.append(protocol.transport.get_write_buffer_size())
            return sizes[-1] > 0 and len(sizes) > 20 and len(set(sizes[-20:])) == 1

        await until(stalled)
        for n in range(2000):
            raw.send(frame(0x89, b"%4d" % n * 30))
        raw.send(text("quiet"))
        await until(lambda: len(echo.messages) == 2)
        assert protocol.transport.get_write_buffer_size() <= sizes[-1], "no pong was put behind what is not read"
        frames = [await raw.frame() for _ in range(31)]
        pongs = [payload for first, payload in frames if first == 0x8A]
        assert pongs == [b"1999" * 30], "of the pings that came meanwhile the last is answered"


async def test_peer_that_closes_and_reads_nothing_is_dropped() -> None:
    async with serving(limits=EdgeLimits(close_s=0.05)) as served, await served.upgraded() as raw:
        served.node.flood_payload = MEGABYTE
        echo = await served.connection()
        raw.send(text("flood 30"))
        await until(lambda: echo.transport.buffered_bytes() > 2 * len(MEGABYTE))
        raw.send(close_frame(1000))
        assert await asyncio.wait_for(echo.gone, PATIENCE_S) == 1000
        await until(lambda: not served.uvicorn.connections)


async def test_cancelled_connection_tells_its_receiver_and_leaves_no_task() -> None:
    lost: list[int] = []

    class Receiver:
        max_buffered_bytes = 0

        @property
        def intake(self) -> Intake:
            raise NotImplementedError

        def unsupported(self) -> None:
            raise NotImplementedError

        def overflowed(self) -> None:
            raise NotImplementedError

        def lost(self, code: int) -> None:
            lost.append(code)

    async def never() -> dict[str, Any]:
        await asyncio.Event().wait()
        raise NotImplementedError

    async def drop(event: Any) -> None:  # noqa: ANN401 - an ASGI event
        raise NotImplementedError

    before = asyncio.all_tasks()
    transport = AsgiTransport(never, drop, Encoding.JSON, Traffic(), 65_536)
    task = asyncio.create_task(transport.run(Receiver()))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await until(lambda: asyncio.all_tasks() == before)
    assert lost == [1006]


# ------------------------------------------------------------------------------------------------- on plain ASGI alone


async def test_fault_in_sending_ends_its_connection(caplog: pytest.LogCaptureFixture) -> None:
    async with serving(stock=True) as served, await served.upgraded() as raw:
        echo = await served.connection()
        echo.transport.send([b"\xff is no text"])
        await raw.rest()
        assert await asyncio.wait_for(echo.gone, PATIENCE_S) == 1006
        gc.collect()
    assert "UnicodeDecodeError" in caplog.text


class Inbox:
    """A receiver that keeps messages, by the turn of the loop in which they came."""

    max_buffered_bytes = 0

    def __init__(self, turns: Turns) -> None:
        self.turns = turns
        self.gone = asyncio.Event()

    @property
    def intake(self) -> Intake:
        return self

    def take(self, reads: list[Read], *, again: bool = False) -> list[Answer]:  # noqa: ARG002 - nothing is signed
        for _, payloads in reads:
            for _ in payloads:
                self.turns.note()
        return []

    def unsupported(self) -> None:
        raise NotImplementedError

    def overflowed(self) -> None:
        raise NotImplementedError

    def lost(self, code: int) -> None:
        assert code == 1000
        self.gone.set()


async def test_what_a_server_has_read_at_once_is_taken_in_shares() -> None:
    """A server that has a thousand messages gives them without a pause: others would wait for all of them."""
    events: list[dict[str, Any]] = [{"type": "websocket.receive", "text": "hi"}] * 1000
    events.append({"type": "websocket.disconnect", "code": 1000})
    came = iter(events)

    async def receive() -> dict[str, Any]:
        return next(came)

    async def drop(_: Any) -> None:  # noqa: ANN401 - an ASGI event
        raise NotImplementedError

    with Turns() as turns:
        inbox = Inbox(turns)
        await AsgiTransport(receive, drop, Encoding.JSON, Traffic(), 65_536).run(inbox)
    assert inbox.gone.is_set()
    assert turns.happened.total() == 1000
    assert max(turns.happened.values()) <= TURN_MESSAGES


async def test_no_octets_are_taken_where_there_is_no_framing_for_them() -> None:
    async with serving(stock=True) as served, await served.upgraded():
        echo = await served.connection()
        assert echo.transport.framing is None
        with pytest.raises(NotImplementedError):
            echo.transport.write(b"\x81\x00")
