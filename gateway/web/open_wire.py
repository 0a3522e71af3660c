"""An open WebSocket: from the octets of its socket straight into the session, and straight back.

Owns the socket after the handshake: reading, writing, closing, and the bounds on a peer that does not read or does not answer.
Refuses to own who may connect (`wire`), what octets make a message (`wire_parser`), and what messages mean.

No task, no queue and no timer belongs to a connection that is merely open. What is written goes to the socket in the same call, by
`os.write`: a transport's `write` touches so much more memory that it costs up to a fifth more for each of a thousand recipients.
That is sound as long as three things hold, and each has its test. Nothing waits in the transport, or the order would be lost:
`pause_writing` tells as soon as a single octet does, for the high-water mark is 0. The descriptor is still this connection's:
asyncio and uvloop close it only behind `connection_lost`. And the octets are what the socket carries: over TLS they are not.
"""

from __future__ import annotations

import asyncio
import enum
import logging
import os
from collections.abc import Iterator, Sequence

from gateway.core.errors import Close, Closes
from gateway.core.frames import Encoding
from gateway.core.wire_frames import BINARY, PING_FRAME, PLAIN, PONG, TEXT, Framing, close_frame, control_frame
from gateway.runtime.ports import Receiver
from gateway.web.deflate import deflate_framing
from gateway.web.edge import EdgeConfig
from gateway.web.wire_parser import (
    TURN_MESSAGES,
    Message,
    PeerClose,
    Ping,
    WireError,
    WireEvent,
    WireParser,
    whole_messages,
)

_LOGGER = logging.getLogger("uvicorn.error")
_ABNORMAL, _NO_CODE = 1006, 1005
_SHUTDOWN_S = 1.0


class _State(enum.Enum):
    OPEN = "open"
    CLOSING = "closing"  # our close frame is out, the peer's is awaited
    DEAF = "deaf"  # nothing that still comes is looked at
    GONE = "gone"


class OpenWire(asyncio.Protocol):
    """One WebSocket behind its handshake; the `Transport` of a session.

    Until `serve` is called it takes nothing, and keeps what comes.

    Args:
        config: uvicorn's configuration with our edge.
        connections: Where uvicorn finds what it has to end.
        transport: The socket.
        window_bits: The window of permessage-deflate, or None where that is not agreed on.
        early: What has come already.
    """

    __slots__ = (
        "_close_code",
        "_config",
        "_connections",
        "_descriptor",
        "_events",
        "_first",
        "_free",
        "_held",
        "_parser",
        "_paused",
        "_pong_due",
        "_reaper",
        "_receiver",
        "_state",
        "_unread",
        "_window_bits",
        "framing",
        "heard",
        "transport",
    )

    framing: Framing

    def __init__(
        self,
        config: EdgeConfig,
        connections: set[object],
        transport: asyncio.Transport,
        window_bits: int | None,
        early: bytes,
    ) -> None:
        self._config = config
        self._connections = connections
        self.transport = transport
        self._window_bits = window_bits
        self._state = _State.OPEN
        self._receiver: Receiver | None = None
        self.heard = True
        self._first = TEXT
        self._descriptor = _plain_descriptor(transport)
        self._free = self._descriptor >= 0  # whether octets may go to the socket directly
        transport.set_write_buffer_limits(high=0)
        self._parser: WireParser | None = None
        self._reaper: asyncio.TimerHandle | None = None
        self._pong_due: bytes | None = None
        self._close_code = _ABNORMAL
        self._paused = False
        # What has come and is not taken yet, or None: messages of one kind, events of the parser, and octets behind them.
        self._unread: bytearray | None = bytearray(early)
        self._events: Iterator[WireEvent] | None = None
        self._held: tuple[Iterator[bytes], bool] | None = None
        connections.add(self)

    def speak(self, encoding: Encoding) -> None:
        """Send, and first of all expect, messages of an encoding; before anything is sent."""
        self._first = TEXT if encoding is Encoding.JSON else BINARY
        self.framing = PLAIN[encoding] if self._window_bits is None else deflate_framing(encoding, self._window_bits)

    def serve(self, receiver: Receiver) -> None:
        """Hand messages on from the next turn on; until then the peer may be sent a close that nothing early can overtake."""
        self._receiver = receiver
        asyncio.get_running_loop().call_soon(self._go_on)

    # ------------------------------------------------------------------------------------------ to the peer

    def send(self, payloads: Sequence[bytes]) -> None:
        """Send data messages in one write."""
        self.write(self.framing.frames(payloads))

    def write(self, octets: bytes) -> None:
        """Send whole frames; what the socket does not take now waits in the transport."""
        if self._free:
            try:
                sent = os.write(self._descriptor, octets)
            except BlockingIOError:
                sent = 0
            except OSError:
                self.abort()
                return
            if sent == len(octets):
                return
            octets = octets[sent:]
        if self._state is _State.OPEN:
            self._queue(octets)

    def _queue(self, octets: bytes) -> None:
        """Leave octets to the transport, which sends them when the peer reads."""
        transport, receiver = self.transport, self._receiver
        transport.write(octets)
        if receiver is not None and transport.get_write_buffer_size() > receiver.max_buffered_bytes:
            asyncio.get_running_loop().call_soon(receiver.overflowed)

    def pause_writing(self) -> None:
        """Note that octets wait in the transport: what follows has to wait behind them."""
        self._free = False

    def resume_writing(self) -> None:
        """Note that nothing waits any more."""
        if self._state is _State.OPEN:
            self._free = self._descriptor >= 0
            if self._pong_due is not None:
                payload, self._pong_due = self._pong_due, None
                self.write(control_frame(PONG, payload))

    def buffered_bytes(self) -> int:
        """Tell how many octets wait for the peer."""
        return self.transport.get_write_buffer_size()

    def ping(self) -> None:
        """Send a ping; whatever comes from now on answers it."""
        if self._state is _State.OPEN:
            self.heard = False
            self.write(PING_FRAME)

    def _pong(self, payload: bytes) -> None:
        # RFC 6455, section 5.5.3: of several pings the last may be answered alone. Without this, a peer that sends pings and
        # reads nothing would fill our memory with pongs.
        if self._state is not _State.OPEN:
            return
        if self.transport.get_write_buffer_size():
            self._pong_due = payload
        else:
            self.write(control_frame(PONG, payload))

    # ------------------------------------------------------------------------------------------ the ends

    def close(self, code: int, reason: str, linger_s: float) -> None:
        """Send a close frame behind all that was sent; `linger_s` seconds from now the connection is dropped."""
        if self._state is not _State.OPEN:
            return
        self.write(close_frame(code, reason.encode()))
        self._close_code = code
        self._stop_sending(_State.CLOSING)
        # From now on, whatever the peer does: one that reads nothing would never let the close frame out.
        self._reap_in(linger_s)
        # The peer's answer is awaited, and what comes before it dropped.
        self.resume_reading()

    def abort(self) -> None:
        """Drop the connection, with all that waits to be sent."""
        if self._state is not _State.GONE:
            self._stop_sending(_State.DEAF)
            self.transport.abort()

    def _fail(self, close: Close) -> None:
        """End the connection for a fault: say which, tell the receiver, and read on for a while without looking.

        A socket that is closed with something unread takes back what the peer has not read yet.
        """
        if self._state is _State.OPEN:
            self.write(close_frame(close.code, close.reason.encode()))
            self._close_code = close.code
        self._stop_sending(_State.DEAF)
        self._tell_lost()
        if self.transport.is_closing():
            return
        linger_s = self._config.edge.limits.close_s
        if self.transport.can_write_eof():
            self.transport.write_eof()
        else:
            linger_s = min(linger_s, _SHUTDOWN_S)  # TLS has no half: the peer sees an end only when we go
        self._reap_in(linger_s)
        self._unread = None
        self.transport.resume_reading()

    def _peer_closed(self, close: PeerClose) -> None:
        """Answer a close frame, or take it for the answer to ours; the server then closes first (RFC 6455, section 7.1.1)."""
        if self._state is _State.OPEN:
            self.write(close_frame(close.code, close.reason))
            self._close_code = _NO_CODE if close.code is None else close.code
        self._stop_sending(_State.DEAF)
        self._tell_lost()
        self.transport.close()
        self._reap_in(self._config.edge.limits.close_s)

    def _stop_sending(self, state: _State) -> None:
        self._state = state
        self._free = False
        self._pong_due = None

    def _tell_lost(self) -> None:
        receiver, self._receiver = self._receiver, None
        self._held = self._events = self._parser = None
        if receiver is not None:
            receiver.lost(self._close_code)

    def _reap_in(self, seconds: float) -> None:
        if self._reaper is not None:
            self._reaper.cancel()
        self._reaper = asyncio.get_running_loop().call_later(seconds, self.transport.abort)

    def eof_received(self) -> None:
        """Let the transport close, but not wait for a peer that does not read."""
        self._stop_sending(_State.DEAF)
        self._reap_in(self._config.edge.limits.close_s)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - why it was lost tells the session nothing
        """Free everything. The descriptor is somebody else's from the moment this returns."""
        self._stop_sending(_State.GONE)
        self._descriptor = -1
        self._connections.discard(self)
        if self._reaper is not None:
            self._reaper.cancel()
        self._tell_lost()

    def shutdown(self) -> None:
        """End what the drain has left over: the server stops within a bound."""
        self.close(Closes.DRAINING.code, Closes.DRAINING.reason, _SHUTDOWN_S)
        self._reap_in(_SHUTDOWN_S)

    # ------------------------------------------------------------------------------------------ from the peer

    def data_received(self, data: bytes) -> None:
        """Take octets."""
        self.heard = True
        if self._unread is not None:
            self._unread += data
            if len(self._unread) > self._config.ws_max_size:
                self.transport.pause_reading()
        elif self._reads():
            self._take(data)

    def _take(self, data: bytes) -> None:
        """Hand whole messages on; leave what is none to the parser."""
        parser, max_message_bytes = self._parser, self._config.ws_max_size
        if parser is None:
            payloads: list[bytes] = []
            at = whole_messages(data, self._first, max_message_bytes, payloads)
            if payloads:
                self._offer(iter(payloads), sum(map(len, payloads)), text=self._first == TEXT)
            if at == len(data):
                return
            data = data[at:]
            if len(payloads) == TURN_MESSAGES and not self._holds():
                self._wait_a_turn()
            if self._holds():
                self._keep(data)
                return
            parser = self._parser = WireParser(max_message_bytes, inflates=self._window_bits is not None)
        self._follow(parser, parser.feed(data))

    def _follow(self, parser: WireParser, events: Iterator[WireEvent]) -> None:
        """Act on what the parser finds."""
        messages = 0
        try:
            for event in events:
                if isinstance(event, Message):
                    messages += 1
                    self._offer(iter((event.payload,)), len(event.payload), text=event.text)
                elif isinstance(event, Ping):
                    self._pong(event.payload)
                elif isinstance(event, PeerClose):
                    self._peer_closed(event)
                if not self._reads():
                    return
                if self._unread is None and messages == TURN_MESSAGES:
                    self._wait_a_turn()
                if self._unread is not None:
                    self._events = events
                    return
        except WireError as error:
            self._fail(error.close)
            return
        if parser.between_messages:
            self._parser = None

    def _offer(self, payloads: Iterator[bytes], size: int, *, text: bool) -> None:
        """Hand messages on; what the receiver leaves is offered again when it resumes reading."""
        receiver = self._receiver
        if receiver is None or self._state is not _State.OPEN:
            return
        try:
            receiver.received(payloads, size, text=text)
        except Exception:
            # The last rung: whatever it is, it ends this connection and no other one.
            _LOGGER.exception("a fault of the gateway's ends a websocket")
            self._fail(Closes.INTERNAL)
        if self._paused:
            self._held = payloads, text

    # ------------------------------------------------------------------------------------------ pauses

    def pause_reading(self) -> None:
        """Take no more messages; what has come waits here, and what comes in the socket, and in the end the peer does."""
        if self._state is _State.OPEN:
            self._paused = True
            self._hold()

    def resume_reading(self) -> None:
        """Go on taking messages, in the next turn."""
        self._paused = False
        if self._unread is not None:
            asyncio.get_running_loop().call_soon(self._go_on)

    def _wait_a_turn(self) -> None:
        """Let others have their turn: more has come than one connection may have taken at once."""
        self._hold()
        asyncio.get_running_loop().call_soon(self._go_on)

    def _hold(self) -> None:
        if self._unread is None:
            self._unread = bytearray()
            self.transport.pause_reading()

    def _holds(self) -> bool:
        return self._unread is not None

    def _keep(self, octets: bytes | bytearray) -> None:
        if self._unread is not None:
            self._unread += octets

    def _reads(self) -> bool:
        return self._state is _State.OPEN or self._state is _State.CLOSING

    def _go_on(self) -> None:
        """Take what has been held."""
        unread = self._unread
        if unread is None or self._paused or not self._reads():
            return
        self._unread = None
        held, self._held = self._held, None
        events, self._events = self._events, None
        if held is not None:
            payloads, text = held
            self._offer(payloads, 0, text=text)
        if events is not None and self._parser is not None:
            if self._holds():
                self._events = events
            else:
                self._follow(self._parser, events)
        if unread:
            if self._holds():
                self._keep(unread)
            elif self._reads():
                self._take(bytes(unread))
        if self._reads() and not self._holds():
            self.transport.resume_reading()


def _plain_descriptor(transport: asyncio.Transport) -> int:
    """Give what octets can be written to; -1 where they are not what the socket carries, or sockets are no files."""
    socket = transport.get_extra_info("socket")
    if os.name != "posix" or socket is None or transport.get_extra_info("sslcontext") is not None:
        return -1
    return int(socket.fileno())
