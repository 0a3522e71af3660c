"""The edge is tested on both event loops: uvloop is what a server runs, asyncio's own is what it runs where that is missing."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Mapping

import pytest
import uvloop
from edge_server import Serve, serving
from road import Road

EDGE_TESTS = ("test_http_protocol", "test_websocket_")


def pytest_asyncio_loop_factories(
    config: pytest.Config,  # noqa: ARG001 - the hook's signature
    item: pytest.Item,
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]] | None:
    if not item.path.name.startswith(EDGE_TESTS):
        return {"asyncio": asyncio.new_event_loop}
    return {"uvloop": uvloop.new_event_loop, "asyncio": asyncio.new_event_loop}


@pytest.fixture
def serve(road: Road) -> Serve:
    """Serve the edge by the road of the test: `async with serve() as served`."""
    return functools.partial(serving, stock=road is Road.PLAIN_ASGI)
