"""An application that does with a handshake what ours never does: each time the peer is answered, and the server goes on."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
from edge_server import close_frame, serving, text, until, upgrade
from starlette.types import Receive, Scope, Send

from gateway.core.frames import Encoding
from gateway.web.edge import WIRE_EXTENSION

Application = Callable[[Scope, Receive, Send], Awaitable[None]]


async def closes_before_it_accepts(_: Scope, receive: Receive, send: Send) -> None:
    await receive()
    await send({"type": "websocket.close", "code": 1000})


async def returns(_: Scope, _receive: Receive, _send: Send) -> None:
    """Say nothing."""


async def fails(_: Scope, _receive: Receive, _send: Send) -> None:
    raise ZeroDivisionError


async def says_what_asgi_does_not_know(_: Scope, _receive: Receive, send: Send) -> None:
    await send({"type": "websocket.shout"})


async def sends_before_it_accepts(_: Scope, _receive: Receive, send: Send) -> None:
    await send({"type": "websocket.send", "text": "hi"})


async def takes_over_what_it_has_not_accepted(scope: Scope, _: Receive, _send: Send) -> None:
    scope["extensions"][WIRE_EXTENSION].take_over(Encoding.JSON)


@pytest.mark.parametrize(
    ("application", "status"),
    [
        (closes_before_it_accepts, 403),
        (returns, 500),
        (fails, 500),
        (says_what_asgi_does_not_know, 500),
        (sends_before_it_accepts, 500),
        (takes_over_what_it_has_not_accepted, 500),
    ],
)
async def test_a_handshake_that_is_not_accepted_is_answered(application: Application, status: int) -> None:
    async with serving(instead=application) as served, await served.raw() as raw:
        raw.send(upgrade())
        assert (await raw.response())[0] == status
        assert await raw.rest() == b""


async def accepts_and_returns(_: Scope, _receive: Receive, send: Send) -> None:
    await send({"type": "websocket.accept"})


async def accepts_and_fails(_: Scope, _receive: Receive, send: Send) -> None:
    await send({"type": "websocket.accept"})
    raise ZeroDivisionError


async def accepts_and_receives(_: Scope, receive: Receive, send: Send) -> None:
    await receive()
    await send({"type": "websocket.accept"})
    await receive()


async def accepts_twice(_: Scope, _receive: Receive, send: Send) -> None:
    for _ in range(2):
        await send({"type": "websocket.accept"})


async def takes_over_and_fails(scope: Scope, _: Receive, send: Send) -> None:
    await send({"type": "websocket.accept"})
    scope["extensions"][WIRE_EXTENSION].take_over(Encoding.JSON)
    raise ZeroDivisionError


@pytest.mark.parametrize(
    "application",
    [accepts_and_returns, accepts_and_fails, accepts_and_receives, accepts_twice, takes_over_and_fails],
)
async def test_an_accepted_websocket_that_nobody_serves_is_closed_with_1011(application: Application) -> None:
    async with serving(instead=application) as served, await served.raw() as raw:
        raw.send(upgrade(), text("early"))
        assert (await raw.response())[0] == 101
        assert await raw.closing() == (1011, "internal")
        raw.send(close_frame(1011))
        assert await raw.rest() == b""


async def test_an_application_is_told_of_a_peer_that_goes_before_it_accepts() -> None:
    told = []

    async def waits(_: Scope, receive: Receive, send: Send) -> None:
        told.append(await receive())
        told.append(await receive())
        await send({"type": "websocket.accept"})  # which comes too late, and is no fault

    async with serving(instead=waits) as served:
        async with await served.raw() as raw:
            raw.send(upgrade())
        await until(lambda: not served.uvicorn.tasks)
    assert [event["type"] for event in told] == ["websocket.connect", "websocket.disconnect"]
