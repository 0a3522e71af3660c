"""Which web origins may talk to the gateway: one rule for the WebSocket and for CORS.

Owns the reading and comparing of origins (RFC 6454). Refuses to own what happens to a request whose origin is refused.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit

_DEFAULT_PORTS = {"http": 80, "https": 443}
ANY_ORIGIN = "*"


def parse_origin(text: str) -> str | None:
    """Write an origin as browsers do: lower case, no default port; None where it is no origin of the web (`null` is none)."""
    parts = _split(text)
    if parts is None or parts.path or parts.query or parts.fragment or text.endswith(("?", "#")):
        return None
    return _origin_of(parts)


def url_origin(url: str) -> str | None:
    """Give the origin of a URL; None where it has none."""
    parts = _split(url)
    return None if parts is None else _origin_of(parts)


def _split(text: str) -> SplitResult | None:
    # urlsplit drops tabs, line breaks and leading controls silently: what has them is not what a browser sends.
    if not text.isascii() or not text.isprintable() or " " in text or "\\" in text:
        return None
    try:
        return urlsplit(text)
    except ValueError:
        return None


def _origin_of(parts: SplitResult) -> str | None:
    try:
        port = parts.port
    except ValueError:
        return None
    host = parts.hostname
    if parts.scheme not in _DEFAULT_PORTS or not host or "@" in parts.netloc or parts.netloc.endswith(":"):
        return None
    if ":" in host:
        host = f"[{host}]"
    return (
        f"{parts.scheme}://{host}"
        if port in {None, _DEFAULT_PORTS[parts.scheme]}
        else f"{parts.scheme}://{host}:{port}"
    )


def is_loopback(origin: str) -> bool:
    """Tell whether a normalized origin is on this very machine, as the names and addresses of RFC 6761 say it."""
    host = urlsplit(origin).hostname or ""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@dataclass(frozen=True, slots=True)
class OriginRule:
    """The origins that may connect.

    Args:
        public: The origin of the public URL; None where it has none.
        allowed: Further origins, normalized; `*` allows all.
        loopback: Whether all origins on loopback hosts may too (development).
    """

    public: str | None = None
    allowed: frozenset[str] = frozenset()
    loopback: bool = False

    @classmethod
    def build(cls, public_url: str, allowed: Iterable[str], *, loopback: bool) -> OriginRule:
        """Make the rule from the settings, whose origins have been validated."""
        origins = {ANY_ORIGIN if origin == ANY_ORIGIN else parse_origin(origin) for origin in allowed}
        return cls(url_origin(public_url), frozenset(origin for origin in origins if origin is not None), loopback)

    def allows(self, origin: str, own: str | None = None) -> bool:
        """Tell whether a request from `origin` may go on.

        Args:
            origin: The value of the `Origin` field; `null` and all that is no origin are refused.
            own: Scheme and Host of the request, as an origin, where it has them.
        """
        normal = parse_origin(origin)
        if normal is None:
            return False
        if normal in self.allowed or normal == self.public or ANY_ORIGIN in self.allowed:
            return True
        if own is not None and normal == parse_origin(own):
            return True
        return self.loopback and is_loopback(normal)
