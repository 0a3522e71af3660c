"""A well-formed upgrade request, on its way from the HTTP protocol class to the WebSocket one. Owns its readings, decides nothing."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import unquote


@dataclass(frozen=True, slots=True)
class Upgrade:
    """A request for a WebSocket that has passed the checks of RFC 9112 and RFC 6455, section 4.2.1.

    Args:
        raw_path: The path as it came, ASCII.
        query: The query as it came, ASCII.
        headers: All fields, names in lower case.
        server: Address and port that the connection came to; None on a UNIX socket.
        client: Address and port of the peer; None on a UNIX socket.
        scheme: `ws`, or over TLS `wss`.
    """

    raw_path: bytes
    query: bytes
    headers: list[tuple[bytes, bytes]]
    server: tuple[str, int | None] | None = None
    client: tuple[str, int] | None = None
    scheme: str = "ws"

    @property
    def path(self) -> str:
        """Give the path with its escapes undone."""
        return unquote(self.raw_path.decode("ascii"))

    @property
    def offered(self) -> list[str]:
        """Give the subprotocols in the order of the offer."""
        values = [value.decode("latin-1") for value in self._values(b"sec-websocket-protocol")]
        return [offer for value in values for token in value.split(",") if (offer := token.strip())]

    @property
    def key(self) -> str:
        """Give the one key that the answer is made of."""
        return self._values(b"sec-websocket-key")[0].decode("ascii")

    @property
    def extensions(self) -> list[str]:
        """Give the values of all fields that offer extensions."""
        return [value.decode("latin-1") for value in self._values(b"sec-websocket-extensions")]

    def _values(self, name: bytes) -> list[bytes]:
        return [value for field, value in self.headers if field == name]
