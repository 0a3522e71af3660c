"""A gateway that follows a script: what the client does is seen by a peer that can misbehave at will."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qs, urlsplit

import msgspec
from websockets.asyncio.server import Request, Response, ServerConnection
from websockets.typing import Subprotocol

from gateway.core.frames import Encoding
from gateway.core.handshake import SUBPROTOCOLS
from gateway.core.signing import Signer, Verifier, decode_base64url, derive_keys, encode_base64url

SIGNING_KEY = bytes(range(32))


class Peer:
    """The gateway's end of one connection."""

    def __init__(self, socket: ServerConnection) -> None:
        self.socket = socket
        self.subprotocol = SUBPROTOCOLS[str(socket.subprotocol)]
        self.query = parse_qs(urlsplit(socket.request.path if socket.request else "").query)
        self.headers = socket.request.headers if socket.request else {}
        self.signer: Signer | None = None
        self.verifier: Verifier | None = None

    async def greet(self, **changed: object) -> None:
        welcome: dict[str, Any] = {
            "type": "welcome",
            "session": "s1",
            "subject": "alice",
            "roles": ["member"],
            "tenant": "acme",
            "expires_at": 2e9,
            "server_time": 1.0,
            "heartbeat_s": 25,
            "limits": {"frame_bytes": 65536, "commands_per_s": 50, "channels": 128},
        }
        if self.subprotocol.signed:
            nonce = secrets.token_bytes(32)
            welcome["signing"] = {"nonce": encode_base64url(nonce)}
            client_nonce = decode_base64url(self.query["nonce"][0])
            assert client_nonce is not None
            client_key, server_key = derive_keys(SIGNING_KEY, client_nonce, nonce)
            self.signer = Signer(server_key, self.subprotocol.encoding)
            self.verifier = Verifier(client_key, self.subprotocol.encoding)
        await self.send({**welcome, **changed})

    async def send(self, frame: object) -> None:
        text = self.subprotocol.encoding is Encoding.JSON
        body = json.dumps(frame).encode() if text else msgspec.msgpack.encode(frame)
        await self.socket.send(self.signer.sign(body) if self.signer else body, text=text)

    async def receive(self) -> dict[str, Any]:
        message = await self.socket.recv()
        payload = message.encode() if isinstance(message, str) else message
        body = self.verifier.verify(payload) if self.verifier else payload
        return json.loads(body) if isinstance(message, str) else msgspec.msgpack.decode(body)

    async def reply(self, data: object = None, /, **expected: object) -> dict[str, Any]:
        command = await self.receive()
        for name, value in expected.items():
            assert command.get(name) == value
        await self.send({"type": "reply", "id": command["id"], "data": {} if data is None else data})
        return command


Script = Callable[[Peer], Awaitable[None]]


@dataclass
class ScriptedGateway:
    """Plays one script for each connection, in their order; the last one for all further ones."""

    scripts: list[Script] = field(default_factory=list)
    refuse_with: list[HTTPStatus] = field(default_factory=list)
    subprotocol: str | None = None
    connections: int = 0
    url: str = ""
    failures: list[BaseException] = field(default_factory=list)

    async def play(self, socket: ServerConnection) -> None:
        script = self.scripts[min(self.connections, len(self.scripts) - 1)]
        self.connections += 1
        try:
            await script(Peer(socket))
        except BaseException as wrong:
            self.failures.append(wrong)
            raise

    def process(self, connection: ServerConnection, _request: Request) -> Response | None:
        if not self.refuse_with:
            return None
        response = connection.respond(self.refuse_with.pop(0), "")
        response.headers["Retry-After"] = "0"
        return response

    def select(self, _connection: ServerConnection, offered: Sequence[Subprotocol]) -> Subprotocol:
        return Subprotocol(self.subprotocol) if self.subprotocol else offered[0]


async def until_closed(peer: Peer) -> None:
    await peer.socket.wait_closed()


async def forever(_peer: Peer) -> None:
    await asyncio.Event().wait()
