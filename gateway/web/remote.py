"""Where a request comes from, as the trusted proxies tell it. One reading for HTTP and WebSocket, on any ASGI server."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.requests import HTTPConnection

from gateway.core.addresses import Network, client_address, client_scheme


def peer_address(connection: HTTPConnection) -> str:
    """Give the address at the other end of the socket; empty where there is none."""
    return connection.client.host if connection.client is not None else ""


def remote_address(connection: HTTPConnection, trusted: Sequence[Network]) -> str:
    """Give the client's address: the peer's, or where a trusted proxy says it stands for somebody, that one's."""
    return client_address(peer_address(connection), connection.headers.getlist("x-forwarded-for"), trusted)


def remote_scheme(connection: HTTPConnection, trusted: Sequence[Network]) -> str:
    """Give the scheme that the client used, `http` or `https`; as above."""
    forwarded = connection.headers.getlist("x-forwarded-proto")
    return client_scheme(peer_address(connection), connection.scope.get("scheme", "http"), forwarded, trusted)
