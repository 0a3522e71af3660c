"""A server that speaks the gateway's protocol as a test tells it to, wrongly too: real sockets, RFC 6455 by `websockets`' sans-I/O
core, and just enough HTTP for `/token` and `/ws/ticket`. What a good gateway never does cannot be had from a good gateway.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any
from urllib.parse import parse_qs, urlsplit

from websockets.frames import Frame, Opcode
from websockets.http11 import Request
from websockets.protocol import State
from websockets.server import ServerProtocol

from gateway.core.frames import Encoding
from gateway.core.signing import Signer, Verifier, decode_base64url, derive_keys, derive_ticket_key, encode_base64url

SIGNING_KEY = bytes(range(32))
SERVER_NONCE = bytes(range(100, 132))
WELCOME = {
    "type": "welcome",
    "session": "ses_1",
    "subject": "alice",
    "roles": ["member"],
    "tenant": "acme",
    "expires_at": 4e9,
    "server_time": 1.5,
    "heartbeat_s": 25,
    "limits": {"frame_bytes": 65536, "commands_per_s": 50, "channels": 128},
}


def token(name: str = "token-1", **more: object) -> dict[str, Any]:
    """What `/token` answers."""
    key = encode_base64url(SIGNING_KEY)
    return {"access_token": name, "token_type": "bearer", "expires_in": 900, "signing_key": key, **more}


class Peer:
    """One accepted WebSocket, seen from the server."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, protocol: ServerProtocol) -> None:
        self._reader, self._writer, self._protocol = reader, writer, protocol
        self._signer: Signer | None = None
        self._verifier: Verifier | None = None
        self._events: list[Any] = []
        self.request: Request

    @property
    def query(self) -> dict[str, str]:
        return {name: values[0] for name, values in parse_qs(urlsplit(self.request.path).query).items()}

    async def accept(self, request: Request) -> None:
        self.request = request
        self._protocol.send_response(self._protocol.accept(request))
        await self._flush()

    async def welcome(self, **changes: object) -> None:
        """Send the welcome, signed where the subprotocol says so."""
        frame: dict[str, object] = {**WELCOME, **changes}
        if str(self._protocol.subprotocol).endswith(".signed"):
            client_nonce = decode_base64url(self.query["nonce"])
            assert client_nonce is not None
            ticket = self.query.get("ticket")
            key = derive_ticket_key(SIGNING_KEY, ticket) if ticket else SIGNING_KEY
            client_key, server_key = derive_keys(key, client_nonce, SERVER_NONCE)
            self._signer, self._verifier = Signer(server_key, Encoding.JSON), Verifier(client_key, Encoding.JSON)
            frame = {"signing": {"nonce": encode_base64url(SERVER_NONCE)}, **frame}
        await self.send(frame)

    def sealed(self, content: object) -> bytes:
        """Sign one frame without sending it; counted as if it had been sent."""
        body = json.dumps(content).encode()
        return self._signer.sign(body) if self._signer else body

    async def send(self, content: object) -> None:
        await self.send_raw(self.sealed(content))

    async def send_raw(self, payload: bytes, *, text: bool = True) -> None:
        (self._protocol.send_text if text else self._protocol.send_binary)(payload)
        await self._flush()

    async def reply(self, command: dict[str, Any], **data: object) -> None:
        await self.send({"type": "reply", "id": command["id"], "data": data})

    async def refuse(self, command: dict[str, Any], code: str, **more: object) -> None:
        error = {"code": code, "message": "no", **more}
        await self.send({"type": "error", "id": command["id"], "error": error})

    async def receive(self) -> Any:  # noqa: ANN401 - a command or a batch
        """Wait for the next frame, its signature verified."""
        payload = await self._message()
        assert payload is not None, "the client closed instead of sending"
        return json.loads(self._verifier.verify(payload) if self._verifier else payload)

    async def command(self, action: str) -> dict[str, Any]:
        """Wait for the next frame, which must be this command."""
        frame = await self.receive()
        assert frame["action"] == action, frame
        return frame

    async def close(self, code: int, reason: str = "") -> None:
        self._protocol.send_close(code, reason)
        await self._flush()
        while await self._message() is not None:
            pass

    async def closed(self) -> tuple[int, str]:
        """Wait for the client's close frame; its code and reason."""
        while await self._message() is not None:
            pass
        received = self._protocol.close_rcvd
        return (received.code, received.reason) if received else (1006, "")

    def abort(self) -> None:
        """Break the connection without a word."""
        self._writer.transport.abort()

    async def _message(self) -> bytes | None:
        while True:
            self._events += self._protocol.events_received()
            while self._events:
                event = self._events.pop(0)
                if isinstance(event, Frame) and event.opcode in {Opcode.TEXT, Opcode.BINARY}:
                    assert event.fin, "the clients under test send whole messages"
                    return bytes(event.data)
            await self._flush()
            if self._protocol.state is State.CLOSED:
                return None
            octets = await self._read()
            if octets:
                self._protocol.receive_data(octets)
            else:
                self._protocol.receive_eof()
                return None

    async def _read(self) -> bytes:
        try:
            return await self._reader.read(65536)
        except ConnectionError:
            return b""

    async def _flush(self) -> None:
        for octets in self._protocol.data_to_send():
            if octets:
                self._writer.write(octets)
            else:
                self._writer.write_eof()
        with contextlib.suppress(ConnectionError):
            await self._writer.drain()


Script = Callable[[Peer], Awaitable[None]]
Answer = tuple[int, dict[str, Any]]


class ScriptedGateway:
    """Plays one script for each connection, in their order, and answers HTTP from a queue.

    Args:
        scripts: What happens on the first connection, the second, and so on.
    """

    def __init__(self, *scripts: Script) -> None:
        self.scripts = list(scripts)
        self.answers: dict[str, list[Answer]] = {"/token": [], "/ws/ticket": []}
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        self.handshakes: list[Request] = []
        self.echo: str | None = None
        self.url = ""
        self._tickets = 0
        self._failures: list[Exception] = []

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            if head.startswith(b"POST"):
                await self._post(head, reader, writer)
            else:
                await self._upgrade(head, reader, writer)
        except Exception as error:  # noqa: BLE001 - whatever fails in a script fails its test, in `check`
            self._failures.append(error)
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    async def _upgrade(self, head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        def select(_protocol: ServerProtocol, offered: Sequence[Any]) -> Any:  # noqa: ANN401 - a NewType of str
            return offered[0] if self.echo is None else self.echo or None

        protocol = ServerProtocol(select_subprotocol=select)
        protocol.receive_data(head)
        (request,) = protocol.events_received()
        assert isinstance(request, Request)
        self.handshakes.append(request)
        peer = Peer(reader, writer, protocol)
        script = self.scripts.pop(0)
        await peer.accept(request)
        await script(peer)

    async def _post(self, head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request_line, *lines = head.decode().strip().split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        path = request_line.split(" ")[1]
        self.requests.append((path, body.decode(), headers))
        status, answer = self._answer(path)
        content = json.dumps(answer).encode()
        retry = b"retry-after: 1\r\n" if status in {429, 503} else b""
        head = b"HTTP/1.1 %d X\r\ncontent-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n%b\r\n"
        writer.write(head % (status, len(content), retry) + content)
        await writer.drain()

    def _answer(self, path: str) -> Answer:
        if self.answers[path]:
            return self.answers[path].pop(0)
        if path == "/token":
            return 200, token(refresh_token="refresh-1")
        self._tickets += 1
        return 200, {"ticket": f"ticket-{self._tickets}", "expires_in": 30}

    def check(self) -> None:
        """Fail the test if a script failed."""
        if self._failures:
            raise self._failures[0]


@contextlib.asynccontextmanager
async def scripted_gateway(*scripts: Script) -> AsyncIterator[ScriptedGateway]:
    """Serve these scripts on a free port of the loopback address."""
    gateway = ScriptedGateway(*scripts)
    server = await asyncio.start_server(gateway.connected, "127.0.0.1", 0)
    gateway.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield gateway
    finally:
        server.close()
        if hasattr(server, "close_clients"):
            server.close_clients()
        gateway.check()
