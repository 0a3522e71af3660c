"""What one peer can make the gateway keep, or build up for a moment: tried over real sockets, measured in bytes."""

from __future__ import annotations

import asyncio
import gc
import tracemalloc
from collections.abc import Awaitable, Callable, Iterator

import msgspec
import pytest
from edge_server import until
from road import Road
from running_gateway import Peer, RunningGateway, Start

from gateway.core.session import Session
from gateway.runtime.connection import Connection
from gateway.web.asgi_transport import AsgiTransport
from gateway.web.open_wire import OpenWire

ROOM = "room:acme:{number}"
MANY_OBJECTS = b"[" + b",".join([b"[]"] * 20_000) + b"]"
"""60 kB of text that stand for 1.4 MB of empty lists."""

LARGE = "x" * 60_000
MIB = 1024 * 1024


@pytest.fixture
def traced() -> Iterator[None]:
    """Measure what Python allocates."""
    gc.collect()
    tracemalloc.start()
    yield
    tracemalloc.stop()


def kept_since(before: int) -> int:
    gc.collect()
    return tracemalloc.get_traced_memory()[0] - before


async def publish(peer: Peer, channel: str, text: bytes, times: int) -> None:
    for _ in range(times):
        await peer.do("channel.publish", channel, msgspec.Raw(text))


@pytest.mark.usefixtures("traced")
async def test_a_history_of_many_small_objects_takes_little_more_memory_than_its_text(start: Start) -> None:
    gateway: RunningGateway = await start(commands_per_s="10000")
    alice = await gateway.peer()
    await publish(alice, ROOM.format(number=0), MANY_OBJECTS, 1)
    before = tracemalloc.get_traced_memory()[0]
    await publish(alice, ROOM.format(number=1), MANY_OBJECTS, 30)
    assert kept_since(before) < 1.5 * 30 * len(MANY_OBJECTS)


@pytest.mark.usefixtures("traced")
async def test_asking_for_a_thousand_large_messages_costs_one_answer(start: Start) -> None:
    gateway: RunningGateway = await start(commands_per_s="10000")
    alice, channel = await gateway.peer(), ROOM.format(number=1)
    await publish(alice, channel, msgspec.json.encode(LARGE), 300)
    before = tracemalloc.get_traced_memory()[0]
    tracemalloc.reset_peak()
    page = await alice.do("channel.history", channel, {"limit": 1000})
    assert [message["offset"] for message in page["messages"]] == list(range(301 - len(page["messages"]), 301))
    assert 1 < len(page["messages"]) < 10
    page = await alice.do("channel.subscribe", channel, {"recover": {"epoch": page["epoch"], "offset": 0}})
    assert page["recovered"] is False
    assert tracemalloc.get_traced_memory()[1] - before < 8 * MIB


@pytest.mark.usefixtures("traced")
async def test_a_batch_of_large_questions_does_not_pile_up_its_answers(start: Start) -> None:
    gateway: RunningGateway = await start(commands_per_s="10000")
    alice, channel = await gateway.peer(), ROOM.format(number=1)
    await publish(alice, channel, msgspec.json.encode(LARGE), 20)
    before = tracemalloc.get_traced_memory()[0]
    tracemalloc.reset_peak()
    await alice.send([{"id": 100 + n, "action": "channel.history", "channel": channel} for n in range(64)])
    assert await alice.closed() == (1013, "slow_consumer")
    assert tracemalloc.get_traced_memory()[1] - before < 16 * MIB  # 64 answers are 32 MiB, and as much again to send


@pytest.mark.wire_only("a parser of ours: others keep a place for each fragment")
@pytest.mark.usefixtures("traced")
async def test_fragments_without_an_octet_leave_nothing_behind(gateway: RunningGateway) -> None:
    alice = await gateway.peer()
    transport = alice.socket.transport
    transport.write(bytes([0x01, 0x80, 0, 0, 0, 0]))  # a text message begins, and does not end
    await (await alice.socket.ping())
    before = tracemalloc.get_traced_memory()[0]
    for _ in range(20):
        transport.write(bytes([0x00, 0x80, 0, 0, 0, 0]) * 3_000)
        await asyncio.sleep(0)
    await (await alice.socket.ping())
    assert kept_since(before) < MIB // 4  # 60,000 places in a list are 480 kB
    transport.write(bytes([0x80, 0x82, 0, 0, 0, 0]) + b"{}")
    assert (await alice.frame())["error"]["code"] == "bad_frame"


async def test_a_subscription_keeps_no_long_epoch(gateway: RunningGateway) -> None:
    alice, channel = await gateway.peer(), ROOM.format(number=1)
    long = {"recover": {"epoch": "x" * 129, "offset": 0}}
    assert await alice.refused("channel.subscribe", channel, long) == "invalid_data"
    longest = {"recover": {"epoch": "x" * 128, "offset": 0}}
    assert (await alice.do("channel.subscribe", channel, longest))["recovered"] is False


async def test_refreshing_again_and_again_takes_one_place_among_the_deadlines(start: Start) -> None:
    gateway: RunningGateway = await start(heartbeat_s="1000", commands_per_s="10000")
    answer = await gateway.token("alice")
    alice = await gateway.peer(answer=answer)
    for _ in range(100):
        await alice.do("session.refresh", data={"token": answer["access_token"]})
    wheel = gateway.gateway.node._wheel
    assert sum(len(due) for due in wheel.values()) < 5


# ------------------------------------------------------------------------------------------------- what has gone

OF_A_CONNECTION = (Connection, Session, OpenWire, AsgiTransport)
TRANSPORT = {Road.WIRE: "OpenWire", Road.PLAIN_ASGI: "AsgiTransport"}


@pytest.fixture
def alive() -> Iterator[Callable[[], list[str]]]:
    """Name what has come of connections and is there, while nothing is freed but what nobody refers to."""
    gc.collect()
    gc.disable()
    before = {id(each) for each in of_connections()}
    yield lambda: sorted(type(each).__name__ for each in of_connections() if id(each) not in before)
    gc.enable()


def of_connections() -> list[object]:
    return [each for each in gc.get_objects() if isinstance(each, OF_A_CONNECTION)]


async def goes(_: RunningGateway, peer: Peer) -> None:
    await peer.socket.close()


async def is_cut_off(_: RunningGateway, peer: Peer) -> None:
    peer.socket.transport.abort()


async def breaks_the_protocol(_: RunningGateway, peer: Peer) -> None:
    peer.socket.transport.write(b"\xff" * 10)


async def is_revoked(gateway: RunningGateway, _: Peer) -> None:
    await gateway.gateway.identity.accounts.disable("alice")


@pytest.mark.parametrize("signed", [False, True], ids=["unsigned", "signed"])
@pytest.mark.parametrize("end", [goes, is_cut_off, breaks_the_protocol, is_revoked])
async def test_of_a_connection_that_has_gone_nothing_waits_for_the_collector(
    start: Start,
    alive: Callable[[], list[str]],
    end: Callable[[RunningGateway, Peer], Awaitable[None]],
    *,
    signed: bool,
) -> None:
    """Nor for its place among the deadlines."""
    gateway: RunningGateway = await start(heartbeat_s="1000")
    peer = await gateway.peer("alice", signed=signed)
    await peer.do("channel.subscribe", ROOM.format(number=1))
    await peer.do("channel.publish", ROOM.format(number=1), "x")
    await peer.socket.send([b"", b""])  # a message in parts
    assert set(alive()) == {"Connection", TRANSPORT[gateway.road], "Session"}
    await end(gateway, peer)
    await peer.socket.wait_closed()
    await gateway.event("connection.closed")
    await gateway.gateway.node.wait_empty()
    await until(lambda: not alive())  # when what has told of the end has returned
