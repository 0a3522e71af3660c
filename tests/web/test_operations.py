"""Probes and scrapes over a real socket: who is answered what."""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import httpx
import pytest
from asgi_server import serving
from fastapi import FastAPI

from gateway.adapters.prometheus_metrics import PrometheusMetrics
from gateway.core.errors import StateUnavailableError
from gateway.web.operations import Operations, operations_router

TOKEN = "scrape-token-of-the-operator"
LOOPBACK = (ipaddress.ip_network("127.0.0.0/8"),)

Connect = Callable[..., AbstractAsyncContextManager[httpx.AsyncClient]]


async def fine() -> None:
    pass


async def broken() -> None:
    raise StateUnavailableError


async def hanging() -> None:
    await asyncio.Event().wait()


@pytest.fixture
def connect() -> Connect:
    @asynccontextmanager
    async def connected(**options: Any) -> AsyncIterator[httpx.AsyncClient]:  # noqa: ANN401 - of any option's type
        options = {"checks": {}, "draining": lambda: False, "render": PrometheusMetrics(("ping",)).render, **options}
        app = FastAPI(openapi_url=None)
        app.include_router(operations_router(Operations(**options)))
        async with serving(app) as address, httpx.AsyncClient(base_url=f"http://{address}") as client:
            yield client

    return connected


async def test_liveness_does_not_depend_on_anything(connect: Connect) -> None:
    async with connect(checks={"database": broken}, draining=lambda: True) as client:
        answer = await client.get("/healthz")

    assert (answer.status_code, answer.json()) == (200, {"status": "alive"})
    assert answer.headers["cache-control"] == "no-store"


async def test_readiness_names_each_check(connect: Connect) -> None:
    async with connect(checks={"database": fine, "broker": fine}) as client:
        answer = await client.get("/readyz")

    assert answer.status_code == 200
    assert answer.json() == {"status": "ready", "checks": {"database": "ok", "broker": "ok"}}


@pytest.mark.parametrize("check", [broken, hanging])
async def test_a_failing_or_hanging_check_makes_unready_and_is_named(connect: Connect, check: object) -> None:
    async with connect(checks={"database": check, "broker": fine}, check_timeout_s=0.05) as client:
        answer = await client.get("/readyz")

    assert answer.status_code == 503
    assert answer.json() == {"status": "unavailable", "checks": {"database": "failed", "broker": "ok"}}


async def test_a_draining_node_is_unready_though_all_works(connect: Connect) -> None:
    async with connect(checks={"database": fine}, draining=lambda: True) as client:
        answer = await client.get("/readyz")

    assert answer.status_code == 503
    assert answer.json() == {"status": "draining", "checks": {"database": "ok"}}


async def test_head_is_answered_and_other_methods_are_not_allowed(connect: Connect) -> None:
    async with connect() as client:
        assert (await client.head("/healthz")).status_code == 200
        assert (await client.post("/readyz")).status_code == 405


async def test_metrics_are_given_in_the_format_that_the_scraper_accepts(connect: Connect) -> None:
    async with connect() as client:
        plain = await client.get("/metrics")
        openmetrics = await client.get("/metrics", headers={"Accept": "application/openmetrics-text;version=1.0.0"})

    assert plain.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert "gateway_connections 0.0" in plain.text
    assert openmetrics.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    assert openmetrics.text.endswith("# EOF\n")


async def test_metrics_with_a_token_are_for_its_bearer_even_through_a_proxy(connect: Connect) -> None:
    async with connect(metrics_token=TOKEN, trusted_proxies=LOOPBACK) as client:
        headers = {"Authorization": f"bearer {TOKEN}", "X-Forwarded-For": "192.0.2.1"}
        answer = await client.get("/metrics", headers=headers)

    assert answer.status_code == 200


@pytest.mark.parametrize(
    ("headers", "challenge"),
    [
        ([], "Bearer"),
        ([("Authorization", f"Basic {TOKEN}")], "Bearer"),
        ([("Authorization", TOKEN)], "Bearer"),
        ([("Authorization", f"Bearer {TOKEN}"), ("Authorization", f"Bearer {TOKEN}")], "Bearer"),
        ([("Authorization", "Bearer")], 'Bearer error="invalid_token"'),
        ([("Authorization", f"Bearer {TOKEN}x")], 'Bearer error="invalid_token"'),
        ([("Authorization", f"Bearer {TOKEN[:-1]}")], 'Bearer error="invalid_token"'),
        ([("Authorization", b"Bearer " + b"\xff\xfe")], 'Bearer error="invalid_token"'),
    ],
)
async def test_metrics_with_a_token_are_refused_to_everybody_else(
    connect: Connect, headers: list[tuple[str, str | bytes]], challenge: str
) -> None:
    raw = [(name.encode(), value if isinstance(value, bytes) else value.encode()) for name, value in headers]
    async with connect(metrics_token=TOKEN) as client:
        answer = await client.get("/metrics", headers=raw)

    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == challenge
    assert "gateway_" not in answer.text


@pytest.mark.parametrize("header", ["X-Forwarded-For", "X-Forwarded-Proto", "X-Real-IP", "Forwarded", "Via"])
async def test_metrics_without_a_token_are_refused_to_what_a_trusted_proxy_forwarded(
    connect: Connect, header: str
) -> None:
    async with connect(trusted_proxies=LOOPBACK) as client:
        answer = await client.get("/metrics", headers={header: "127.0.0.1"})
        direct = await client.get("/metrics")

    assert answer.status_code == 403
    assert "gateway_" not in answer.text
    assert direct.status_code == 200


async def test_a_forwarding_header_of_a_stranger_means_nothing(connect: Connect) -> None:
    async with connect(trusted_proxies=(ipaddress.ip_network("192.0.2.0/24"),)) as client:
        answer = await client.get("/metrics", headers={"X-Forwarded-For": "192.0.2.1"})

    assert answer.status_code == 200
