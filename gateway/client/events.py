"""What happens to a client, beside the pushes of the gateway, and where it stands in each channel."""

from __future__ import annotations

from dataclasses import dataclass

from gateway.client.errors import ClientError, CommandRefusedError
from gateway.core.frames import ErrorFrame, MessagePush, Push, Welcome


@dataclass(frozen=True, slots=True)
class Position:
    """The last message of a channel that this client has seen."""

    epoch: str
    offset: int


@dataclass(frozen=True, slots=True)
class Connected:
    """A connection stands, the first one or a later one.

    Args:
        welcome: Its first frame.
        again: Whether there was one before.
    """

    welcome: Welcome
    again: bool


@dataclass(frozen=True, slots=True)
class Disconnected:
    """A connection has ended, or could not be made, and another is to come.

    Args:
        cause: What ended it.
        returns_after_s: Seconds until the next attempt.
    """

    cause: ClientError
    returns_after_s: float


@dataclass(frozen=True, slots=True)
class Gap:
    """Messages of a channel may be missing from here on: its history did not reach back to the last one seen."""

    channel: str


@dataclass(frozen=True, slots=True)
class SubscriptionLost:
    """A subscription could not be taken up again after a reconnect.

    Args:
        channel: Which one.
        cause: The gateway's answer.
    """

    channel: str
    cause: CommandRefusedError


Event = Push | ErrorFrame | Connected | Disconnected | Gap | SubscriptionLost


@dataclass(frozen=True, slots=True)
class Subscribed:
    """What a subscription starts from.

    Args:
        position: Where the channel's history stands; None where it keeps none.
        recovered: Whether nothing between the position asked for and now is missing.
        messages: What was missed.
    """

    position: Position | None
    recovered: bool
    messages: tuple[MessagePush, ...]
