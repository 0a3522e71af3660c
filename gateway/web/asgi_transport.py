"""A WebSocket's transport on plain ASGI: what a gateway on any other server than its own has.

Owns the queue of outgoing messages, and the task that empties it: ASGI lets a sender wait, and only so tells it that a peer does
not read. Nobody else waits for it: a peer that does not read stops nobody but itself, and how much may be queued for it is bounded.

What ASGI has no word for is missing here. There are no pings, which the server may send by itself; one write for several messages;
and an abort leaves the closing to the server.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any

from starlette.websockets import WebSocketDisconnect

from gateway.core.errors import Closes
from gateway.core.frames import Encoding
from gateway.core.wire_frames import Framing
from gateway.runtime.ports import Receiver, Traffic
from gateway.web.wire_parser import TURN_MESSAGES

Event = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]

_ABNORMAL = 1006
_LINGER_S = 5.0


class AsgiTransport:
    """One accepted WebSocket.

    Args:
        receive: The connection's ASGI `receive`, behind the `websocket.connect` event.
        send: Its ASGI `send`, behind the accept.
        encoding: Whether data messages are text or binary.
        traffic: Where payloads are counted.
        max_message_bytes: The largest message from the peer: the server has a limit of its own, which nobody has asked us about.
    """

    __slots__ = (
        "_closing",
        "_encoding",
        "_ended",
        "_linger",
        "_max_message_bytes",
        "_queue",
        "_queued_bytes",
        "_reader",
        "_receive",
        "_receiver",
        "_resumed",
        "_send",
        "_traffic",
        "_untaken",
        "_writer",
        "heard",
    )

    framing: Framing | None = None

    def __init__(
        self, receive: Receive, send: Send, encoding: Encoding, traffic: Traffic, max_message_bytes: int
    ) -> None:
        self._receive = receive
        self._send = send
        self._encoding = encoding
        self._traffic = traffic
        self._max_message_bytes = max_message_bytes
        self._queue: deque[bytes] = deque()
        self._queued_bytes = 0
        self._closing: tuple[int, str] | None = None
        self._ended = False
        self._linger: asyncio.TimerHandle | None = None
        self._receiver: Receiver | None = None
        self._reader: asyncio.Task[int] | None = None
        self._writer: asyncio.Task[None] | None = None
        self._resumed: asyncio.Future[None] | None = None
        self._untaken: list[bytes] = []
        self.heard = True

    # ------------------------------------------------------------------------------------------ for the session

    def send(self, payloads: Sequence[bytes]) -> None:
        """Queue data messages; after a close they are dropped."""
        if not payloads or self._closing is not None or self._ended:
            return
        self._queue.extend(payloads)
        self._queued_bytes += sum(map(len, payloads))
        self._write()
        receiver = self._receiver
        if receiver is not None and self._queued_bytes > receiver.max_buffered_bytes:
            asyncio.get_running_loop().call_soon(receiver.overflowed)

    def write(self, octets: bytes) -> None:
        """Refuse: there is no framing to make octets by."""
        raise NotImplementedError

    def ping(self) -> None:
        """Leave pings to the server: silence says nothing here."""

    def close(self, code: int, reason: str, linger_s: float) -> None:
        """Send a close frame behind all that is queued; `linger_s` seconds from now the connection is dropped."""
        if self._closing is not None or self._ended:
            return
        self._closing = (code, reason)
        # The time runs from now on: a peer that reads nothing would never let the close frame out.
        self._linger = asyncio.get_running_loop().call_later(linger_s, self.abort)
        self.resume_reading()
        self._write()

    def abort(self) -> None:
        """Drop the connection, and all that is queued: a return, and the server closes what its application has left."""
        if not self._ended:
            self._end()
            if self._reader is not None:
                self._reader.cancel()

    def buffered_bytes(self) -> int:
        """Tell how many octets wait for the peer, as far as they are known here."""
        return self._queued_bytes

    def pause_reading(self, untaken: Sequence[bytes]) -> None:
        """Take no more messages; what has come waits here and in the server, and in the end the peer does."""
        self._untaken = list(untaken)
        if self._resumed is None and self._closing is None and not self._ended:
            self._resumed = asyncio.get_running_loop().create_future()

    def resume_reading(self) -> None:
        """Go on taking messages."""
        if self._resumed is not None:
            if not self._resumed.done():
                self._resumed.set_result(None)
            self._resumed = None

    def _end(self) -> None:
        self._ended = True
        self._queue.clear()
        self._queued_bytes = 0
        self.resume_reading()
        if self._linger is not None:
            self._linger.cancel()

    # ------------------------------------------------------------------------------------------ the queue

    def _write(self) -> None:
        if self._writer is None:
            self._writer = asyncio.get_running_loop().create_task(self._empty_queue())

    async def _empty_queue(self) -> None:
        """Send what is queued, then the close frame where one is due."""
        sound = False
        try:
            while self._queue:
                payload = self._queue.popleft()
                self._queued_bytes -= len(payload)
                self._traffic.sent += len(payload)
                if self._encoding is Encoding.JSON:
                    await self._send({"type": "websocket.send", "text": payload.decode()})
                else:
                    await self._send({"type": "websocket.send", "bytes": payload})
            if self._closing is not None and not self._ended:
                code, reason = self._closing
                await self._send({"type": "websocket.close", "code": code, "reason": reason})
            sound = True
        except (OSError, WebSocketDisconnect):
            self._end()  # nobody is there any more; the reader learns it too, and tells
            sound = True
        finally:
            self._writer = None
            if not sound:  # a fault, or the end of the server: what has been sent in part cannot go on
                self.abort()

    # ------------------------------------------------------------------------------------------ for the endpoint

    async def run(self, receiver: Receiver) -> None:
        """Carry messages in both directions until the connection is gone; then tell the receiver, exactly once."""
        self._receiver = receiver
        # A task of its own: an abort cancels it, and the endpoint goes on to tell.
        self._reader = asyncio.get_running_loop().create_task(self._read(receiver))
        code = _ABNORMAL
        try:
            await asyncio.wait((self._reader,))
            if not self._reader.cancelled():
                code = self._reader.result()
        finally:
            self._reader.cancel()
            self._end()
            if self._writer is not None:
                self._writer.cancel()
            self._receiver = None
            receiver.lost(code)

    async def _read(self, receiver: Receiver) -> int:
        """Hand messages on until there are none any more; give the close code."""
        taken = 0
        while True:
            taken += 1
            if not taken % TURN_MESSAGES:
                # What the server has read at once comes without a pause: others would wait for all of it.
                await asyncio.sleep(0)
            event = await self._receive()
            if event["type"] == "websocket.disconnect":
                return int(event.get("code") or _ABNORMAL)
            text = event.get("text")
            payload = event["bytes"] if text is None else text.encode()
            if (text is not None) is not (self._encoding is Encoding.JSON):
                receiver.unsupported()
                continue
            self._traffic.received += len(payload)
            if len(payload) > self._max_message_bytes:
                self.close(Closes.FRAME_TOO_LARGE.code, Closes.FRAME_TOO_LARGE.reason, _LINGER_S)
                continue
            self._untaken, again = [payload], False
            while self._untaken:
                while self._resumed is not None:
                    await self._resumed
                if self._closing is not None:
                    break
                untaken, self._untaken = self._untaken, []
                for _, answers in receiver.intake.take([(receiver, untaken)], again=again):
                    self.send(answers)
                again = True
