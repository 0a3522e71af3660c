"""What a session says: frames encoded, joined for a client that speaks in arrays, and signed in the order in which they leave.

Owns the order and the encoding of outgoing frames. Refuses to own what they say, and the socket that they go to.
"""

from __future__ import annotations

from collections.abc import Callable

from gateway.core import batches
from gateway.core.frames import ENCODERS, Encoding, Reply, ServerFrame
from gateway.core.signing import Signer, sign_all


class Outbox:
    """The outgoing side of one conversation.

    Args:
        encoding: How frames are written.
        signer: Signs them; None on an unsigned connection.
    """

    __slots__ = ("_encode", "_encoding", "empty_reply", "in_arrays", "signer", "waiting")

    def __init__(self, encoding: Encoding, signer: Signer | None) -> None:
        self._encoding = encoding
        self._encode: Callable[[object], bytes] = ENCODERS[encoding]
        self.signer = signer
        self.waiting: list[bytes] = []
        """Encoded frames that wait for `flush`; the same list for ever."""
        self.empty_reply = EMPTY_REPLIES[encoding]
        """Writes a reply without data, for a third of the cost of encoding it."""
        self.in_arrays = False
        """Whether several frames may leave as one array: once the client has sent one."""

    @property
    def waiting_bytes(self) -> int:
        """Tell how much waits for `flush`."""
        return sum(map(len, self.waiting))

    def put(self, frame: ServerFrame) -> None:
        """Have a frame wait for `flush`."""
        self.waiting.append(self._encode(frame))

    def take(self) -> list[bytes]:
        """Give all frames that wait, unsigned; whoever takes them signs them next of all, where `signer` is one, and sends them."""
        waiting = self.waiting
        bodies = batches.join(waiting, self._encoding) if self.in_arrays and len(waiting) > 1 else waiting[:]
        waiting.clear()
        return bodies

    def flush(self) -> list[bytes]:
        """Give the payloads of all frames that wait, signed in their order."""
        return self.signed(self.take()) if self.waiting else []

    def drop(self) -> None:
        """Forget what waits: there is nobody any more to hear it."""
        self.waiting.clear()

    def signed(self, bodies: list[bytes]) -> list[bytes]:
        """Sign encoded frames that leave at once, where frames are signed; what waits leaves, and is signed, after them."""
        if self.signer is None:
            return bodies
        payloads = bodies[:]
        sign_all([(self.signer, payloads)])
        return payloads


def _empty_json_reply(command_id: int) -> bytes:
    return b'{"type":"reply","id":%d,"data":{}}' % command_id


def _empty_msgpack_reply(command_id: int) -> bytes:
    return ENCODERS[Encoding.MSGPACK](Reply(command_id, {}))


EMPTY_REPLIES = {Encoding.JSON: _empty_json_reply, Encoding.MSGPACK: _empty_msgpack_reply}
"""What writes a reply without data, as encoding it would."""
