"""One subscriber among a thousand that does not read: over real sockets, and the wire of the gateway's own server."""

from __future__ import annotations

import asyncio
import resource
import socket
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field

import pytest
from edge_server import until
from node_kit import SEND_BUFFER_BYTES, House, Member, decode, open_house, whole_frames

from gateway.core.floods import FloodGate
from gateway.core.frames import Encoding
from gateway.core.wire_frames import close_frame
from gateway.web.edge import Edge
from gateway.web.open_wire import OpenWire
from gateway.web.server import build_config

ROOM = "room:acme:1"
SUBSCRIBERS = 1000
MESSAGE = "x" * 4000
SOCKETS = 2 * SUBSCRIBERS + 200


class Crowd:
    """Pairs of sockets: the one end is a member's wire, the other its peer, which reads when it is told to."""

    def __init__(self, house: House) -> None:
        edge = Edge(house.metrics, lambda: False, FloodGate(0.0))
        self.config = build_config(None, edge)
        self.house = house
        self.open: set[object] = set()
        self.peers: list[Peer] = []

    async def join(self) -> Peer:
        """Connect over a pair of sockets of which the system keeps little."""
        ours, theirs = socket.socketpair()
        theirs.setblocking(False)
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        transport, _ = await asyncio.get_running_loop().connect_accepted_socket(asyncio.Protocol, ours)
        wire = OpenWire(self.config, self.open, transport, None, b"", b"")
        transport.set_protocol(wire)
        wire.speak(Encoding.JSON)
        member = self.house.join(transport=wire)
        wire.serve(member.connection)
        peer = Peer(theirs, wire, member)
        self.peers.append(peer)
        return peer

    async def leave(self) -> None:
        for peer in self.peers:
            peer.wire.abort()
            peer.socket.close()
        await until(lambda: not self.open)


@dataclass
class Peer:
    """The other end of a wire."""

    socket: socket.socket
    wire: OpenWire
    member: Member
    octets: bytearray = field(default_factory=bytearray)

    def read(self) -> None:
        """Read what is there; whoever does this in every turn never lets anything wait."""
        while True:
            try:
                octets = self.socket.recv(1 << 20)
            except BlockingIOError:
                return
            if not octets:
                return
            self.octets += octets

    def got(self) -> list[str]:
        """Give the data of all messages, the welcome and the reply left out."""
        frames = [decode(body, Encoding.JSON) for body in whole_frames(bytes(self.octets))]
        return [frame["data"] for frame in frames if frame["type"] == "message"]


@pytest.fixture(autouse=True, scope="module")
def _enough_files() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < SOCKETS:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(SOCKETS, hard), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture
async def crowd() -> AsyncIterator[Crowd]:
    crowd = Crowd(open_house())
    yield crowd
    await crowd.leave()


async def test_a_stalled_subscriber_among_a_thousand_is_cut_off_and_costs_the_others_nothing(crowd: Crowd) -> None:
    house = crowd.house
    for _ in range(SUBSCRIBERS):
        peer = await crowd.join()
        peer.member.say("channel.subscribe", ROOM)
        peer.read()
    stalled, *others = crowd.peers
    published: list[str] = []
    held = 0
    while not house.metrics.slow_consumers:
        published.append(f"{len(published)} {MESSAGE}")
        house.node.hub.message(ROOM, published[-1], "bob", 0.0, None)
        for _ in range(3):  # two shares of a turn, and the verdict
            await asyncio.sleep(0)
            held = max(held, stalled.wire.buffered_bytes())
        for peer in others:
            peer.read()
    assert held < SEND_BUFFER_BYTES + 2 * len(MESSAGE), "no more was kept than may be, and what overflowed it"
    assert house.node.hub.subscriptions() == SUBSCRIBERS - 1

    delivered, kept = house.metrics.deliveries, stalled.wire.buffered_bytes()
    for n in range(20):
        published.append(f"more {n}")
        house.node.hub.message(ROOM, published[-1], "bob", 0.0, None)
    await until(lambda: house.metrics.deliveries == delivered + (SUBSCRIBERS - 1) * 20)
    for peer in others:
        peer.read()
    assert stalled.wire.buffered_bytes() == kept, "and nothing more is put behind it"
    assert [peer.got() == published for peer in others] == [True] * (SUBSCRIBERS - 1)
    assert house.metrics.slow_consumers == 1

    # Whoever reads again within its time gets all that was queued for it, and then hears why no more comes.
    close = close_frame(1013, b"slow_consumer")
    async with asyncio.timeout(10):
        while not stalled.octets.endswith(close):
            stalled.read()
            await asyncio.sleep(0)
    del stalled.octets[-len(close) :]
    assert stalled.got() == published[: len(stalled.got())]
