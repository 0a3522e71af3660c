"""An echo on the gateway's own protocol classes, as a process of its own: `make echo`, and what Autobahn's client is let loose on.

Everything between the socket and the session is what the gateway runs, uvloop included: handshake, parser, deflate and transport. What
stands in for the session sends each message back. There are no credentials, so it listens on loopback alone.

A session speaks one kind of message, text or binary, and so do its connections: `/ws` is served as JSON is, `/ws?msgpack` as MessagePack
is. A client of Autobahn's sends both kinds over one connection, so the other one is echoed too, beside the session's way.
"""

from __future__ import annotations

import asyncio
import os
import sys
from typing import TYPE_CHECKING

from starlette.types import Receive, Scope, Send

from gateway.core.addresses import Network
from gateway.core.floods import FloodGate
from gateway.core.frames import Encoding
from gateway.core.wire_frames import PLAIN, Framing
from gateway.runtime.null_metrics import NullMetrics
from gateway.runtime.ports import Answer, Read, Receiver, Transport
from gateway.web.deflate import deflate_framing
from gateway.web.edge import WIRE_EXTENSION, Edge
from gateway.web.open_wire import OpenWire
from gateway.web.server import GatewayServer, ListenError, build_config, listen, listening_port, loop_factory
from gateway.web.wire import WireProtocol
from gateway.web.wire_parser import Message

if TYPE_CHECKING:
    from gateway.web.edge import EdgeConfig

MAX_BYTES = 32 * 1024 * 1024
"""Twice what the largest message of Autobahn's has (cases 9.1.6 and 9.2.6)."""


class EchoWire(OpenWire):
    """An open wire that sends a message of the other kind back too, where the gateway's refuses it."""

    __slots__ = ()

    def _take_message(self, message: Message) -> None:
        if message.text is self._text:
            super()._take_message(message)
            return
        encoding = Encoding.JSON if message.text else Encoding.MSGPACK
        framing: Framing = (
            PLAIN[encoding] if self._window_bits is None else deflate_framing(encoding, self._window_bits)
        )
        self.write(framing.frames([message.payload]))


class EchoProtocol(WireProtocol):
    """The gateway's WebSocket class, with such wires."""

    open_wire = EchoWire


class Echo:
    """A connection that sends every message back.

    Args:
        transport: Where to.
    """

    max_buffered_bytes = sys.maxsize

    def __init__(self, transport: Transport) -> None:
        self.transport = transport

    @property
    def intake(self) -> EchoIntake:
        """Give what takes the messages."""
        return EchoIntake()

    def unsupported(self) -> None:
        """Never come here: the wire answers messages of the other kind."""
        raise NotImplementedError

    def overflowed(self) -> None:
        """Never come here: as much may wait as there is memory."""
        raise NotImplementedError

    def lost(self, code: int) -> None:
        """Note nothing."""


class EchoIntake:
    """Answers every message with itself."""

    def take(self, reads: list[Read], *, again: bool = False) -> list[Answer]:  # noqa: ARG002 - nothing is signed
        """Give each connection's messages back, in their order."""
        return [(_transport_of(receiver), payloads) for receiver, payloads in reads]


def _transport_of(receiver: Receiver) -> Transport:
    assert isinstance(receiver, Echo)
    return receiver.transport


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Accept whoever asks for a WebSocket: the ASGI application."""
    assert scope["type"] == "websocket", "nothing else is served"
    await receive()
    await send({"type": "websocket.accept"})
    protocol: WireProtocol = scope["extensions"][WIRE_EXTENSION]
    wire = protocol.take_over(Encoding.MSGPACK if scope["query_string"] == b"msgpack" else Encoding.JSON)
    wire.serve(Echo(wire))


def echo_config(*, deflate: bool = False, max_bytes: int = MAX_BYTES) -> EdgeConfig:
    """Make uvicorn's configuration.

    Args:
        deflate: Whether permessage-deflate is negotiated.
        max_bytes: The largest message, after inflation.
    """
    nobody: tuple[Network, ...] = ()
    edge = Edge(NullMetrics(), lambda: False, FloodGate(0), nobody)
    return build_config(echo, edge, max_frame_bytes=max_bytes, compression=deflate, ws=EchoProtocol)


async def serve(port: int, config: EdgeConfig) -> None:
    """Serve until a signal comes; the first line printed says where."""

    async def drain() -> None:
        """Wait for nobody."""

    listeners = listen("127.0.0.1", port)
    sys.stdout.write(f"echo on ws://127.0.0.1:{listening_port(listeners)}/ws\n")
    sys.stdout.flush()
    await GatewayServer(config, drain).serve(listeners)


def number(name: str, otherwise: int) -> int:
    """Read a variable that is a number; end the process with a word where it is none."""
    given = os.environ.get(name) or str(otherwise)
    if not given.isdecimal():
        sys.exit(f"{name} is a number: `{given}` is none")
    return int(given)


def main() -> None:
    """Serve as the environment says: PORT, DEFLATE (on, off) and MAX_BYTES."""
    deflate = os.environ.get("DEFLATE", "off") == "on"
    config = echo_config(deflate=deflate, max_bytes=number("MAX_BYTES", MAX_BYTES))
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        try:
            runner.run(serve(number("PORT", 9001), config))
        except ListenError:
            sys.exit("that port cannot be listened on: PORT=0 takes a free one")


if __name__ == "__main__":
    main()
