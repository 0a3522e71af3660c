"""Replies to a client that speaks in arrays, joined into arrays of their own. Owns no frame: bodies come encoded."""

from __future__ import annotations

import msgspec

from gateway.core.frames import Encoding

MAX_JOINED_BYTES = 65_536
"""Replies that are joined into one array frame, in bytes."""


def join(bodies: list[bytes], encoding: Encoding) -> list[bytes]:
    """Join encoded frames into array frames of at most `MAX_JOINED_BYTES`; a larger frame stands alone."""
    joined: list[bytes] = []
    run: list[bytes] = []
    size = 0
    for body in bodies:
        if run and size + len(body) > MAX_JOINED_BYTES:
            joined.append(_array(run, encoding))
            run, size = [], 0
        run.append(body)
        size += len(body)
    joined.append(_array(run, encoding))
    return joined


def _array(bodies: list[bytes], encoding: Encoding) -> bytes:
    if len(bodies) == 1:
        return bodies[0]
    if encoding is Encoding.JSON:
        return b"[%b]" % b",".join(bodies)
    return msgspec.msgpack.encode([msgspec.Raw(body) for body in bodies])
