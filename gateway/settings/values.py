"""The kinds of values that settings take: each turns the text of a variable, or a TOML value, into a checked one.

Owns the form of single values. Refuses to own which setting takes which, and every rule between two settings.
"""

from __future__ import annotations

import ipaddress
import re
from pathlib import Path
from typing import Annotated
from urllib.parse import SplitResult, urlsplit

from pydantic import AfterValidator, BeforeValidator

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

MIN_SECRET_BYTES = 32
MIN_SECRET_CHARACTERS = 10
# Pieces of what documentation, charts and examples write where a secret belongs; no random secret has one by chance.
PLACEHOLDERS = (
    "change-me",
    "change_me",
    "changeme",
    "replace-me",
    "replace_me",
    "replaceme",
    "placeholder",
    "your-secret",
)
DEFAULT_PORTS = {"http": 80, "https": 443, "ws": 80, "wss": 443}

_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(:[0-9]{1,5})?")
_BEARER = re.compile(r"[A-Za-z0-9._~+/-]+=*")


def secret_weakness(secret: str) -> str:
    """Tell what makes a secret guessable; the empty string where nothing shows."""
    if len(secret.encode()) < MIN_SECRET_BYTES:
        return f"is shorter than {MIN_SECRET_BYTES} bytes"
    if len(set(secret)) < MIN_SECRET_CHARACTERS:
        return f"has fewer than {MIN_SECRET_CHARACTERS} distinct characters"
    if any(placeholder in secret.lower() for placeholder in PLACEHOLDERS):
        return "is a placeholder from an example"
    return ""


def _on_off(value: object) -> object:
    if isinstance(value, bool):
        return value
    match value.strip().lower() if isinstance(value, str) else value:
        case "on":
            return True
        case "off":
            return False
        case _:
            raise ValueError(f"`{value}` is neither `on` nor `off`")


def _no_bool(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("is a boolean where a number belongs; give a number")  # noqa: TRY004 - pydantic collects ValueError
    return value


def _items(value: object) -> object:
    if isinstance(value, str):
        return tuple(item for item in (part.strip() for part in value.split(",")) if item)
    if isinstance(value, list | tuple):
        return tuple(value)
    raise ValueError("is no list; separate entries with commas, or give a TOML array")


def _lower(value: object) -> object:
    return value.strip().lower() if isinstance(value, str) else value


def _network(value: object) -> Network:
    if isinstance(value, Network):
        return value
    try:
        return ipaddress.ip_network(str(value))
    except ValueError as wrong:
        raise ValueError(f"{_network_problem(str(value))}; give networks such as `10.0.0.0/8, fd00::/8`") from wrong


def _network_problem(text: str) -> str:
    try:
        wider = ipaddress.ip_network(text, strict=False)
    except ValueError:
        return f"`{text}` is no network"
    return f"`{text}` is an address within a network, which is written `{wider}`"


def _origin(value: str) -> str:
    if value == "*":
        return value
    origin = value.lower()
    if origin == "null" or not _ORIGIN.fullmatch(origin):
        raise ValueError(
            f"`{value}` is no origin; give scheme, host and port without a path, such as `https://app.example.com`"
        )
    scheme, _, authority = origin.partition("://")
    return f"{scheme}://{authority.removesuffix(f':{DEFAULT_PORTS.get(scheme)}')}"


def _split_url(value: str) -> SplitResult:
    try:
        url = urlsplit(value)
        _ = url.port  # a port that is none raises here, not in the server
    except ValueError as wrong:
        raise ValueError(
            f"`{without_password(value)}` is no URL; give one such as `https://gateway.example.com`"
        ) from wrong
    return url


def _public_url(value: str) -> str:
    url = _split_url(value)
    if url.scheme not in {"http", "https"} or not url.hostname:
        raise ValueError(
            f"`{without_password(value)}` is no web address; give one such as `https://gateway.example.com`"
        )
    if url.query or url.fragment or "@" in url.netloc:
        raise ValueError("has a query, a fragment or a user name; give scheme, host and port only")
    return value.rstrip("/")


def _database_url(value: str) -> str:
    scheme, separator, rest = value.partition("://")
    if scheme == "sqlite+aiosqlite" and separator and rest.startswith("/"):
        return value
    if scheme == "postgresql+asyncpg" and rest:
        return value
    # What has no scheme may be all password: it is not repeated.
    raise ValueError(
        f"{f'`{scheme}://`' if separator else 'it'} is no database that the gateway knows;"
        " give `sqlite+aiosqlite:///PATH` or `postgresql+asyncpg://USER:PASSWORD@HOST/NAME`"
    )


def _broker_url(value: str) -> str:
    if value == "memory://":
        return value
    scheme, separator, rest = value.partition("://")
    if scheme in {"redis", "rediss"} and separator and rest:
        return value
    raise ValueError(
        f"`{scheme}://` is no broker that the gateway knows; give `memory://`, `redis://…` or `rediss://…`"
    )


def _bearer(value: str) -> str:
    if not _BEARER.fullmatch(value):
        raise ValueError("has characters that no bearer token can have (RFC 6750); use letters, digits and `-._~+/`")
    return value


def _absolute(value: Path) -> Path:
    return value.expanduser().absolute()


OnOff = Annotated[bool, BeforeValidator(_on_off)]
Whole = Annotated[int, BeforeValidator(_no_bool)]
Number = Annotated[float, BeforeValidator(_no_bool)]
Items = Annotated[tuple[str, ...], BeforeValidator(_items)]
Origins = Annotated[tuple[Annotated[str, AfterValidator(_origin)], ...], BeforeValidator(_items)]
Networks = Annotated[tuple[Annotated[Network, BeforeValidator(_network)], ...], BeforeValidator(_items)]
Word = BeforeValidator(_lower)
PublicUrl = Annotated[str, AfterValidator(_public_url)]
DatabaseUrl = Annotated[str, AfterValidator(_database_url)]
BrokerUrl = Annotated[str, AfterValidator(_broker_url)]
AbsolutePath = Annotated[Path, AfterValidator(_absolute)]


def bearer_token(value: str) -> str:
    """Check the form of a bearer token that an operator chose."""
    return _bearer(value)


def without_password(url: str) -> str:
    """Give a URL with its password masked, for what people and logs see."""
    scheme, separator, rest = url.partition("://")
    if not separator:
        return url
    userinfo, at, place = rest.rpartition("@")
    if not at:
        return _mask_query(url)
    user, colon, _ = userinfo.partition(":")
    return _mask_query(f"{scheme}://{user}{':**********' if colon else ''}@{place}")


def _mask_query(url: str) -> str:
    return re.sub(r"(?i)([?&](?:password|passwd|token|secret)=)[^&]*", r"\1**********", url)
