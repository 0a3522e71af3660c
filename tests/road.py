"""A pytest plugin: by which road a test's gateway is reached. A test with the fixture `road` runs on each."""

from __future__ import annotations

import enum

import pytest


class Road(enum.StrEnum):
    """Who serves the application."""

    WIRE = "wire"
    """The gateway's own protocol classes."""
    PLAIN_ASGI = "plain-asgi"
    """uvicorn's, as on any other server: the application has ASGI and nothing else."""


@pytest.fixture(params=list(Road), ids=str)
def road(request: pytest.FixtureRequest) -> Road:
    """Give each road; the marker `wire_only` says what a test proves that plain ASGI lacks."""
    given: Road = request.param
    wire_only = request.node.get_closest_marker("wire_only")
    if wire_only is not None and given is Road.PLAIN_ASGI:
        (reason,) = wire_only.args
        pytest.skip(reason)
    return given
