"""A transport that sends, drains and ends when a test says so: over a socket of the test's, or without one into a list of octets."""

from __future__ import annotations

import asyncio
import socket
from typing import Any


class Pipe(asyncio.Transport):
    """What asyncio and uvloop make of a connection, without a loop.

    Like theirs, it sends at once what can be sent, tells when the first octet waits and when none does any more, and ends with
    `connection_lost` in a turn of its own: here by `lose`.

    Args:
        sock: Where octets go; without one they are kept in `sent`, and wait while `stalled`.
    """

    def __init__(self, sock: socket.socket | None = None) -> None:
        super().__init__()
        self.sock = sock
        self.stalled = False
        self.sent = bytearray()
        self.waiting = bytearray()
        self.writes = 0
        self.reading = True
        self.closing = self.eof = False
        self.protocol: asyncio.Protocol = asyncio.Protocol()

    def get_extra_info(self, name: str, default: Any = None) -> Any:  # noqa: ANN401 - asyncio's own type
        return self.sock if name == "socket" else default

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        assert isinstance(protocol, asyncio.Protocol)
        self.protocol = protocol

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        assert (high, low) == (0, None)

    def get_write_buffer_size(self) -> int:
        return len(self.waiting)

    def is_reading(self) -> bool:
        return self.reading

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def write(self, data: bytes | bytearray | memoryview) -> None:
        assert not self.eof, "nothing may be written behind the end"
        if self.closing:
            return
        self.writes += 1
        was_empty = not self.waiting
        self.waiting += data
        if was_empty:
            self._send()
            if self.waiting:
                self.protocol.pause_writing()

    def _send(self) -> None:
        if self.sock is None:
            if not self.stalled:
                self.sent += self.waiting
                self.waiting.clear()
            return
        try:
            while self.waiting:
                del self.waiting[: self.sock.send(self.waiting)]
        except BlockingIOError:
            pass

    def drain(self) -> None:
        """Send what waits, as far as the peer takes it."""
        if self.waiting:
            self._send()
            if not self.waiting:
                self.protocol.resume_writing()

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.eof = True

    def is_closing(self) -> bool:
        return self.closing

    def close(self) -> None:
        self.closing = True

    def abort(self) -> None:
        self.closing = True
        self.waiting.clear()

    def lose(self) -> None:
        """End the connection, as a loop does: first the protocol is told, then the descriptor is given back."""
        self.closing = True
        self.protocol.connection_lost(None)
        if self.sock is not None:
            self.sock.close()
