"""The OAuth endpoints: `POST /token`, `POST /ws/ticket` and the key set.

Owns the HTTP of them: statuses, headers, bodies. Refuses to own any decision: what a request says is read by `core.oauth`, what
comes of it is decided by the token endpoint and the verifier that are handed in.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import msgspec
from fastapi import APIRouter, Request, Response, Security
from fastapi.security import HTTPBearer

from gateway.core.errors import HandshakeRefusedError, Refusal, StateUnavailableError
from gateway.core.oauth import (
    MAX_FORM_BYTES,
    OAuthError,
    OAuthErrorCode,
    client_of,
    parse_bearer,
    parse_form,
)
from gateway.core.origins import parse_origin
from gateway.core.signing import encode_base64url
from gateway.core.throttle import retry_after
from gateway.runtime.credentials import AccountCredentials
from gateway.runtime.grants import TokenAnswer, TokenRequest
from gateway.runtime.identity_ports import Tokens
from gateway.runtime.token_endpoint import TokenEndpoint
from gateway.web.oauth_description import describe_ticket, describe_token

REALM = "gateway"
JWKS_MAX_AGE_S = 300
_UNAVAILABLE_RETRY_S = 5.0

_NOT_STORED = {"Cache-Control": "no-store", "Pragma": "no-cache"}
# RFC 6749 section 5.2 and RFC 6750 section 3: no quote, no backslash, nothing beyond ASCII.
_BAD_TOKENS = {
    Refusal.INVALID_TOKEN: "the access token is invalid",
    Refusal.EXPIRED_TOKEN: "the access token has expired",
    Refusal.REVOKED_TOKEN: "the access token has been revoked",
}


@dataclass(frozen=True, slots=True)
class OAuthServices:
    """What the endpoints ask.

    Args:
        tokens: Gives the public keys.
        endpoint: Answers token requests.
        credentials: Gives tickets.
        client_address: Tells where a request comes from, trusted proxies taken into account.
        clock: Tells the time in Unix seconds.
    """

    tokens: Tokens
    endpoint: TokenEndpoint
    credentials: AccountCredentials
    client_address: Callable[[Request], str]
    clock: Callable[[], float]


class _TicketBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    origin: str | None = None


def oauth_router(services: OAuthServices) -> APIRouter:
    """Make the routes over the services."""
    router = APIRouter(tags=["oauth"])

    @router.post("/token", summary="Get an access token (RFC 6749)", openapi_extra=describe_token())
    async def token(request: Request) -> Response:
        return await _token(services, request)

    # It decides nothing: it tells `/docs` that a bearer is wanted, and refuses none by itself.
    bearer = Security(HTTPBearer(auto_error=False, description="An access token of `/token`."))

    @router.post(
        "/ws/ticket",
        summary="Get a single-use ticket for a WebSocket URL",
        dependencies=[bearer],
        openapi_extra=describe_ticket(),
    )
    async def ticket(request: Request) -> Response:
        return await _ticket(services, request)

    @router.get("/.well-known/jwks.json", summary="The public keys of access tokens (RFC 7517)")
    async def jwks() -> Response:
        headers = {"Cache-Control": f"public, max-age={JWKS_MAX_AGE_S}"}
        return _json(200, services.tokens.jwks(), headers)

    return router


async def _token(services: OAuthServices, request: Request) -> Response:
    address = services.client_address(request)
    try:
        form = parse_form(request.headers.getlist("content-type"), await _body(request))
        client = client_of(request.headers.getlist("authorization"), form)
    except OAuthError as error:
        services.endpoint.refused(error, address, None)
        return _refusal(error)
    try:
        answer = await services.endpoint.answer(TokenRequest(form, client, address))
    except OAuthError as error:
        return _refusal(error)
    except StateUnavailableError:
        unavailable = _unavailable()
        services.endpoint.refused(unavailable, address, form.get("grant_type"))
        return _refusal(unavailable)
    return _json(200, _answer(answer), _NOT_STORED)


async def _ticket(services: OAuthServices, request: Request) -> Response:
    token = parse_bearer(request.headers.getlist("authorization"))
    if token is None:
        return _challenge(401, None, "")
    try:
        origin = _ticket_origin(await _body(request))
        ticket = await services.credentials.issue_ticket(token, origin, services.clock())
    except OAuthError as error:
        return _challenge(400, error.code.value, error.description)
    except HandshakeRefusedError as refused:
        return _challenge(401, "invalid_token", _BAD_TOKENS.get(refused.refusal, "the access token is invalid"))
    except StateUnavailableError:
        return _refusal(_unavailable())
    return _json(200, {"ticket": ticket.ticket, "expires_in": ticket.expires_in}, _NOT_STORED)


async def _body(request: Request) -> bytes:
    """Read the body, and no more of it than a form may have."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_FORM_BYTES:
            raise OAuthError(OAuthErrorCode.INVALID_REQUEST, f"the body has more than {MAX_FORM_BYTES} bytes")
    return bytes(body)


def _ticket_origin(body: bytes) -> str | None:
    if not body:
        return None
    try:
        origin = msgspec.json.decode(body, type=_TicketBody).origin
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise OAuthError(OAuthErrorCode.INVALID_REQUEST, "the body is no JSON object with an origin") from None
    if origin is None:
        return None
    parsed = parse_origin(origin)
    if parsed is None:
        raise OAuthError(OAuthErrorCode.INVALID_REQUEST, "the origin is none that a browser would send")
    return parsed


def _answer(answer: TokenAnswer) -> dict[str, object]:
    body: dict[str, object] = {
        "access_token": answer.access_token,
        "token_type": "bearer",
        "expires_in": answer.expires_in,
        "scope": answer.scope,
        "signing_key": encode_base64url(answer.signing_key),
    }
    if answer.refresh_token is not None:
        body["refresh_token"] = answer.refresh_token
    return body


def _refusal(error: OAuthError) -> Response:
    headers = dict(_NOT_STORED)
    if error.retry_after_s is not None:
        headers["Retry-After"] = str(retry_after(error.retry_after_s))
    if error.code is OAuthErrorCode.INVALID_CLIENT:
        headers["WWW-Authenticate"] = f'Basic realm="{REALM}", charset="UTF-8"'
    return _json(error.status, {"error": error.code.value, "error_description": error.description}, headers)


def _challenge(status: int, error: str | None, description: str) -> Response:
    """Refuse a bearer (RFC 6750 section 3); without a token the challenge stands alone, as its section 3.1 has it."""
    challenge = f'Bearer realm="{REALM}"'
    body: dict[str, str] = {"error": "invalid_token", "error_description": "an access token is needed"}
    if error is not None:
        challenge = f'{challenge}, error="{error}", error_description="{description}"'
        body = {"error": error, "error_description": description}
    return _json(status, body, {**_NOT_STORED, "WWW-Authenticate": challenge})


def _unavailable() -> OAuthError:
    description = "the state of accounts cannot be read now"
    return OAuthError(OAuthErrorCode.TEMPORARILY_UNAVAILABLE, description, _UNAVAILABLE_RETRY_S)


def _json(status: int, body: object, headers: dict[str, str]) -> Response:
    return Response(msgspec.json.encode(body), status, headers, media_type="application/json")
