"""What happens to a session besides messages from its peer. Owns no behaviour; times are Unix seconds, brought by the runtime."""

from __future__ import annotations

import msgspec

from gateway.core.decision import Policy
from gateway.core.errors import Close, CommandError
from gateway.core.principal import Principal


class Completed(msgspec.Struct, frozen=True, gc=False):
    """The runtime has carried a command out."""

    id: int
    data: object
    now: float


class Failed(msgspec.Struct, frozen=True, gc=False):
    """The runtime could not carry a command out."""

    id: int
    error: CommandError
    now: float


class Refreshed(msgspec.Struct, frozen=True, gc=False):
    """The token of a `session.refresh` has been proven."""

    id: int
    principal: Principal
    now: float


class TimePassed(msgspec.Struct, frozen=True, gc=False):
    """Time to look at the deadlines; `heard` tells whether any octet has come since the last ping."""

    now: float
    heard: bool


class PolicyChanged(msgspec.Struct, frozen=True, gc=False):
    """Another policy counts from now on."""

    policy: Policy
    now: float


class RolesChanged(msgspec.Struct, frozen=True, gc=False):
    """The store gives the subject other roles."""

    roles: tuple[str, ...]
    now: float


class Ended(msgspec.Struct, frozen=True, gc=False):
    """The runtime ends the conversation: a revocation, a full send buffer, a fault, the end of a drain."""

    close: Close


class DrainStarted(msgspec.Struct, frozen=True, gc=False):
    """The node goes away; this connection's turn has come."""

    reconnect_after_s: float


class PositionLost(msgspec.Struct, frozen=True, gc=False):
    """The broker can no longer vouch that a subscription misses nothing."""

    channel: str


class Lost(msgspec.Struct, frozen=True, gc=False):
    """The transport has gone."""


Event = (
    Completed
    | Failed
    | Refreshed
    | TimePassed
    | PolicyChanged
    | RolesChanged
    | Ended
    | DrainStarted
    | PositionLost
    | Lost
)
