"""A peer that leaves in the middle of a request: nothing of it is an error of the gateway's."""

from __future__ import annotations

import asyncio

import pytest
from running_gateway import RunningGateway


@pytest.mark.parametrize("path", ["/token", "/ws/ticket"])
async def test_a_peer_that_leaves_before_its_body_is_whole_fills_no_log(gateway: RunningGateway, path: str) -> None:
    token = (await gateway.token("alice"))["access_token"]
    head = [f"POST {path} HTTP/1.1", "Host: localhost", f"Authorization: Bearer {token}", "Content-Length: 100"]
    _, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write("\r\n".join([*head, "", "a"]).encode())
    await writer.drain()
    await gateway.http.get("/healthz")  # by then the request before has begun
    writer.close()
    await writer.wait_closed()
    assert (await gateway.event("http.request", path=path, code=400))["level"] == "info"
    assert gateway.events("request.failed") == []


@pytest.mark.wire_only("an answer to who is cut off by the end of the server")
async def test_a_body_that_never_ends_does_not_hold_up_the_stop(gateway: RunningGateway) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write(b"POST /token HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\na")
    await writer.drain()
    await gateway.http.get("/healthz")  # by then the request before has begun
    gateway.server.stop()
    assert (await reader.readline()).startswith(b"HTTP/1.1 503")
    await gateway.serving
    assert b"Traceback" not in gateway.log_path.read_bytes()
    writer.close()
    await writer.wait_closed()
