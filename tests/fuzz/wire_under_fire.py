"""An open wire under fire: streams of octets in, and a check that nothing comes out but what is documented, and that nothing stays.

Streams are made of frames, sound and unsound ones, then changed in a few places, and delivered in pieces. A stream is calm or wild.
A calm one is delivered twice, whole and in pieces, and must come to the same. In a wild one the session pauses, resumes, pings,
closes and drops the connection as it likes, and the peer stops reading now and then: it must come to the beginning of the same.
"""

from __future__ import annotations

import asyncio
import gc
import random
import socket
import struct
import sys
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from edge_server import frame
from pipe import Pipe

from gateway.core.addresses import Network
from gateway.core.floods import FloodGate
from gateway.core.frames import Encoding
from gateway.runtime.null_metrics import NullMetrics
from gateway.runtime.ports import Answer, Read
from gateway.web.edge import Edge
from gateway.web.open_wire import OpenWire
from gateway.web.server import build_config
from gateway.web.wire_parser import WireParser
from gateway.web.wire_reads import Reads

MAX_MESSAGE_BYTES = 2000
HEAD = b"HTTP/1.1 101 Switching Protocols\r\n\r\n"
FAULTS = {1002: b"protocol_error", 1007: b"invalid_utf8", 1009: b"frame_too_large"}
OURS = {1001: b"draining", 1013: b"slow_consumer"}  # what a wild session closes with
KINDS = [(encoding, bits) for encoding in Encoding for bits in (None, 9, 12)]
BLOCKS_MAY_GROW = 5000
"""Of memory, while any number of connections come and go: what Python itself keeps at hand."""


# ------------------------------------------------------------------------------------------------- streams


def compressed(payload: bytes, level: int) -> bytes:
    """Deflate a message as RFC 7692 has it."""
    deflate = zlib.compressobj(level, wbits=-12)
    return (deflate.compress(payload) + deflate.flush(zlib.Z_SYNC_FLUSH))[:-4]


class Streams:
    """Makes streams of octets as a client sends them, or somebody who means no good.

    Args:
        rng: What they all come from.
    """

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._pieces = [piece for _ in range(150) for piece in self._make_pieces()]
        # More frames than are taken in a turn.
        self._floods = [
            b"".join(make(b"%d" % number) for number in range(300))
            for make in (
                lambda payload: frame(0x81, payload),
                lambda payload: frame(0x82, payload),
                lambda payload: frame(0x89, payload),
                lambda payload: frame(0x01) + frame(0x80, payload),
            )
        ]

    def _mask(self) -> bytes:
        return self._rng.choice([bytes(4), self._rng.randbytes(4)])

    def _payload(self) -> bytes:
        rng = self._rng
        size = rng.choice([0, 1, 2, 7, 30, 125, 126, 127, 200, MAX_MESSAGE_BYTES, MAX_MESSAGE_BYTES + 1])
        match rng.randrange(4):
            case 0:
                return rng.randbytes(size)
            case 1:
                return b"x" * size
            case 2:
                return ("κόσμε€😀a" * size).encode()[:size]  # it may end within a character
            case _:
                return "".join(rng.choices("aä€😀\0\ud7ff", k=size // 3)).encode()

    def _make_pieces(self) -> Iterator[bytes]:
        rng, payload = self._rng, self._payload()
        kind = rng.choice([0x01, 0x02])
        yield frame(0x80 | kind, payload, mask=self._mask())
        yield frame(0x80 | kind, payload[:30], mask=self._mask())
        cuts = sorted(rng.randrange(len(payload) + 1) for _ in range(rng.randrange(1, 4)))
        yield self._fragments(kind, [payload[a:b] for a, b in zip([0, *cuts], [*cuts, None], strict=True)])
        zipped = compressed(payload, rng.choice([0, 1, 9]))
        yield frame(0xC0 | kind, zipped, mask=self._mask())
        yield self._fragments(0x40 | kind, [zipped[:5], zipped[5:9], zipped[9:]])
        yield frame(0xC0 | kind, compressed(bytes(rng.choice([2000, 2001, 100_000])), 9))
        yield frame(rng.choice([0x89, 0x8A]), payload[:125], mask=self._mask())
        yield frame(0x88, struct.pack("!H", rng.choice([1000, 1001, 3000, 4999, 1005, 0, 5000])) + payload[:20])
        yield frame(0x88, payload[: rng.choice([0, 1, 2, 125])])
        yield frame(rng.randrange(256), payload[:140], masked=rng.random() < 0.9)
        yield bytes((rng.randrange(256), rng.choice([0xFE, 0xFF]))) + rng.randbytes(rng.randrange(14))
        yield (
            bytes((rng.choice([0x81, 0x82]), 0xFE))
            + struct.pack("!H", rng.choice([5, 125, 126, 2000]))
            + rng.randbytes(9)
        )
        yield rng.randbytes(rng.randrange(8))

    def _fragments(self, kind: int, parts: list[bytes]) -> bytes:
        rng = self._rng
        octets = frame(kind, parts[0], mask=self._mask())
        for number, part in enumerate(parts[1:], 2):
            if rng.random() < 0.3:
                octets += frame(rng.choice([0x89, 0x8A, 0x88, 0x81]), rng.randbytes(rng.choice([0, 5])))
            octets += frame(0x80 * (number == len(parts)), part, mask=self._mask())
        return octets

    def make(self) -> bytes:
        """Make one: pieces one behind the other, and then something gone wrong, or not."""
        rng = self._rng
        if rng.random() < 0.2:
            return self._talk()
        pieces = rng.choices(self._pieces, k=rng.randrange(1, 7))
        if rng.random() < 0.02:
            pieces.insert(rng.randrange(len(pieces)), rng.choice(self._floods))
        octets = b"".join(pieces)
        if rng.random() < 0.3:
            return octets
        changed = bytearray(octets)
        for _ in range(rng.randrange(1, 4)):
            at = rng.randrange(len(changed) + 1)
            match rng.randrange(7):
                case 0 | 1 if at < len(changed):
                    changed[at] ^= 1 << rng.randrange(8)
                case 2 if at < len(changed):
                    changed[at] = rng.choice([0x00, 0x7E, 0x7F, 0x80, 0xFE, 0xFF, 0x81, 0x88, rng.randrange(256)])
                case 3:
                    changed[at:at] = rng.choice(self._pieces)[: rng.randrange(1, 20)]
                case 4:
                    del changed[at : at + rng.randrange(1, 9)]
                case 5:
                    changed[at:at] = changed[at : at + rng.randrange(1, 200)]
                case _:
                    del changed[at:]
        return bytes(changed)

    def _talk(self) -> bytes:
        """Make one that is sound: messages that differ, mostly of one kind, and what may stand between them."""
        rng = self._rng
        kind = rng.choice([0x81, 0x82])
        octets = b""
        for number in range(rng.randrange(1, 30)):
            payload = b"%d" % number
            match rng.randrange(12):
                case 0:
                    octets += frame(0x89, payload)
                case 1:
                    octets += frame(kind & 0x0F, b"fragments ") + frame(0x80, payload)
                case 2:
                    octets += frame(kind ^ 0x03, payload)
                case _:
                    octets += frame(kind, payload)
        return octets + (frame(0x88, b"\x0f\xa0") if rng.random() < 0.3 else b"")

    def cut(self, octets: bytes) -> list[bytes]:
        """Cut a stream into pieces, or now and then into single octets."""
        rng = self._rng
        if len(octets) < 60 and rng.random() < 0.1:
            return [octets[at : at + 1] for at in range(len(octets))]
        cuts = sorted(rng.randrange(len(octets) + 1) for _ in range(rng.randrange(1, 5)))
        return [part for a, b in zip([0, *cuts], [*cuts, None], strict=True) if (part := octets[a:b])]


# ------------------------------------------------------------------------------------------------- the session


class Echo:
    """A session that sends every message back, or, where it is wild, does anything else that one may do.

    Args:
        rng: What a wild one throws dice with; None where it is calm.
    """

    __slots__ = ("_rng", "codes", "ended", "messages", "paused", "unsupporteds", "wire")

    max_buffered_bytes = 20_000

    def __init__(self, wire: OpenWire, rng: random.Random | None) -> None:
        self.wire = wire
        self._rng = rng
        self.messages: list[bytes] = []
        self.unsupporteds = 0
        self.codes: list[int] = []
        self.paused = False
        self.ended = False  # by the session itself

    @property
    def intake(self) -> Echo:
        return self

    def take(self, reads: list[Read], *, again: bool = False) -> list[Answer]:  # noqa: ARG002 - nothing is signed
        answers: list[Answer] = []
        for echo, payloads in reads:
            assert isinstance(echo, Echo)
            answers.append((echo.wire, echo.heard(payloads)))
        return answers

    def heard(self, payloads: list[bytes]) -> list[bytes]:
        assert not self.codes, "nothing comes behind the end"
        assert not self.paused, "nothing comes while it is paused"
        for number, payload in enumerate(payloads, 1):
            self.messages.append(payload)
            if self._rng is not None:
                self.move()
                self.paused = self._rng.random() < 0.1
                if self.paused:
                    self.wire.pause_reading(payloads[number:])
                    return payloads[:number]
        return payloads

    def move(self) -> None:
        """Do something that a session may do."""
        assert self._rng is not None
        match self._rng.randrange(30):
            case 0 if self._rng.random() < 0.5:
                self.ended = True
                self.wire.close(1001, "draining", 5.0)
            case 1 if self._rng.random() < 0.5:
                self.ended = True
                self.wire.abort()
            case 2 | 3:
                self.wire.ping()
            case _:
                pass

    def resume(self) -> None:
        if self.paused:
            self.paused = False
            self.wire.resume_reading()

    def unsupported(self) -> None:
        assert not self.codes
        self.unsupporteds += 1

    def overflowed(self) -> None:
        self.ended = True
        self.wire.close(1013, "slow_consumer", 5.0)

    def lost(self, code: int) -> None:
        self.codes.append(code)


# ------------------------------------------------------------------------------------------------- what came out


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a stream came to.

    Args:
        code: What the session was told.
        messages: What it was given.
        unsupporteds: How often it was told of a message of the other kind.
        sent: What the peer was sent.
        waited: Whether some of it had to wait for the peer: of several pings the last may then be answered alone.
        ended: Whether the session itself has ended it.
    """

    code: int
    messages: list[bytes]
    unsupporteds: int
    sent: bytes
    waited: bool
    ended: bool

    def comparable(self, other: Outcome) -> tuple[int, list[bytes], int, list[tuple[int, bytes]]]:
        """Give what must be the same in another's outcome."""
        frames = frames_of(self.sent[len(HEAD) :])
        if self.waited or other.waited:
            frames = [each for each in frames if each[0] != 0x8A]
        return self.code, self.messages, self.unsupporteds, frames


def frames_of(octets: bytes) -> list[tuple[int, bytes]]:
    """Cut a server's octets into frames; nothing may be left over."""
    frames: list[tuple[int, bytes]] = []
    at = 0
    while at < len(octets):
        first, size, start = octets[at], octets[at + 1], at + 2
        assert size < 127, "neither masked nor that long"
        if size == 126:
            size, start = int.from_bytes(octets[start : start + 2], "big"), start + 2
            assert size >= 126
        at = start + size
        assert at <= len(octets)
        frames.append((first, octets[start:at]))
    return frames


def check(outcome: Outcome, encoding: Encoding, bits: int | None, *, wild: bool) -> None:
    """Hold what came out against what is documented."""
    data = 0x81 if encoding is Encoding.JSON else 0x82
    assert outcome.sent.startswith(HEAD)
    frames = frames_of(outcome.sent[len(HEAD) :])
    closes = [payload for first, payload in frames if first == 0x88]
    assert {first for first, _ in frames} <= {data, data | 0x40 * (bits is not None), 0x88, 0x89, 0x8A}
    assert all(len(payload) <= 125 for first, payload in frames if first & 0x08)
    assert len(closes) <= 1
    assert not closes or frames[-1][0] == 0x88, "nothing is sent behind a close"
    assert all(len(message) <= MAX_MESSAGE_BYTES for message in outcome.messages)
    if encoding is Encoding.JSON:
        for message in outcome.messages:
            message.decode()
    if closes:
        code = int.from_bytes(closes[0][:2], "big") if closes[0] else 1005
        reason = closes[0][2:]
        assert len(closes[0]) != 1
        assert outcome.code == code
        assert code in {1005, *range(1000, 1004), *range(1007, 1015)} or 3000 <= code < 5000
        reason.decode()
        if reason.isascii() and reason in FAULTS.values():
            assert FAULTS[code] == reason
    elif not wild:
        assert outcome.code == 1006, "only who goes without a word is sent none"
    if not wild:
        echoed = [
            payload if first == data else zlib.decompressobj(wbits=-(bits or 9)).decompress(payload + b"\0\0\xff\xff")
            for first, payload in frames
            if first & 0x0F == data & 0x0F
        ]
        assert echoed == outcome.messages


# ------------------------------------------------------------------------------------------------- the battlefield


def alive() -> Counter[str]:
    """Count what belongs to connections and is still there."""
    gc.collect()
    kinds = OpenWire | WireParser | Echo | Pipe
    return Counter(type(each).__name__ for each in gc.get_objects() if isinstance(each, kinds))


class UnderFire:
    """Connections one after the other, of every kind.

    Args:
        seed: What repeats a run.
    """

    def __init__(self, seed: int) -> None:
        self._rng = random.Random(seed)  # noqa: S311 - a test repeats itself
        self._streams = Streams(self._rng)
        nobody: tuple[Network, ...] = ()
        self._config = build_config(
            None, Edge(NullMetrics(), lambda: False, FloodGate(0), nobody), max_frame_bytes=MAX_MESSAGE_BYTES
        )
        self._connections: set[object] = set()
        self._others = alive()  # FastAPI keeps the applications of other tests, and those what they have had
        self.codes: Counter[int] = Counter()
        """What sessions were told, how often."""
        self.errors: list[dict[str, Any]] = []

    async def run(self, streams: int) -> None:
        """Deliver so many streams; nothing may escape from any."""
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: self.errors.append(context))
        for _ in range(streams):
            await self._deliver_one()
            assert not self.errors, self.errors
            assert not self._connections

    async def _deliver_one(self) -> None:
        rng = self._rng
        encoding, bits = rng.choice(KINDS)
        octets = self._streams.make()
        parts = self._streams.cut(octets)
        wild = rng.random() < 0.4
        try:
            outcome = await self._deliver(parts, encoding, bits, wild=wild)
            check(outcome, encoding, bits, wild=wild)
            whole = await self._deliver([octets], encoding, bits, wild=False)
            if wild:
                assert outcome.messages == whole.messages[: len(outcome.messages)]
                assert outcome.unsupporteds <= whole.unsupporteds
                if not outcome.ended:
                    assert outcome.comparable(whole)[:3] == whole.comparable(outcome)[:3]
            else:
                assert outcome.comparable(whole) == whole.comparable(outcome)
        except Exception as error:
            error.add_note(f"{encoding.value}, {bits=}, {wild=}: {[part.hex() for part in parts]}")
            raise
        self.codes[outcome.code] += 1

    async def _deliver(self, parts: list[bytes], encoding: Encoding, bits: int | None, *, wild: bool) -> Outcome:
        if self._rng.random() < 0.9:
            return await self._deliver_to(Pipe(), None, parts, encoding, bits, wild=wild)
        ours, peers = socket.socketpair()
        with ours, peers:
            for each in (ours, peers):
                each.setblocking(False)
            return await self._deliver_to(Pipe(ours), peers, parts, encoding, bits, wild=wild)

    async def _deliver_to(
        self,
        pipe: Pipe,
        peer: socket.socket | None,
        parts: list[bytes],
        encoding: Encoding,
        bits: int | None,
        *,
        wild: bool,
    ) -> Outcome:
        rng, left = self._rng, iter(parts)
        early = next(left, b"") if rng.random() < 0.3 else b""
        wire = OpenWire(self._config, self._connections, pipe, bits, HEAD, early)
        pipe.set_protocol(wire)
        wire.speak(encoding)
        echo = Echo(wire, rng if wild else None)
        wire.serve(echo)
        for part in left:
            if rng.random() < 0.8:
                await self._until_it_reads(pipe, echo, wild=wild)
            elif rng.random() < 0.5:  # a loop may read once more than it was to, or twice in a turn
                await asyncio.sleep(0)
            if pipe.closing:
                break
            wire.data_received(part)
            if wild and rng.random() < 0.2:
                echo.move()
        hasty = not wild and rng.random() < 0.1  # it leaves before all that it sent has been looked at
        if not hasty:
            await self._until_it_reads(pipe, echo, wild=wild)
        pipe.stalled = False
        pipe.drain()
        if hasty or rng.random() < 0.5:
            wire.eof_received()
        sent = bytes(pipe.sent)
        waited = peer is not None and pipe.writes > 0
        if peer is not None:
            while pipe.waiting:
                sent += peer.recv(1_000_000)
                pipe.drain()
            sent += peer.recv(1_000_000)
        pipe.lose()
        (code,) = echo.codes
        return Outcome(code, echo.messages, echo.unsupporteds, sent, waited, echo.ended)

    async def _until_it_reads(self, pipe: Pipe, echo: Echo, *, wild: bool) -> None:
        """Let turns go by until the wire takes octets again, as a socket would."""
        await asyncio.sleep(0)
        if wild:
            pipe.stalled = self._rng.random() < 0.2 and pipe.sock is None
            pipe.drain()
            echo.resume()
            await asyncio.sleep(0)
        turns = 0
        while not pipe.reading and not pipe.closing:
            echo.resume()
            await asyncio.sleep(0)
            turns += 1
            assert turns < 1000, "it will never read again"

    def held(self) -> int:
        """Tell how many blocks of memory are in use, of which none is a connection's."""
        left = alive() - self._others
        assert not left, left
        assert all(not reads.wires for reads in self._config.reads.values() if isinstance(reads, Reads))
        return sys.getallocatedblocks()
