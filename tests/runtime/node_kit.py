"""A node without sockets: the real broker, sessions, hub and fan-out, and for each connection a line that keeps what is written."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
from talk import NOW, PERMISSIVE, DictPolicy

from gateway.adapters.memory_broker import MemoryBroker
from gateway.core.commands import BUILT_IN_ACTIONS, ActionRegistry, ActionSpec, ChannelUse
from gateway.core.decision import ChannelOptions
from gateway.core.errors import HandshakeRefusedError, Refusal
from gateway.core.frames import Encoding
from gateway.core.handshake import SUBPROTOCOLS
from gateway.core.principal import ConnectionFacts, Principal, TokenIdentity
from gateway.core.session_ports import SessionLimits
from gateway.core.signing import Signer, decode_base64url, derive_keys
from gateway.core.signing import Verifier as ServerProof
from gateway.core.wire_frames import PLAIN, Framing
from gateway.runtime.admission import Admission
from gateway.runtime.connection import Connection
from gateway.runtime.extensions import ActionHandler
from gateway.runtime.node import Node, NodeLimits
from gateway.runtime.null_metrics import NullMetrics
from gateway.runtime.ports import Broadcast, Broker, Direct, Transport, VerifiedCredential

KEY, CLIENT_NONCE = bytes(range(32)), bytes(16)
SEND_BUFFER_BYTES = 100_000
Frame = dict[str, Any]


def decode(body: bytes, encoding: Encoding) -> Any:  # noqa: ANN401 - a frame, or an array of them
    return msgspec.json.decode(body) if encoding is Encoding.JSON else msgspec.msgpack.decode(body)


def encode(value: object, encoding: Encoding) -> bytes:
    return msgspec.json.encode(value) if encoding is Encoding.JSON else msgspec.msgpack.encode(value)


def whole_frames(octets: bytes) -> list[bytes]:
    """Read the payloads of a server's frames, of which there is no part."""
    payloads, at = [], 0
    while at < len(octets):
        size, at = octets[at + 1], at + 2
        if size == 126:
            (size,), at = struct.unpack_from("!H", octets, at), at + 2
        elif size == 127:
            (size,), at = struct.unpack_from("!Q", octets, at), at + 8
        payloads.append(octets[at : at + size])
        at += size
    assert at == len(octets)
    return payloads


class Line:
    """A transport that keeps each write.

    Args:
        encoding: What is spoken.
        framing: How octets for many are written; None as on plain ASGI.
    """

    def __init__(self, encoding: Encoding = Encoding.JSON, framing: Framing | None = None) -> None:
        self.encoding = encoding
        self.framing = framing
        self.proof: ServerProof | None = None
        self.signer: Signer | None = None
        self.writes: list[list[Frame]] = []
        self.octets: list[bytes] = []
        """What came by `write`, as the same objects."""
        self.payloads: list[bytes] = []
        """What came by `send`, as the same objects."""
        self.closed: tuple[int, str] | None = None
        self.reading = True
        self.untaken: list[bytes] = []
        self.pauses = 0
        self.buffered = 0
        self.aborted = False
        self.heard = True

    @property
    def frames(self) -> list[Frame]:
        return [frame for write in self.writes for frame in write]

    def send(self, payloads: Sequence[bytes]) -> None:
        assert self.closed is None, "nothing is sent behind a close"
        self.payloads += payloads
        bodies = payloads if self.proof is None else [self.proof.verify(payload) for payload in payloads]
        self.writes.append([decode(body, self.encoding) for body in bodies])

    def write(self, octets: bytes) -> None:
        assert self.closed is None, "nothing is sent behind a close"
        self.octets.append(octets)
        self.writes.append([decode(body, self.encoding) for body in whole_frames(octets)])

    def ping(self) -> None:
        """Send nothing."""

    def close(self, code: int, reason: str, linger_s: float) -> None:
        assert linger_s > 0
        self.closed = self.closed or (code, reason)

    def abort(self) -> None:
        self.aborted = True

    def buffered_bytes(self) -> int:
        return self.buffered

    def pause_reading(self, untaken: Sequence[bytes]) -> None:
        self.reading = False
        self.pauses += 1
        self.untaken = list(untaken)

    def resume_reading(self) -> None:
        self.reading = True


class Metrics(NullMetrics):
    """Counts deliveries and slow consumers."""

    def __init__(self) -> None:
        super().__init__()
        self.deliveries = 0
        self.slow_consumers = 0

    def delivered(self, messages: int) -> None:
        self.deliveries += messages

    def slow_consumer(self) -> None:
        self.slow_consumers += 1


class Log:
    """Keeps events by name."""

    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, object]]] = []

    def debug(self, event: str, **fields: object) -> None:
        self.events.append((event, fields))

    info = warning = error = debug


class Trust:
    """Believes whoever is there."""

    async def verify_token(self, _token: str, _now: float) -> VerifiedCredential:
        raise HandshakeRefusedError(Refusal.INVALID_TOKEN)

    async def redeem_ticket(self, _ticket: str, _origin: str | None, _now: float) -> VerifiedCredential:
        raise HandshakeRefusedError(Refusal.INVALID_TICKET)

    def is_revoked(self, _principal: Principal) -> bool:
        return False

    def current(self, principal: Principal) -> Principal:
        return principal


@dataclass
class KeepingPolicy(DictPolicy):
    """Says how channels are kept, all alike."""

    options: ChannelOptions = field(default_factory=ChannelOptions)

    def channel_options(self, _channel: str) -> ChannelOptions:
        return self.options


@dataclass
class Member:
    """A client on a line."""

    connection: Connection
    line: Line
    asked: int = 0

    def body(self, action: str, channel: str | None = None, data: object = msgspec.UNSET) -> bytes:
        """Write the next command, which has to be sent in its turn."""
        self.asked += 1
        command: dict[str, object] = {"id": self.asked, "action": action}
        if channel is not None:
            command["channel"] = channel
        if data is not msgspec.UNSET:
            command["data"] = data
        body = encode(command, self.line.encoding)
        return body if self.line.signer is None else self.line.signer.sign(body)

    def take(self, *bodies: bytes) -> None:
        """Have messages come in one read."""
        for transport, answers in self.connection.intake.take([(self.connection, list(bodies))]):
            transport.send(answers)

    def take_again(self) -> None:
        """Offer what was handed back, as a transport does when it is to read again."""
        untaken, self.line.untaken = self.line.untaken, []
        for transport, answers in self.connection.intake.take([(self.connection, untaken)], again=True):
            transport.send(answers)

    def say(self, action: str, channel: str | None = None, data: object = msgspec.UNSET) -> None:
        self.take(self.body(action, channel, data))


@dataclass
class House:
    """A node, and the doors to it."""

    node: Node
    metrics: Metrics
    log: Log

    def send(self, subject: str, data: object) -> int:
        """Send to a user of the tenant."""
        return self.node.hub.direct(Direct("acme", subject, data, "bob", NOW))

    def broadcast(self, data: object) -> None:
        """Send to the tenant."""
        self.node.hub.broadcast(Broadcast("acme", data, "bob", NOW))

    def join(
        self,
        subject: str = "alice",
        *,
        encoding: Encoding = Encoding.JSON,
        signed: bool = False,
        framed: bool = True,
        framing: Framing | None = None,
        transport: Transport | None = None,
    ) -> Member:
        """Connect, and forget the welcome."""
        line = Line(encoding, framing or (PLAIN[encoding] if framed else None))
        token = TokenIdentity("https://issuer", subject)
        admission = Admission(
            VerifiedCredential(Principal(subject, "acme", ("member",), {}, NOW + 900, token), KEY if signed else None),
            SUBPROTOCOLS[f"gateway.v1.{encoding.value}{'.signed' if signed else ''}"],
            CLIENT_NONCE if signed else None,
            ConnectionFacts("192.0.2.1", signed=signed),
            "192.0.2.1",
        )
        if signed:
            line.send = _Prove(line)  # type: ignore[method-assign] # for the welcome, which brings the key
        connection = self.node.open(admission, line if transport is None else transport)
        assert connection is not None
        line.writes.clear()
        return Member(connection, line)


class _Prove:
    """Takes a signed welcome, as a client does: parsed first, then verified by what it brought."""

    def __init__(self, line: Line) -> None:
        self._line = line

    def __call__(self, payloads: Sequence[bytes]) -> None:
        line = self._line
        (welcome,) = payloads
        body = welcome[68:] if line.encoding is Encoding.JSON else welcome[33:]
        nonce = decode_base64url(decode(body, line.encoding)["signing"]["nonce"])
        assert nonce is not None
        client_key, server_key = derive_keys(KEY, CLIENT_NONCE, nonce)
        line.signer, line.proof = Signer(client_key, line.encoding), ServerProof(server_key, line.encoding)
        assert line.proof.verify(welcome) == body
        del line.send  # type: ignore[method-assign] # from now on the class's own


def open_house(
    *,
    policy: DictPolicy | None = None,
    broker: Broker | None = None,
    handlers: dict[str, ActionHandler] | None = None,
    max_channels: int = 100,
) -> House:
    """Open a node with room for everybody."""
    metrics, log = Metrics(), Log()
    handlers = handlers or {}
    node = Node(
        policy=policy or KeepingPolicy({**PERMISSIVE}),
        registry=ActionRegistry(
            (*BUILT_IN_ACTIONS, *(ActionSpec(name, ChannelUse.OPTIONAL, None) for name in handlers))
        ),
        broker=broker or MemoryBroker(1_000_000, lambda: NOW),
        verifier=Trust(),
        metrics=metrics,
        log=log,
        limits=NodeLimits(
            10_000, 10_000, 10_000, SEND_BUFFER_BYTES, SessionLimits(65_536, 1_000_000.0, max_channels, 25.0)
        ),
        clock=lambda: NOW,
        timer=lambda: NOW,
        entropy=lambda count: len(log.events).to_bytes(count, "big"),
        handlers=handlers,
    )
    return House(node, metrics, log)
