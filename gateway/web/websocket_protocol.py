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
import logging
import struct
from collections import deque
from collections.abc import Callable, Generator, MutableMapping
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import unquote

from uvicorn.protocols.utils import ClientDisconnected
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.datastructures import Headers
from websockets.extensions.permessage_deflate import ServerPerMessageDeflateFactory
from websockets.frames import CloseCode, Frame, Opcode
from websockets.http11 import Request
from websockets.protocol import Protocol, State
from websockets.server import ServerProtocol

from gateway.core.errors import Closes
from gateway.web.edge import WIRE_EXTENSION, EdgeConfig
from gateway.web.problems import PROBLEM_JSON, problem_body

try:
    from websockets.speedups import apply_mask
except ImportError:  # websockets without its compiled part
    from websockets.utils import apply_mask

if TYPE_CHECKING:
    from uvicorn.server import ServerState

Event = MutableMapping[str, Any]

_TEXT, _BINARY = 0x81, 0x82
_PING_FRAME = b"\x89\x00"
_LEAST_FRAME = 6  # two octets and the mask
_MEDIUM_FRAME = 126  # a length in the two octets that follow (RFC 6455, section 5.2)
_SHORT, _MEDIUM = 126, 65_536
_ABNORMAL = 1006

# The application empties the inbox whenever it runs; one that holds more than this waits for something, and so may the peer.
_INBOX_MESSAGES = 64

# Deflate may make what cannot be compressed a little longer (RFC 1951: 5 octets for each stored block). The parser holds the
# frame's own length against its limit, so it gets this much slack, and the exact limit is asked of the inflated message.
_DEFLATE_SLACK = 1024

_REASONS = {
    close.code: close.reason
    for close in (Closes.PROTOCOL_ERROR, Closes.INVALID_UTF8, Closes.FRAME_TOO_LARGE, Closes.INTERNAL)
}


class _ErrorsOnly(logging.LoggerAdapter[logging.Logger]):
    """Lets errors through alone: below, websockets writes whole frames, and frames hold tokens."""

    def isEnabledFor(self, level: int) -> bool:  # noqa: N802 - logging's name
        return level >= logging.ERROR and super().isEnabledFor(level)


class FrameParser(ServerProtocol):
    """websockets' server side without the head of the request, which has been parsed already.

    Pings are left to the caller to answer, and closes of ours carry our reasons. `between_messages` tells whether the next octet
    begins a message: then the caller may take whole messages without this parser.
    """

    between_messages = True

    def receive_data(self, data: bytes | bytearray) -> None:
        """Take octets."""
        self.between_messages = False
        super().receive_data(data)

    def parse(self) -> Generator[None]:
        """Begin with the first frame."""
        return Protocol.parse(self)

    def recv_frame(self, frame: Frame) -> None:
        """Take a frame; a ping is only told."""
        if frame.opcode is Opcode.PING:
            self.events.append(frame)
        else:
            super().recv_frame(frame)
        self.between_messages = not self.reader.buffer and self.current_size is None and self.state is State.OPEN

    def fail(self, code: CloseCode | int, reason: str = "") -> None:  # noqa: ARG002 - websockets' wording gives way to ours
        """End the connection with our reason for the code."""
        super().fail(code, _REASONS.get(code, ""))


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
        deflate = config.ws_per_message_deflate
        self.max_message_bytes = config.ws_max_size
        self.conn: FrameParser = FrameParser(
            extensions=[_deflate_factory()] if deflate else [],
            max_size=config.ws_max_size + (_DEFLATE_SLACK if deflate else 0),
            logger=_ErrorsOnly(self.logger),
        )
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

    def upgrade(self, path: bytes, query: bytes, headers: list[tuple[bytes, bytes]], early: bytes) -> None:
        """Take over from the HTTP protocol, whose checks the request has passed.

        Args:
            path: The path as it came, ASCII.
            query: The query as it came, ASCII.
            headers: All fields, names in lower case.
            early: The octets behind the head.
        """
        self.handshake_initiated = True
        self._early += early
        self.response = self.conn.accept(Request(path.decode("ascii"), _handshake_fields(headers)))
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
            "path": self.root_path + unquote(path.decode("ascii")),
            "raw_path": self.root_path.encode("ascii") + path,
            "query_string": query,
            "headers": headers,
            "subprotocols": _offered(headers),
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
        conn = self.conn
        if conn.between_messages:
            taken = self._take_messages(data)
            if taken == len(data) or self._deaf:
                return
            data = data[taken:]
        conn.receive_data(data)
        for frame in conn.events_received():
            if not self._take(cast("Frame", frame)):
                break
        if conn.writes:
            self._flush_parser()
        if conn.parser_exc is not None and not self._told:
            self._disconnected()
            self._half_close(self.linger_s)

    def _take_messages(self, data: bytes) -> int:
        """Take the whole, unfragmented messages at the beginning; answer how many octets they were.

        What nearly all clients send nearly always, at a quarter of the parser's cost. Everything else, a fault above all, is left
        to the parser: this looks for nothing but frames that it could not refuse.
        """
        at, end = 0, len(data)
        while end - at >= _LEAST_FRAME:
            first, size, start = data[at], data[at + 1] & 0x7F, at + 6
            if (first != _TEXT and first != _BINARY) or not data[at + 1] & 0x80:  # noqa: PLR1714 - faster than a set
                break
            if size == _MEDIUM_FRAME:
                size, start = int.from_bytes(data[at + 2 : at + 4], "big"), at + 8
            elif size > _MEDIUM_FRAME:
                break
            if size > self.max_message_bytes or start + size > end:
                break
            at = start + size
            self.curr_msg_data_type = "text" if first == _TEXT else "bytes"
            self.frames = [apply_mask(data[start:at], data[start - 4 : start])]
            if not self._message():
                break
        return at

    def _take(self, frame: Frame) -> bool:
        """Take one frame of a kind that the parser let through; answer whether to go on."""
        match frame.opcode:
            case Opcode.TEXT | Opcode.BINARY:
                self.curr_msg_data_type = "text" if frame.opcode is Opcode.TEXT else "bytes"
                self.frames = [bytes(frame.data)]
            case Opcode.CONT:
                self.frames.append(bytes(frame.data))
            case Opcode.PING:
                self._pong(bytes(frame.data))
                return True
            case Opcode.PONG:
                return True
            case Opcode.CLOSE:
                self._close_received()
                return True
        return self._message() if frame.fin else True

    def _message(self) -> bool:
        data = self.frames[0] if len(self.frames) == 1 else b"".join(self.frames)
        self.frames = []
        if self.close_sent:
            return True
        if len(data) > self.max_message_bytes:
            self.conn.fail(Closes.FRAME_TOO_LARGE.code)
        elif self.curr_msg_data_type == "bytes":
            self._put({"type": "websocket.receive", "bytes": data})
            return True
        else:
            try:
                self._put({"type": "websocket.receive", "text": data.decode()})
            except UnicodeDecodeError:
                self.conn.fail(Closes.INVALID_UTF8.code)
            else:
                return True
        self._flush_parser()
        self._disconnected()
        self._half_close(self.linger_s)
        return False

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
        if kind == "websocket.send" and self.handshake_complete and self.conn.state is State.OPEN:
            self._send_message(message)
            return
        if self.disconnected or self.transport.is_closing():
            raise ClientDisconnected
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
        first = _BINARY
        if payload is None:
            payload = message["text"].encode()
            first = _TEXT
        if self.conn.extensions:
            frame = self._compressed(first, payload)
        else:
            size = len(payload)
            if size < _SHORT:
                frame = bytes((first, size)) + payload
            elif size < _MEDIUM:
                frame = struct.pack("!BBH", first, 126, size) + payload
            else:
                frame = struct.pack("!BBQ", first, 127, size) + payload
        if self._corked is None:
            self.transport.write(frame)
        else:
            self._corked.append(frame)

    def _compressed(self, first: int, payload: bytes) -> bytes:
        if first == _TEXT:
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
        fields = [*self.default_headers, *headers, (b"connection", b"close")]
        if content_type is not None:
            fields += [(b"content-type", content_type.encode()), (b"content-length", str(len(body)).encode())]
        head = f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n".encode()
        self.handshake_complete = True
        self.close_sent = True
        self.conn.state = State.CLOSED
        self._disconnected()
        if not self.transport.is_closing():
            self.transport.write(head + b"".join(b"%s: %s\r\n" % field for field in fields) + b"\r\n" + body)
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
            if frames:
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


def _deflate_factory() -> ServerPerMessageDeflateFactory:
    # 4 KiB windows: 16 KB of memory for a connection where zlib's defaults would take 300.
    return ServerPerMessageDeflateFactory(
        server_max_window_bits=12, client_max_window_bits=12, compress_settings={"memLevel": 5}
    )


_HANDSHAKE_FIELDS = frozenset(
    {b"connection", b"upgrade", b"sec-websocket-key", b"sec-websocket-version", b"sec-websocket-extensions"}
)


def _handshake_fields(headers: list[tuple[bytes, bytes]]) -> Headers:
    """Choose the fields that websockets reads. Origins and subprotocols are the gateway's own matter, as are their refusals."""
    return Headers([(n.decode("ascii"), v.decode("latin-1")) for n, v in headers if n in _HANDSHAKE_FIELDS])


def _offered(headers: list[tuple[bytes, bytes]]) -> list[str]:
    values = [value.decode("latin-1") for name, value in headers if name == b"sec-websocket-protocol"]
    return [offer for value in values for token in value.split(",") if (offer := token.strip())]
