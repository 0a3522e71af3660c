"""The gateway's edge on a real socket in the test's process, with an echo for a node, and a client made of octets.

It serves by uvicorn's protocol classes without uvicorn's `Server`, whose stop takes 0.2 s; that one has tests of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import struct
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import uvicorn
from fastapi import APIRouter
from starlette.types import ASGIApp
from uvicorn.server import ServerState

from gateway.core.addresses import Network
from gateway.core.errors import HandshakeRefusedError, Refusal, StateUnavailableError
from gateway.core.floods import FloodGate
from gateway.core.handshake import HandshakeRules
from gateway.core.origins import OriginRule
from gateway.core.principal import Principal
from gateway.runtime.admission import Admission
from gateway.runtime.null_metrics import NullMetrics
from gateway.runtime.ports import Answer, Read, Transport, VerifiedCredential
from gateway.web.app import create_app
from gateway.web.edge import Edge, EdgeLimits
from gateway.web.server import build_config, listen, listening_port
from gateway.web.websocket import Gate

PATIENCE_S = 15.0  # how long a test waits for what must come; it never waits for something not to happen
SECRET = "s3cret-token-that-no-log-may-show"
NONCE = "AAECAwQFBgcICQoLDA0ODw"
KEY = "dGhlIHNhbXBsZSBub25jZQ=="


class Metrics(NullMetrics):
    """Counts handshakes."""

    def __init__(self) -> None:
        super().__init__()
        self.attempts: Counter[str] = Counter()

    def connection_attempt(self, outcome: str) -> None:
        self.attempts[outcome] += 1


class Log:
    """Keeps events."""

    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, object]]] = []

    def debug(self, event: str, **fields: object) -> None:
        self.events.append((str(event), fields))

    info = warning = error = debug


class Verifier:
    """Knows credentials by their names."""

    def __init__(self) -> None:
        self.tickets = {"ticket": "alice", "bound": "alice"}
        self.origins: list[str | None] = []
        self.asked = asyncio.Event()
        self.answers = asyncio.Event()

    async def verify_token(self, token: str, now: float) -> VerifiedCredential:
        assert now > 0
        match token:
            case "good" | "other":
                return VerifiedCredential(Principal("alice", "acme"), bytes(32))
            case "slow":
                self.asked.set()
                await self.answers.wait()
                return VerifiedCredential(Principal("alice", "acme"), bytes(32))
            case "slowly refused":
                self.asked.set()
                await self.answers.wait()
                raise HandshakeRefusedError(Refusal.EXPIRED_TOKEN)
            case "slowly unavailable":
                self.asked.set()
                await self.answers.wait()
                raise StateUnavailableError
            case "keyless":
                return VerifiedCredential(Principal("alice", "acme"), None)
            case "expired":
                raise HandshakeRefusedError(Refusal.EXPIRED_TOKEN, subject="alice")
            case "revoked":
                raise HandshakeRefusedError(Refusal.REVOKED_TOKEN, "the family was revoked", "alice")
            case "unavailable":
                raise StateUnavailableError
            case "broken":
                message = "a bug"
                raise ValueError(message)
            case _:
                raise HandshakeRefusedError(Refusal.INVALID_TOKEN)

    async def redeem_ticket(self, ticket: str, origin: str | None, now: float) -> VerifiedCredential:
        assert now > 0
        self.origins.append(origin)
        subject = self.tickets.pop(ticket, None)
        if subject is None or (ticket == "bound" and origin != "https://app.example"):
            raise HandshakeRefusedError(Refusal.INVALID_TICKET)
        return VerifiedCredential(Principal(subject, "acme"), bytes(32))

    def is_revoked(self, principal: Principal) -> bool:
        raise NotImplementedError

    def current(self, principal: Principal) -> Principal:
        raise NotImplementedError


class Echo:
    """A connection that sends every message back, and does what some messages say."""

    def __init__(self, node: EchoNode, admission: Admission, transport: Transport) -> None:
        self.node = node
        self.admission = admission
        self.transport = transport
        self.messages: list[bytes] = []
        self.unsupporteds = 0
        self.turns: list[int] = []
        self.overflows = 0
        self.paused = False
        self.gone: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    @property
    def max_buffered_bytes(self) -> int:
        return self.node.max_buffered_bytes

    @property
    def intake(self) -> EchoNode:
        return self.node

    def received(self, payloads: list[bytes]) -> None:
        left = iter(payloads)
        for payload in left:
            self.messages.append(payload)
            self.act(payload)
            if self.paused:
                break
        untaken = list(left)
        self.turns.append(len(payloads) - len(untaken))
        if self.paused:
            self.transport.pause_reading(untaken)

    def act(self, payload: bytes) -> None:
        command, _, argument = payload.partition(b" ")
        match command:
            case b"close":
                code, reason = argument.split(b" ")
                self.transport.close(int(code), reason.decode(), self.node.linger_s)
            case b"flood":
                self.transport.send([self.node.flood_payload] * int(argument))
            case b"abort":
                self.transport.abort()
            case b"ping":
                self.transport.ping()
            case b"pause":
                self.paused = True
            case b"quiet":
                pass
            case _:
                self.transport.send([payload])

    def unsupported(self) -> None:
        self.unsupporteds += 1

    def resume(self) -> None:
        self.paused = False
        self.transport.resume_reading()

    def overflowed(self) -> None:
        self.overflows += 1

    def lost(self, code: int) -> None:
        self.gone.set_result(code)


class EchoNode:
    """Takes everybody, and greets."""

    def __init__(self) -> None:
        self.greeting = b"welcome"
        self.full = False
        self.linger_s = 5.0
        self.flood_payload = b"x" * 1000
        self.max_buffered_bytes = 1_000_000_000
        self.connections: list[Echo] = []
        self.opened: asyncio.Queue[Echo] = asyncio.Queue()

    def take(self, reads: list[Read], *, again: bool = False) -> list[Answer]:  # noqa: ARG002 - nothing is signed
        for echo, payloads in reads:
            assert isinstance(echo, Echo)
            echo.received(payloads)
        return []

    def open(self, admission: Admission, transport: Transport) -> Echo | None:
        if self.full:
            transport.close(1013, "connection_limit", self.linger_s)
            return None
        echo = Echo(self, admission, transport)
        self.connections.append(echo)
        self.opened.put_nowait(echo)
        if self.greeting:
            transport.send([self.greeting])
        return echo


@dataclass
class Served:
    """A running server."""

    port: int
    node: EchoNode
    verifier: Verifier
    metrics: Metrics
    log: Log
    uvicorn: ServerState
    config: uvicorn.Config
    state: dict[str, Any] = field(default_factory=dict)

    async def connection(self) -> Echo:
        """Wait for the next admitted connection."""
        return await asyncio.wait_for(self.node.opened.get(), PATIENCE_S)

    async def raw(self) -> Raw:
        """Connect a client made of octets."""
        return await Raw.connect(self.port)

    async def upgraded(self, path: str = "/ws?token=good", *, greeted: bool = True, **headers: str) -> Raw:
        """Connect one, upgrade it, and read the greeting."""
        raw = await self.raw()
        raw.send(upgrade(path, **headers))
        status, _, _ = await raw.response()
        assert status == 101
        if greeted:
            assert await raw.frame() == (0x81, self.node.greeting)
        return raw


Serve = Callable[..., contextlib.AbstractAsyncContextManager[Served]]
"""What the fixture `serve` gives: `serving` by the road of the test."""


@contextlib.asynccontextmanager
async def serving(
    *,
    limits: EdgeLimits | None = None,
    rules: HandshakeRules | None = None,
    trusted: tuple[Network, ...] = (),
    handshakes_per_s: float = 0.0,
    routers: Sequence[APIRouter] = (),
    compression: bool = False,
    docs: bool = False,
    stock: bool = False,
    instead: ASGIApp | None = None,
) -> AsyncIterator[Served]:
    """Serve the edge on a free port; with `stock`, by uvicorn's own protocol classes; another application `instead` of ours."""
    node, verifier, metrics, log = EchoNode(), Verifier(), Metrics(), Log()
    state: dict[str, Any] = {"draining": False}
    rules = rules or HandshakeRules(OriginRule.build("https://gate.example", ["https://app.example"], loopback=False))
    linger_s = (limits or EdgeLimits()).refused_s
    gate = Gate(verifier, rules, trusted, metrics, log, refused_linger_s=linger_s)
    app = instead or create_app(node=node, gate=gate, routers=routers, docs=docs)
    edge = Edge(metrics, lambda: state["draining"], FloodGate(handshakes_per_s), trusted, limits or EdgeLimits())
    config: uvicorn.Config = build_config(app, edge, compression=compression)
    if stock:
        config = uvicorn.Config(
            app,
            http="httptools",
            ws="websockets-sansio",
            ws_ping_interval=None,
            lifespan="off",
            log_config=None,
            proxy_headers=False,
        )
    config.load()
    uvicorn_state = ServerState()
    loop = asyncio.get_running_loop()
    make: Any = config.http_protocol_class
    (listener,) = listen("127.0.0.1", 0)
    server = await loop.create_server(lambda: make(config, uvicorn_state, {}), sock=listener)
    try:
        yield Served(listening_port([listener]), node, verifier, metrics, log, uvicorn_state, config, state)
    finally:
        server.close()
        for connection in list(uvicorn_state.connections):
            connection.transport.abort()
        if uvicorn_state.tasks:
            await asyncio.wait(uvicorn_state.tasks, timeout=PATIENCE_S)
        await asyncio.sleep(0)  # what was aborted tells so on the next turn


async def until(condition: Callable[[], object]) -> None:
    """Wait until a condition holds that nothing of the server's tells by an event."""
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110 - as said
            await asyncio.sleep(0.001)


def upgrade(path: str = "/ws?token=good", *, drop: Sequence[str] = (), **headers: str) -> bytes:
    """Write an upgrade request; underscores in the names of further fields stand for hyphens."""
    fields = {
        "host": "127.0.0.1",
        "upgrade": "websocket",
        "connection": "Upgrade",
        "sec-websocket-key": KEY,
        "sec-websocket-version": "13",
    }
    fields.update({name.replace("_", "-").lower(): value for name, value in headers.items()})
    lines = [f"{name}: {value}\r\n" for name, value in fields.items() if name not in drop]
    return f"GET {path} HTTP/1.1\r\n{''.join(lines)}\r\n".encode("latin-1")


def frame(first: int, payload: bytes = b"", *, masked: bool = True, mask: bytes = b"\x01\x02\x03\x04") -> bytes:
    """Write a client's frame with any first octet."""
    size = len(payload)
    bit = 0x80 if masked else 0
    if size < 126:
        head = bytes((first, bit | size))
    elif size < 65_536:
        head = struct.pack("!BBH", first, bit | 126, size)
    else:
        head = struct.pack("!BBQ", first, bit | 127, size)
    if not masked:
        return head + payload
    return head + mask + bytes(octet ^ mask[at % 4] for at, octet in enumerate(payload))


def text(payload: str | bytes) -> bytes:
    """Write a text message in one frame."""
    return frame(0x81, payload.encode() if isinstance(payload, str) else payload)


def close_frame(code: int = 1000, reason: bytes = b"") -> bytes:
    """Write a client's close frame."""
    return frame(0x88, struct.pack("!H", code) + reason)


class Raw:
    """A client that sends what it is told and shows what it gets."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def connect(cls, port: int) -> Self:
        """Connect."""
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.writer.transport.abort()
        with contextlib.suppress(OSError):
            await self.writer.wait_closed()

    def send(self, *data: bytes) -> None:
        """Send octets in one segment."""
        self.writer.write(b"".join(data))

    async def response(self, *, head: bool = False) -> tuple[int, dict[str, str], bytes]:
        """Read one HTTP response with a length."""
        async with asyncio.timeout(PATIENCE_S):
            lines = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            status = int(lines[0].split(" ")[1])
            headers: dict[str, str] = {}
            for line in lines[1:-2]:
                name, _, value = line.partition(": ")
                headers[name.lower()] = value
            if status == 101 or head:
                return status, headers, b""
            return status, headers, await self.reader.readexactly(int(headers.get("content-length", "0")))

    async def problem(self) -> tuple[int, dict[str, str]]:
        """Read a response that is a problem, and the end of the connection behind it."""
        status, headers, body = await self.response()
        assert headers["content-type"] == "application/problem+json"
        assert json.loads(body)["status"] == status
        assert await self.rest() == b""
        return status, headers

    async def frame(self) -> tuple[int, bytes]:
        """Read one frame of the server: its first octet and its payload."""
        async with asyncio.timeout(PATIENCE_S):
            first, size = await self.reader.readexactly(2)
            assert size < 128, "a server does not mask"
            if size == 126:
                (size,) = struct.unpack("!H", await self.reader.readexactly(2))
            elif size == 127:
                (size,) = struct.unpack("!Q", await self.reader.readexactly(8))
            return first, await self.reader.readexactly(size)

    async def closing(self) -> tuple[int, str]:
        """Read a close frame and the end of the connection; nothing may stand between."""
        first, payload = await self.frame()
        assert first == 0x88, (first, payload)
        code, reason = struct.unpack("!H", payload[:2])[0], payload[2:].decode()
        return code, reason

    async def gone(self, code: int, reason: str) -> None:
        """Read a close frame, answer it, and read the end."""
        assert await self.closing() == (code, reason)
        self.send(close_frame(code))
        assert await self.rest() == b""

    async def until_pong(self) -> list[tuple[int, bytes]]:
        """Send a ping; give the frames that come before its pong, which say that all is well so far."""
        self.send(frame(0x89, b"until"))
        frames: list[tuple[int, bytes]] = []
        while (got := await self.frame()) != (0x8A, b"until"):
            frames.append(got)
        return frames

    async def rest(self) -> bytes:
        """Read to the end of the connection, however it ends."""
        async with asyncio.timeout(PATIENCE_S):
            data = b""
            with contextlib.suppress(ConnectionError):
                while part := await self.reader.read(65_536):
                    data += part
            return data
