"""The ports: what the runtime asks of the outside, each a small Protocol that states delivery and ordering.

Owns no implementation. Every port has an in-memory twin, and one conformance suite runs against all of its implementations.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import msgspec

from gateway.core.channels import Position
from gateway.core.decision import ChannelOptions, Policy
from gateway.core.principal import Principal
from gateway.core.turn import Turn
from gateway.core.wire_frames import Framing


class Log(Protocol):
    """Structured log events: a constant name and fields. Secrets never reach a field."""

    def debug(self, event: str, **fields: object) -> object:
        """Log what only a developer wants."""
        ...

    def info(self, event: str, **fields: object) -> object:
        """Log what an operator reads in passing."""
        ...

    def warning(self, event: str, **fields: object) -> object:
        """Log what someone should look at."""
        ...

    def error(self, event: str, **fields: object) -> object:
        """Log what someone must look at."""
        ...


class Traffic:
    """What goes over the WebSockets of a node, in octets: of whole frames where the transport sees them, else of payloads.

    Counted by whoever reads or writes, by adding to the numbers: that is done for each read and each write of each connection.
    """

    __slots__ = ("received", "sent")

    def __init__(self) -> None:
        self.received = 0
        self.sent = 0


class Metrics(Protocol):
    """Counters, gauges and histograms. Labels come from enums and the registry of actions only."""

    traffic: Traffic
    """What was received and sent."""

    def connection_attempt(self, outcome: str) -> None:
        """Count a handshake: accepted, a refusal, flood, draining or connection_limit."""
        ...

    def connection_opened(self) -> None:
        """Raise the gauge of open connections."""
        ...

    def connection_closed(self, code: int, duration_s: float) -> None:
        """Lower the gauge, count the close code (unknown ones as `other`), observe the duration in seconds."""
        ...

    def command(self, action: str, outcome: str, duration_s: float) -> None:
        """Count a command and observe its duration. `action` is a registered one or `unknown`."""
        ...

    def decision(self, action: str, effect: str, reason: str, duration_s: float) -> None:
        """Count a decision and observe how long it took."""
        ...

    def signature_failure(self, reason: str) -> None:
        """Count a frame whose signature did not hold: missing, malformed or mismatch."""
        ...

    def delivered(self, messages: int) -> None:
        """Count messages handed to connections."""
        ...

    def published(self, action: str, turn: Turn) -> None:
        """Count the commands of an action that were allowed by their rule, published and answered at once in a turn.

        Each waited from the beginning of the turn until its own end; how long decision and publishing took was measured of one.
        """
        ...

    def slow_consumer(self) -> None:
        """Count a connection cut off for its full send buffer."""
        ...

    def revocation(self, seconds: float) -> None:
        """Observe how long a revocation took from its commit to the open connections."""
        ...

    def token_issued(self, grant: str) -> None:
        """Count an issued access token."""
        ...

    def token_failure(self, grant: str, reason: str) -> None:
        """Count a refused token request: `grant` is a known one or `unknown`, `reason` the OAuth error."""
        ...

    def policy_reload(self, outcome: str) -> None:
        """Count a reload: ok or error."""
        ...

    def policy_version(self, version: str) -> None:
        """Set the one version that `gateway_policy_info` shows."""
        ...

    def broker_up(self, up: bool) -> None:  # noqa: FBT001 - a gauge of one bit
        """Set whether the broker can be reached."""
        ...

    def broker_publish(self, seconds: float) -> None:
        """Observe how long the broker took to take a publication."""
        ...

    def loop_lag(self, seconds: float) -> None:
        """Observe by how much the event loop was late."""
        ...

    def watch(self, gauge: str, read: Callable[[], float]) -> None:
        """Read a gauge (`gateway_channels`, `gateway_subscriptions`) from `read` at each scrape."""
        ...


# ---------------------------------------------------------------------------------------------- credentials


@dataclass(frozen=True, slots=True)
class VerifiedCredential:
    """A credential that has been proven.

    Args:
        principal: Whom it speaks for.
        signing_key: The 32 bytes behind signed frames, or None for a token without a key.
    """

    principal: Principal
    signing_key: bytes | None = None

    def __repr__(self) -> str:
        """Leave the key out."""
        return f"VerifiedCredential(subject={self.principal.subject!r})"


class CredentialVerifier(Protocol):
    """Proves access tokens and tickets, with the state of accounts and revocations looked up."""

    async def verify_token(self, token: str, now: float) -> VerifiedCredential:
        """Prove an access token.

        Raises:
            HandshakeRefusedError: `invalid_token`, `expired_token` or `revoked_token`, in this order of precedence.
            StateUnavailableError: The state of accounts could not be read.
        """
        ...

    async def redeem_ticket(self, ticket: str, origin: str | None, now: float) -> VerifiedCredential:
        """Spend a ticket; it is spent when it is looked up.

        Raises:
            HandshakeRefusedError: `invalid_ticket`, or what its token has become: `expired_token`, `revoked_token`.
            StateUnavailableError: The state could not be read.
        """
        ...

    def is_revoked(self, principal: Principal) -> bool:
        """Look once more, without waiting, whether this node knows the token, its family, account or key to be gone."""
        ...

    def current(self, principal: Principal) -> Principal:
        """Give the principal with the newest roles that this node knows, without waiting: news may come while one is proven."""
        ...


class ChangeKind(enum.StrEnum):
    """What an account command or another node changed; a row of the change table."""

    ROLES = "roles"  # the subject's roles or claims: sessions are re-decided
    SUBJECT_ENDED = "subject_ended"  # disabled, deleted, new password: sessions close with session_revoked
    TOKEN_REVOKED = "token_revoked"  # noqa: S105 - one jti: its connections close with revoked_token
    FAMILY_REVOKED = "family_revoked"  # a refresh family: its connections close with revoked_token
    KEYS = "keys"  # the signing keys were rotated: read them again


@dataclass(frozen=True, slots=True)
class Change:
    """One change, as each node reads it from the table within a second.

    Args:
        kind: What changed.
        subject: The subject (ROLES, SUBJECT_ENDED).
        key: The `jti` (TOKEN_REVOKED) or the family (FAMILY_REVOKED).
        issuer: The issuer that `key` belongs to.
        roles: The roles that now count (ROLES); `tenant` stays.
        at: Unix seconds of the commit; tokens issued after it are not touched.
    """

    kind: ChangeKind
    subject: str = ""
    key: str = ""
    issuer: str = ""
    roles: tuple[str, ...] = ()
    at: float = 0.0


class ChangeFeed(Protocol):
    """Changes in the order of their commits, each delivered at least once to every node."""

    async def run(self, apply: Callable[[Change], None]) -> None:
        """Call `apply` for each change until cancelled; survive a database that is away for a while."""
        ...


# ---------------------------------------------------------------------------------------------- policy


class PolicySource(Protocol):
    """The policy that counts now, and the news of a better one."""

    @property
    def current(self) -> Policy:
        """Give the last good policy."""
        ...

    async def run(self, changed: Callable[[Policy], None]) -> None:
        """Call `changed` after each good reload until cancelled; a broken policy is logged, counted and not taken."""
        ...


# ---------------------------------------------------------------------------------------------- broker


class Message(msgspec.Struct, frozen=True, gc=False):
    """One kept publication.

    Args:
        channel: Where.
        data: The payload as its JSON text (`msgspec.Raw`), whose size is what it costs.
        sender: The publishing subject.
        at: Unix seconds.
        offset: Its place in the history.
        epoch: The history's epoch.
    """

    channel: str
    data: msgspec.Raw
    sender: str
    at: float
    offset: int
    epoch: str


@dataclass(frozen=True, slots=True)
class Presence:
    """A subject's first join to a channel or its last leave, over all nodes."""

    channel: str
    event: str
    tenant: str
    subject: str


@dataclass(frozen=True, slots=True)
class Direct:
    """A message to every connection of one user in one tenant."""

    tenant: str
    subject: str
    data: object
    sender: str
    at: float


@dataclass(frozen=True, slots=True)
class Broadcast:
    """A message to every connection of one tenant."""

    tenant: str
    data: object
    sender: str
    at: float


class Deliver(Protocol):
    """What a node does with what the broker brings; called on the event loop, in each channel's order."""

    def message(self, channel: str, data: object, sender: str, at: float, position: Position | None) -> None:
        """Hand a publication to this node's subscribers; the position where the channel keeps history."""
        ...

    def presence(self, presence: Presence) -> None:
        """Hand a join or leave to this node's subscribers."""
        ...

    def direct(self, direct: Direct) -> int:
        """Hand a direct message to this node's connections of the user; answer how many."""
        ...

    def broadcast(self, broadcast: Broadcast) -> None:
        """Hand a broadcast to this node's connections of the tenant."""
        ...


@dataclass(frozen=True, slots=True)
class Page:
    """Part of a history, ascending, with the position of the whole."""

    messages: tuple[Message, ...]
    position: Position | None


class Broker(Protocol):
    """Carries messages between nodes and keeps history and presence.

    Order: publications to one channel reach every node in one order, that of their offsets where there are any. Delivery: at
    most once to a connected node; a gap is told by offsets and epoch, never hidden.

    All methods may raise `StateUnavailableError`.
    """

    @property
    def in_process(self) -> bool:
        """Tell whether no call ever waits, so that it can be run to its end without a task."""
        ...

    def attach(self, deliver: Deliver) -> None:
        """Name this node's receiver; before anything else."""
        ...

    async def publish(
        self, channel: str, data: object, sender: str, at: float, options: ChannelOptions
    ) -> Position | None:
        """Publish; answer the new position, None without history."""
        ...

    async def subscribe(self, channel: str) -> None:
        """Bring this node what is published to the channel from now on; called on its first subscriber."""
        ...

    async def unsubscribe(self, channel: str) -> None:
        """Stop; called when its last subscriber has gone."""
        ...

    async def position(self, channel: str, options: ChannelOptions) -> Position | None:
        """Tell where the channel's history stands; None without history."""
        ...

    async def history(
        self, channel: str, options: ChannelOptions, *, limit: int, after: int | None, before: int | None
    ) -> Page:
        """Read at most `limit` messages, ascending, bounds exclusive; with `after` the oldest that fit, else the newest."""
        ...

    async def join(self, channel: str, tenant: str, subject: str, connection: str) -> None:
        """Note a member's connection; the subject's first one is pushed as a join."""
        ...

    async def leave(self, channel: str, tenant: str, subject: str, connection: str) -> None:
        """Forget a member's connection; the subject's last one is pushed as a leave."""
        ...

    async def members(self, channel: str) -> Mapping[tuple[str, str], int]:
        """Count the connections of each (tenant, subject)."""
        ...

    async def send(self, direct: Direct) -> int:
        """Send to a user on every node; answer how many connections got it."""
        ...

    async def broadcast(self, broadcast: Broadcast) -> None:
        """Send to a tenant on every node."""
        ...


# ---------------------------------------------------------------------------------------------- transport


class Transport(Protocol):
    """A WebSocket after its handshake, seen from the session's side. All calls are on the event loop, never wait and never raise.

    After a close or an abort nothing more is sent, and every call is let pass.
    """

    heard: bool
    """Whether any octet has come from the peer since the last ping, or since the beginning."""

    @property
    def framing(self) -> Framing | None:
        """Give how octets for `write` are made; None where the transport takes messages only."""
        ...

    def send(self, payloads: Sequence[bytes]) -> None:
        """Send data messages, in one write where it can: text on a JSON connection, binary on a MessagePack one."""
        ...

    def write(self, octets: bytes) -> None:
        """Send whole frames, as the framing makes them."""
        ...

    def ping(self) -> None:
        """Send a ping; every octet from the peer counts as its answer."""
        ...

    def close(self, code: int, reason: str, linger_s: float) -> None:
        """Send a close frame behind all that was sent; abort if the peer has not answered within `linger_s` seconds."""
        ...

    def abort(self) -> None:
        """Drop the connection now."""
        ...

    def buffered_bytes(self) -> int:
        """Tell how many octets wait for the peer."""
        ...

    def pause_reading(self, untaken: Sequence[bytes]) -> None:
        """Take no more messages: the in-flight cap is reached. Those that came and could not be taken are offered again later."""
        ...

    def resume_reading(self) -> None:
        """Go on taking messages."""
        ...


class Receiver(Protocol):
    """A connection, as its transport sees it."""

    @property
    def intake(self) -> Intake:
        """Give what takes the messages of this connection and its neighbours."""
        ...

    @property
    def max_buffered_bytes(self) -> int:
        """Give how many octets may wait for the peer."""
        ...

    def unsupported(self) -> None:
        """Note a message of the other kind: binary on a JSON connection, text on a MessagePack one."""
        ...

    def overflowed(self) -> None:
        """Note that more waits for the peer than may. Not called within a call of the transport's, but in the next turn."""
        ...

    def lost(self, code: int) -> None:
        """Note that the transport is gone, and the close code seen; 1006 where there was none. Called once, and last."""
        ...


Read = tuple[Receiver, list[bytes]]
"""A connection, and the whole data messages of its kind that have come over it; the list is the taker's."""

Answer = tuple[Transport, list[bytes]]
"""A transport, and the data messages that are to be sent over it in one write."""


class Intake(Protocol):
    """Takes what has come over many connections in one turn of the loop."""

    def take(self, reads: list[Read], *, again: bool = False) -> list[Answer]:
        """Carry out what has come, each connection's in its order; give what is to be sent at once in answer. Never raises.

        Args:
            reads: What has come.
            again: Whether it has been taken before, and handed back by `pause_reading`: its signatures are off already.
        """
        ...
