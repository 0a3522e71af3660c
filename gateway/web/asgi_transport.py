"""A WebSocket's transport on plain ASGI: works on any ASGI server, and better on ours.

Owns the queue of outgoing messages and how it is emptied. Senders never wait: a message is put into the queue, and a task empties
the queues of all connections that have something to say, so that a message to thousands wakes one task. A peer that does not
read is left out until it does, and stops nobody but itself. Refuses to own how much may wait: the connection looks at
`buffered_bytes` and cuts off who is too slow.

What ASGI has no word for (pings, aborting, hearing every octet, joined writes) comes from the `gateway.wire` extension. On a
server without it there are no pings, `heard` is called for messages alone, an abort leaves the closing to the server, and each
connection has a task of its own for its queue, since there only waiting tells whether a peer reads.
"""

from __future__ import annotations

import asyncio
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
# Connections served before the others' reads get their turn.
_FAIR_SHARE = 256
_ABNORMAL = 1006


class Wire(Protocol):
    """What our protocol class gives beyond ASGI."""

    heard: Callable[[], None]
    linger_s: float
    writable: asyncio.Event
    on_writable: Callable[[], None] | None

    async def receive(self) -> Event:
        """Give the next event: ASGI's `receive`, without the layers between."""
        ...

    async def send(self, message: Event) -> None:
        """Take an event: ASGI's `send`, without the layers between."""
        ...

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


class Outbox:
    """Empties the queues of the transports that have something to send, one after the other, in a task that ends with the work."""

    __slots__ = ("_ready", "_task")

    def __init__(self) -> None:
        self._ready: deque[AsgiTransport] = deque()
        self._task: asyncio.Task[None] | None = None

    def add(self, transport: AsgiTransport) -> None:
        """Serve a transport in the next turn of the loop."""
        self._ready.append(transport)
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._serve())

    async def _serve(self) -> None:
        ready = self._ready
        served = 0
        try:
            while ready:
                await ready.popleft().flush()
                served += 1
                if served % _FAIR_SHARE == 0:
                    await asyncio.sleep(0)
        except asyncio.CancelledError:
            ready.clear()
            raise
        finally:
            self._task = None
            if ready:  # a fault of one connection, which asyncio logs, must not leave the others unserved
                self._task = asyncio.get_running_loop().create_task(self._serve())

    def stop(self) -> None:
        """Drop what is being served."""
        self._ready.clear()
        if self._task is not None:
            self._task.cancel()


class AsgiTransport:
    """One accepted WebSocket.

    Args:
        receive: The connection's ASGI `receive`, behind the `websocket.connect` event.
        send: Its ASGI `send`, behind the accept.
        encoding: Whether data messages are text or binary.
        wire: Our protocol class, where that is the server.
        shared: The texts that all connections share.
        outbox: What all connections on our protocol class share.
    """

    __slots__ = (
        "_closing",
        "_encoding",
        "_ended",
        "_linger",
        "_outbox",
        "_queue",
        "_queued_bytes",
        "_reader",
        "_receive",
        "_resumed",
        "_send",
        "_served",
        "_shared",
        "_wire",
    )

    def __init__(
        self, receive: Receive, send: Send, encoding: Encoding, wire: Wire | None, shared: SharedText, outbox: Outbox
    ) -> None:
        self._receive = receive if wire is None else wire.receive
        self._send = send if wire is None else wire.send
        self._encoding = encoding
        self._wire = wire
        self._shared = shared
        self._outbox = Outbox() if wire is None else outbox
        self._queue: deque[bytes] = deque()
        self._queued_bytes = 0
        self._served = False
        self._closing: tuple[int, str] | None = None
        self._ended = False
        self._linger: asyncio.TimerHandle | None = None
        self._reader: asyncio.Task[int] | None = None
        self._resumed: asyncio.Future[None] | None = None

    # ------------------------------------------------------------------------------------------ for the session

    def send(self, payload: bytes) -> None:
        """Queue one data message; after a close it is dropped."""
        if self._closing is not None or self._ended:
            return
        self._queue.append(payload)
        self._queued_bytes += len(payload)
        if not self._served:
            self._served = True
            self._outbox.add(self)

    def ping(self) -> None:
        """Send a ping, where the server lets us."""
        if self._wire is not None and not self._ended:
            self._wire.ping()

    def close(self, code: int, reason: str, linger_s: float) -> None:
        """Send a close frame behind all that is queued; `linger_s` seconds from now the connection is dropped."""
        if self._closing is not None or self._ended:
            return
        self._closing = (code, reason)
        if self._wire is not None:
            self._wire.linger_s = linger_s
        # The time runs from now on: a peer that reads nothing would never let the close frame out.
        self._linger = asyncio.get_running_loop().call_later(linger_s, self.abort)
        self.resume_reading()
        if not self._served:
            self._served = True
            self._outbox.add(self)

    def abort(self) -> None:
        """Drop the connection, and all that is queued."""
        if self._ended:
            return
        self._end()
        if self._wire is not None:
            self._wire.abort()
        elif self._reader is not None:
            # Without our protocol class an abort is a return: the server closes what its application has left.
            self._reader.cancel()

    def _end(self) -> None:
        self._ended = True
        self._queue.clear()
        self._queued_bytes = 0
        self.resume_reading()
        if self._linger is not None:
            self._linger.cancel()

    def buffered_bytes(self) -> int:
        """Tell how many octets wait for the peer, here and in the server."""
        return self._queued_bytes if self._wire is None else self._queued_bytes + self._wire.buffered_bytes()

    def pause_reading(self) -> None:
        """Take no more messages; what has come waits in the server, and in the end the peer does."""
        if self._resumed is None and self._closing is None and not self._ended:
            self._resumed = asyncio.get_running_loop().create_future()

    def resume_reading(self) -> None:
        """Go on taking messages."""
        if self._resumed is not None:
            if not self._resumed.done():
                self._resumed.set_result(None)
            self._resumed = None

    # ------------------------------------------------------------------------------------------ for the outbox

    async def flush(self) -> None:
        """Send what is queued, then the close frame where one is due; stop where the peer does not read."""
        sound = False
        try:
            if await self._empty_queue():
                self._served = False
                if self._closing is not None and not self._ended:
                    code, reason = self._closing
                    await self._send({"type": "websocket.close", "code": code, "reason": reason})
            sound = True
        except (OSError, WebSocketDisconnect):
            self._end()  # nobody is there any more; the reader learns it too, and tells
            sound = True
        finally:
            if not sound:  # a fault, or the end of the server: what has been sent in part cannot go on
                self.abort()

    async def _empty_queue(self) -> bool:
        """Send what is queued, several messages in one write; answer False where the peer does not read now."""
        queue, wire = self._queue, self._wire
        joined = 0
        while queue:
            if wire is not None:
                if joined > _CORKED_BYTES:
                    wire.uncork()
                    joined = 0
                if not wire.writable.is_set():
                    wire.on_writable = self._peer_reads
                    return False
                if joined == 0 and len(queue) > 1:
                    wire.cork()
            payload = queue.popleft()
            size = len(payload)
            self._queued_bytes -= size
            joined += size + 1
            if self._encoding is Encoding.JSON:
                await self._send(self._shared.event(payload))
            else:
                await self._send({"type": "websocket.send", "bytes": payload})
        if wire is not None:
            wire.uncork()
        return True

    def _peer_reads(self) -> None:
        if not self._ended:
            self._outbox.add(self)

    # ------------------------------------------------------------------------------------------ for the endpoint

    async def run(self, receiver: Receiver) -> None:
        """Carry messages in both directions until the connection is gone; then tell the receiver, exactly once."""
        if self._wire is not None:
            self._wire.heard = receiver.heard
        # A task of its own: waking one costs as much as it has frames, and the endpoint's stands on all of FastAPI's.
        self._reader = asyncio.get_running_loop().create_task(self._read(receiver))
        code = _ABNORMAL
        try:
            await asyncio.wait((self._reader,))
            if not self._reader.cancelled():
                code = self._reader.result()
        finally:
            self._reader.cancel()
            self._end()
            if self._wire is None:
                self._outbox.stop()
            receiver.lost(code)

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
