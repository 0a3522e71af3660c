"""What a session says: frames encoded, joined for a client that speaks in arrays, and signed in the order in which they leave.

Owns the order and the encoding of outgoing frames. Refuses to own what they say, and the socket that they go to.
"""

from __future__ import annotations

from collections.abc import Callable

from gateway.core import batches
from gateway.core.frames import ENCODERS, Encoding, Reply, ServerFrame
from gateway.core.signing import FrameSigner


class Outbox:
    """The outgoing side of one conversation.

    Args:
        encoding: How frames are written.
        signer: Signs them; None on an unsigned connection.
    """

    __slots__ = ("_encode", "_encoding", "_signer", "_text", "_waiting", "in_arrays")

    def __init__(self, encoding: Encoding, signer: FrameSigner | None) -> None:
        self._encoding = encoding
        self._encode: Callable[[object], bytes] = ENCODERS[encoding]
        self._text = encoding is Encoding.JSON
        self._signer = signer
        self._waiting: list[bytes] = []
        self.in_arrays = False
        """Whether several frames may leave as one array: once the client has sent one."""

    @property
    def waiting_bytes(self) -> int:
        """Tell how much waits for `flush`."""
        return sum(map(len, self._waiting))

    def put(self, frame: ServerFrame) -> None:
        """Have a frame wait for `flush`."""
        self._waiting.append(self._encode(frame))

    def put_encoded(self, bodies: list[bytes]) -> None:
        """Have encoded frames wait for `flush`."""
        self._waiting += bodies

    def put_nothing(self, command_id: int) -> None:
        """Have a reply without data wait for `flush`: as `put` would write it, for a third of the cost in JSON."""
        if self._text:
            self._waiting.append(b'{"type":"reply","id":%d,"data":{}}' % command_id)
        else:
            self.put(Reply(command_id, {}))

    def flush(self) -> list[bytes]:
        """Give the payloads of all frames that wait, signed in their order."""
        waiting = self._waiting
        if not waiting:
            return []
        self._waiting = []
        bodies = batches.join(waiting, self._encoding) if self.in_arrays and len(waiting) > 1 else waiting
        signer = self._signer
        return bodies if signer is None else signer.sign_all(bodies)

    def drop(self) -> None:
        """Forget what waits: there is nobody any more to hear it."""
        self._waiting.clear()

    def payload(self, frame: ServerFrame) -> bytes:
        """Give the payload of a frame that leaves at once; nothing is to wait."""
        body = self._encode(frame)
        return body if self._signer is None else self._signer.sign(body)

    def signed(self, bodies: list[bytes]) -> list[bytes]:
        """Sign encoded frames that leave at once, where frames are signed; what waits leaves, and is signed, after them."""
        return bodies if self._signer is None else self._signer.sign_all(bodies)
