"""What an open wire writes to a socket beside its transport, and what it takes in a turn: each step as the test has it."""

from __future__ import annotations

import asyncio
import socket
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

import pytest
from echo_server import echo_config
from edge_server import close_frame, frame, text
from hypothesis import given, settings
from hypothesis import strategies as st
from pipe import Pipe

from gateway.core.frames import Encoding
from gateway.runtime.ports import Answer, Read
from gateway.web.edge import EdgeConfig
from gateway.web.open_wire import OpenWire
from gateway.web.wire_parser import TURN_MESSAGES

HEAD = b"HTTP/1.1 101 Switching Protocols\r\n\r\n"


class Heard:
    """Keeps what it is told."""

    max_buffered_bytes = 1_000_000_000

    def __init__(self) -> None:
        self.messages: list[bytes] = []
        self.codes: list[int] = []
        self.unsupporteds = 0

    @property
    def intake(self) -> Heard:
        return self

    def take(self, reads: list[Read], *, again: bool = False) -> list[Answer]:  # noqa: ARG002 - nothing is signed
        for receiver, payloads in reads:  # of all connections: any of them may be asked
            assert isinstance(receiver, Heard)
            receiver.messages += payloads
        return []

    def unsupported(self) -> None:
        self.unsupporteds += 1

    def overflowed(self) -> None:
        raise NotImplementedError

    def lost(self, code: int) -> None:
        self.codes.append(code)


def open_wire(
    pipe: Pipe, *, config: EdgeConfig | None = None, served: bool = True, window_bits: int | None = None
) -> OpenWire:
    """Open a wire on a pipe."""
    wire = OpenWire(config or echo_config(), set(), pipe, window_bits, HEAD, b"")
    pipe.set_protocol(wire)
    wire.speak(Encoding.JSON)
    if served:
        wire.serve(Heard())
    return wire


def heard(wire: OpenWire) -> Heard:
    """Give what hears a wire; while it is open."""
    assert isinstance(wire.receiver, Heard)
    return wire.receiver


@contextmanager
def connected() -> Iterator[tuple[Pipe, socket.socket]]:
    """Give a pipe on a socket that takes little at a time, and its peer."""
    ours, peers = socket.socketpair()
    with ours, peers:
        for each in (ours, peers):
            each.setblocking(False)
            each.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        yield Pipe(ours), peers


def read(peer: socket.socket, size: int) -> bytes:
    """Read so many octets at most, as many as there are."""
    data = b""
    with suppress(BlockingIOError):
        while len(data) < size and (part := peer.recv(size - len(data))):
            data += part
    return data


def read_all(pipe: Pipe, peer: socket.socket) -> bytes:
    """Read until nothing waits."""
    data = read(peer, 1_000_000)
    while pipe.waiting:
        pipe.drain()
        data += read(peer, 1_000_000)
    return data


# ------------------------------------------------------------------------------------------------- the order of octets


async def test_octets_behind_a_partial_write_wait_behind_its_rest() -> None:
    with connected() as (pipe, peer):
        wire = open_wire(pipe)
        wire.write(b"a" * 50_000)
        assert pipe.waiting, "the socket took a part"
        received = read(peer, 40_000)
        wire.write(b"b" * 10)
        assert pipe.waiting.endswith(b"b"), "though the socket has room again"
        received += read_all(pipe, peer)
        assert pipe.writes == 2
        wire.write(b"c" * 10)
        assert pipe.writes == 2, "it goes beside the transport again"
        received += read_all(pipe, peer)
    assert received == HEAD + b"a" * 50_000 + b"b" * 10 + b"c" * 10


OPERATIONS = st.one_of(
    st.tuples(st.just("write"), st.integers(0, 9000)),
    st.tuples(st.just("read"), st.integers(1, 9000)),
    st.tuples(st.just("drain"), st.just(0)),
    st.tuples(st.just("ping"), st.just(0)),
)


@settings(deadline=None, max_examples=200)
@given(st.lists(OPERATIONS, max_size=40), st.booleans())
def test_octets_keep_their_order_whatever_the_socket_takes_and_whenever(
    operations: list[tuple[str, int]],
    served: bool,  # noqa: FBT001 - a given value
) -> None:
    async def run() -> None:
        with connected() as (pipe, peer):
            wire = open_wire(pipe, served=served)
            written, received, number = HEAD, b"", 0
            for operation, size in operations:
                match operation:
                    case "write":
                        octets = b"%08d" % number * (size // 8)
                        number += 1
                        wire.write(octets)
                        written += octets
                    case "ping":
                        wire.ping()
                        written += b"\x89\x00"
                    case "read":
                        received += read(peer, size)
                    case _:
                        pipe.drain()
            wire.write(b"last")
            received += read_all(pipe, peer)
            assert received == written + b"last"

    asyncio.run(run())


async def test_what_an_earlier_answer_left_goes_before_the_head() -> None:
    with connected() as (pipe, peer):
        answer = b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 50_000
        pipe.write(answer)
        assert pipe.waiting
        wire = open_wire(pipe)
        received = read(peer, 100_000)
        wire.write(b"one")
        received += read_all(pipe, peer)
        wire.write(b"two")
        received += read_all(pipe, peer)
    assert received == answer + HEAD + b"onetwo"


async def test_nothing_goes_before_the_head_when_an_earlier_answer_has_left_meanwhile() -> None:
    with connected() as (pipe, peer):
        answer = b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 50_000
        pipe.write(answer)
        wire = open_wire(pipe, served=False)
        received = read_all(pipe, peer)
        wire.write(b"one")
        received += read_all(pipe, peer)
    assert received == answer + HEAD + b"one"


async def test_head_leaves_when_nobody_greets() -> None:
    with connected() as (pipe, peer):
        wire = open_wire(pipe, served=False)
        assert read_all(pipe, peer) == b""
        wire.serve(Heard())
        assert read_all(pipe, peer) == HEAD


async def test_pong_that_was_due_goes_when_all_before_it_has() -> None:
    with connected() as (pipe, peer):
        wire = open_wire(pipe)
        await asyncio.sleep(0)
        wire.write(b"a" * 50_000)
        wire.data_received(frame(0x89, b"1") + frame(0x89, b"2"))
        await asyncio.sleep(0)
        received = read_all(pipe, peer)
    assert received == HEAD + b"a" * 50_000 + b"\x8a\x012"


# ------------------------------------------------------------------------------------------------- the descriptor


def say_everything(wire: OpenWire) -> None:
    """Try every way to write."""
    wire.write(b"secret")
    wire.send([b"secret"])
    wire.ping()
    wire.data_received(frame(0x89, b"secret") + text("hi"))
    wire.resume_writing()
    wire.write(b"secret")
    wire.close(1000, "secret", 5.0)
    wire.shutdown()
    wire.write(b"secret")


@contextmanager
def another_on(descriptor: int) -> Iterator[socket.socket]:
    """Open connections until one is given the descriptor, which has become free; give the peer of it."""
    with ExitStack() as opened:
        while True:
            pair = [opened.enter_context(each) for each in socket.socketpair()]
            for ours, peers in (pair, pair[::-1]):
                if ours.fileno() == descriptor:
                    peers.setblocking(False)
                    yield peers
                    return


@pytest.mark.parametrize("served", [True, False])
@pytest.mark.parametrize("waiting", [True, False])
async def test_nothing_is_written_to_the_next_owner_of_the_descriptor(*, waiting: bool, served: bool) -> None:
    with connected() as (pipe, peer):
        assert pipe.sock is not None
        descriptor = pipe.sock.fileno()
        wire = open_wire(pipe, served=served)
        if waiting:
            wire.write(b"a" * 50_000)
        pipe.lose()
        with another_on(descriptor) as other:
            say_everything(wire)
            for _ in range(3):
                await asyncio.sleep(0)
            assert read(other, 1) == b""
        assert b"secret" not in read(peer, 100_000)


@pytest.mark.parametrize("end", ["abort", "close and answer", "the peer's close", "a fault", "the end"])
async def test_nothing_is_written_behind_the_end(end: str) -> None:
    with connected() as (pipe, peer):
        wire = open_wire(pipe)
        await asyncio.sleep(0)
        match end:
            case "abort":
                wire.abort()
            case "close and answer":
                wire.close(1001, "", 5.0)
                wire.data_received(close_frame(1001))
            case "the peer's close":
                wire.data_received(close_frame(1001))
            case "a fault":
                wire.data_received(frame(0x83))
            case _:
                wire.eof_received()
        await asyncio.sleep(0)
        read(peer, 1000)
        say_everything(wire)
        await asyncio.sleep(0)
        assert read(peer, 1000) == b""
        assert not pipe.waiting
        pipe.lose()


async def test_socket_that_is_broken_ends_the_connection_without_a_sound() -> None:
    with connected() as (pipe, peer):
        wire = open_wire(pipe)
        receiver = heard(wire)
        peer.close()
        wire.write(b"first")
        assert pipe.closing
        say_everything(wire)
        assert not pipe.waiting
        pipe.lose()
    assert receiver.codes == [1006]


async def test_close_on_a_broken_socket_arms_no_timer_and_tells_1006() -> None:
    with connected() as (pipe, peer):
        wire = open_wire(pipe)
        receiver = heard(wire)
        peer.close()
        wire.close(1001, "draining", 5.0)
        pipe.lose()
    assert receiver.codes == [1006]


async def test_without_a_descriptor_everything_goes_through_the_transport() -> None:
    pipe = Pipe()
    wire = open_wire(pipe)
    wire.write(b"one")
    pipe.stalled = True
    wire.write(b"two")
    pipe.stalled = False
    pipe.drain()
    wire.write(b"three")
    assert pipe.sent == HEAD + b"onetwothree"
    pipe.lose()


# ------------------------------------------------------------------------------------------------- turns


@pytest.mark.parametrize(
    "octets",
    [
        pytest.param(frame(0x89), id="pings"),
        pytest.param(frame(0x8A), id="pongs"),
        pytest.param(frame(0x01) + frame(0x80), id="fragments"),
        pytest.param(text("x"), id="messages"),
    ],
)
async def test_flood_is_taken_in_turns_and_the_socket_waits_meanwhile(octets: bytes) -> None:
    config, pipe = echo_config(), Pipe()
    wire = open_wire(pipe, config=config)
    receiver = heard(wire)
    await asyncio.sleep(0)
    wire.data_received(octets * 3 * TURN_MESSAGES + text("last"))
    other = open_wire(Pipe(), config=config)
    other.data_received(text("other"))

    await asyncio.sleep(0)
    assert heard(other).messages == [b"other"]
    assert receiver.messages[-1:] != [b"last"]
    assert not pipe.reading
    turns = 1
    while receiver.messages[-1:] != [b"last"]:
        await asyncio.sleep(0)
        turns += 1
    assert 3 * octets.count(b"\x01\x02\x03\x04") <= turns <= 3 * octets.count(b"\x01\x02\x03\x04") + 2
    assert pipe.reading
    pipe.lose()


def zipped(size: int) -> bytes:
    """Write a message that inflates to so many octets."""
    deflater = zlib.compressobj(wbits=-15)
    octets = deflater.compress(b"x" * size) + deflater.flush(zlib.Z_SYNC_FLUSH)
    return frame(0xC1, octets.removesuffix(b"\x00\x00\xff\xff"))


@pytest.mark.parametrize(
    ("octets", "window_bits"),
    [
        pytest.param(text("x" * 40_000), None, id="as they are"),
        pytest.param(frame(0x01, b"x" * 20_000) + frame(0x80, b"x" * 20_000), None, id="in parts"),
        pytest.param(zipped(40_000), 12, id="inflated"),
    ],
)
async def test_a_turn_takes_few_large_messages_however_small_they_came(octets: bytes, window_bits: int | None) -> None:
    pipe = Pipe()
    wire = open_wire(pipe, window_bits=window_bits)
    receiver = heard(wire)
    await asyncio.sleep(0)
    wire.data_received(octets * 10)
    for turn in range(1, 6):
        assert len(receiver.messages) == 2 * (turn - 1)
        await asyncio.sleep(0)
    assert len(receiver.messages) == 10
    pipe.lose()


async def test_nothing_that_a_peer_does_gives_it_more_time() -> None:
    pipe = Pipe()
    wire = open_wire(pipe)
    await asyncio.sleep(0)
    wire.close(1000, "bye", 0.5)
    reaper = wire._reaper
    wire.data_received(frame(0x83, b"a reserved opcode"))
    await asyncio.sleep(0)
    wire.eof_received()
    assert wire._reaper is reaper
    wire.shutdown()
    assert wire._reaper is reaper
    pipe.lose()
    assert reaper is not None
    assert reaper.cancelled()


async def test_a_server_that_stops_gives_it_less() -> None:
    pipe = Pipe()
    wire = open_wire(pipe)
    await asyncio.sleep(0)
    wire.close(1000, "bye", 30.0)
    before = wire._reaper
    wire.shutdown()
    assert before is not None
    assert wire._reaper is not None
    assert before.cancelled()
    assert wire._reaper.when() < before.when()
    pipe.lose()


@pytest.mark.parametrize("end", ["close", "end of file", "loss"])
async def test_end_swallows_nothing_that_came_before_it_in_its_turn(end: str) -> None:
    pipe = Pipe()
    wire = open_wire(pipe)
    receiver = heard(wire)
    await asyncio.sleep(0)
    messages = [b"%d" % n for n in range(3 * TURN_MESSAGES)]
    octets = b"".join(frame(0x01) + frame(0x80, message) for message in messages)
    wire.data_received(octets + (close_frame(4000) if end == "close" else b""))
    if end == "loss":
        pipe.lose()
    else:
        wire.eof_received()
    pipe.lose()

    assert receiver.messages == messages
    assert receiver.codes == [4000 if end == "close" else 1006]


async def test_end_takes_nothing_from_a_paused_connection() -> None:
    pipe = Pipe()
    wire = open_wire(pipe)
    receiver = heard(wire)
    await asyncio.sleep(0)
    wire.pause_reading([b"untaken"])
    wire.data_received(text("unread"))
    pipe.lose()

    assert receiver.messages == []
    assert receiver.codes == [1006]
