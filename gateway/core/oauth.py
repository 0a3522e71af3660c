"""The vocabulary of OAuth 2.0: errors and their HTTP statuses, and the strict reading of what comes in.

Owns the form of a token request (RFC 6749 appendix B), HTTP Basic (RFC 7617, RFC 6749 section 2.3.1), bearer credentials
(RFC 6750 section 2.1) and scopes. Refuses to own what a grant does with them. Nothing here guesses: what is repeated, badly
encoded or of another type is refused, for two readers of one request must never read two requests.
"""

from __future__ import annotations

import base64
import binascii
import enum
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from gateway.core.errors import GatewayError

MAX_FORM_BYTES = 16_384
MAX_FORM_FIELDS = 64

_FORM_TYPE = "application/x-www-form-urlencoded"
_PERCENT = re.compile(rb"%([0-9A-Fa-f]{2})?")
_SCOPE_TOKEN = re.compile(r"[!#-\[\]-~]+")


class OAuthErrorCode(enum.StrEnum):
    """The `error` of a refused request (RFC 6749 section 5.2, RFC 6750 section 3.1; the last two are of RFC 8628 and 6749)."""

    INVALID_REQUEST = "invalid_request"
    INVALID_CLIENT = "invalid_client"
    INVALID_GRANT = "invalid_grant"
    INVALID_SCOPE = "invalid_scope"
    UNAUTHORIZED_CLIENT = "unauthorized_client"
    UNSUPPORTED_GRANT_TYPE = "unsupported_grant_type"
    SLOW_DOWN = "slow_down"
    TEMPORARILY_UNAVAILABLE = "temporarily_unavailable"


STATUSES = {
    OAuthErrorCode.INVALID_REQUEST: 400,
    OAuthErrorCode.INVALID_CLIENT: 401,
    OAuthErrorCode.INVALID_GRANT: 400,
    OAuthErrorCode.INVALID_SCOPE: 400,
    OAuthErrorCode.UNAUTHORIZED_CLIENT: 400,
    OAuthErrorCode.UNSUPPORTED_GRANT_TYPE: 400,
    OAuthErrorCode.SLOW_DOWN: 429,
    OAuthErrorCode.TEMPORARILY_UNAVAILABLE: 503,
}


class OAuthError(GatewayError):
    """A refused token request.

    Args:
        code: The `error`.
        description: The `error_description`: for a developer, without secrets, printable ASCII without quotes.
        retry_after_s: Seconds after which the request may succeed, for `Retry-After`.
        subject: The account, where there is one; for the log only.
    """

    def __init__(
        self, code: OAuthErrorCode, description: str, retry_after_s: float | None = None, subject: str | None = None
    ) -> None:
        super().__init__(f"{code.value}: {description}")
        self.code = code
        self.description = description
        self.retry_after_s = retry_after_s
        self.subject = subject

    @property
    def status(self) -> int:
        """Give the HTTP status."""
        return STATUSES[self.code]


@dataclass(frozen=True, slots=True)
class ClientCredentials:
    """How a client named itself.

    Args:
        client_id: The name.
        secret: The secret; None where the client gave none.
    """

    client_id: str
    secret: str | None = field(default=None, repr=False)


def _malformed(description: str) -> OAuthError:
    return OAuthError(OAuthErrorCode.INVALID_REQUEST, description)


def parse_form(content_types: Sequence[str], body: bytes) -> dict[str, str]:
    """Read the form of a token request; fields without a value count as left out (RFC 6749 section 3.2).

    Args:
        content_types: The values of every `Content-Type` field.
        body: The whole body.

    Raises:
        OAuthError: `invalid_request`, for whatever is wrong with it.
    """
    if len(content_types) != 1 or content_types[0].partition(";")[0].strip().lower() != _FORM_TYPE:
        raise _malformed(f"the body must be {_FORM_TYPE}")
    if len(body) > MAX_FORM_BYTES:
        raise _malformed(f"the body has more than {MAX_FORM_BYTES} bytes")
    fields = [part for part in body.split(b"&") if part]
    if len(fields) > MAX_FORM_FIELDS:
        raise _malformed(f"the form has more than {MAX_FORM_FIELDS} fields")
    form: dict[str, str] = {}
    for part in fields:
        name, _, value = part.partition(b"=")
        key = _decode(name)
        if key in form:
            raise _malformed("a parameter is repeated")
        form[key] = _decode(value)
    return {name: value for name, value in form.items() if value}


def _decode(part: bytes) -> str:
    return _decode_percent(part.replace(b"+", b" "))


def _decode_percent(part: bytes) -> str:
    def octet(match: re.Match[bytes]) -> bytes:
        digits = match[1]
        if digits is None:
            raise _malformed("a percent sign is not followed by two hexadecimal digits")
        return bytes.fromhex(digits.decode("ascii"))

    try:
        return _PERCENT.sub(octet, part).decode("utf-8")
    except UnicodeDecodeError:
        raise _malformed("a parameter is not UTF-8") from None


def client_of(authorizations: Sequence[str], form: dict[str, str]) -> ClientCredentials | None:
    """Find how the client named itself: by HTTP Basic or in the form, not both (RFC 6749 section 2.3); None where it did not.

    Args:
        authorizations: The values of every `Authorization` field.
        form: The form.

    Raises:
        OAuthError: `invalid_request` for two ways at once, `invalid_client` for an `Authorization` that is not Basic.
    """
    client_id, secret = form.get("client_id"), form.get("client_secret")
    if not authorizations:
        if client_id is None:
            if secret is not None:
                raise _malformed("`client_secret` without `client_id`")
            return None
        return ClientCredentials(client_id, secret)
    if len(authorizations) > 1:
        raise _malformed("`Authorization` is repeated")
    basic = parse_basic(authorizations[0])
    if secret is not None:
        raise _malformed("the client authenticates in two ways at once")
    if client_id is not None and client_id != basic.client_id:
        raise _malformed("`client_id` and `Authorization` name two clients")
    return basic


def parse_basic(authorization: str) -> ClientCredentials:
    """Read HTTP Basic credentials, whose two halves are form-encoded (RFC 6749 section 2.3.1).

    A plus sign stays one: many clients do not encode, and neither names nor secrets of ours have a space that it could mean.

    Raises:
        OAuthError: `invalid_client`.
    """
    scheme, _, encoded = authorization.partition(" ")
    if scheme.lower() != "basic":
        raise OAuthError(OAuthErrorCode.INVALID_CLIENT, "clients authenticate by HTTP Basic or in the form")
    try:
        name, colon, secret = base64.b64decode(encoded.strip(" "), validate=True).partition(b":")
        basic = ClientCredentials(_decode_percent(name), _decode_percent(secret))
    except (binascii.Error, ValueError, OAuthError):
        raise OAuthError(OAuthErrorCode.INVALID_CLIENT, "the Basic credentials cannot be read") from None
    if not colon:
        raise OAuthError(OAuthErrorCode.INVALID_CLIENT, "the Basic credentials have no colon")
    return basic


def parse_bearer(authorizations: Sequence[str]) -> str | None:
    """Find a bearer token; None where there is none, the empty string where `Bearer` stands alone or twice."""
    if len(authorizations) > 1:
        return ""
    for authorization in authorizations:
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() == "bearer":
            return token.strip(" ")
    return None


def parse_scope(scope: str | None) -> frozenset[str] | None:
    """Read a requested scope; None where none was requested.

    Raises:
        OAuthError: `invalid_scope`: it is not written as RFC 6749 section 3.3 has it.
    """
    if scope is None:
        return None
    parts = scope.split(" ")
    if not all(_SCOPE_TOKEN.fullmatch(part) for part in parts):
        raise OAuthError(OAuthErrorCode.INVALID_SCOPE, "a scope is a list of roles with one space between")
    return frozenset(parts)


def narrow(roles: tuple[str, ...], scope: frozenset[str] | None) -> tuple[str, ...] | None:
    """Narrow roles to a requested scope; None where the scope leaves them whole.

    Raises:
        OAuthError: `invalid_scope`: the scope has a role that is not among them.
    """
    if scope is None:
        return None
    if not scope <= set(roles):
        raise OAuthError(OAuthErrorCode.INVALID_SCOPE, "the requested scope has a role that is not granted")
    return None if len(scope) == len(set(roles)) else tuple(role for role in roles if role in scope)
