"""The client's side of one WebSocket (RFC 6455), as little of it as a measuring instrument needs.

Owns framing, the handshake, the steps by which a client arrives, and the counting of messages by their headers. Refuses to own when
anything is read or sent (`generator`, `soak`). It believes its server: it neither checks `Sec-WebSocket-Accept` nor UTF-8, takes no
extension, and masks with one fixed key, because all of that is time that the generator's core does not have.
"""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Iterator

import msgspec
from orders import Await, Conversation, Send
from websockets.frames import apply_mask

from gateway.core.frames import Encoding
from gateway.core.signing import Signer, decode_base64url, derive_keys

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA
FIN = 0x80
MASKED = 0x80
# Not zero: a server may look for that, and spare itself the unmasking (Node's `ws` does).
MASK = b"\x9e\x37\x79\xb9"
RESET_ON_CLOSE = struct.pack("ii", 1, 0)
_MAX_HEAD_BYTES = 16_384
_SIGNATURE_BYTES = 68  # "s1.", the digits, "."


class ConnectionFailedError(Exception):
    """The server refused, closed, or said something else than awaited."""


class Welcome(msgspec.Struct):
    """What a signed connection needs of the gateway's first frame."""

    signing: dict[str, str]


def client_frame(opcode: int, payload: bytes) -> bytes:
    """Make a whole, masked frame (RFC 6455 section 5.2)."""
    size = len(payload)
    if size < 126:
        head = bytes((FIN | opcode, MASKED | size))
    elif size < 65_536:
        head = struct.pack("!BBH", FIN | opcode, MASKED | 126, size)
    else:
        head = struct.pack("!BBQ", FIN | opcode, MASKED | 127, size)
    return head + MASK + apply_mask(payload, MASK)


def split_frames(data: bytes) -> tuple[list[tuple[int, bytes]], bytes]:
    """Take the whole frames of a server off: (opcode and payload of each, the rest)."""
    frames, at = [], 0
    while len(data) - at >= 2:
        size, start = data[at + 1], at + 2
        if size >= 126:
            start += 2 if size == 126 else 8
            size = int.from_bytes(data[at + 2 : start], "big")
        if len(data) < start or len(data) < start + size:
            break
        frames.append((data[at] & 0xF, data[start : start + size]))
        at = start + size
    return frames, data[at:]


def upgrade_request(port: int, conversation: Conversation) -> bytes:
    """Make the request of the handshake (RFC 6455 section 4.1), with a key that is always the same."""
    lines = [
        f"GET {conversation.path} HTTP/1.1",
        f"Host: 127.0.0.1:{port}",
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        "Sec-WebSocket-Version: 13",
        *(f"{name}: {value}" for name, value in conversation.headers),
    ]
    return "\r\n".join([*lines, "", ""]).encode()


class ClientConnection:
    """One connection: first it arrives, step by step; then its messages are counted.

    Args:
        port: Where the server listens on loopback.
        conversation: How to talk to it.
        request: What `upgrade_request` makes of both; made once for many.
        steps: What to do before it is ready.
        buffer_bytes: What the kernel keeps for a client that does not read; None leaves that to it.
    """

    __slots__ = (
        "_carry", "_conversation", "_head", "_received", "_skip", "_steps", "_upgraded", "fd", "ready", "request",
        "sent", "signer", "socket",
    )  # fmt: skip

    def __init__(
        self,
        port: int,
        conversation: Conversation,
        request: bytes,
        steps: tuple[Send | Await, ...],
        buffer_bytes: int | None = None,
    ) -> None:
        self._conversation = conversation
        self._steps = list(steps)
        self._received = b""
        self._upgraded = False
        # While counting: the beginning of a header, bytes of a payload yet to come, bytes of a message yet to be whole.
        self._head = b""
        self._skip = 0
        self._carry = 0
        self.request = request
        self.ready = False
        self.sent = 0
        self.signer: Signer | None = None
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self.socket.setblocking(False)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # A generator opens thousands of connections, run after run: a reset leaves no port waiting.
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        if buffer_bytes is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer_bytes)
        self.fd = self.socket.fileno()
        with contextlib.suppress(BlockingIOError):
            self.socket.connect(("127.0.0.1", port))

    @property
    def whole(self) -> bool:
        """Whether the next byte is the first of a frame and of a message."""
        return not (self._head or self._skip or self._carry)

    @property
    def closed(self) -> bool:
        """Whether this side has ended it."""
        return self.socket.fileno() < 0

    def begin(self) -> None:
        """Send the handshake, once the socket is connected."""
        error = self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if error:
            raise ConnectionFailedError(f"cannot connect: errno {error}")
        self.send_bytes(self.request)

    def send_bytes(self, data: bytes) -> None:
        """Send all of it at once: what a run has outstanding fits into the socket's buffer."""
        if self.socket.send(data) != len(data):
            raise ConnectionFailedError("the server does not read: the socket's buffer is full")

    def next_frames(self) -> Iterator[bytes]:
        """Give the frames of the template one after the other, numbered, and signed where the conversation is."""
        before, _, after = self._conversation.template.partition(b"{N}")
        opcode, numbered = self._conversation.opcode, b"{N}" in self._conversation.template
        while True:
            self.sent += 1
            payload = b"%b%d%b" % (before, self.sent, after) if numbered else before
            if self.signer is not None:
                payload = self.signer.sign(payload)
            yield client_frame(opcode, payload)

    def receive(self) -> int:
        """Read what has come; count the messages in it once the connection is ready.

        Raises:
            ConnectionFailedError: The server refused the handshake or ended the connection.
        """
        try:
            data = self.socket.recv(65_536)
        except OSError as error:
            raise ConnectionFailedError(f"reset: {error.strerror}") from error
        if not data:
            raise ConnectionFailedError("the server ended the connection")
        if self.ready:
            return self.count(data, len(data))
        self._received += data
        self._arrive()
        return 0

    def _arrive(self) -> None:
        if not self._upgraded:
            head, found, rest = self._received.partition(b"\r\n\r\n")
            if not found and len(head) < _MAX_HEAD_BYTES:
                return
            if b" 101 " not in head[:16]:
                raise ConnectionFailedError(f"no upgrade: {head[:80]!r}")
            self._upgraded, self._received = True, rest
        frames, self._received = split_frames(self._received)
        for opcode, payload in frames:
            if opcode >= CLOSE:
                self._control(opcode, payload)
            elif self._steps and isinstance(step := self._steps[0], Await) and step.marker in payload:
                self._steps.pop(0)
                self._derive(payload)
            self._say()
        self._say()
        if not self._steps:
            self.ready = True
            rest, self._received = self._received, b""
            self.count(rest, len(rest))

    def _say(self) -> None:
        while self._steps and isinstance(step := self._steps[0], Send):
            self._steps.pop(0)
            self.send_bytes(client_frame(self._conversation.opcode, step.payload))

    def _derive(self, payload: bytes) -> None:
        """Derive the key of this connection, once the welcome has told the server's nonce (docs/protocol.md, signed frames)."""
        signing = self._conversation.signing
        if signing is None or self.signer is not None:
            return
        welcome = msgspec.json.decode(payload[_SIGNATURE_BYTES:], type=Welcome)
        nonce = decode_base64url(welcome.signing["nonce"])
        assert nonce is not None
        self.signer = Signer(derive_keys(signing.key, signing.nonce, nonce)[0], Encoding.JSON)

    def count(self, data: bytes | bytearray, size: int) -> int:
        """Count the messages that begin among the first `size` bytes of `data`; frames may be cut anywhere.

        Where a frame may hold several messages of one size, and a message may be cut by frames, bytes are counted instead. What a
        protocol says on the side, as NATS' PING every other minute, is far below one message then, and stays in `_carry`.
        """
        if self._head:
            data = self._head + data[:size]
            size, self._head = len(data), b""
        unit = self._conversation.unit_bytes
        messages, at = 0, self._skip
        while at < size:
            start, length = at + 2, 0
            if start <= size and (length := data[at + 1]) >= 126:
                start += 2 if length == 126 else 8
                length = int.from_bytes(data[at + 2 : start], "big")
            opcode = data[at] & 0xF
            if start > size or (opcode >= CLOSE and start + length > size):
                self._head, at = bytes(data[at:size]), size
                break
            if opcode >= CLOSE:
                self._control(opcode, bytes(data[start : start + length]))
            elif unit:
                messages += (self._carry + length) // unit
                self._carry = (self._carry + length) % unit
            elif opcode != CONTINUATION:
                messages += 1
            at = start + length
        self._skip = at - size
        return messages

    def _control(self, opcode: int, payload: bytes) -> None:
        if opcode == CLOSE:
            code = int.from_bytes(payload[:2], "big")
            raise ConnectionFailedError(f"closed with {code} {payload[2:].decode(errors='replace')}".rstrip())
        if opcode == PING:
            self.send_bytes(client_frame(PONG, payload))

    def close(self) -> None:
        """End it by a reset."""
        self.socket.close()
