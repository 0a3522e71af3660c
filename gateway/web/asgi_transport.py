"""A WebSocket's transport on plain ASGI: works on any ASGI server, and better on ours.

Owns the queue of outgoing messages and the two loops of a connection. Senders never wait: a message is put into the queue and one
writer task empties it, so that a peer that does not read stops nobody but itself. Refuses to own how much may wait: the
connection looks at `buffered_bytes` and cuts off who is too slow.

What ASGI has no word for (pings, aborting, hearing every octet, joined writes) comes from the `gateway.wire` extension. On a
server without it there are no pings, `heard` is called for messages alone, and an abort leaves the closing to the server.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Protocol

from starlette.websockets import WebSocketDisconnect

from gateway.core.frames import Encoding
from gateway.web.edge import WIRE_EXTENSION

Event = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]

# Frames of one write: enough to save system calls, little enough to leave back-pressure its say.
_CORKED_BYTES = 65_536
_ABNORMAL = 1006
_log = logging.getLogger(__name__)


class Wire(Protocol):
    """What our protocol class gives beyond ASGI."""

    heard: Callable[[], None]
    linger_s: float

    def ping(self) -> None:
        """Send a ping."""
        ...

    def abort(self) -> None:
        """Drop the connection now."""
        ...

    def buffered_bytes(self) -> int:
        """Tell how many octets wait in the server."""
        ...

    def cork(self) -> None:
        """Keep the next messages together."""
        ...

    def uncork(self) -> None:
        """Write them at once."""
        ...


def wire_of(scope: MutableMapping[str, Any]) -> Wire | None:
    """Find our protocol class in a scope; None on another server."""
    wire: Wire | None = (scope.get("extensions") or {}).get(WIRE_EXTENSION)
    return wire


class Receiver(Protocol):
    """The connection, as its transport sees it."""

    def received(self, payload: bytes, *, text: bool) -> None:
        """Take one whole data message."""
        ...

    def heard(self) -> None:
        """Note that the peer is alive."""
        ...

    def lost(self, code: int) -> None:
        """Note that the transport is gone, and the close code seen; 1006 where there was none."""
        ...


class SharedText:
    """The last payload and its text event: one message to many subscribers is decoded once.

    It is told by identity, which costs nothing and holds while the payload is kept alive here.
    """

    __slots__ = ("_event", "_payload")

    def __init__(self) -> None:
        self._payload = b""
        self._event: Event = {"type": "websocket.send", "text": ""}

    def event(self, payload: bytes) -> Event:
        """Give the ASGI event that sends `payload` as text."""
        if payload is not self._payload:
            self._event = {"type": "websocket.send", "text": payload.decode()}
            self._payload = payload
        return self._event


class AsgiTransport:
    """One accepted WebSocket.

    Args:
        receive: The connection's ASGI `receive`, behind the `websocket.connect` event.
        send: Its ASGI `send`, behind the accept.
        encoding: Whether data messages are text or binary.
        wire: Our protocol class, where that is the server.
        shared: The texts that all connections share.
    """

    __slots__ = (
        "_aborted",
        "_closing",
        "_encoding",
        "_linger",
        "_loop",
        "_queue",
        "_queued_bytes",
        "_receive",
        "_resumed",
        "_send",
        "_shared",
        "_task",
        "_wake",
        "_wire",
    )

    def __init__(self, receive: Receive, send: Send, encoding: Encoding, wire: Wire | None, shared: SharedText) -> None:
        self._receive = receive
        self._send = send
        self._encoding = encoding
        self._wire = wire
        self._shared = shared
        self._loop = asyncio.get_running_loop()
        self._queue: deque[bytes] = deque()
        self._queued_bytes = 0
        self._closing: tuple[int, str] | None = None
        self._aborted = False
        self._linger: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[object] | None = None
        self._wake: asyncio.Future[None] | None = None
        self._resumed: asyncio.Future[None] | None = None

    # ------------------------------------------------------------------------------------------ for the session

    def send(self, payload: bytes) -> None:
        """Queue one data message; after a close it is dropped."""
        if self._closing is not None or self._aborted:
            return
        self._queue.append(payload)
        self._queued_bytes += len(payload)
        wake = self._wake
        if wake is not None:
            self._wake = None
            wake.set_result(None)

    def ping(self) -> None:
        """Send a ping, where the server lets us."""
        if self._wire is not None and not self._aborted:
            self._wire.ping()

    def close(self, code: int, reason: str, linger_s: float) -> None:
        """Send a close frame behind all that is queued; `linger_s` seconds from now the connection is dropped."""
        if self._closing is not None or self._aborted:
            return
        self._closing = (code, reason)
        if self._wire is not None:
            self._wire.linger_s = linger_s
        # The time runs from now on: a peer that reads nothing would never let the close frame out.
        self._linger = self._loop.call_later(linger_s, self.abort)
        self.resume_reading()
        self._wake_writer()

    def abort(self) -> None:
        """Drop the connection, and all that is queued."""
        if self._aborted:
            return
        self._aborted = True
        self._queue.clear()
        self._queued_bytes = 0
        if self._wire is not None:
            self._wire.abort()
        elif self._task is not None:
            self._task.cancel()
        self.resume_reading()
        self._wake_writer()

    def buffered_bytes(self) -> int:
        """Tell how many octets wait for the peer, here and in the server."""
        return self._queued_bytes if self._wire is None else self._queued_bytes + self._wire.buffered_bytes()

    def pause_reading(self) -> None:
        """Take no more messages; what has come waits in the server, and in the end the peer does."""
        if self._resumed is None and self._closing is None and not self._aborted:
            self._resumed = self._loop.create_future()

    def resume_reading(self) -> None:
        """Go on taking messages."""
        if self._resumed is not None:
            if not self._resumed.done():
                self._resumed.set_result(None)
            self._resumed = None

    def _wake_writer(self) -> None:
        wake = self._wake
        if wake is not None:
            self._wake = None
            wake.set_result(None)

    # ------------------------------------------------------------------------------------------ for the endpoint

    async def run(self, receiver: Receiver) -> None:
        """Carry messages in both directions until the connection is gone; then tell the receiver, exactly once."""
        if self._wire is not None:
            self._wire.heard = receiver.heard
        self._task = asyncio.current_task()
        writer = self._loop.create_task(self._write())
        writer.add_done_callback(self._writer_ended)
        code = _ABNORMAL
        try:
            code = await self._read(receiver)
        except asyncio.CancelledError:
            # Without our protocol class an abort is a return: the server closes what its application has left.
            if self._task is None or not self._aborted or self._wire is not None:
                raise
            self._task.uncancel()
        finally:
            self._aborted = True
            self._task = None
            if self._linger is not None:
                self._linger.cancel()
            writer.cancel()
            receiver.lost(code)
        await asyncio.wait((writer,))

    def _writer_ended(self, writer: asyncio.Task[None]) -> None:
        if not writer.cancelled() and writer.exception() is not None:
            _log.error("the writer of a connection failed", exc_info=writer.exception())
            self.abort()

    async def _read(self, receiver: Receiver) -> int:
        """Hand messages on until there are none any more; give the close code."""
        receive = self._receive
        alone = self._wire is None
        while True:
            event = await receive()
            if event["type"] == "websocket.disconnect":
                return int(event.get("code") or _ABNORMAL)
            while self._resumed is not None:
                await self._resumed
            if alone:
                receiver.heard()
            text = event.get("text")
            if text is not None:
                receiver.received(text.encode(), text=True)
            else:
                receiver.received(event["bytes"], text=False)

    async def _write(self) -> None:
        """Empty the queue whenever there is something in it; end with the close frame."""
        queue = self._queue
        try:
            while True:
                if queue:
                    await self._flush()
                elif self._aborted:
                    return
                elif self._closing is not None:
                    code, reason = self._closing
                    await self._send({"type": "websocket.close", "code": code, "reason": reason})
                    return
                else:
                    self._wake = self._loop.create_future()
                    await self._wake
        except (OSError, WebSocketDisconnect):
            return  # nobody is there any more; the reader learns it too, and tells

    async def _flush(self) -> None:
        """Send what is queued; several messages in one write where the server can."""
        queue = self._queue
        wire = self._wire
        joined = 0
        if wire is not None and len(queue) > 1:
            wire.cork()
        while queue:
            payload = queue.popleft()
            self._queued_bytes -= len(payload)
            joined += len(payload)
            if self._encoding is Encoding.JSON:
                await self._send(self._shared.event(payload))
            else:
                await self._send({"type": "websocket.send", "bytes": payload})
            if joined > _CORKED_BYTES:
                break
        if wire is not None:
            wire.uncork()
