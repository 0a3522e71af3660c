"""The python-socketio peer, its ASGI application served by uvicorn: `uvicorn socketio_peer:app`."""

from __future__ import annotations

from typing import Any

import socketio

ROOM = "room"
# Engine.IO's own heartbeat stays out of runs that take seconds, so that each frame is a message.
server = socketio.AsyncServer(async_mode="asgi", ping_interval=600)
app = socketio.ASGIApp(server)


@server.on("subscribe")
async def subscribe(sid: str) -> str:
    """Enter the room."""
    await server.enter_room(sid, ROOM)
    return "subscribed"


@server.on("publish")
async def publish(_sid: str, data: Any) -> None:  # noqa: ANN401 - whatever the client sends
    """Send to the room."""
    await server.emit("message", data, room=ROOM)


@server.on("echo")
async def echo(_sid: str, data: Any) -> Any:  # noqa: ANN401 - as above
    """Send back by acknowledgement."""
    return data
