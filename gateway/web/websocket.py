"""The WebSocket endpoint: who may connect, how a refusal is said, and the road from there to the node.

Owns the FastAPI dependency that authenticates, the handlers that answer refusals, and the route. What a handshake holds is read by
`core.handshake`; credentials are proven by a port; what happens on an admitted connection is the node's.
"""

# No postponed annotations here: FastAPI could not find `gate` in that of the route, which is a local of the factory.

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Protocol

from fastapi import APIRouter, Depends, FastAPI, Request, Response, WebSocket
from starlette.requests import HTTPConnection
from starlette.websockets import WebSocketDisconnect

from gateway.core.addresses import Network, address_key
from gateway.core.errors import HandshakeRefusedError, Refusal, StateUnavailableError, refusal_close
from gateway.core.events import Event
from gateway.core.handshake import (
    CredentialKind,
    Handshake,
    HandshakeRequest,
    HandshakeRules,
    client_nonce,
    echoed_subprotocol,
    read_handshake,
)
from gateway.core.principal import ConnectionFacts
from gateway.runtime.admission import Admission
from gateway.runtime.ports import (
    Answer,
    CredentialVerifier,
    Intake,
    Log,
    Metrics,
    Read,
    Receiver,
    Transport,
    VerifiedCredential,
)
from gateway.web.asgi_transport import AsgiTransport
from gateway.web.edge import WIRE_EXTENSION
from gateway.web.problems import problem_response
from gateway.web.remote import remote_address, remote_scheme
from gateway.web.wire import WireProtocol

_RETRY_AFTER = {"Retry-After": "1"}


class Node(Protocol):
    """What the endpoint asks of the node."""

    def open(self, admission: Admission, transport: Transport) -> Receiver | None:
        """Register a connection; or close it through its transport, where a limit is reached, and answer None."""
        ...


@dataclass(frozen=True, slots=True)
class Gate:
    """All that decides about a handshake.

    Args:
        verifier: Proves credentials.
        rules: Where credentials and from where requests may come.
        trusted_proxies: Whose `X-Forwarded-*` counts.
        metrics: Where refusals are counted.
        log: Where they are told.
        now: Unix seconds.
        refused_linger_s: Seconds that a refused peer has to answer the close frame.
        max_frame_bytes: The largest message on plain ASGI; on our own server it never comes as far as here.
    """

    verifier: CredentialVerifier
    rules: HandshakeRules
    trusted_proxies: tuple[Network, ...]
    metrics: Metrics
    log: Log
    now: Callable[[], float] = time.time
    refused_linger_s: float = 2.0
    max_frame_bytes: int = 65_536

    async def authenticate(self, websocket: WebSocket) -> Admission:
        """Admit a handshake: the dependency of the route.

        Raises:
            HandshakeRefusedError: The first reason to refuse it, in the order origin, subprotocol, ambiguous, missing, the
                credential's own, signing.
            StateUnavailableError: Nobody can tell now whether the credential holds.
        """
        request = self._read(websocket)
        handshake = read_handshake(request, self.rules)
        credential = await self._prove(handshake)
        try:
            nonce = client_nonce(handshake, credential.signing_key)
        except HandshakeRefusedError as refused:
            raise HandshakeRefusedError(refused.refusal, refused.detail, credential.principal.subject) from None
        address = remote_address(websocket, self.trusted_proxies)
        facts = ConnectionFacts(ip=address, origin=handshake.origin or "", signed=handshake.subprotocol.signed)
        return Admission(credential, handshake.subprotocol, nonce, facts, address_key(address))

    def _read(self, websocket: WebSocket) -> HandshakeRequest:
        headers = websocket.headers
        return HandshakeRequest(
            scheme=remote_scheme(websocket, self.trusted_proxies),
            hosts=tuple(headers.getlist("host")),
            origins=tuple(headers.getlist("origin")),
            authorizations=tuple(headers.getlist("authorization")),
            subprotocols=tuple(websocket.scope.get("subprotocols") or ()),
            query=websocket.scope.get("query_string", b"").decode("latin-1"),
        )

    async def _prove(self, handshake: Handshake) -> VerifiedCredential:
        value = handshake.credential.value
        match handshake.credential.kind:
            case CredentialKind.TOKEN:
                return await self.verifier.verify_token(value, self.now())
            case CredentialKind.TICKET:
                return await self.verifier.redeem_ticket(value, handshake.origin, self.now())

    async def refuse(self, connection: Request | WebSocket, refused: Exception) -> Response | None:
        """Answer a refused handshake: accepted and closed with 1008, so that every client, browsers too, sees the reason."""
        if not isinstance(refused, HandshakeRefusedError):
            raise refused
        if isinstance(connection, Request):
            return problem_response(401, refused.refusal.value, {"WWW-Authenticate": _challenge(refused.refusal)})
        self.metrics.connection_attempt(refused.refusal.value)
        fields: dict[str, object] = {"reason": refused.refusal.value}
        if refused.detail:
            fields["detail"] = refused.detail
        if refused.subject is not None:
            fields["subject"] = refused.subject
        self.log.info(
            Event.CONNECTION_REFUSED, remote_addr=remote_address(connection, self.trusted_proxies), code=1008, **fields
        )
        upgrade = _upgrade_of(connection)
        if upgrade is not None:
            upgrade.linger_s = self.refused_linger_s
        close = refusal_close(refused.refusal)
        try:
            await connection.accept(echoed_subprotocol(connection.scope.get("subprotocols") or ()))
            await connection.close(close.code, close.reason)
        except (OSError, WebSocketDisconnect):
            pass  # the peer did not wait for its answer
        return None

    async def unavailable(self, connection: Request | WebSocket, error: Exception) -> Response | None:
        """Answer while the state cannot be read: 503, before any upgrade."""
        if not isinstance(error, StateUnavailableError):
            raise error
        response = problem_response(503, "the state cannot be read now", _RETRY_AFTER)
        if isinstance(connection, Request):
            return response
        self.metrics.connection_attempt("unavailable")
        self.log.warning(
            Event.CONNECTION_REFUSED,
            remote_addr=remote_address(connection, self.trusted_proxies),
            reason="unavailable",
            code=503,
        )
        await deny(connection, response)
        return None


def _challenge(refusal: Refusal) -> str:
    # RFC 6750, section 3.1: no error code for a request that brought nothing.
    return "Bearer" if refusal is Refusal.MISSING_CREDENTIALS else 'Bearer error="invalid_token"'


def _upgrade_of(connection: HTTPConnection) -> WireProtocol | None:
    """Find our own protocol class behind a handshake; None on another server."""
    upgrade: WireProtocol | None = (connection.scope.get("extensions") or {}).get(WIRE_EXTENSION)
    return upgrade


class _Nobody:
    """The receiver of a connection that was closed before it became one: what still comes concerns nobody."""

    max_buffered_bytes = 0

    @property
    def intake(self) -> Intake:
        """Drop messages."""
        return self

    def take(self, reads: list[Read], *, again: bool = False) -> list[Answer]:  # noqa: ARG002 - all are the same to nobody
        """Drop messages."""
        return []

    def unsupported(self) -> None:
        """Note nothing."""

    def overflowed(self) -> None:
        """Note nothing."""

    def lost(self, code: int) -> None:
        """Note nothing."""


async def deny(websocket: WebSocket, response: Response) -> None:
    """Answer an upgrade request with an HTTP response, or where the server cannot, with its plain refusal (403)."""
    try:
        if "websocket.http.response" in websocket.scope.get("extensions", {}):
            await websocket.send_denial_response(response)
        else:
            await websocket.close()
    except (OSError, WebSocketDisconnect):
        pass  # the peer did not wait for its answer


def websocket_router(node: Node, gate: Gate) -> APIRouter:
    """Make the route `/ws`.

    Args:
        node: Where admitted connections go.
        gate: What admits them.
    """
    router = APIRouter()

    @router.websocket("/ws")
    async def connect(websocket: WebSocket, admission: Annotated[Admission, Depends(gate.authenticate)]) -> None:
        offered = websocket.scope.get("subprotocols") or ()
        try:
            # What was not offered must not be echoed (RFC 6455, section 4.1).
            await websocket.accept(admission.subprotocol.name if any(offered) else None)
        except (OSError, WebSocketDisconnect):
            return
        encoding, upgrade = admission.subprotocol.encoding, _upgrade_of(websocket)
        if upgrade is not None:
            # On our own server this is all: the socket and the session know each other, and the request is over.
            wire = upgrade.take_over(encoding)
            connection = node.open(admission, wire)
            if connection is not None:
                wire.serve(connection)
            return
        transport = AsgiTransport(
            websocket.receive, websocket.send, encoding, gate.metrics.traffic, gate.max_frame_bytes
        )
        await transport.run(node.open(admission, transport) or _Nobody())

    @router.get("/ws", include_in_schema=False)
    async def upgrade_required() -> Response:
        headers = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13"}
        return problem_response(426, "this is a websocket endpoint", headers)

    return router


def add_refusals(app: FastAPI, gate: Gate) -> None:
    """Register how refusals are answered."""
    app.exception_handler(HandshakeRefusedError)(gate.refuse)
    app.exception_handler(StateUnavailableError)(gate.unavailable)
