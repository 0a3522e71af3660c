"""A real gateway in the test's own loop: real uvicorn, real database, real policy, and peers that talk to it over real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import msgspec
import uvicorn
from road import Road
from secret_watch import SecretWatch
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from gateway.adapters.structlog_log import configure_logging
from gateway.compose import Extension, Gateway, open_gateway
from gateway.core.deadlines import PING_GRACE_S
from gateway.core.frames import Encoding
from gateway.core.signing import Signer, Verifier, decode_base64url, derive_keys, encode_base64url
from gateway.settings import Settings, load_settings
from gateway.web.server import GatewayServer, build_config, listen, listening_port

PASSWORD = "correct horse battery {name}"
USERS = {"alice": "member", "bob": "member", "vera": "viewer", "mona": "moderator", "otto": "operator", "ada": "admin"}
TENANT = "acme"
SECRET_KEY = "kWZ7qv3mP0xTn8sYcR2eJ5uB9hL4dG6f-Zp1"
WAIT_S = 10.0

Start = Callable[..., Any]
"""What the fixture `start` gives: `await start(heartbeat_s="1")`."""

POLICY = """\
version: 1
roles:
  viewer:
    allow:
      - actions: [channel.subscribe, channel.history, channel.presence]
        channels: ["room:{tenant}:*"]
  member:
    inherits: [viewer]
    allow:
      - actions: [channel.subscribe, channel.history, channel.presence, channel.publish]
        channels: ["room:{tenant}:*", "plain:{tenant}:*"]
      - actions: [channel.publish]
        channels: ["signed:{tenant}:*"]
        signed: true
      - actions: [channel.publish]
        channels: ["rated:{tenant}:*"]
        rate: {per_s: 0.5, burst: 2}
      - actions: [channel.publish]
        channels: ["priced:{tenant}:*"]
        when: "data.amount / data.count <= 10"
      - actions: [user.send, broadcast, "orders.*"]
    deny:
      - actions: [channel.publish]
        channels: ["room:*:announcements"]
  moderator:
    inherits: [viewer]
    allow:
      - actions: [channel.publish]
        channels: ["room:{tenant}:*"]
  operator: {}
  admin:
    allow:
      - actions: ["**"]
      - actions: ["**"]
        channels: ["**"]
channels:
  - match: "room:*:*"
    history: {messages: 1000, ttl_s: 600}
    presence: true
"""


def password(name: str) -> str:
    return PASSWORD.format(name=name)


@dataclass
class RunningGateway:
    """One gateway that serves, and what a test asks of it."""

    gateway: Gateway
    server: GatewayServer
    port: int
    log_path: Path
    secrets: SecretWatch
    serving: asyncio.Task[None]
    http: httpx.AsyncClient
    policy_file: Path
    users: dict[str, str]
    road: Road = Road.WIRE
    peers: contextlib.AsyncExitStack = field(default_factory=contextlib.AsyncExitStack)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def ws_url(self) -> str:
        return f"ws://127.0.0.1:{self.port}/ws"

    async def add_user(self, name: str, *roles: str, tenant: str = TENANT, **claims: str) -> None:
        self.secrets.watch(password(name), f"password of {name}")
        await self.gateway.identity.accounts.add_user(name, password(name), roles=roles, tenant=tenant, claims=claims)

    async def token(self, name: str, **form: str) -> dict[str, Any]:
        """Log in; the usual users come to be when they are first asked for."""
        if name in self.users:
            await self.add_user(name, self.users.pop(name))
        fields = {"grant_type": "password", "username": name, "password": password(name), **form}
        response = await self.http.post("/token", data=fields)
        assert response.status_code == 200, response.text
        return self.keep(response.json())

    def keep(self, answer: dict[str, Any]) -> dict[str, Any]:
        """Watch every secret of a token answer."""
        for member in ("access_token", "refresh_token", "signing_key", "ticket"):
            if member in answer:
                self.secrets.watch(answer[member], member)
        return answer

    async def ticket(self, token: str, origin: str | None = None) -> str:
        response = await self.http.post(
            "/ws/ticket",
            headers={"Authorization": f"Bearer {token}"},
            json={} if origin is None else {"origin": origin},
        )
        assert response.status_code == 200, response.text
        return str(self.keep(response.json())["ticket"])

    async def peer(
        self,
        name: str = "alice",
        *,
        signed: bool = False,
        encoding: Encoding = Encoding.JSON,
        answer: dict[str, Any] | None = None,
        **options: Any,  # noqa: ANN401 - what the websockets client takes
    ) -> Peer:
        """Connect as a user, and read the welcome."""
        answer = answer or await self.token(name)
        nonce = bytes(range(16))
        url = f"{self.ws_url}?nonce={encode_base64url(nonce)}" if signed else self.ws_url
        subprotocol = f"gateway.v1.{encoding.value}{'.signed' if signed else ''}"
        headers = {"Authorization": f"Bearer {answer['access_token']}"}
        socket = await self.peers.enter_async_context(
            connect(url, subprotocols=[subprotocol], additional_headers=headers, compression=None, **options)
        )
        assert socket.subprotocol == subprotocol
        peer = Peer(socket, encoding)
        await peer.welcome_with(decode_base64url(answer["signing_key"]) if signed else None, nonce)
        return peer

    def events(self, name: str | None = None) -> list[dict[str, Any]]:
        """Read the log."""
        lines = [json.loads(line) for line in self.log_path.read_bytes().splitlines()]
        return [line for line in lines if name is None or line["event"] == name]

    async def event(self, name: str, **fields: object) -> dict[str, Any]:
        """Wait for a log event with these fields."""
        async with asyncio.timeout(WAIT_S):
            while True:
                for line in self.events(name):
                    if all(line.get(key) == value for key, value in fields.items()):
                        return line
                await asyncio.sleep(0.01)

    async def metric(self, name: str, **labels: str) -> float:
        """Read one sample; 0.0 where there is none."""
        wanted = set(labels.items())
        for line in (await self.http.get("/metrics")).text.splitlines():
            match = re.fullmatch(r"([a-zA-Z_:]+)(?:\{(.*)\})? (\S+)", line)
            if match and match[1] == name and set(re.findall(r'(\w+)="([^"]*)"', match[2] or "")) >= wanted:
                return float(match[3])
        return 0.0

    async def stop(self) -> None:
        """Stop as SIGTERM does."""
        self.server.stop()
        await self.serving


@dataclass
class Peer:
    """A client that does exactly what a test says."""

    socket: ClientConnection
    encoding: Encoding
    welcome: dict[str, Any] = field(default_factory=dict)
    signer: Signer | None = None
    verifier: Verifier | None = None
    pushes: list[dict[str, Any]] = field(default_factory=list)
    last_id: int = 0

    async def welcome_with(self, signing_key: bytes | None, nonce: bytes) -> None:
        """Read the welcome; with a key, derive, and verify it before it is trusted."""
        payload = await self._payload()
        if signing_key is None:
            self.welcome = self._decode(payload)
            return
        body = payload[68:] if self.encoding is Encoding.JSON else payload[33:]
        server_nonce = decode_base64url(self._decode(body)["signing"]["nonce"])
        assert server_nonce is not None
        client_key, server_key = derive_keys(signing_key, nonce, server_nonce)
        self.signer, self.verifier = Signer(client_key, self.encoding), Verifier(server_key, self.encoding)
        self.welcome = self._decode(self.verifier.verify(payload))

    async def _payload(self) -> bytes:
        async with asyncio.timeout(WAIT_S):
            message = await self.socket.recv()
        assert isinstance(message, str) is (self.encoding is Encoding.JSON)
        return message.encode() if isinstance(message, str) else message

    def _decode(self, body: bytes) -> Any:  # noqa: ANN401 - a frame, or an array of them
        return json.loads(body) if self.encoding is Encoding.JSON else msgspec.msgpack.decode(body)

    def encode(self, value: object) -> bytes:
        return msgspec.json.encode(value) if self.encoding is Encoding.JSON else msgspec.msgpack.encode(value)

    async def send_body(self, body: bytes) -> None:
        """Send a frame's body as it is, signed on a signed connection."""
        payload = body if self.signer is None else self.signer.sign(body)
        await self.socket.send(payload, text=self.encoding is Encoding.JSON)

    async def send(self, command: object) -> None:
        await self.send_body(self.encode(command))

    async def frame(self) -> Any:  # noqa: ANN401 - a frame, or an array of them
        """Read the next frame."""
        payload = await self._payload()
        return self._decode(payload if self.verifier is None else self.verifier.verify(payload))

    async def push(self, kind: str) -> dict[str, Any]:
        """Read until a push of that type; the kept ones first."""
        for index, frame in enumerate(self.pushes):
            if frame["type"] == kind:
                return self.pushes.pop(index)
        while True:
            frame = await self.frame()
            if frame["type"] == kind:
                return dict(frame)
            self.pushes.append(frame)

    async def ask(self, action: str, channel: str | None = None, data: object = msgspec.UNSET) -> dict[str, Any]:
        """Send a command and read until its answer; pushes are kept."""
        self.last_id += 1
        command: dict[str, object] = {"id": self.last_id, "action": action}
        if channel is not None:
            command["channel"] = channel
        if data is not msgspec.UNSET:
            command["data"] = data
        await self.send(command)
        return await self.answer(self.last_id)

    async def answer(self, command_id: int) -> dict[str, Any]:
        """Read until the answer of a command; pushes are kept."""
        while True:
            frame = await self.frame()
            if frame.get("id") == command_id and frame["type"] in {"reply", "error"}:
                return dict(frame)
            self.pushes.append(frame)

    async def do(self, action: str, channel: str | None = None, data: object = msgspec.UNSET) -> Any:  # noqa: ANN401 - a reply's data
        """Do what must succeed; give the reply's data."""
        answer = await self.ask(action, channel, data)
        assert answer["type"] == "reply", answer
        return answer["data"]

    async def refused(self, action: str, channel: str | None = None, data: object = msgspec.UNSET) -> str:
        """Do what must not succeed; give the error's code."""
        answer = await self.ask(action, channel, data)
        assert answer["type"] == "error", answer
        return str(answer["error"]["code"])

    async def closed(self) -> tuple[int, str]:
        """Read until the close; give its code and reason."""
        try:
            async with asyncio.timeout(WAIT_S):
                while True:
                    await self.socket.recv()
        except ConnectionClosed:
            return self.socket.close_code or 0, self.socket.close_reason or ""


async def command(gateway: RunningGateway, *arguments: str, stdin: str = "", public_url: str = "") -> None:
    """Run a `gateway` command of another process against the running one's database."""
    settings = gateway.gateway.settings
    environ = {name: value for name, value in os.environ.items() if not name.startswith("GATEWAY_")}
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "gateway",
        *arguments,
        env={
            **environ,
            "GATEWAY_SECRET_KEY": SECRET_KEY,
            "GATEWAY_DATABASE_URL": settings.database_url,
            "GATEWAY_POLICY_DIR": str(settings.policy_dir),
            "GATEWAY_DATA_DIR": str(settings.data_dir),
            **({"GATEWAY_PUBLIC_URL": public_url} if public_url else {}),
        },
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    _, errors = await process.communicate(stdin.encode())
    assert (process.returncode, errors) == (0, b"")


def served_by(road: Road, gateway: Gateway) -> uvicorn.Config:
    """Give the configuration of the server for a road."""
    settings = gateway.settings
    if road is Road.WIRE:
        return build_config(
            gateway.app, gateway.edge, max_frame_bytes=settings.max_frame_bytes, compression=settings.compression
        )
    # What an operator has to say to another server too: when to ping, no forwarded addresses of its own, and an end within a
    # bound. The rest is as uvicorn has it, messages of up to 16 MiB and compression among it.
    return uvicorn.Config(
        gateway.app,
        http="httptools",
        ws="websockets-sansio",
        ws_ping_interval=settings.heartbeat_s,
        ws_ping_timeout=PING_GRACE_S,
        lifespan="off",
        log_config=None,
        proxy_headers=False,
        timeout_graceful_shutdown=5,
    )


@contextlib.asynccontextmanager
async def run_gateway(
    tmp_path: Path,
    secrets: SecretWatch,
    *,
    users: Mapping[str, str] = USERS,
    extensions: tuple[Extension, ...] = (),
    port: int = 0,
    policy: str = POLICY,
    road: Road = Road.WIRE,
    **settings: str,
) -> AsyncIterator[RunningGateway]:
    """Serve a gateway; settings are named as in the environment, in lower case and without the prefix."""
    sockets = listen("127.0.0.1", port)
    served = listening_port(sockets)
    policy_dir = tmp_path / "policies"
    policy_dir.mkdir(exist_ok=True)
    (policy_dir / "policy.yaml").write_text(policy)
    environment = {
        "GATEWAY_ENVIRONMENT": "production",
        "GATEWAY_SECRET_KEY": secrets.watch(SECRET_KEY, "master secret"),
        "GATEWAY_DATA_DIR": str(tmp_path / "data"),
        "GATEWAY_PUBLIC_URL": f"http://127.0.0.1:{served}",
        "GATEWAY_DRAIN_S": "0",
        "GATEWAY_POLICY_DIR": str(policy_dir),
        **{f"GATEWAY_{name.upper()}": value for name, value in settings.items()},
    }
    loaded: Settings = load_settings(environment)
    log_path = secrets.log_file("gateway")
    stream = log_path.open("ab", buffering=0)
    log = configure_logging(level=loaded.log_level, readable=False, stream=stream)
    try:
        async with open_gateway(loaded, extensions=extensions, log=log) as gateway:
            server = GatewayServer(served_by(road, gateway), gateway.lifecycle.drain)
            serving = asyncio.create_task(server.serve(sockets))
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{served}", timeout=WAIT_S) as http:
                running = RunningGateway(
                    gateway,
                    server,
                    served,
                    log_path,
                    secrets,
                    serving,
                    http,
                    policy_dir / "policy.yaml",
                    dict(users),
                    road,
                )
                assert (await http.get("/healthz")).status_code == 200  # clients wait in the backlog until it serves
                try:
                    yield running
                finally:
                    await running.peers.aclose()
                    await running.stop()
    finally:
        configure_logging(level="error", readable=False, stream=None)
        stream.close()
