"""The last thing that is said on a socket whose peer may still be sending: that nothing more comes.

Owns how, on whatever the socket is. Refuses to own what was said before, and the timer of whoever waits for the peer to go.
"""

from __future__ import annotations

import asyncio
import contextlib

_NO_HALF_S = 1.0


def say_no_more(transport: asyncio.Transport, linger_s: float) -> float:
    """Close the sending half; tell for how many seconds the peer may be waited for.

    Args:
        transport: The socket.
        linger_s: Seconds that the peer has where it sees an end. TLS has no half: there it sees one only when we go, and soon.
    """
    if not transport.can_write_eof():
        return min(linger_s, _NO_HALF_S)
    with contextlib.suppress(OSError):  # the peer is gone altogether, which the loop will tell next
        transport.write_eof()
    return linger_s
