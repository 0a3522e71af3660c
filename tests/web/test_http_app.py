"""The web application over a real socket: CORS, the headers of every response, errors, documentation."""

from __future__ import annotations

import json

import pytest
from edge_server import Raw, serving
from fastapi import APIRouter, Response

from gateway.core.errors import HandshakeRefusedError, Refusal, StateUnavailableError

ALLOWED = "https://app.example"


def router() -> APIRouter:
    """Serve and fail."""
    routes = APIRouter()

    @routes.get("/thing")
    async def thing() -> dict[str, str]:
        return {"a": "thing"}

    @routes.get("/page")
    async def page() -> Response:
        return Response("page", headers={"Content-Security-Policy": "default-src 'self'"})

    @routes.get("/bug")
    async def bug() -> None:
        message = "s3cret detail"
        raise ValueError(message)

    @routes.get("/unavailable")
    async def unavailable() -> None:
        raise StateUnavailableError

    @routes.get("/refused/{reason}")
    async def refused(reason: str) -> None:
        raise HandshakeRefusedError(Refusal(reason))

    return routes


async def ask(raw: Raw, method: str, path: str, **fields: str) -> tuple[int, dict[str, str], bytes]:
    """Send a request; give its answer."""
    lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in fields.items())
    raw.send(f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{lines}\r\n".encode())
    return await raw.response(head=method == "HEAD")


# ------------------------------------------------------------------------------------------------- CORS


async def test_preflight_from_an_allowed_origin_passes_without_credentials() -> None:
    async with serving(routers=[router()]) as served, await served.raw() as raw:
        status, headers, _ = await ask(
            raw,
            "OPTIONS",
            "/thing",
            origin=ALLOWED,
            access_control_request_method="POST",
            access_control_request_headers="authorization, content-type",
        )
        assert status == 200
        assert headers["access-control-allow-origin"] == ALLOWED
        assert "POST" in headers["access-control-allow-methods"]
        assert {"Authorization", "Content-Type"} <= set(headers["access-control-allow-headers"].split(", "))
        assert "access-control-allow-credentials" not in headers
        assert "Origin" in headers["vary"]


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://app.example", "http://localhost:1"])
async def test_preflight_from_any_other_origin_fails(origin: str) -> None:
    async with serving(routers=[router()]) as served, await served.raw() as raw:
        status, headers, _ = await ask(raw, "OPTIONS", "/thing", origin=origin, access_control_request_method="GET")
        assert status == 400
        assert "access-control-allow-origin" not in headers


@pytest.mark.parametrize(("path", "status"), [("/thing", 200), ("/nothing", 404), ("/bug", 500), ("/unavailable", 503)])
async def test_allowed_origin_may_read_every_answer_errors_too(path: str, status: int) -> None:
    async with serving(routers=[router()]) as served, await served.raw() as raw:
        got, headers, _ = await ask(raw, "GET", path, origin=ALLOWED)
        assert got == status
        assert headers["access-control-allow-origin"] == ALLOWED
        assert "access-control-allow-credentials" not in headers
        assert headers["vary"] == "Origin"
        assert "Retry-After" in headers["access-control-expose-headers"]


async def test_foreign_origin_may_read_nothing() -> None:
    async with serving(routers=[router()]) as served, await served.raw() as raw:
        status, headers, _ = await ask(raw, "GET", "/thing", origin="https://evil.example")
        assert status == 200
        assert "access-control-allow-origin" not in headers
        assert headers["vary"] == "Origin"


# ------------------------------------------------------------------------------------------------- every response


@pytest.mark.parametrize("path", ["/thing", "/nothing", "/bug"])
async def test_every_response_tells_browsers_to_be_strict(path: str) -> None:
    async with serving(routers=[router()]) as served, await served.raw() as raw:
        _, headers, _ = await ask(raw, "GET", path)
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'"


async def test_page_keeps_its_own_policy() -> None:
    async with serving(routers=[router()]) as served, await served.raw() as raw:
        _, headers, _ = await ask(raw, "GET", "/page")
        assert headers["content-security-policy"] == "default-src 'self'"


# ------------------------------------------------------------------------------------------------- errors


async def test_unknown_path_is_a_problem() -> None:
    async with serving() as served, await served.raw() as raw:
        status, headers, body = await ask(raw, "GET", "/nothing")
        assert (status, headers["content-type"]) == (404, "application/problem+json")
        assert json.loads(body) == {"type": "about:blank", "title": "Not Found", "status": 404}


async def test_wrong_method_is_a_problem_that_says_which_are_right() -> None:
    async with serving(routers=[router()]) as served, await served.raw() as raw:
        status, headers, body = await ask(raw, "DELETE", "/thing")
        assert (status, headers["allow"]) == (405, "GET")
        assert json.loads(body)["title"] == "Method Not Allowed"


async def test_bug_is_a_problem_that_tells_nothing(caplog: pytest.LogCaptureFixture) -> None:
    async with serving(routers=[router()]) as served, await served.raw() as raw:
        status, headers, body = await ask(raw, "GET", "/bug")
        assert (status, headers["content-type"]) == (500, "application/problem+json")
        assert b"s3cret" not in body
    assert "ValueError" in caplog.text


async def test_state_that_cannot_be_read_is_503_with_a_time_to_come_back() -> None:
    async with serving(routers=[router()]) as served, await served.raw() as raw:
        status, headers, _ = await ask(raw, "GET", "/unavailable")
        assert (status, headers["retry-after"]) == (503, "1")


@pytest.mark.parametrize(
    ("reason", "challenge"),
    [
        ("missing_credentials", "Bearer"),
        ("expired_token", 'Bearer error="invalid_token"'),
        ("invalid_token", 'Bearer error="invalid_token"'),
    ],
)
async def test_refused_bearer_of_http_is_challenged(reason: str, challenge: str) -> None:
    async with serving(routers=[router()]) as served, await served.raw() as raw:
        status, headers, body = await ask(raw, "GET", f"/refused/{reason}")
        assert (status, headers["www-authenticate"]) == (401, challenge)
        assert json.loads(body)["detail"] == reason


async def test_plain_request_for_the_websocket_says_what_it_is() -> None:
    async with serving() as served, await served.raw() as raw:
        status, headers, _ = await ask(raw, "GET", "/ws?token=good")
        assert (status, headers["upgrade"], headers["sec-websocket-version"]) == (426, "websocket", "13")


# ------------------------------------------------------------------------------------------------- documentation


@pytest.mark.parametrize("path", ["/docs", "/openapi.json", "/redoc"])
async def test_documentation_is_404_where_it_is_off(path: str) -> None:
    async with serving() as served, await served.raw() as raw:
        assert (await ask(raw, "GET", path))[0] == 404


async def test_documentation_is_there_where_it_is_on() -> None:
    async with serving(docs=True, routers=[router()]) as served, await served.raw() as raw:
        status, headers, _ = await ask(raw, "GET", "/docs")
        assert status == 200
        assert "content-security-policy" not in headers, "the page loads its script from elsewhere"
        _, _, body = await ask(raw, "GET", "/openapi.json")
        described = json.loads(body)
        assert described["info"]["title"] == "Portcullis"
        assert "/thing" in described["paths"]
        assert "/ws" not in described["paths"]
