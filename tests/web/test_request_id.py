"""Every answer names its request, and the log of that request names it too."""

from __future__ import annotations

import io
import ipaddress
import itertools
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import httpx
import pytest
import websockets
from asgi_server import serving
from fastapi import FastAPI, WebSocket
from fastapi.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

from gateway.adapters.structlog_log import configure_logging
from gateway.core.addresses import Network
from gateway.runtime.request_context import REQUEST_ID
from gateway.web.request_id import RequestIds

LOOPBACK = (ipaddress.ip_network("127.0.0.0/8"),)

Serve = Callable[..., AbstractAsyncContextManager[str]]


@pytest.fixture
def stream() -> io.BytesIO:
    return io.BytesIO()


@pytest.fixture
def serve(stream: io.BytesIO) -> Serve:
    @asynccontextmanager
    async def served(level: str = "info", trusted: tuple[Network, ...] = ()) -> AsyncIterator[str]:
        app = FastAPI()
        numbers = itertools.count(1)

        @app.get("/id")
        async def show() -> PlainTextResponse:
            return PlainTextResponse(REQUEST_ID.get())

        @app.get("/healthz")
        async def healthz() -> PlainTextResponse:
            return PlainTextResponse("alive")

        @app.get("/broken")
        async def broken() -> None:
            raise RuntimeError("boom with token=abc123")

        @app.websocket("/broken")
        async def break_off(websocket: WebSocket) -> None:
            await websocket.accept()
            raise RuntimeError("boom")

        @app.websocket("/ws")
        async def accept(websocket: WebSocket) -> None:
            await websocket.accept()
            await websocket.send_text(REQUEST_ID.get())
            await websocket.close()

        @app.websocket("/denied")
        async def deny(websocket: WebSocket) -> None:
            await websocket.send_denial_response(PlainTextResponse("no", 429))

        middleware = RequestIds(
            app,
            log=configure_logging(level=level, stream=stream),
            clock=itertools.count(0, 0.5).__next__,
            trusted_proxies=trusted,
            new_id=lambda: f"made-{next(numbers)}",
        )
        async with serving(middleware) as address:
            yield address

    return served


def lines(stream: io.BytesIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


async def test_a_request_without_an_id_is_given_one_that_its_answer_and_its_log_carry(
    serve: Serve, stream: io.BytesIO
) -> None:
    async with serve() as address, httpx.AsyncClient(base_url=f"http://{address}") as client:
        first = await client.get("/id?token=something-secret")
        second = await client.get("/unknown")

    assert (first.text, first.headers["x-request-id"]) == ("made-1", "made-1")
    assert (second.status_code, second.headers["x-request-id"]) == (404, "made-2")
    told = lines(stream)
    for line in told:
        line.pop("timestamp")
    common = {"event": "http.request", "level": "info", "method": "GET", "duration_s": 0.5, "remote_addr": "127.0.0.1"}
    assert told == [
        {**common, "path": "/id", "code": 200, "request_id": "made-1"},
        {**common, "path": "/unknown", "code": 404, "request_id": "made-2"},
    ]


async def test_ids_are_random_by_default() -> None:
    seen = []

    async def app(_scope: Scope, _receive: Receive, _send: Send) -> None:
        seen.append(REQUEST_ID.get())

    async def nothing(_: object = None) -> dict[str, object]:
        return {}

    middleware = RequestIds(app, log=configure_logging(stream=io.BytesIO()), clock=lambda: 0.0)
    for _ in range(2):
        await middleware({"type": "http", "method": "GET", "path": "/", "headers": []}, nothing, nothing)

    assert len(set(seen)) == 2
    assert all(len(each) == 32 and int(each, 16) for each in seen)
    assert REQUEST_ID.get() == ""


async def test_the_id_of_a_trusted_proxy_is_kept(serve: Serve) -> None:
    async with serve(trusted=LOOPBACK) as address, httpx.AsyncClient(base_url=f"http://{address}") as client:
        answer = await client.get("/id", headers={"X-Request-ID": "Root=1-67891233-abcdef"})

    assert (answer.text, answer.headers["x-request-id"]) == ("Root=1-67891233-abcdef", "Root=1-67891233-abcdef")


@pytest.mark.parametrize(
    "headers",
    [
        [(b"x-request-id", b"")],
        [(b"x-request-id", b"a" * 65)],
        [(b"x-request-id", b'a b{"x":1}')],
        [(b"x-request-id", b"\xff")],
        [(b"x-request-id", b"one"), (b"x-request-id", b"two")],
    ],
)
async def test_an_id_that_is_not_sane_is_replaced(serve: Serve, headers: list[tuple[bytes, bytes]]) -> None:
    async with serve(trusted=LOOPBACK) as address, httpx.AsyncClient(base_url=f"http://{address}") as client:
        answer = await client.get("/id", headers=headers)

    assert answer.headers["x-request-id"] == "made-1"


@pytest.mark.parametrize("trusted", [(), (ipaddress.ip_network("192.0.2.0/24"),)])
async def test_an_id_of_a_stranger_is_replaced(serve: Serve, trusted: tuple[Network, ...]) -> None:
    async with serve(trusted=trusted) as address, httpx.AsyncClient(base_url=f"http://{address}") as client:
        answer = await client.get("/id", headers={"X-Request-ID": "forged"})

    assert answer.headers["x-request-id"] == "made-1"


async def test_a_websocket_handshake_is_answered_with_the_id_that_its_task_logs_under(
    serve: Serve, stream: io.BytesIO
) -> None:
    async with serve() as address:
        async with websockets.connect(f"ws://{address}/ws") as websocket:
            assert websocket.response is not None
            assert websocket.response.headers["x-request-id"] == "made-1"
            assert await websocket.recv() == "made-1"
        with pytest.raises(websockets.InvalidStatus) as refused:
            await websockets.connect(f"ws://{address}/denied")

    assert refused.value.response.headers["x-request-id"] == "made-2"
    assert [line for line in lines(stream) if line["event"] == "http.request"] == []


async def test_probes_that_succeed_are_told_only_at_debug(serve: Serve, stream: io.BytesIO) -> None:
    async with serve() as address, httpx.AsyncClient(base_url=f"http://{address}") as client:
        await client.get("/healthz")
        await client.post("/healthz")
    assert [(line["path"], line["code"]) for line in lines(stream)] == [("/healthz", 405)]

    async with serve(level="debug") as address, httpx.AsyncClient(base_url=f"http://{address}") as client:
        await client.get("/healthz")
    told = [line for line in lines(stream)[1:] if line["event"] == "http.request"]
    assert [(line["path"], line["code"]) for line in told] == [("/healthz", 200)]


async def test_an_error_that_nobody_expected_is_told_once_with_its_traceback(serve: Serve, stream: io.BytesIO) -> None:
    async with serve() as address, httpx.AsyncClient(base_url=f"http://{address}") as client:
        answer = await client.get("/broken?token=abc123")

    assert (answer.status_code, answer.headers["x-request-id"]) == (500, "made-1")
    failed, request = lines(stream)
    assert (failed["event"], failed["level"], failed["path"]) == ("request.failed", "error", "/broken")
    assert str(failed["exception"]).endswith("RuntimeError: boom with token=[redacted]")
    assert (request["event"], request["code"]) == ("http.request", 500)
    assert failed["request_id"] == request["request_id"] == "made-1"
    assert b"abc123" not in stream.getvalue()


async def test_an_error_on_a_websocket_is_told_and_left_to_the_server(serve: Serve, stream: io.BytesIO) -> None:
    async with serve() as address, websockets.connect(f"ws://{address}/broken") as websocket:
        with pytest.raises(websockets.ConnectionClosed):
            await websocket.recv()

    assert lines(stream)[0]["event"] == "request.failed"
    assert "RuntimeError: boom" in str(lines(stream)[0]["exception"])


async def test_other_scopes_pass_untouched() -> None:
    seen: list[str] = []

    async def app(scope: Scope, _receive: Receive, _send: Send) -> None:
        seen.append(scope["type"])

    async def nothing(_: object = None) -> dict[str, object]:
        return {}

    await RequestIds(app, log=configure_logging(stream=io.BytesIO()), clock=lambda: 0.0)(
        {"type": "lifespan"}, nothing, nothing
    )
    assert seen == ["lifespan"]
