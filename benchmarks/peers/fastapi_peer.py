"""The plain FastAPI peer: the broadcast and the echo of the tutorial, without any security: `uvicorn fastapi_peer:app`."""

from __future__ import annotations

from fastapi import FastAPI, WebSocket, WebSocketDisconnect

app = FastAPI()
subscribers: list[WebSocket] = []


@app.websocket("/fan-out")
async def fan_out(websocket: WebSocket) -> None:
    """Send what a publisher sends to all that have subscribed."""
    await websocket.accept()
    await websocket.send_text('"welcome"')
    try:
        while True:
            text = await websocket.receive_text()
            if text == '"subscribe"':
                subscribers.append(websocket)
                await websocket.send_text('"subscribed"')
                continue
            for subscriber in subscribers:
                await subscriber.send_text(text)
    except WebSocketDisconnect:
        if websocket in subscribers:
            subscribers.remove(websocket)


@app.websocket("/echo")
async def echo(websocket: WebSocket) -> None:
    """Send back what comes."""
    await websocket.accept()
    await websocket.send_text('"welcome"')
    try:
        while True:
            await websocket.send_text(await websocket.receive_text())
    except WebSocketDisconnect:
        return
