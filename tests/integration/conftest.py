"""A real gateway for each test that asks for one: each runs on the gateway's own server and on plain ASGI."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from road import Road
from running_gateway import RunningGateway, Start, run_gateway
from secret_watch import SecretWatch


@pytest.fixture
async def start(tmp_path: Path, secret_watch: SecretWatch, road: Road) -> AsyncIterator[Start]:
    """Start a gateway with settings of the test's own: `await start(heartbeat_s="1")`."""
    async with contextlib.AsyncExitStack() as stack:

        async def start_one(**options: Any) -> RunningGateway:  # noqa: ANN401 - what `run_gateway` takes
            return await stack.enter_async_context(run_gateway(tmp_path, secret_watch, road=road, **options))

        yield start_one


@pytest.fixture
async def gateway(start: Start) -> RunningGateway:
    """Give a gateway with the default settings, the shipped policy and a few users."""
    return await start()
