"""The web application: routers, refusals and the headers that every response carries.

Owns how the web parts fit together. Refuses to own the parts: routers and services come as arguments from the composition root.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from http import HTTPStatus

from fastapi import APIRouter, FastAPI, Request, Response, WebSocket
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.core.origins import OriginRule
from gateway.web.problems import problem_response
from gateway.web.websocket import Gate, Node, add_refusals, deny, websocket_router

Middleware = Callable[[ASGIApp], ASGIApp]

_SECURITY_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
}
# What is no page needs nothing; pages bring a policy of their own.
_CONTENT_SECURITY_POLICY = "default-src 'none'; frame-ancestors 'none'"
_EXPOSED = ("Retry-After", "WWW-Authenticate", "X-Request-ID")


class _Cors(CORSMiddleware):
    """CORS for the origins that the WebSocket takes, without credentials: tokens travel in a header, never in a cookie."""

    def __init__(self, app: ASGIApp, rule: OriginRule) -> None:
        super().__init__(
            app,
            allow_methods=("GET", "POST", "PUT", "PATCH", "DELETE"),
            allow_headers=("Authorization", "Content-Type", "X-Request-ID"),
            expose_headers=_EXPOSED,
            max_age=600,
        )
        self._rule = rule

    def is_allowed_origin(self, origin: str) -> bool:
        """Ask the one rule."""
        return self._rule.allows(origin)


class _SecurityHeaders:
    """Adds to every response what tells browsers to be strict; a response's own value stays."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_strictly(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _SECURITY_HEADERS.items():
                    headers.setdefault(name, value)
                if scope["path"] not in _DOCS_PAGES:
                    headers.setdefault("Content-Security-Policy", _CONTENT_SECURITY_POLICY)
            await send(message)

        await self._app(scope, receive, send_strictly)


# FastAPI's page loads its script from elsewhere; it is there in development only.
_DOCS_PAGES = frozenset({"/docs", "/docs/oauth2-redirect"})


class GatewayApp(FastAPI):
    """FastAPI, with middleware around everything: its own stands inside the handler of unexpected errors, whose 500s it misses."""

    outermost: tuple[Middleware, ...] = ()

    def build_middleware_stack(self) -> ASGIApp:
        """Wrap FastAPI's stack; the last one named is the outermost."""
        stack: ASGIApp = super().build_middleware_stack()
        for middleware in self.outermost:
            stack = middleware(stack)
        return stack


def create_app(
    *,
    node: Node,
    gate: Gate,
    routers: Sequence[APIRouter] = (),
    middleware: Sequence[Middleware] = (),
    docs: bool = False,
    version: str = "0",
) -> FastAPI:
    """Compose the application.

    Args:
        node: Where admitted WebSockets go.
        gate: What admits them; its origin rule is that of CORS too.
        routers: The other web parts.
        middleware: Pure ASGI middleware around everything, the last one outermost.
        docs: Whether `/docs` and `/openapi.json` are there.
        version: What they show.
    """
    app = GatewayApp(
        title="Portcullis",
        version=version,
        docs_url="/docs" if docs else None,
        openapi_url="/openapi.json" if docs else None,
        redoc_url=None,
        # FastAPI would answer `/ws/` with a redirect, which no WebSocket client follows.
        redirect_slashes=False,
    )
    app.outermost = (_SecurityHeaders, lambda inner: _Cors(inner, gate.rules.origins), *middleware)
    app.include_router(websocket_router(node, gate))
    for router in routers:
        app.include_router(router)
    app.include_router(_unknown_endpoints())
    add_refusals(app, gate)
    app.exception_handler(HTTPException)(_http_error)
    app.exception_handler(ClientDisconnect)(_gone)
    app.exception_handler(Exception)(_internal_error)
    return app


def _unknown_endpoints() -> APIRouter:
    """Answer upgrades to any other path with 404, where Starlette would say 403."""
    router = APIRouter()

    @router.websocket("/{path:path}")
    async def unknown(websocket: WebSocket) -> None:
        await deny(websocket, problem_response(404))

    return router


async def _http_error(_: Request | WebSocket, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        raise error
    phrase = HTTPStatus(error.status_code).phrase
    detail = "" if error.detail == phrase else str(error.detail)
    return problem_response(error.status_code, detail, error.headers)


async def _gone(_: Request | WebSocket, __: Exception) -> Response:
    """Answer nobody: a peer that leaves before its body is whole is no fault of ours, and fills no log with tracebacks."""
    return problem_response(400, "the body ended too early")


async def _internal_error(_: Request | WebSocket, __: Exception) -> Response:
    return problem_response(500)
