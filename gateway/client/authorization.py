"""Tokens and tickets over HTTP: what a client needs before it can connect.

Owns `/token` and `/ws/ticket` as a client sees them. Refuses to own when a new token is wanted: see `client`.
"""

from __future__ import annotations

import base64
import ssl
import time
from dataclasses import dataclass, field
from typing import Protocol, TypeVar
from urllib.parse import quote_plus, urlsplit

import httpx
import msgspec

from gateway.client.errors import LoginRefusedError, UnreachableError, network_reason
from gateway.core.signing import decode_base64url, derive_ticket_key

TIMEOUT_S = 30.0

Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class Tokens:
    """What a login gives. Its representation holds no secret.

    Args:
        access_token: The token for the `Authorization` header.
        signing_key: The 32 bytes that signed connections start from; None for another issuer's token.
        refresh_token: What gets the next access token without the password; None for service accounts.
        expires_at: Unix seconds of this machine's clock after which the access token is no longer good.
        roles: The roles that the token carries.
    """

    access_token: str = field(repr=False)
    signing_key: bytes | None = field(default=None, repr=False)
    refresh_token: str | None = field(default=None, repr=False)
    expires_at: float = 0.0
    roles: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Ticket:
    """A credential for one connection within seconds, good for a URL.

    Args:
        ticket: The characters of it.
        signing_key: The key that signed connections with this ticket start from.
    """

    ticket: str = field(repr=False)
    signing_key: bytes | None = field(default=None, repr=False)


class _TokenAnswer(msgspec.Struct):
    access_token: str
    expires_in: float = 0
    refresh_token: str | None = None
    scope: str = ""
    signing_key: str | None = None


class _TicketAnswer(msgspec.Struct):
    ticket: str
    expires_in: float = 0
    signing_key: str | None = None


class _Refusal(msgspec.Struct):
    error: str = ""
    error_description: str = ""


class Login(Protocol):
    """Who logs in, and with what."""

    async def tokens(self, authorization: Authorization) -> Tokens:
        """Get tokens from the start, without an earlier one.

        Raises:
            LoginRefusedError: The gateway gave none.
            UnreachableError: It did not answer.
        """
        ...


@dataclass(frozen=True, slots=True)
class PasswordLogin:
    """A user with a password.

    Args:
        username: The account.
        password: Its password.
        scope: Roles to be narrowed to; all of the account's where empty.
    """

    username: str
    password: str = field(repr=False)
    scope: tuple[str, ...] = ()

    async def tokens(self, authorization: Authorization) -> Tokens:
        """Ask with the password grant (RFC 6749 section 4.3)."""
        form = {"grant_type": "password", "username": self.username, "password": self.password}
        return await authorization.grant(_scoped(form, self.scope))


@dataclass(frozen=True, slots=True)
class ServiceLogin:
    """A service account.

    Args:
        client_id: The account.
        client_secret: Its secret.
        scope: Roles to be narrowed to; all of the account's where empty.
    """

    client_id: str
    client_secret: str = field(repr=False)
    scope: tuple[str, ...] = ()

    async def tokens(self, authorization: Authorization) -> Tokens:
        """Ask with the client credentials grant (RFC 6749 section 4.4)."""
        form = _scoped({"grant_type": "client_credentials"}, self.scope)
        return await authorization.grant(form, basic=(self.client_id, self.client_secret))


@dataclass(frozen=True, slots=True)
class TokenLogin:
    """Tokens that were got elsewhere; there are no others when they end, unless one of them refreshes.

    Args:
        held: The tokens.
    """

    held: Tokens

    async def tokens(self, authorization: Authorization) -> Tokens:  # noqa: ARG002 - nobody needs to be asked
        """Give the tokens that are there."""
        return self.held


def _basic(client_id: str, client_secret: str) -> str:
    """Write client credentials for the header, each part form-encoded first (RFC 6749 section 2.3.1)."""
    pair = f"{quote_plus(client_id)}:{quote_plus(client_secret)}"
    return f"Basic {base64.b64encode(pair.encode()).decode('ascii')}"


def _scoped(form: dict[str, str], scope: tuple[str, ...]) -> dict[str, str]:
    return {**form, "scope": " ".join(scope)} if scope else form


class Authorization:
    """The HTTP side of one gateway.

    Args:
        base_url: Where the gateway is, such as `https://gateway.example.com`.
        http: A client of your own; else one is made, and closed by `close`.
        tls: What certificates count, where no client of your own says so; the system's by default.
    """

    def __init__(
        self, base_url: str, http: httpx.AsyncClient | None = None, *, tls: ssl.SSLContext | None = None
    ) -> None:
        self.base_url = http_url(base_url)
        # What stands in the environment for the way out of a company must not stand between a developer and localhost.
        self._http = http or httpx.AsyncClient(
            timeout=TIMEOUT_S, trust_env=not is_loopback(self.base_url), verify=tls or True
        )
        self._owned = http is None

    async def close(self) -> None:
        """Close the connections that `Authorization` made itself."""
        if self._owned:
            await self._http.aclose()

    async def refresh(self, tokens: Tokens) -> Tokens:
        """Get the next access token for a refresh token, which is spent by it (RFC 6749 section 6).

        Raises:
            LoginRefusedError: The gateway gave none.
            UnreachableError: It did not answer.
        """
        if tokens.refresh_token is None:
            raise LoginRefusedError("invalid_grant", "these tokens have no refresh token", 400)
        return await self.grant({"grant_type": "refresh_token", "refresh_token": tokens.refresh_token})

    async def ticket(self, tokens: Tokens, origin: str | None = None) -> Ticket:
        """Get a ticket, and with it the signing key that belongs to it.

        Args:
            tokens: Whose ticket it shall be.
            origin: The only origin that it shall be good from.

        Raises:
            LoginRefusedError: The gateway gave none.
            UnreachableError: It did not answer.
        """
        body = {} if origin is None else {"origin": origin}
        headers = {"Authorization": f"Bearer {tokens.access_token}"}
        answer = _read(await self._post("/ws/ticket", headers=headers, json=body), _TicketAnswer)
        if tokens.signing_key is not None:
            return Ticket(answer.ticket, derive_ticket_key(tokens.signing_key, answer.ticket))
        return Ticket(answer.ticket, _key(answer.signing_key))

    async def grant(self, form: dict[str, str], basic: tuple[str, str] | None = None) -> Tokens:
        """Ask `/token` for tokens.

        Args:
            form: The fields of the grant.
            basic: A client's id and secret.

        Raises:
            LoginRefusedError: The gateway gave none.
            UnreachableError: It did not answer.
        """
        now = time.time()
        headers = {} if basic is None else {"Authorization": _basic(*basic)}
        answer = _read(await self._post("/token", data=form, headers=headers), _TokenAnswer)
        return Tokens(
            answer.access_token,
            _key(answer.signing_key),
            answer.refresh_token,
            now + answer.expires_in,
            tuple(answer.scope.split()),
        )

    async def _post(
        self,
        path: str,
        *,
        data: dict[str, str] | None = None,
        json: object = None,
        headers: dict[str, str] | None = None,
    ) -> httpx.Response:
        try:
            return await self._http.post(self.base_url + path, data=data, json=json, headers=headers)
        except httpx.HTTPError as wrong:
            raise UnreachableError(f"no answer from `{self.base_url}`: {network_reason(wrong)}") from wrong


def http_url(url: str) -> str:
    """Give the HTTP address of a gateway from that or from its WebSocket address.

    Raises:
        ValueError: It is neither.
    """
    parts = urlsplit(url if "://" in url else f"http://{url}")
    scheme = {"ws": "http", "wss": "https"}.get(parts.scheme, parts.scheme)
    if scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError(f"`{url}` is no address of a gateway")
    path = parts.path.rstrip("/").removesuffix("/ws")
    return f"{scheme}://{parts.netloc}{path}"


def is_loopback(url: str) -> bool:
    """Tell whether an address is of this machine."""
    host = urlsplit(url).hostname or ""
    return host in {"localhost", "::1"} or host.startswith("127.")


def _read(response: httpx.Response, kind: type[Answer]) -> Answer:
    if response.status_code != httpx.codes.OK:
        raise _refused(response)
    try:
        return msgspec.json.decode(response.content, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError) as wrong:
        raise UnreachableError(f"`{response.url}` answered, but not as a gateway does") from wrong


def _refused(response: httpx.Response) -> LoginRefusedError | UnreachableError:
    try:
        refusal = msgspec.json.decode(response.content, type=_Refusal)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        refusal = _Refusal()
    if not refusal.error and response.status_code != httpx.codes.UNAUTHORIZED:
        return UnreachableError(f"`{response.url}` answered with HTTP {response.status_code}, not as a gateway does")
    return LoginRefusedError(
        refusal.error or "invalid_token",
        refusal.error_description,
        response.status_code,
        retry_after(response.headers.get("retry-after")),
    )


def retry_after(header: str | None) -> float | None:
    """Read `Retry-After` in its seconds form (RFC 9110 section 10.2.3)."""
    return float(header) if header is not None and header.isascii() and header.isdigit() else None


def _key(text: str | None) -> bytes | None:
    return None if text is None else decode_base64url(text)
