"""From an address and a credential to an open WebSocket, and from the library's failures to the client's.

Owns how a handshake is asked for. Refuses to own what is said after it: see `connection`.
"""

from __future__ import annotations

import ssl
from urllib.parse import urlencode

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus, InvalidURI
from websockets.typing import Subprotocol as Name

from gateway.client.authorization import Ticket, Tokens, http_url, is_loopback, retry_after
from gateway.client.errors import (
    ConnectionEndedError,
    ProtocolViolationError,
    UnreachableError,
    UpgradeRefusedError,
    network_reason,
)
from gateway.client.reconnection import ABNORMAL
from gateway.core.handshake import Subprotocol
from gateway.core.signing import encode_base64url

OPEN_TIMEOUT_S = 10.0
CLOSE_TIMEOUT_S = 5.0
MAX_FRAME_BYTES = 16_777_216
"""What is taken from a gateway in one message: more than any that it sends by its default limits."""


async def dial(
    url: str,
    credential: Tokens | Ticket,
    subprotocol: Subprotocol,
    nonce: bytes,
    origin: str | None,
    tls: ssl.SSLContext | None,
) -> ClientConnection:
    """Open a WebSocket.

    Args:
        url: Where the gateway is.
        credential: Tokens go into the `Authorization` header, a ticket into the query.
        subprotocol: The one to offer.
        nonce: The client's nonce; empty on an unsigned connection.
        origin: The `Origin` header, or None.
        tls: What certificates count; the system's where None.

    Raises:
        UpgradeRefusedError: The gateway answered with an HTTP status.
        UnreachableError: Nothing answered.
        ProtocolViolationError: What answered is no WebSocket server.
    """
    query = {"nonce": encode_base64url(nonce)} if nonce else {}
    headers = {} if origin is None else {"Origin": origin}
    match credential:
        case Tokens():
            headers["Authorization"] = f"Bearer {credential.access_token}"
        case Ticket():
            query["ticket"] = credential.ticket
    base = http_url(url)
    address = f"ws{base.removeprefix('http')}/ws" + (f"?{urlencode(query)}" if query else "")
    try:
        return await connect(
            address,
            subprotocols=[Name(subprotocol.name)],
            additional_headers=headers,
            compression=None,
            max_size=MAX_FRAME_BYTES,
            open_timeout=OPEN_TIMEOUT_S,
            close_timeout=CLOSE_TIMEOUT_S,
            proxy=None if is_loopback(base) else True,
            ssl=(tls or True) if base.startswith("https:") else None,
        )
    except InvalidStatus as refused:
        wait_s = retry_after(refused.response.headers.get("Retry-After"))
        raise UpgradeRefusedError(refused.response.status_code, wait_s) from None
    except (InvalidHandshake, InvalidURI) as wrong:
        raise ProtocolViolationError(f"`{base}` does not speak WebSocket: {wrong}") from None
    except (OSError, TimeoutError) as wrong:
        raise UnreachableError(f"no answer from `{base}`: {network_reason(wrong)}") from None


def ended(closed: ConnectionClosed) -> ConnectionEndedError:
    """Give the close that the peer sent, else our own, else the code for none."""
    frame = closed.rcvd or closed.sent
    return ConnectionEndedError(ABNORMAL, "") if frame is None else ConnectionEndedError(frame.code, frame.reason)
