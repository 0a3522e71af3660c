"""uvicorn's WebSocket protocol class, made strict: RFC 6455 from the accepted upgrade to the last octet.

Owns frames, close codes and the bounds on a peer that does not read or does not answer. It puts itself into the scope's
extensions, for what ASGI has no word for: pings, hearing every octet, aborting, joined writes. Refuses to own who may connect
and what messages mean.

What it changes of its parent: the head is not parsed a second time (that parser neither answers nor closes what it refuses);
octets behind the upgrade are the first frames; reading is paused only for an application that does not keep up; messages before
a violation are delivered; the application learns the real close code, after the last message; a close that is not answered ends
in an abort; no URL is ever logged.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, cast

from uvicorn.protocols.utils import ClientDisconnected
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import Frame, Opcode
from websockets.protocol import State

from gateway.core.errors import Closes
from gateway.web.edge import WIRE_EXTENSION, EdgeConfig
from gateway.web.frame_parser import (
    Event,
    Fragments,
    FrameParser,
    MessageError,
    data_frame,
    message_event,
    next_message,
)
from gateway.web.problems import PROBLEM_JSON, http_answer, problem_body
from gateway.web.upgrade import Upgrade

if TYPE_CHECKING:
    from uvicorn.server import ServerState

_PING_FRAME = b"\x89\x00"
_ABNORMAL = 1006

# The application empties the inbox whenever it runs; one that holds more than this waits for something, and so may the peer.
_INBOX_MESSAGES = 64


class GatewayWebSocketProtocol(WebSocketsSansIOProtocol):
    """One WebSocket connection, from its upgrade request on.

    Args:
        config: uvicorn's configuration with our edge.
        server_state: uvicorn's connections and tasks.
        app_state: The lifespan's state.
    """

    config: EdgeConfig

    def __init__(
        self,
        config: EdgeConfig,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.max_message_bytes = config.ws_max_size
        self.conn: FrameParser = FrameParser(
            config.ws_max_size, deflate=config.ws_per_message_deflate, logger=self.logger
        )
        self._fragments = Fragments(config.ws_max_size)
        self.heard: Callable[[], None] = _nothing
        self.on_writable: Callable[[], None] | None = None
        self.linger_s = config.edge.limits.close_s
        self._early = bytearray()
        self._inbox: deque[Event] = deque()
        self._reader: asyncio.Future[None] | None = None
        self._told = False
        self._deaf = False
        self._corked: list[bytes] | None = None
        self._pong_due: bytes | None = None
        self._reaper: asyncio.TimerHandle | None = None

    # ------------------------------------------------------------------------------------------ the upgrade

    def upgrade(self, request: Upgrade, early: bytes) -> None:
        """Take over from the HTTP protocol.

        Args:
            request: The request, whose form has been checked.
            early: The octets behind its head.
        """
        self.handshake_initiated = True
        self._early += early
        self.response = self.conn.accept(request.for_websockets())
        if self.response.status_code != HTTPStatus.SWITCHING_PROTOCOLS:
            self._answer(self.response.status_code, [], problem_body(self.response.status_code), PROBLEM_JSON)
            return
        self.scope = {
            "type": "websocket",
            "asgi": {"version": self.asgi_version, "spec_version": "2.4"},
            "http_version": "1.1",
            "scheme": self.scheme,
            "server": self.server,
            "client": self.client,
            "root_path": self.root_path,
            "path": self.root_path + request.path,
            "raw_path": self.root_path.encode("ascii") + request.raw_path,
            "query_string": request.query,
            "headers": request.headers,
            "subprotocols": request.offered,
            "state": self.app_state.copy(),
            "extensions": {"websocket.http.response": {}, WIRE_EXTENSION: cast("dict[object, object]", self)},
        }
        self._put({"type": "websocket.connect"})
        task = self.loop.create_task(self.run_asgi())
        task.add_done_callback(self.on_task_complete)
        self.tasks.add(task)

    async def run_asgi(self) -> None:
        """Run the application; how it ended is looked at by `on_task_complete`."""
        await self.app(self.scope, self.receive, self.send)

    def on_task_complete(self, task: asyncio.Task[None]) -> None:
        """End the connection in a way that says how the application ended."""
        self.tasks.discard(task)
        if task.cancelled():
            self.transport.abort()
            return
        error = task.exception()
        if error is not None and not isinstance(error, ClientDisconnected):
            self.logger.error("Exception in ASGI application\n", exc_info=error)
        if self.disconnected or self.transport.is_closing():
            return
        if not self.handshake_complete:
            self._answer(500, [], problem_body(500), PROBLEM_JSON)
        elif self.conn.state is State.OPEN:
            self._send_close(Closes.INTERNAL.code, Closes.INTERNAL.reason)

    # ------------------------------------------------------------------------------------------ from the peer

    def data_received(self, data: bytes) -> None:
        """Take octets: frames, or what came too early for one."""
        if self._deaf:
            return
        if self._early or not self.handshake_complete:
            self._early += data
            if len(self._early) > self.max_message_bytes:
                self._pause()
            return
        self.heard()
        try:
            self._parse(data)
            failed = self.conn.parser_exc is not None
        except MessageError as error:
            self.conn.fail(error.close.code)
            failed = True
        if self.conn.writes:
            self._flush_parser()
        if failed:
            self._disconnected()
            self._half_close(self.linger_s)

    def _parse(self, data: bytes) -> None:
        conn = self.conn
        if conn.between_messages:
            at = 0
            while (message := next_message(data, at, self.max_message_bytes)) is not None:
                payload, text, at = message
                if not self.close_sent:
                    self._put(message_event(payload, text=text, max_message_bytes=self.max_message_bytes))
            if at == len(data):
                return
            data = data[at:]
        conn.receive_data(data)
        for frame in conn.events_received():
            self._take(cast("Frame", frame))

    def _take(self, frame: Frame) -> None:
        """Take one frame that the parser let through."""
        match frame.opcode:
            case Opcode.PING:
                self._pong(bytes(frame.data))
            case Opcode.PONG:
                pass
            case Opcode.CLOSE:
                self._close_received()
            case _:
                event = self._fragments.add(frame)
                # What comes between our close and its answer is dropped.
                if event is not None and not self.close_sent:
                    self._put(event)

    def _pong(self, payload: bytes) -> None:
        # RFC 6455, section 5.5.3: of several pings the last may be answered alone. Without this, a peer that sends pings and
        # reads nothing would fill our memory with pongs.
        if self.conn.state is not State.OPEN:
            return
        if self.writable.is_set():
            self.transport.write(bytes((0x8A, len(payload))) + payload)
        else:
            self._pong_due = payload

    def resume_writing(self) -> None:
        """Go on writing, with the pong that has been waiting, and tell who waits."""
        super().resume_writing()
        if self._pong_due is not None:
            payload, self._pong_due = self._pong_due, None
            self._pong(payload)
        if self.on_writable is not None:
            tell, self.on_writable = self.on_writable, None
            tell()

    def _close_received(self) -> None:
        # Both sides have said goodbye: RFC 6455, section 7.1.1, lets the server close the connection first.
        self._flush_parser()
        self._disconnected()
        self.transport.close()
        self._reap_in(self.linger_s)

    def _flush_parser(self) -> None:
        output = b"".join(self.conn.data_to_send())
        if output and not self.transport.is_closing():
            self.uncork()
            self.transport.write(output)

    def _put(self, event: Event) -> None:
        self._inbox.append(event)
        if len(self._inbox) > _INBOX_MESSAGES:
            self._pause()
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)

    def _pause(self) -> None:
        if not self.read_paused and not self.transport.is_closing():
            self.read_paused = True
            self.transport.pause_reading()

    def _resume(self) -> None:
        if self.read_paused:
            self.read_paused = False
            if not self.transport.is_closing():
                self.transport.resume_reading()

    def _disconnected(self) -> None:
        """Tell the application, behind all messages, that there will be none any more, and the code that says why."""
        if self._told:
            return
        self._told = True
        conn = self.conn
        close = conn.close_rcvd if conn.close_rcvd_then_sent else conn.close_sent
        code, reason = (_ABNORMAL, "") if close is None else (close.code, close.reason)
        self._put({"type": "websocket.disconnect", "code": int(code), "reason": reason})

    # ------------------------------------------------------------------------------------------ to the peer

    async def receive(self) -> Event:  # type: ignore[override]
        """Give the application its next event; the last one, a disconnect, again and again."""
        inbox = self._inbox
        if not inbox:
            self._reader = self.loop.create_future()
            await self._reader
            self._reader = None
        if inbox[0]["type"] == "websocket.disconnect":
            return inbox[0]
        event = inbox.popleft()
        if not inbox and self.read_paused and self.handshake_complete:
            self._resume()
        return event

    async def send(self, message: Event) -> None:  # type: ignore[override]
        """Take one event of the application; wait while the peer does not read.

        Raises:
            ClientDisconnected: There is nobody any more to send to.
        """
        if not self.writable.is_set():
            await self.writable.wait()
        kind = message["type"]
        if self.disconnected or self.transport.is_closing():
            raise ClientDisconnected
        if kind == "websocket.send" and self.handshake_complete and self.conn.state is State.OPEN:
            self._send_message(message)
            return
        if self.handshake_complete and kind == "websocket.close" and self.conn.state is State.OPEN:
            self._send_close(message.get("code", 1000), message.get("reason") or "")
        elif self.handshake_complete:
            raise ClientDisconnected
        elif kind == "websocket.accept":
            self._accept(message)
        else:
            self._deny(message)

    def _send_message(self, message: Event) -> None:
        payload = message.get("bytes")
        text = payload is None
        if payload is None:
            payload = message["text"].encode()
        frame = self._compressed(payload, text=text) if self.conn.extensions else data_frame(payload, text=text)
        if self._corked is None:
            self.transport.write(frame)
        else:
            self._corked.append(frame)

    def _compressed(self, payload: bytes, *, text: bool) -> bytes:
        if text:
            self.conn.send_text(payload)
        else:
            self.conn.send_binary(payload)
        return b"".join(self.conn.data_to_send())

    def _send_close(self, code: int, reason: str) -> None:
        self.conn.send_close(code, reason)
        self._flush_parser()
        self.close_sent = True
        # The answer must be read, and what comes before it dropped.
        self._resume()
        self._reap_in(self.linger_s)

    def _accept(self, message: Event) -> None:
        fields = [*self.default_headers, *message.get("headers", ())]
        del self.response.headers["Date"]
        self.response.headers.update([(name.decode("latin-1"), value.decode("latin-1")) for name, value in fields])
        if message.get("subprotocol"):
            self.response.headers["Sec-WebSocket-Protocol"] = message["subprotocol"]
        self.handshake_complete = True
        self.conn.send_response(self.response)
        self._flush_parser()
        # On the next turn: a refused handshake has sent its close by then, and what came early must not bring another one.
        self.loop.call_soon(self._replay)

    def _replay(self) -> None:
        """Take the octets that came before the handshake was complete."""
        early, self._early = bytes(self._early), bytearray()
        self._resume()
        if early and not self.disconnected:
            self.data_received(early)

    def _deny(self, message: Event) -> None:
        match message["type"]:
            case "websocket.close":
                self._answer(403, [], problem_body(403), PROBLEM_JSON)
            case "websocket.http.response.start":
                self.initial_response = (message["status"], list(message.get("headers", ())), b"")
            case "websocket.http.response.body" if self.initial_response is not None:
                status, headers, body = self.initial_response
                body += message.get("body", b"")
                self.initial_response = (status, headers, body)
                if not message.get("more_body", False):
                    fields = cast("list[tuple[bytes, bytes]]", headers)
                    self._answer(status, fields, body, None)
            case other:
                raise RuntimeError(f"unexpected ASGI message `{other}` before the connection was accepted")

    def _answer(self, status: int, headers: list[tuple[bytes, bytes]], body: bytes, content_type: str | None) -> None:
        """Answer the upgrade request with something else than an upgrade."""
        self.handshake_complete = True
        self.close_sent = True
        self.conn.state = State.CLOSED
        self._disconnected()
        if not self.transport.is_closing():
            fields = [*self.default_headers, *headers]
            self.transport.write(http_answer(status, fields, body, content_type))
            self._half_close(self.config.edge.limits.refused_s)

    # ------------------------------------------------------------------------------------------ the extension

    def ping(self) -> None:
        """Send a ping, where there is still somebody to answer it."""
        if self.conn.state is State.OPEN and not self.transport.is_closing():
            self.transport.write(_PING_FRAME)

    def abort(self) -> None:
        """Drop the connection, with all that waits to be sent."""
        self.transport.abort()

    def buffered_bytes(self) -> int:
        """Tell how many octets wait for the peer."""
        return self.transport.get_write_buffer_size()

    def cork(self) -> None:
        """Keep the frames of the next sends together, until `uncork` writes them at once."""
        if self._corked is None:
            self._corked = []

    def uncork(self) -> None:
        """Write what has been kept."""
        if self._corked is not None:
            frames, self._corked = self._corked, None
            if frames and not self.transport.is_closing():
                self.transport.write(b"".join(frames))

    # ------------------------------------------------------------------------------------------ the end

    def _half_close(self, linger_s: float) -> None:
        """Say that nothing follows, and read on for a while: a closed socket would take back what the peer has not read yet."""
        self._deaf = True
        if self.transport.is_closing():
            return
        if self.transport.can_write_eof():
            self.transport.write_eof()
        else:
            linger_s = min(linger_s, 1.0)  # TLS has no half: the peer sees an end only when we go
        self._resume()
        self._reap_in(linger_s)

    def _reap_in(self, seconds: float) -> None:
        if self._reaper is not None:
            self._reaper.cancel()
        self._reaper = self.loop.call_later(seconds, self.transport.abort)

    def eof_received(self) -> None:
        """Let the transport close, but not wait for a peer that does not read."""
        if self._reaper is None:
            self._reap_in(self.linger_s)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - why it was lost tells the application nothing
        """Free everything."""
        self.connections.discard(self)
        if self._reaper is not None:
            self._reaper.cancel()
        self.disconnected = True
        self.handshake_complete = True
        self._corked = None
        self.heard = _nothing
        self.on_writable = None
        self._disconnected()
        # Whoever waits to write learns now that there is nobody to write to.
        self.writable.set()
        if self.handshake_initiated and hasattr(self, "scope"):
            self.scope["extensions"].pop(WIRE_EXTENSION, None)

    def shutdown(self) -> None:
        """End what the drain has left over: the server stops within a bound."""
        if not self.handshake_complete:
            self._answer(503, [(b"retry-after", b"1")], problem_body(503), PROBLEM_JSON)
        elif self.conn.state is State.OPEN:
            self._send_close(Closes.DRAINING.code, Closes.DRAINING.reason)
        self._reap_in(min(self.linger_s, 1.0))


def _nothing() -> None:
    """Hear an octet that nobody waits for."""
