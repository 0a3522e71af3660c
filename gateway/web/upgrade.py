"""A well-formed upgrade request, on its way from the HTTP protocol class to the WebSocket one. Owns its readings, decides nothing."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import unquote

from websockets.datastructures import Headers
from websockets.http11 import Request

_HANDSHAKE_FIELDS = frozenset(
    {b"connection", b"upgrade", b"sec-websocket-key", b"sec-websocket-version", b"sec-websocket-extensions"}
)


@dataclass(frozen=True, slots=True)
class Upgrade:
    """A request for a WebSocket that has passed the checks of RFC 9112 and RFC 6455, section 4.2.1.

    Args:
        raw_path: The path as it came, ASCII.
        query: The query as it came, ASCII.
        headers: All fields, names in lower case.
    """

    raw_path: bytes
    query: bytes
    headers: list[tuple[bytes, bytes]]

    @property
    def path(self) -> str:
        """Give the path with its escapes undone."""
        return unquote(self.raw_path.decode("ascii"))

    @property
    def offered(self) -> list[str]:
        """Give the subprotocols in the order of the offer."""
        values = [value.decode("latin-1") for name, value in self.headers if name == b"sec-websocket-protocol"]
        return [offer for value in values for token in value.split(",") if (offer := token.strip())]

    def for_websockets(self) -> Request:
        """Give what websockets reads of it. Origins and subprotocols are the gateway's own matter, as are their refusals."""
        fields = [(n.decode("ascii"), v.decode("latin-1")) for n, v in self.headers if n in _HANDSHAKE_FIELDS]
        return Request(self.raw_path.decode("ascii"), Headers(fields))
