"""A scripted gateway for each test that asks for one."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from running_gateway import RunningGateway, run_gateway
from scripted_gateway import Script, ScriptedGateway
from secret_watch import SecretWatch
from websockets.asyncio.server import Server, serve


@pytest.fixture
def scripted() -> Callable[..., Any]:
    @asynccontextmanager
    async def start(
        *scripts: Script, tls: ssl.SSLContext | None = None, **settings: object
    ) -> AsyncIterator[ScriptedGateway]:
        gateway = ScriptedGateway(list(scripts), **settings)  # type: ignore[arg-type]  # as the test says
        server: Server = await serve(
            gateway.play, "127.0.0.1", 0, process_request=gateway.process, select_subprotocol=gateway.select, ssl=tls
        )
        gateway.url = f"{'https' if tls else 'http'}://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}"
        try:
            yield gateway
        finally:
            server.close()
            await server.wait_closed()

    return start


@pytest.fixture
async def start(tmp_path: Path, secret_watch: SecretWatch) -> AsyncIterator[Callable[..., Any]]:
    """Start a real gateway with settings of the test's own: `await start(access_token_ttl_s="2")`."""
    async with AsyncExitStack() as stack:

        async def start_one(**options: Any) -> RunningGateway:  # noqa: ANN401 - what `run_gateway` takes
            return await stack.enter_async_context(run_gateway(tmp_path, secret_watch, **options))

        yield start_one
