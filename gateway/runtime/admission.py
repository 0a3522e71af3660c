"""What a handshake has proven, as the node is told of it.

Owns this value alone. Refuses to own how it is proven (`gateway.web.websocket`) and whether there is room (`node`).
"""

from __future__ import annotations

from dataclasses import dataclass

from gateway.core.handshake import Subprotocol
from gateway.core.principal import ConnectionFacts
from gateway.runtime.ports import VerifiedCredential


@dataclass(frozen=True, slots=True)
class Admission:
    """What a handshake has proven.

    Args:
        credential: Who speaks, and the key behind signed frames.
        subprotocol: How frames are written.
        client_nonce: The client's half of the key material; None on an unsigned connection.
        facts: What a policy may ask of the connection.
        address_key: What limits by address count.
    """

    credential: VerifiedCredential
    subprotocol: Subprotocol
    client_nonce: bytes | None
    facts: ConnectionFacts
    address_key: str
