"""Listening and stopping: sockets, signals, exit codes, and a bound on how long it takes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from edge_server import PATIENCE_S, Raw, close_frame, text, upgrade

from gateway.core.floods import FloodGate
from gateway.runtime.null_metrics import NullMetrics
from gateway.web.edge import Edge
from gateway.web.server import GatewayServer, ListenError, build_config, listen, listening_port, loop_factory

PROCESS = Path(__file__).parent / "edge_process.py"


class Process:
    """The server as a process of its own."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.port = 0

    async def line(self) -> str:
        """Read its next line."""
        assert self.process.stdout is not None
        return (await asyncio.wait_for(self.process.stdout.readline(), PATIENCE_S)).decode().strip()

    async def ended(self) -> tuple[int, str]:
        """Wait for its end; give its exit code and what it said on the way."""
        out, err = await asyncio.wait_for(self.process.communicate(), PATIENCE_S)
        assert err == b""
        return self.process.returncode or 0, out.decode().strip()

    async def client(self) -> Raw:
        """Connect to it."""
        raw = await Raw.connect(self.port)
        raw.send(upgrade())
        assert (await raw.response())[0] == 101
        assert await raw.frame() == (0x81, b"welcome")
        return raw


@contextlib.asynccontextmanager
async def started(drain: str = "closes") -> AsyncIterator[Process]:
    path = os.pathsep.join([str(PROCESS.parent), str(PROCESS.parents[2])])
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(PROCESS),
        drain,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": path},
    )
    served = Process(process)
    try:
        served.port = int(await served.line())
        yield served
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


# ------------------------------------------------------------------------------------------------- signals


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_signal_drains_and_ends_with_0(number: signal.Signals) -> None:
    async with started() as served, await served.client() as raw:
        served.process.send_signal(number)
        assert await served.line() == "draining"
        assert await raw.closing() == (1001, "draining")
        raw.send(close_frame(1001))
        assert await served.ended() == (0, "stopped")


async def test_second_signal_ends_a_drain_that_does_not_end() -> None:
    async with started("never") as served, await served.client() as raw:
        served.process.send_signal(signal.SIGTERM)
        assert await served.line() == "draining"
        served.process.send_signal(signal.SIGTERM)
        assert await raw.closing() == (1001, "draining")
        assert await served.ended() == (0, "stopped")


async def test_peer_that_reads_nothing_does_not_hold_the_end_up() -> None:
    async with started() as served, await served.client() as raw:
        raw.send(text("flood 40000"))
        served.process.send_signal(signal.SIGTERM)
        assert await served.line() == "draining"
        assert await served.ended() == (0, "stopped")


async def test_signal_without_connections_ends_at_once() -> None:
    async with started() as served:
        async with await served.client():
            pass  # it serves, so it hears signals
        served.process.send_signal(signal.SIGTERM)
        assert await served.ended() == (0, "draining\nstopped")


# ------------------------------------------------------------------------------------------------- in this process


async def hello(_: object, __: object, send: object) -> None:
    """Answer every request."""
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})  # type: ignore[operator]
    await send({"type": "http.response.body", "body": b"hi"})  # type: ignore[operator]


async def test_server_has_a_date_and_no_name() -> None:
    drained: list[bool] = []

    async def drain() -> None:
        drained.append(True)

    server = GatewayServer(build_config(hello, Edge(NullMetrics(), lambda: False, FloodGate(0))), drain)
    listeners = listen("127.0.0.1", 0)
    task = asyncio.create_task(server.serve(listeners))
    async with await Raw.connect(listening_port(listeners)) as raw:
        raw.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        status, headers, body = await raw.response()
        assert (status, body) == (200, b"hi")
        assert "date" in headers
        assert "server" not in headers
        server.stop()
        await asyncio.wait_for(task, PATIENCE_S)
        assert drained == [True]
        assert await raw.rest() == b""


async def test_server_that_is_stopped_before_it_serves_does_not_drain() -> None:
    async def drain() -> None:
        raise NotImplementedError

    server = GatewayServer(build_config(hello, Edge(NullMetrics(), lambda: False, FloodGate(0))), drain)
    listeners = listen("127.0.0.1", 0)
    server.stop()
    await asyncio.wait_for(server.serve(listeners), PATIENCE_S)


async def test_drain_that_fails_stops_the_server_all_the_same() -> None:
    async def drain() -> None:
        message = "a bug"
        raise ValueError(message)

    server = GatewayServer(build_config(hello, Edge(NullMetrics(), lambda: False, FloodGate(0))), drain)
    task = asyncio.create_task(server.serve(listen("127.0.0.1", 0)))
    while not server.started:  # noqa: ASYNC110 - uvicorn has no event for it
        await asyncio.sleep(0.001)
    server.stop()
    with pytest.raises(ValueError, match="a bug"):
        await asyncio.wait_for(task, PATIENCE_S)


# ------------------------------------------------------------------------------------------------- listening


async def test_any_free_port_is_known_before_anything_is_built() -> None:
    listeners = listen("127.0.0.1", 0)
    try:
        assert listening_port(listeners) > 0
        assert listeners[0].getsockname() == ("127.0.0.1", listening_port(listeners))
    finally:
        for listener in listeners:
            listener.close()


async def test_name_with_several_addresses_listens_on_all_of_them_with_one_port() -> None:
    listeners = listen("localhost", 0)
    try:
        assert {listener.getsockname()[1] for listener in listeners} == {listening_port(listeners)}
    finally:
        for listener in listeners:
            listener.close()


async def test_busy_port_is_one_clear_line() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(ListenError) as caught:
            listen("127.0.0.1", port)
    assert str(caught.value) == (
        f"cannot listen on `127.0.0.1` port `{port}`: something else listens there;"
        " stop it or choose another port with `--port` (`PORT=` before `make run`)"
    )


@pytest.mark.parametrize(
    ("host", "message"),
    [
        ("192.0.2.1", "this machine has no such address; choose another one with `--host`"),
        ("no such host.invalid", "name or service not known"),
    ],
)
async def test_address_that_is_not_here_is_one_clear_line(host: str, message: str) -> None:
    with pytest.raises(ListenError) as caught:
        listen(host, 8000)
    assert str(caught.value) == f"cannot listen on `{host}` port `8000`: {message}"


def test_uvloop_is_the_loop_where_it_is_installed() -> None:
    factory = loop_factory()
    assert factory is not None
    loop = factory()
    try:
        assert type(loop).__module__.startswith("uvloop")
    finally:
        loop.close()
