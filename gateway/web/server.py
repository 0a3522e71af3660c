"""The server: listening sockets, uvicorn's configuration for the edge, signals, and an end within a bound.

Owns how the process listens and stops. Refuses to own what a drain does (`runtime.lifecycle`) and what is served.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import signal
import socket
import threading
from collections.abc import Awaitable, Callable, Generator, Sequence
from typing import Any

import uvicorn
from uvicorn.config import Config

from gateway.core.errors import GatewayError
from gateway.web.edge import Edge, EdgeConfig
from gateway.web.http_protocol import GatewayHttpProtocol
from gateway.web.wire import WireProtocol

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_BACKLOG = 2048
_GRACE_S = 5


class ListenError(GatewayError):
    """The address cannot be listened on; the message says which and why, in one line."""


def listen(host: str, port: int) -> list[socket.socket]:
    """Bind the listening sockets, before anything else is built: with port 0 the address served is known from here on.

    Args:
        host: An address, or a name: every address that it has is bound.
        port: The port; 0 for any free one, the same on all addresses.

    Raises:
        ListenError: One of them cannot be bound.
    """
    bound: list[socket.socket] = []
    try:
        for family, kind, protocol, _, address in _addresses(host, port):
            listener = socket.socket(family, kind, protocol)
            bound.append(listener)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            listener.setblocking(False)
            listener.bind((address[0], port or listening_port(bound), *address[2:]))
            # Listening now, so that two servers on one port show it here, in one line, and not later.
            listener.listen(_BACKLOG)
    except OSError as error:
        for listener in bound:
            listener.close()
        raise ListenError(_listen_failure(host, port, error)) from error
    return bound


def _addresses(host: str, port: int) -> list[Any]:
    found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    return list(dict.fromkeys(found))


def _listen_failure(host: str, port: int, error: OSError) -> str:
    where = f"cannot listen on `{host}` port `{port}`"
    match error.errno:
        case errno.EADDRINUSE:
            return f"{where}: something else listens there; stop it or choose another port with `--port` (`PORT=` before `make run`)"
        case errno.EACCES:
            return f"{where}: not permitted; choose a port above 1023 with `--port`"
        case errno.EADDRNOTAVAIL:
            return f"{where}: this machine has no such address; choose another one with `--host`"
        case _:
            return f"{where}: {(error.strerror or str(error)).lower()}"


def listening_port(listeners: Sequence[socket.socket]) -> int:
    """Give the port that the sockets listen on; 0 before the first is bound."""
    return int(listeners[0].getsockname()[1]) if listeners else 0


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Give what makes the event loop: uvloop where it is installed, else None for asyncio's own."""
    return Config("", loop="auto", log_config=None).get_loop_factory()


def build_config(
    app: Any,  # noqa: ANN401 - any ASGI application
    edge: Edge,
    *,
    max_frame_bytes: int = 65_536,
    compression: bool = False,
    http: type[asyncio.Protocol] = GatewayHttpProtocol,
    ws: type[asyncio.Protocol] = WireProtocol,
) -> EdgeConfig:
    """Make uvicorn's configuration.

    Args:
        app: The ASGI application.
        edge: What the protocol classes ask of the gateway.
        max_frame_bytes: The largest message from a client, after inflation.
        compression: Whether permessage-deflate is negotiated.
        http: The HTTP protocol class.
        ws: The WebSocket protocol class that it hands upgrades to.
    """
    return EdgeConfig(
        app,
        edge,
        http=http,
        ws=ws,
        ws_max_size=max_frame_bytes,
        ws_per_message_deflate=compression,
        # The gateway pings and times connections itself.
        ws_ping_interval=None,
        ws_ping_timeout=None,
        interface="asgi3",
        lifespan="off",
        # uvicorn's own lines would repeat the gateway's, and those about WebSockets hold the query with the token.
        log_config=None,
        log_level="warning",
        access_log=False,
        # Believing 127.0.0.1 by default would let any local process forge addresses: `remote` reads the headers.
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=edge.limits.keep_alive_s,
        timeout_graceful_shutdown=_GRACE_S,
        backlog=_BACKLOG,
    )


class GatewayServer(uvicorn.Server):
    """uvicorn's server with a staged stop: drain, then stop listening, then end what is left; exit code 0.

    The first SIGTERM or SIGINT starts the drain, a second one ends it at once.

    Args:
        config: The configuration that `build_config` makes.
        drain: Sends the connections away; returns when they have gone, within a bound of its own.
    """

    def __init__(self, config: EdgeConfig, drain: Callable[[], Awaitable[None]]) -> None:
        super().__init__(config)
        self._drain = drain
        self._draining: asyncio.Task[None] | None = None

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        """Leave the signals alone: uvicorn's handlers would close every WebSocket at once, and end with 143."""
        yield

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve until told to stop; return when all has ended."""
        loop = asyncio.get_running_loop()
        handled = _SIGNALS if threading.current_thread() is threading.main_thread() else ()
        for number in handled:
            loop.add_signal_handler(number, self.stop)
        try:
            await super().serve(sockets)
        finally:
            for number in handled:
                loop.remove_signal_handler(number)
            if self._draining is not None:
                self._draining.cancel()
                await asyncio.wait((self._draining,))
        if self._draining is not None and not self._draining.cancelled():
            self._draining.result()

    def stop(self) -> None:
        """Drain and stop; when called again, stop now."""
        if self._draining is None and self.started:
            self._draining = asyncio.get_running_loop().create_task(self._drain_then_exit())
            return
        self.force_exit = self._draining is not None
        self.should_exit = True

    async def _drain_then_exit(self) -> None:
        try:
            await self._drain()
        finally:
            self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End what is left; a peer that does not read ends with the others."""
        await super().shutdown(sockets)
        for connection in list(self.server_state.connections):
            if connection.transport is not None:
                connection.transport.abort()
