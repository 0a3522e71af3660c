"""What a session asks of those around it, and what it may use: who carries out, who publishes, who watches.

Owns these interfaces. Refuses to own who stands behind them (`gateway.runtime`): a session is pure, and its tests bring their own.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol, runtime_checkable

from gateway.core.channels import Position
from gateway.core.decision import BoundPolicy, ChannelOptions, Decision
from gateway.core.effects import Effect
from gateway.core.errors import SignatureFailure
from gateway.core.principal import ConnectionFacts, Principal


@dataclass(frozen=True, slots=True)
class SessionLimits:
    """What one connection may use.

    Args:
        max_frame_bytes: The largest data frame, its signature included.
        commands_per_s: The rate; the burst is twice as many.
        max_channels: Subscriptions.
        heartbeat_s: Seconds between two pings.
    """

    max_frame_bytes: int
    commands_per_s: float
    max_channels: int
    heartbeat_s: float


class Pending(enum.Enum):
    """What `Carrier.carry` answers where the answer is yet to come."""

    PENDING = "pending"


PENDING: Final = Pending.PENDING


class Carrier(Protocol):
    """Who carries out what commands ask for."""

    def carry(self, effect: Effect) -> object:
        """Carry it out: give the data of the reply where it is known at once, else PENDING, and an event brings it.

        Raises:
            CommandError: The command cannot be carried out.
        """
        ...

    def catch_up(self, channel: str) -> None:
        """Put what has been published to a subscribed channel into the outbox, before what is answered about it next."""
        ...


@runtime_checkable
class Publisher(Protocol):
    """A broker within this process, where publishing never waits and never fails."""

    def publish_now(
        self, channel: str, data: object, sender: str, at: float, options: ChannelOptions
    ) -> Position | None:
        """Publish; answer the new position, None without history."""
        ...


PublishNow = Callable[[str, object, str, float, ChannelOptions], Position | None]


class Speaker(Protocol):
    """A session, as it is told of."""

    @property
    def session_id(self) -> str:
        """Give its name."""
        ...

    @property
    def principal(self) -> Principal:
        """Give who speaks."""
        ...

    @property
    def facts(self) -> ConnectionFacts:
        """Give what is known of the socket."""
        ...


class Observer(Protocol):
    """Who watches: decisions are timed, counted and logged here, for the core has no clock and no log."""

    @property
    def timer(self) -> Callable[[], float]:
        """Give a clock that only runs forward, in seconds, for durations."""
        ...

    def decide(
        self, policy: BoundPolicy, action: str, channel: str | None, data: object, facts: ConnectionFacts, now: float
    ) -> Decision:
        """Ask the policy for a command."""
        ...

    def denied(self, session: Speaker, command_id: int, action: str, channel: str | None, decision: Decision) -> None:
        """Note a denial."""
        ...

    def finished(self, action: str, outcome: str, duration_s: float) -> None:
        """Note the end of a command: `ok` or an error code."""
        ...

    def signature_failed(self, session: Speaker, failure: SignatureFailure) -> None:
        """Note a frame whose signature did not hold."""
        ...
