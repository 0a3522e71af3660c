"""Identity over a real database, a real network address and a clock that tests move."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
from asgi_server import serving
from fastapi import FastAPI, Request

from gateway.adapters.identity import Identity, open_identity
from gateway.runtime.null_metrics import NullMetrics
from gateway.runtime.token_issue import TokenTerms
from gateway.web.oauth import OAuthServices, oauth_router

ISSUER = "https://gateway.example"
ROLES = frozenset({"member", "moderator", "publisher", "viewer"})
SECRET = "a secret of the tests that is long enough: 0123456789"
PASSWORD = "correct horse battery"
ACCESS_TTL_S, REFRESH_TTL_S = 900, 14 * 86_400
# Where a test says that a request comes from, as a trusted proxy would.
ADDRESS_HEADER = "x-test-address"


class Clock:
    """A wall clock that only tests move."""

    def __init__(self, now: float = 1_800_000_000.25) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


class RecordedLog:
    """Keeps every event with its fields."""

    def __init__(self) -> None:
        self.events: list[tuple[str, str, dict[str, object]]] = []

    def debug(self, event: str, **fields: object) -> None:
        self.events.append(("debug", str(event), fields))

    def info(self, event: str, **fields: object) -> None:
        self.events.append(("info", str(event), fields))

    def warning(self, event: str, **fields: object) -> None:
        self.events.append(("warning", str(event), fields))

    def error(self, event: str, **fields: object) -> None:
        self.events.append(("error", str(event), fields))

    def named(self, event: str) -> list[dict[str, object]]:
        return [fields for _, name, fields in self.events if name == event]


class RecordedMetrics(NullMetrics):
    """Keeps what is counted of tokens."""

    __slots__ = ("failures", "issued")

    def __init__(self) -> None:
        self.issued: list[str] = []
        self.failures: list[tuple[str, str]] = []

    def token_issued(self, grant: str) -> None:
        self.issued.append(grant)

    def token_failure(self, grant: str, reason: str) -> None:
        self.failures.append((grant, reason))


@dataclass
class Kit:
    """An identity with all that it reports to."""

    identity: Identity
    url: str
    clock: Clock
    log: RecordedLog = field(default_factory=RecordedLog)
    metrics: RecordedMetrics = field(default_factory=RecordedMetrics)
    http: httpx.AsyncClient = field(default_factory=httpx.AsyncClient)

    async def token(
        self,
        form: Mapping[str, str] | None = None,
        *,
        address: str = "192.0.2.1",
        auth: tuple[str, str] | None = None,
        **more: str,
    ) -> httpx.Response:
        return await self.http.post(
            "/token",
            data={**(form or {}), **more},
            headers={ADDRESS_HEADER: address},
            auth=auth or httpx.USE_CLIENT_DEFAULT,
        )

    async def login(
        self, username: str = "alice", password: str = PASSWORD, *, address: str = "192.0.2.1", **more: str
    ) -> httpx.Response:
        return await self.token(grant_type="password", username=username, password=password, address=address, **more)

    async def refresh(self, token: str, **more: str) -> httpx.Response:
        return await self.token(grant_type="refresh_token", refresh_token=token, **more)

    async def add(
        self,
        name: str = "alice",
        *,
        roles: tuple[str, ...] = ("member", "viewer"),
        claims: dict[str, str] | None = None,
    ) -> None:
        await self.identity.accounts.add_user(name, PASSWORD, roles=roles, tenant="acme", claims=claims)


def database_url(directory: Path) -> str:
    return f"sqlite+aiosqlite:///{directory}/gateway.db"


@asynccontextmanager
async def opened(directory: Path, clock: Clock | None = None, *, password_grant: bool = True) -> AsyncIterator[Kit]:
    """Open an identity over a database of its own, or over the one that is there already."""
    clock = clock or Clock()
    url = database_url(directory)
    log, metrics = RecordedLog(), RecordedMetrics()
    async with open_identity(
        url,
        lambda: ROLES,
        secret_key=SECRET,
        secret_key_previous=None,
        terms=TokenTerms(ISSUER, ISSUER, ACCESS_TTL_S, REFRESH_TTL_S),
        password_grant=password_grant,
        log=log,
        metrics=metrics,
        clock=clock,
    ) as identity:
        yield Kit(identity, url, clock, log, metrics)


@asynccontextmanager
async def served(directory: Path, clock: Clock | None = None, *, password_grant: bool = True) -> AsyncIterator[Kit]:
    """Serve an identity's endpoints by a real uvicorn."""
    async with opened(directory, clock, password_grant=password_grant) as kit:
        app = FastAPI()
        identity = kit.identity

        def client_address(request: Request) -> str:
            return request.headers.get(ADDRESS_HEADER, "203.0.113.9")

        services = OAuthServices(identity.tokens, identity.endpoint, identity.credentials, client_address, kit.clock)
        app.include_router(oauth_router(services))
        async with serving(app) as address, httpx.AsyncClient(base_url=f"http://{address}") as kit.http:
            yield kit
