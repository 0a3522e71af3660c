"""What operators and their machines ask: is it alive, is it ready, what has it counted.

Owns `/healthz`, `/readyz` and `/metrics` and who may read them. Refuses to own the checks themselves and the rendering: both come
as callables from the composition root.
"""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

import msgspec
from fastapi import APIRouter, Request, Response

from gateway.core.addresses import Network, is_trusted
from gateway.core.errors import StateUnavailableError
from gateway.web.problems import problem_response
from gateway.web.remote import peer_address

Check = Callable[[], Awaitable[object]]
Render = Callable[[str], tuple[bytes, str]]

# Headers by which a proxy says that it passes on somebody else's request.
_FORWARDING = ("x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "x-real-ip", "forwarded", "via")
_NOT_STORED = {"Cache-Control": "no-store"}
_FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Operations:
    """What the three endpoints stand on.

    Args:
        checks: Each thing without which nothing works here, by name; a check fails by raising `StateUnavailableError` or
            OSError, or by taking too long.
        draining: Whether this node is on its way out.
        render: Gives the metrics and their content type for an `Accept` header.
        metrics_token: The bearer that may read the metrics; None lets everybody who asks directly.
        trusted_proxies: Whose forwarded requests may not, where there is no token.
        check_timeout_s: Seconds that all checks may take.
    """

    checks: Mapping[str, Check]
    draining: Callable[[], bool]
    render: Render
    metrics_token: str | None = None
    trusted_proxies: Sequence[Network] = ()
    check_timeout_s: float = 2.0

    async def healthz(self, _: Request) -> Response:
        """Answer: that is all that liveness means. A database that is away is no reason to be restarted."""
        return _json(200, {"status": "alive"})

    async def readyz(self, _: Request) -> Response:
        """Answer 200 where new clients are welcome, else 503 with what is wrong."""
        results = await asyncio.gather(*(self._outcome(check) for check in self.checks.values()))
        checks = dict(zip(self.checks, results, strict=True))
        if self.draining():
            return _json(503, {"status": "draining", "checks": checks})
        if _FAILED in results:
            return _json(503, {"status": "unavailable", "checks": checks})
        return _json(200, {"status": "ready", "checks": checks})

    async def metrics(self, request: Request) -> Response:
        """Answer with the metrics, to whom they are meant for."""
        refusal = self._metrics_refusal(request)
        if refusal is not None:
            return refusal
        body, content_type = self.render(request.headers.get("accept", ""))
        return Response(body, headers={**_NOT_STORED, "Content-Type": content_type})

    async def _outcome(self, check: Check) -> str:
        try:
            async with asyncio.timeout(self.check_timeout_s):
                await check()
        except (
            StateUnavailableError,
            OSError,
        ):  # TimeoutError is an OSError; anything else is a fault of ours, and 500
            return _FAILED
        return "ok"

    def _metrics_refusal(self, request: Request) -> Response | None:
        if self.metrics_token is None:
            if self._was_forwarded(request):
                return problem_response(403, "metrics are not given through a proxy without a token", _NOT_STORED)
            return None
        given = _bearer(request)
        if given is None:
            return problem_response(401, "a bearer token is needed", {**_NOT_STORED, "WWW-Authenticate": "Bearer"})
        # Hostile tokens may hold any character, which a comparison of texts refuses with an error of its own.
        if not hmac.compare_digest(given.encode("utf-8", "surrogatepass"), self.metrics_token.encode()):
            challenge = 'Bearer error="invalid_token"'
            return problem_response(401, "not the metrics token", {**_NOT_STORED, "WWW-Authenticate": challenge})
        return None

    def _was_forwarded(self, request: Request) -> bool:
        if not is_trusted(peer_address(request), self.trusted_proxies):
            return False
        return any(name in request.headers for name in _FORWARDING)


def operations_router(operations: Operations) -> APIRouter:
    """Give the routes. They are for machines of the operator, so the API's description does not tell of them."""
    router = APIRouter()
    router.add_route("/healthz", operations.healthz, methods=["GET"], include_in_schema=False)
    router.add_route("/readyz", operations.readyz, methods=["GET"], include_in_schema=False)
    router.add_route("/metrics", operations.metrics, methods=["GET"], include_in_schema=False)
    return router


def _bearer(request: Request) -> str | None:
    """Give the one bearer token of a request (RFC 6750, section 2.1), None where there is none or several fields."""
    fields = request.headers.getlist("authorization")
    if len(fields) != 1:
        return None
    scheme, _, token = fields[0].partition(" ")
    return token.strip() if scheme.lower() == "bearer" else None


def _json(status: int, body: object) -> Response:
    return Response(msgspec.json.encode(body), status, dict(_NOT_STORED), "application/json")
