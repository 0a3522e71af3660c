"""The edge is tested on both event loops: uvloop is what a server runs, asyncio's own is what it runs where that is missing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import pytest
import uvloop

EDGE_TESTS = ("test_http_protocol", "test_websocket_")


def pytest_asyncio_loop_factories(
    config: pytest.Config,  # noqa: ARG001 - the hook's signature
    item: pytest.Item,
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]] | None:
    if not item.path.name.startswith(EDGE_TESTS):
        return {"asyncio": asyncio.new_event_loop}
    return {"uvloop": uvloop.new_event_loop, "asyncio": asyncio.new_event_loop}
