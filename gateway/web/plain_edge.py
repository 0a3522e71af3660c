"""What the gateway's own protocol classes refuse before an upgrade, refused by the application on any other server.

Owns floods and drains on plain ASGI. Refuses to own what an application cannot see: heads that are too large or too late, and
sockets that nobody reads. It costs what a refusal should not, the server's work for a whole request, but no token is proven for it.
"""

from __future__ import annotations

import math

from fastapi import WebSocket
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.core.addresses import address_key
from gateway.web.edge import WIRE_EXTENSION, Edge
from gateway.web.problems import problem_response
from gateway.web.remote import remote_address
from gateway.web.websocket import deny


class PlainEdge:
    """Refuses upgrades of a node that drains, and floods of them, where no protocol class of ours has done so.

    Args:
        app: The application.
        edge: Who is refused.
    """

    def __init__(self, app: ASGIApp, edge: Edge) -> None:
        self._app = app
        self._edge = edge

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer it."""
        if scope["type"] != "websocket" or WIRE_EXTENSION in (scope.get("extensions") or {}):
            await self._app(scope, receive, send)
            return
        edge, websocket = self._edge, WebSocket(scope, receive, send)
        if edge.draining():
            edge.metrics.connection_attempt("draining")
            await deny(websocket, problem_response(503, "draining", {"Retry-After": "1"}))
            return
        wait_s = edge.floods.take(address_key(remote_address(websocket, edge.trusted_proxies)), edge.clock())
        if wait_s > 0:
            edge.metrics.connection_attempt("flood")
            await deny(websocket, problem_response(429, "", {"Retry-After": str(math.ceil(wait_s))}))
            return
        await self._app(scope, receive, send)
