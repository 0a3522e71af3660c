"""What a session asks of the runtime. Owns no behaviour: each effect is carried out by one function of `runtime.connection`.

An effect with an `id` answers the command of that id: its result comes back to the session as `Completed` or `Failed`.
"""

from __future__ import annotations

import msgspec

from gateway.core.commands import RecoverFrom
from gateway.core.errors import Close
from gateway.core.principal import Principal


class Publish(msgspec.Struct, frozen=True, gc=False):
    """Publish to a channel."""

    id: int
    channel: str
    data: object


class Subscribe(msgspec.Struct, frozen=True, gc=False):
    """Subscribe this connection; recover what was missed where `recover` says from where and the history may be read."""

    id: int
    channel: str
    recover: RecoverFrom | None


class Unsubscribe(msgspec.Struct, frozen=True, gc=False):
    """End a subscription; without an id nobody asked, and the client has been told already."""

    id: int | None
    channel: str


class ReadHistory(msgspec.Struct, frozen=True, gc=False):
    """Read part of a channel's history."""

    id: int
    channel: str
    limit: int
    before: int | None
    after: int | None


class ReadPresence(msgspec.Struct, frozen=True, gc=False):
    """Read who is present on a channel."""

    id: int
    channel: str


class SendToUser(msgspec.Struct, frozen=True, gc=False):
    """Send to every connection of a user in the tenant."""

    id: int
    to: str
    data: object


class SendToTenant(msgspec.Struct, frozen=True, gc=False):
    """Send to every connection of the tenant."""

    id: int
    data: object


class VerifyToken(msgspec.Struct, frozen=True, gc=False):
    """Prove the token of a `session.refresh`."""

    id: int
    token: str

    def __repr__(self) -> str:
        """Leave the token out."""
        return f"VerifyToken(id={self.id})"


class Invoke(msgspec.Struct, frozen=True, gc=False):
    """Call the registered handler of an action that is not built in."""

    id: int
    action: str
    channel: str | None
    data: object


class AdoptPrincipal(msgspec.Struct, frozen=True, gc=False):
    """Index the connection by its new token from now on."""

    principal: Principal


class PauseReading(msgspec.Struct, frozen=True, gc=False):
    """Read no more from the peer: as many commands are in flight as may be."""


class ResumeReading(msgspec.Struct, frozen=True, gc=False):
    """Go on reading from the peer."""


class SendPing(msgspec.Struct, frozen=True, gc=False):
    """Ask the peer for a sign of life."""


class End(msgspec.Struct, frozen=True, gc=False):
    """Close the connection, behind all frames that are on their way."""

    close: Close


Effect = (
    Publish
    | Subscribe
    | Unsubscribe
    | ReadHistory
    | ReadPresence
    | SendToUser
    | SendToTenant
    | VerifyToken
    | Invoke
    | AdoptPrincipal
    | PauseReading
    | ResumeReading
    | SendPing
    | End
)
