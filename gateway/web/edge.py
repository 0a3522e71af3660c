"""What the protocol classes know of the gateway, and how uvicorn hands it to them.

Owns the limits of the edge, and what all of its connections share: what they have read, and where crowds wait. uvicorn makes a protocol object for each connection and gives it nothing but its own
configuration, so the configuration carries the rest.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import uvicorn

from gateway.core.addresses import Network
from gateway.core.floods import FloodGate
from gateway.core.frames import Encoding
from gateway.core.wire_frames import BINARY, TEXT
from gateway.runtime.ports import Metrics
from gateway.web.turnstile import Turnstile
from gateway.web.wire_parser import whole_messages
from gateway.web.wire_reads import Reads

WIRE_EXTENSION = "gateway.wire"
"""The name in `scope["extensions"]` under which our protocol class stands, for what ASGI has no word for."""


@dataclass(frozen=True, slots=True)
class EdgeLimits:
    """Bounds on what an HTTP peer may cost before anybody knows who it is.

    Args:
        head_bytes: The request line and all fields of one request, also of its trailer.
        head_s: Seconds until a head that has begun, or the first one of a connection, must be there.
        body_bytes: The content of one request.
        body_s: Seconds until a body must be there.
        keep_alive_s: Seconds that a connection may be idle between two requests.
        pipelined: Requests that may wait for the one before them.
        heard_per_turn: Connections that are heard in one turn of the loop, before they have become WebSockets.
        ends_per_turn: WebSockets whose end is told in one turn of the loop.
        refused_s: Seconds that a refused peer has to read its answer and go.
        stalled_s: Seconds that a peer may leave a full send buffer unread.
        close_s: Seconds that a close frame may stay unanswered.
    """

    head_bytes: int = 16_384
    head_s: float = 10.0
    body_bytes: int = 65_536
    body_s: float = 10.0
    keep_alive_s: float = 15.0
    pipelined: int = 16
    heard_per_turn: int = 4
    ends_per_turn: int = 16
    refused_s: float = 2.0
    stalled_s: float = 30.0
    close_s: float = 5.0


@dataclass(frozen=True, slots=True)
class Edge:
    """What the protocol classes ask of the gateway.

    Args:
        metrics: Where refused upgrades are counted.
        draining: Whether upgrades are answered with 503.
        floods: Who asks for too many handshakes.
        trusted_proxies: Whose `X-Forwarded-For` counts.
        limits: The bounds of the HTTP edge.
        clock: Seconds on a clock that never runs backwards.
    """

    metrics: Metrics
    draining: Callable[[], bool]
    floods: FloodGate
    trusted_proxies: tuple[Network, ...] = ()
    limits: EdgeLimits = field(default=EdgeLimits())
    clock: Callable[[], float] = time.monotonic


class EdgeConfig(uvicorn.Config):
    """uvicorn's configuration, and the edge.

    Args:
        app: The ASGI application.
        edge: What the protocol classes ask of the gateway.
        options: What uvicorn takes.
    """

    def __init__(self, app: Any, edge: Edge, **options: Any) -> None:  # noqa: ANN401 - uvicorn's own types
        super().__init__(app, **options)
        self.edge = edge
        self.door = Turnstile(edge.limits.heard_per_turn)
        """What requests wait at, those for a WebSocket among them."""
        self.exit = Turnstile(edge.limits.ends_per_turn)
        """What the end of a WebSocket waits at before it is told."""
        self.reads = {
            encoding: Reads(whole_messages(first, self.ws_max_size), edge.metrics.traffic)
            for encoding, first in ((Encoding.JSON, TEXT), (Encoding.MSGPACK, BINARY))
        }
        """What takes the messages of all connections of an encoding."""
