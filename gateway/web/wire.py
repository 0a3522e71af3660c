"""uvicorn's WebSocket class: from a well-formed upgrade request to an open wire, or to an answer that says why not.

Owns the handshake: the ASGI application authenticates and accepts, as on any server; what comes too early is kept. It stands in the
scope's extensions, where the endpoint finds it and takes the connection over: the application then returns, and no task, scope or
queue of it outlives the handshake. Refuses to own what happens on an open connection (`open_wire`), and what a request has to look like
(`http_protocol`). No URL is ever logged.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any, ClassVar, cast

from starlette.types import Message, Scope
from uvicorn.protocols.utils import ClientDisconnected
from websockets.exceptions import InvalidHeader
from websockets.utils import accept_key

from gateway.core.errors import Closes
from gateway.core.frames import Encoding
from gateway.web.deflate import negotiate_deflate
from gateway.web.edge import WIRE_EXTENSION, EdgeConfig
from gateway.web.half_close import say_no_more
from gateway.web.open_wire import OpenWire
from gateway.web.problems import PROBLEM_JSON, http_answer, problem_body
from gateway.web.upgrade import Upgrade

if TYPE_CHECKING:
    from uvicorn.server import ServerState

_LOGGER = logging.getLogger("uvicorn.error")


class WireProtocol(asyncio.Protocol):
    """One connection, from its upgrade request to the end of its handshake.

    Args:
        config: uvicorn's configuration with our edge.
        server_state: uvicorn's connections and tasks.
        app_state: The lifespan's state.
    """

    open_wire: ClassVar[type[OpenWire]] = OpenWire
    """What owns the socket behind the handshake."""

    def __init__(
        self,
        config: EdgeConfig,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self._config = config
        self._server_state = server_state
        self._app_state = app_state
        self.linger_s = config.edge.limits.close_s
        """Seconds that a close frame of the handshake may stay unanswered."""
        self._early = bytearray()
        self._request: Upgrade | None = None
        self._extensions = ""
        self._window_bits: int | None = None
        self._wire: OpenWire | None = None
        self._answer_begun: tuple[int, list[tuple[bytes, bytes]], bytes] | None = None
        self._connected = False
        self._answered = False
        self._taken_over = False
        self._gone = asyncio.Event()
        self._reaper: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take a connection over from the HTTP class."""
        self.transport = cast("asyncio.Transport", transport)
        self._server_state.connections.add(self)  # type: ignore[arg-type] # whatever can be shut down is one

    # ------------------------------------------------------------------------------------------ the application

    def upgrade(self, request: Upgrade, early: bytes) -> None:
        """Ask the application.

        Args:
            request: The request, whose form has been checked.
            early: The octets behind its head.
        """
        self._request = request
        self._early += early
        config = self._config
        if config.ws_per_message_deflate:
            try:
                agreed = negotiate_deflate(request.extensions)
            except InvalidHeader:
                self._answer(400, [], problem_body(400, "malformed `Sec-WebSocket-Extensions`"), PROBLEM_JSON)
                return
            if agreed is not None:
                self._extensions, self._window_bits = agreed
        task = asyncio.get_running_loop().create_task(self._run(self._scope(request)))
        task.add_done_callback(self._ended)
        self._server_state.tasks.add(task)

    def _scope(self, request: Upgrade) -> Scope:
        config = self._config
        return {
            "type": "websocket",
            "asgi": {"version": config.asgi_version, "spec_version": "2.4"},
            "http_version": "1.1",
            "scheme": request.scheme,
            "server": request.server,
            "client": request.client,
            "root_path": config.root_path,
            "path": config.root_path + request.path,
            "raw_path": config.root_path.encode("ascii") + request.raw_path,
            "query_string": request.query,
            "headers": request.headers,
            "subprotocols": request.offered,
            "state": self._app_state.copy(),
            "extensions": {"websocket.http.response": {}, WIRE_EXTENSION: self},
        }

    async def _run(self, scope: Scope) -> None:
        await self._config.loaded_app(scope, self._receive, self._send)

    def _ended(self, task: asyncio.Task[None]) -> None:
        """Answer in a way that says how the application ended, where it has left that open."""
        self._server_state.tasks.discard(task)
        if task.cancelled():
            self.transport.abort()
            return
        error = task.exception()
        if error is not None and not isinstance(error, ClientDisconnected):
            _LOGGER.error("Exception in ASGI application\n", exc_info=error)
        if self._wire is not None:
            if error is not None or not self._taken_over:
                self._wire.close(Closes.INTERNAL.code, Closes.INTERNAL.reason, self.linger_s)
        elif not self._answered and not self._gone.is_set():
            self._answer(500, [], problem_body(500), PROBLEM_JSON)

    async def _receive(self) -> Message:
        if not self._connected:
            self._connected = True
            return {"type": "websocket.connect"}
        if self._wire is not None:
            raise RuntimeError(
                "an accepted websocket is taken over, and not received from: see `gateway.web.websocket`"
            )
        await self._gone.wait()
        return {"type": "websocket.disconnect", "code": 1006, "reason": ""}

    async def _send(self, message: Message) -> None:
        if self._gone.is_set():
            raise ClientDisconnected
        match message["type"], self._wire:
            case "websocket.accept", None:
                self._accept(message)
            case "websocket.close", None:
                self._answer(403, [], problem_body(403), PROBLEM_JSON)
            case "websocket.http.response.start", None:
                self._answer_begun = (message["status"], list(message.get("headers", ())), b"")
            case "websocket.http.response.body", None if self._answer_begun is not None:
                status, fields, body = self._answer_begun
                self._answer_begun = (status, fields, body + message.get("body", b""))
                if not message.get("more_body", False):
                    self._answer(*self._answer_begun, None)
            case "websocket.close", OpenWire() as wire:
                wire.close(message.get("code", 1000), message.get("reason") or "", self.linger_s)
            case other, _:
                raise RuntimeError(f"unexpected ASGI message `{other}`")

    # ------------------------------------------------------------------------------------------ the answer

    def _accept(self, message: Message) -> None:
        """Say that both sides speak WebSocket from here on, and let a wire do so; what it says first leaves in the same write."""
        request = cast("Upgrade", self._request)
        fields = [
            (b"upgrade", b"websocket"),
            (b"connection", b"Upgrade"),
            (b"sec-websocket-accept", accept_key(request.key).encode()),
            *self._server_state.default_headers,
            *message.get("headers", ()),
        ]
        if message.get("subprotocol"):
            fields.append((b"sec-websocket-protocol", message["subprotocol"].encode("latin-1")))
        if self._extensions:
            fields.append((b"sec-websocket-extensions", self._extensions.encode("latin-1")))
        self._answered = True
        head = b"HTTP/1.1 101 Switching Protocols\r\n" + b"".join(b"%b: %b\r\n" % field for field in fields) + b"\r\n"
        connections = self._server_state.connections
        connections.discard(self)
        wire = self.open_wire(
            self._config, cast("set[object]", connections), self.transport, self._window_bits, head, bytes(self._early)
        )
        self.transport.set_protocol(wire)
        self._wire, self._request = wire, None

    def take_over(self, encoding: Encoding) -> OpenWire:
        """Give the open connection, to whoever has accepted it; the application may return then.

        Args:
            encoding: What is spoken on it.
        """
        if self._wire is None:
            raise RuntimeError("the websocket has not been accepted")
        self._taken_over = True
        self._wire.speak(encoding)
        return self._wire

    def _answer(self, status: int, fields: list[tuple[bytes, bytes]], body: bytes, content_type: str | None) -> None:
        """Answer the request with something else than an upgrade, and wait a moment for the peer to read it and go."""
        self._answered = True
        self._gone.set()
        transport = self.transport
        if transport.is_closing():
            return
        transport.write(http_answer(status, [*self._server_state.default_headers, *fields], body, content_type))
        self._early.clear()
        transport.resume_reading()
        self._reap_in(say_no_more(transport, self._config.edge.limits.refused_s))

    def _reap_in(self, seconds: float) -> None:
        if self._reaper is not None:
            self._reaper.cancel()
        self._reaper = asyncio.get_running_loop().call_later(seconds, self.transport.abort)

    # ------------------------------------------------------------------------------------------ the socket

    def data_received(self, data: bytes) -> None:
        """Keep what comes before the handshake is complete; of too much, let the peer wait."""
        if self._answered:
            return
        self._early += data
        if len(self._early) > self._config.ws_max_size:
            self.transport.pause_reading()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - why it was lost tells the application nothing
        """Tell the application."""
        self._server_state.connections.discard(self)
        if self._reaper is not None:
            self._reaper.cancel()
        self._gone.set()

    def shutdown(self) -> None:
        """Refuse what the drain has left over: the server stops within a bound."""
        if not self._answered:
            self._answer(503, [(b"retry-after", b"1")], problem_body(503), PROBLEM_JSON)
        self._reap_in(1.0)
