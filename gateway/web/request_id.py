"""Gives every request an id, and every HTTP request a line in the log.

Owns the header `X-Request-ID` in both directions and the events `http.request` and `request.failed`. Refuses to own what else a request does: the log
reads the id where it stands for the running task. A query string never reaches the line, for tokens stand in some.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Sequence

from starlette.datastructures import MutableHeaders
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.core.addresses import Network, is_trusted
from gateway.core.events import Event
from gateway.runtime.ports import Log
from gateway.runtime.request_context import REQUEST_ID
from gateway.web.remote import peer_address, remote_address

HEADER = "x-request-id"

# Whatever a proxy in use makes (UUIDs, hexadecimal, X-Ray's `Root=1-…`), and nothing that a log or a header could trip over.
_SANE = re.compile(r"[A-Za-z0-9._:=+/-]{1,64}")
_ANSWERS = frozenset({"http.response.start", "websocket.accept", "websocket.http.response.start"})
# Probes and scrapes come every few seconds, and say nothing where they succeed.
_PROBES = frozenset({"/healthz", "/readyz", "/metrics"})
_OK = 200
_INTERNAL_ERROR = 500


class RequestIds:
    """Pure ASGI middleware, to stand outermost.

    Args:
        app: What it stands around.
        log: Where HTTP requests are told.
        clock: Seconds on a clock that does not run backwards.
        trusted_proxies: Whose `X-Request-ID` counts; anybody else's is replaced.
        new_id: Makes an id.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        log: Log,
        clock: Callable[[], float],
        trusted_proxies: Sequence[Network] = (),
        new_id: Callable[[], str] = lambda: secrets.token_hex(16),
    ) -> None:
        self._app = app
        self._log = log
        self._clock = clock
        self._trusted = trusted_proxies
        self._new_id = new_id

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, with its id in the context, and back on whatever answers it."""
        if scope["type"] not in {"http", "websocket"}:
            await self._app(scope, receive, send)
            return
        connection = HTTPConnection(scope)
        request_id = self._request_id(connection)
        answer = _Answer(send, request_id)
        token = REQUEST_ID.set(request_id)
        began = self._clock()
        try:
            await self._app(scope, receive, answer)
        except Exception as error:
            self._log.error(Event.REQUEST_FAILED, path=scope["path"], exc_info=error)
            if not answer.complete:
                raise  # the server has to answer, or to end a connection; it logs the error once more
        finally:
            if scope["type"] == "http":
                self._tell(connection, answer.status, self._clock() - began)
            REQUEST_ID.reset(token)

    def _request_id(self, connection: HTTPConnection) -> str:
        """Give the id that a trusted proxy sent, if it is one and sane, else a new one."""
        if self._trusted:
            sent = connection.headers.getlist(HEADER)
            if len(sent) == 1 and _SANE.fullmatch(sent[0]) and is_trusted(peer_address(connection), self._trusted):
                return sent[0]
        return self._new_id()

    def _tell(self, connection: HTTPConnection, status: int, duration_s: float) -> None:
        path = str(connection.scope["path"])
        write = self._log.debug if path in _PROBES and status == _OK else self._log.info
        write(
            Event.HTTP_REQUEST,
            method=connection.scope["method"],
            path=path,
            code=status,
            duration_s=round(duration_s, 6),
            remote_addr=remote_address(connection, self._trusted),
        )


class _Answer:
    """Sends on, adding the id to what begins an answer, and keeps its status and whether it is complete.

    Args:
        send: The server's.
        request_id: What to add.
    """

    __slots__ = ("_request_id", "_send", "complete", "status")

    def __init__(self, send: Send, request_id: str) -> None:
        self._send = send
        self._request_id = request_id
        self.status = _INTERNAL_ERROR  # what the server says where the application says nothing
        self.complete = False

    async def __call__(self, message: Message) -> None:
        """Send one message on."""
        if message["type"] in _ANSWERS:
            self.status = message.get("status", self.status)
            message.setdefault("headers", [])
            MutableHeaders(scope=message)[HEADER] = self._request_id
        await self._send(message)
        self.complete = message["type"] == "http.response.body" and not message.get("more_body", False)
