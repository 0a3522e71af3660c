"""Who a request comes from, behind proxies or not, and the key that limits by address count it under.

Owns the reading of peer addresses and of `X-Forwarded-For` and `X-Forwarded-Proto`. Refuses to own which proxies are trusted
(a setting) and where the headers come from.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from functools import lru_cache

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address

# A site gets a /64 at least (RFC 6177), so that one host owns 2^64 addresses: counting them singly would count nothing.
_IPV6_SITE_BITS = 64
# With brackets, port and a zone; what is longer is none, and not kept.
_MAX_ADDRESS_CHARS = 80
_ADDRESSES_KEPT = 4096
_SCHEMES = {"http": "http", "ws": "http", "https": "https", "wss": "https"}


def parse_address(text: str) -> Address | None:
    """Read one address, with or without brackets, port and zone, IPv4-mapped IPv6 as IPv4; None where it is none."""
    text = text.strip()
    return None if len(text) > _MAX_ADDRESS_CHARS else _parse(text)


@lru_cache(_ADDRESSES_KEPT)  # a handshake asks four times, and reconnecting clients again
def _parse(text: str) -> Address | None:
    if text.startswith("["):
        text, bracket, port = text[1:].partition("]")
        if not bracket or not _is_port_suffix(port):
            return None
    elif text.count(":") == 1:
        text, _, port = text.partition(":")
        if not _is_port_suffix(f":{port}"):
            return None
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def _is_port_suffix(text: str) -> bool:
    return not text or (text[0] == ":" and text[1:].isascii() and text[1:].isdigit())


def is_trusted(peer: str, trusted: Sequence[Network]) -> bool:
    """Tell whether `peer` is one of the trusted proxies."""
    address = parse_address(peer)
    return address is not None and _among(address, trusted)


def _among(address: Address, networks: Sequence[Network]) -> bool:
    return any(address in network for network in networks)


def client_address(peer: str, forwarded_for: Iterable[str], trusted: Sequence[Network]) -> str:
    """Find the client: the last entry of `X-Forwarded-For` that is no trusted proxy, where a trusted proxy sent it.

    Each trusted hop vouches for the entry before it. So the walk goes backwards and ends at the first hop that is not trusted,
    at something that is no address (what stands before it is hearsay), or at the first entry.

    Args:
        peer: The address at the other end of the socket; empty where there is none (a UNIX socket).
        forwarded_for: The values of every `X-Forwarded-For` field, in order.
        trusted: The networks of the trusted proxies.
    """
    nearest = parse_address(peer)
    if nearest is None:
        return peer
    if not _among(nearest, trusted):
        return str(nearest)
    entries = [entry for value in forwarded_for for entry in value.split(",")]
    for entry in reversed(entries):
        hop = parse_address(entry)
        if hop is None:
            break
        nearest = hop
        if not _among(hop, trusted):
            break
    return str(nearest)


def client_scheme(peer: str, scheme: str, forwarded_proto: Iterable[str], trusted: Sequence[Network]) -> str:
    """Find the scheme that the client used: `http` or `https`.

    Of several values the last counts: it is the word of the proxy that we know.

    Args:
        peer: The address at the other end of the socket.
        scheme: The scheme of that socket: http, https, ws or wss.
        forwarded_proto: The values of every `X-Forwarded-Proto` field, in order.
        trusted: The networks of the trusted proxies.
    """
    own = _SCHEMES.get(scheme, "http")
    entries = [entry.strip().lower() for value in forwarded_proto for entry in value.split(",")]
    if not entries or not is_trusted(peer, trusted):
        return own
    return _SCHEMES.get(entries[-1], own)


def address_key(address: str) -> str:
    """Give the key that limits by address count under: IPv4 as it is, IPv6 by /64, anything else unchanged."""
    return address if len(address) > _MAX_ADDRESS_CHARS else _key(address)


@lru_cache(_ADDRESSES_KEPT)
def _key(address: str) -> str:
    parsed = parse_address(address)
    if parsed is None:
        return address
    if isinstance(parsed, ipaddress.IPv4Address):
        return str(parsed)
    return str(ipaddress.IPv6Network((parsed, _IPV6_SITE_BITS), strict=False))
