"""An open WebSocket: from the octets of its socket into the session, and back.

Owns the socket after the handshake: reading, writing, closing, and the bounds on a peer that does not read or does not answer.
Refuses to own who may connect (`wire`), what octets make a message (`wire_parser`), and what messages mean.

No task, no queue and no timer belongs to a connection that is merely open. What all connections have read in a turn of the loop is
taken at its end, stage by stage (`Reads`). What is written goes to the socket in the same call, by `os.write`: a transport's `write`
touches so much more memory that it costs up to a fifth more for each of a thousand recipients. That is sound as long as three things
hold, and each has its test. Nothing waits in the transport, or the order would be lost: `pause_writing` tells as soon as a single
octet does, for the high-water mark is 0. The descriptor is still this connection's: asyncio and uvloop close it only behind
`connection_lost`. And the octets are what the socket carries: over TLS they are not.
"""

from __future__ import annotations

import asyncio
import enum
import os
from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING

from gateway.core.errors import Close, Closes
from gateway.core.frames import Encoding
from gateway.core.wire_frames import PING_FRAME, PLAIN, PONG, Framing, close_frame, control_frame
from gateway.runtime.ports import Receiver
from gateway.web.deflate import deflate_framing
from gateway.web.half_close import say_no_more
from gateway.web.wire_parser import (
    TURN_BYTES,
    TURN_MESSAGES,
    Message,
    PeerClose,
    Ping,
    WireError,
    WireEvent,
    WireParser,
)

if TYPE_CHECKING:
    from gateway.web.edge import EdgeConfig

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
        head: What the peer is sent before the first frame, and in one write with it.
        early: What has come already.
    """

    __slots__ = (
        "_close_code",
        "_config",
        "_connections",
        "_descriptor",
        "_events",
        "_free",
        "_head",
        "_held",
        "_parser",
        "_paused",
        "_pong_due",
        "_reads",
        "_reaper",
        "_state",
        "_text",
        "_traffic",
        "_window_bits",
        "framing",
        "heard",
        "holds",
        "plain",
        "receiver",
        "transport",
        "unread",
    )

    framing: Framing

    def __init__(
        self,
        config: EdgeConfig,
        connections: set[object],
        transport: asyncio.Transport,
        window_bits: int | None,
        head: bytes,
        early: bytes,
    ) -> None:
        self._config = config
        self._connections = connections
        self._traffic = config.edge.metrics.traffic
        self.transport = transport
        self._window_bits = window_bits
        self._state = _State.OPEN
        self.receiver: Receiver | None = None
        self.heard = True
        self._text = True
        self._reads = config.reads[Encoding.JSON]
        self._descriptor = _plain_descriptor(transport)
        self._head = head
        # Whether octets may go to the socket directly; that what is said first does, `_queue` sees to.
        self._free = False
        transport.set_write_buffer_limits(high=0)
        self._parser: WireParser | None = None
        self._reaper: asyncio.TimerHandle | None = None
        self._pong_due: bytes | None = None
        self._close_code = _ABNORMAL
        self._paused = True  # nobody is there yet
        self.holds = not transport.is_reading()
        """Whether the transport has been told to read no more."""
        # What has come and is not taken yet: messages, then what the parser still has, then octets.
        self._held: Sequence[bytes] = ()
        self._events: Iterator[WireEvent] | None = None
        self.unread = early
        self.plain = False
        """Whether what is read begins a message, with nothing before it, and somebody takes it."""
        connections.add(self)

    def speak(self, encoding: Encoding) -> None:
        """Send and expect messages of an encoding; before anything is sent."""
        self._text = encoding is Encoding.JSON
        self._reads = self._config.reads[encoding]
        self.framing = PLAIN[encoding] if self._window_bits is None else deflate_framing(encoding, self._window_bits)

    def serve(self, receiver: Receiver) -> None:
        """Hand messages on from the next turn on; until then the peer may be sent a close that nothing early can overtake."""
        self.receiver = receiver
        if self._head:
            self.write(b"")  # there was no greeting to send it with
        self.plain = self._state is _State.OPEN
        self.resume_reading()

    # ------------------------------------------------------------------------------------------ to the peer

    def send(self, payloads: Sequence[bytes]) -> None:
        """Send data messages in one write."""
        octets = self.framing.frames(payloads)
        self._traffic.sent += len(octets)
        self.write(octets)

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
        if self._head:
            octets, self._head = self._head + octets, b""
            # An answer to an earlier request may wait still: that it does was told to another protocol than us.
            self._free = self._descriptor >= 0 and not self.transport.get_write_buffer_size()
            self.write(octets)
            return
        transport, receiver = self.transport, self.receiver
        transport.write(octets)
        if receiver is not None and transport.get_write_buffer_size() > receiver.max_buffered_bytes:
            asyncio.get_running_loop().call_soon(receiver.overflowed)

    def pause_writing(self) -> None:
        """Note that octets wait in the transport: what follows has to wait behind them."""
        self._free = False

    def resume_writing(self) -> None:
        """Note that nothing waits any more."""
        if self._state is _State.OPEN:
            self._free = self._descriptor >= 0 and not self._head
            if self._pong_due is not None:
                payload, self._pong_due = self._pong_due, None
                self._say(control_frame(PONG, payload))

    def buffered_bytes(self) -> int:
        """Tell how many octets wait for the peer."""
        return self.transport.get_write_buffer_size()

    def ping(self) -> None:
        """Send a ping; whatever comes from now on answers it."""
        if self._state is _State.OPEN:
            self.heard = self.holds  # nothing can be heard of a peer that is not listened to
            self._say(PING_FRAME)

    def _say(self, octets: bytes) -> None:
        """Send a frame that is no message."""
        self._traffic.sent += len(octets)
        self.write(octets)

    def _pong(self, payload: bytes) -> None:
        # RFC 6455, section 5.5.3: of several pings the last may be answered alone. Without this, a peer that sends pings and
        # reads nothing would fill our memory with pongs.
        if self._state is not _State.OPEN:
            return
        if self.transport.get_write_buffer_size():
            self._pong_due = payload
        else:
            self._say(control_frame(PONG, payload))

    # ------------------------------------------------------------------------------------------ the ends

    def close(self, code: int, reason: str, linger_s: float) -> None:
        """Send a close frame behind all that was sent; `linger_s` seconds from now the connection is dropped."""
        if self._state is not _State.OPEN:
            return
        self._say(close_frame(code, reason.encode()))
        if not self._reads_on():
            return  # nobody was there any more
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
        """End the connection for what the peer has sent: say why, tell the receiver, and read on for a while without looking.

        A socket that is closed with something unread takes back what the peer has not read yet.
        """
        if self._state is _State.OPEN:
            self._say(close_frame(close.code, close.reason.encode()))
            self._close_code = close.code
        self._stop_sending(_State.DEAF)
        self._tell_lost()
        if self.transport.is_closing():
            return
        self._reap_in(say_no_more(self.transport, self._config.edge.limits.close_s))
        self._release()

    def _peer_closed(self, close: PeerClose) -> None:
        """Answer a close frame, or take it for the answer to ours; the server then closes first (RFC 6455, section 7.1.1)."""
        if self._state is _State.OPEN:
            self._say(close_frame(close.code, close.reason))
            self._close_code = _NO_CODE if close.code is None else close.code
        self._stop_sending(_State.DEAF)
        self._tell_lost()
        self.transport.close()
        self._reap_in(self._config.edge.limits.close_s)

    def _stop_sending(self, state: _State) -> None:
        self._state = state
        self._free = self.plain = False
        self._pong_due = None

    def _tell_lost(self) -> None:
        receiver, self.receiver = self.receiver, None
        self._held, self._events, self._parser = (), None, None
        if receiver is not None:
            self._config.exit.enter(partial(receiver.lost, self._close_code))

    def _reap_in(self, seconds: float) -> None:
        """Drop the connection in so many seconds, or sooner where that has been said: nothing that a peer does gives it more time."""
        loop = asyncio.get_running_loop()
        if self._reaper is not None:
            if self._reaper.when() <= loop.time() + seconds:
                return
            self._reaper.cancel()
        self._reaper = loop.call_later(seconds, self.transport.abort)

    def eof_received(self) -> None:
        """Let the transport close, but not wait for a peer that does not read."""
        self._take_what_came()
        self._stop_sending(_State.DEAF)
        self._reap_in(self._config.edge.limits.close_s)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - why it was lost tells the session nothing
        """Free everything. The descriptor is somebody else's from the moment this returns."""
        try:
            self._take_what_came()
        finally:
            self._stop_sending(_State.GONE)
            self._descriptor = -1
            self._connections.discard(self)
            if self._reaper is not None:
                self._reaper.cancel()
            self._tell_lost()

    def _take_what_came(self) -> None:
        """Let what came in this turn count before the end that came in it, too: over TLS one segment may hold both."""
        while (self.unread or self._events is not None) and not self._paused and self._reads_on():
            self._reads.run()

    def shutdown(self) -> None:
        """End what the drain has left over: the server stops within a bound."""
        self.close(Closes.DRAINING.code, Closes.DRAINING.reason, _SHUTDOWN_S)
        self._reap_in(_SHUTDOWN_S)

    # ------------------------------------------------------------------------------------------ from the peer

    def data_received(self, data: bytes) -> None:
        """Take octets at the end of the turn."""
        self.heard = True
        if self.unread or self._paused:
            self.unread += data
            if len(self.unread) > self._config.ws_max_size:
                self._hold()
        else:
            self.unread = data
            self._reads.add(self)

    def take_rest(self, data: bytes, *, more: bool) -> None:
        """Take what `Reads` has left over: no whole messages, or what comes behind a pause, or too late.

        Args:
            data: The octets.
            more: Whether as much has been taken in this turn as may be.
        """
        if more and not self._paused and self.plain:
            self._put_back(data)
            self._wait_a_turn()
            return
        if self._held and not self._paused:
            held, self._held = self._held, ()
            self._offer(held, again=True)
        if self._events is not None and not self._paused:
            events, self._events = self._events, None
            self._follow(events)
        if data:
            if self._paused or self._events is not None:
                self._put_back(data)
            elif self._reads_on():
                if self._parser is None:
                    self._parser = WireParser(self._config.ws_max_size, inflates=self._window_bits is not None)
                    self.plain = False
                self._follow(self._parser.feed(data))
        if not self._paused and not self.unread and self._events is None:
            self._release()

    def _follow(self, events: Iterator[WireEvent]) -> None:
        """Act on what the parser finds; what is not looked at in this turn stays in `_events`."""
        frames = octets = 0
        try:
            for event in events:
                frames += 1
                if isinstance(event, Message):
                    octets += len(event.payload)
                    self._take_message(event)
                elif isinstance(event, Ping):
                    self._pong(event.payload)
                elif isinstance(event, PeerClose):
                    self._peer_closed(event)
                if not self._reads_on():
                    return
                if self._paused or frames == TURN_MESSAGES or octets >= TURN_BYTES:
                    self._events = events
                    if not self._paused:
                        self._wait_a_turn()
                    return
        except WireError as error:
            self._fail(error.close)
            return
        if self._parser is not None and self._parser.between_messages:
            self._parser = None
            self.plain = self.receiver is not None and self._state is _State.OPEN

    def _take_message(self, message: Message) -> None:
        if self.receiver is not None and self._state is _State.OPEN:
            if message.text is self._text:
                self._offer([message.payload])
            else:
                self.receiver.unsupported()

    def _offer(self, payloads: Sequence[bytes], *, again: bool = False) -> None:
        """Hand messages on, and the answers back."""
        receiver = self.receiver
        if receiver is not None and self._state is _State.OPEN:
            for transport, answers in receiver.intake.take([(receiver, list(payloads))], again=again):
                transport.send(answers)

    def _reads_on(self) -> bool:
        return self._state is _State.OPEN or self._state is _State.CLOSING

    # ------------------------------------------------------------------------------------------ pauses

    def pause_reading(self, untaken: Sequence[bytes]) -> None:
        """Take no more messages; what has come waits here, and what comes in the socket, and in the end the peer does."""
        if self._state is _State.OPEN:
            self._paused = True
            self._held = untaken
            self.plain = False
            self._hold()

    def resume_reading(self) -> None:
        """Go on taking messages, in the next turn."""
        if self._paused:
            self._paused = False
            self.plain = (
                self._state is _State.OPEN
                and self.receiver is not None
                and not self._held
                and self._events is None
                and self._parser is None
            )
            self._reads.add(self)

    def _wait_a_turn(self) -> None:
        """Let others have their turn: more has come than one connection may have taken at once."""
        self._hold()
        self._reads.add(self)

    def _put_back(self, data: bytes) -> None:
        self._traffic.received -= len(data)  # it will be counted again
        self.unread = data + self.unread

    def _hold(self) -> None:
        if not self.holds:
            self.holds = self.heard = True
            self.transport.pause_reading()

    def _release(self) -> None:
        if self.holds and self._state is not _State.GONE:
            self.holds = False
            self.transport.resume_reading()


def _plain_descriptor(transport: asyncio.Transport) -> int:
    """Give what octets can be written to; -1 where they are not what the socket carries, or sockets are no files."""
    socket = transport.get_extra_info("socket")
    if os.name != "posix" or socket is None or transport.get_extra_info("sslcontext") is not None:
        return -1
    return int(socket.fileno())
