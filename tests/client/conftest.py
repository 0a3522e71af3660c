"""A scripted gateway for each test that asks for one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from scripted_gateway import Script, ScriptedGateway
from websockets.asyncio.server import Server, serve


@pytest.fixture
def scripted() -> Callable[..., Any]:
    @asynccontextmanager
    async def start(*scripts: Script, **settings: object) -> AsyncIterator[ScriptedGateway]:
        gateway = ScriptedGateway(list(scripts), **settings)  # type: ignore[arg-type]  # as the test says
        server: Server = await serve(
            gateway.play, "127.0.0.1", 0, process_request=gateway.process, select_subprotocol=gateway.select
        )
        gateway.url = f"http://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}"
        try:
            yield gateway
        finally:
            server.close()
            await server.wait_closed()

    return start
