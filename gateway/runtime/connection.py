"""A session on a transport: carries effects out, sends frames within the send buffer's bound, reports the end.

Owns the doing of each effect. Refuses to own decisions (the session's), membership (the hub's) and limits of the node (the node's).
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from typing import Any, ClassVar, Protocol

from gateway.core import effects
from gateway.core.decision import Policy
from gateway.core.effects import Effect
from gateway.core.errors import Close, Closes
from gateway.core.frames import Encoding, SharedPush
from gateway.core.outbox import Outbox
from gateway.core.principal import ConnectionFacts, Principal
from gateway.core.session import Phase, Session
from gateway.core.session_events import Ended, Event, Lost, PolicyChanged, TimePassed
from gateway.core.signing import Verifier
from gateway.core.wire_frames import Framing
from gateway.runtime.admission import Admission
from gateway.runtime.carrying import CARRY, be_present, end_subscription
from gateway.runtime.fan_out import Batch
from gateway.runtime.hub import Hub
from gateway.runtime.ports import Broker, CredentialVerifier, Intake, Metrics, Transport

LINGER_S = 5.0
"""Seconds that a close frame may stay unanswered, and that a slow consumer has to drain what is queued before it."""


class Host(Protocol):
    """What a connection asks of its node."""

    policy: Policy
    broker: Broker
    verifier: CredentialVerifier
    metrics: Metrics
    hub: Hub
    send_buffer_bytes: int
    clock: Callable[[], float]
    timer: Callable[[], float]
    unsent: list[Connection]

    @property
    def intake(self) -> Intake:
        """Give what takes the messages of its connections."""
        ...

    def spawn(self, work: Coroutine[Any, Any, None], connection: Connection) -> None:
        """Run work of a connection beside it; what it does not expect ends the connection."""
        ...

    def run_aside(self, work: Coroutine[Any, Any, object], connection: Connection) -> None:
        """Run work that nobody waits for."""
        ...

    async def invoke(self, effect: effects.Invoke, connection: Connection) -> object:
        """Call the registered handler of an action."""
        ...

    def adopted(self, connection: Connection, principal: Principal) -> None:
        """Note that a connection speaks with another token or other roles."""
        ...

    def left(self, connection: Connection) -> None:
        """Deliver to a connection no longer."""
        ...

    def closed(self, connection: Connection, code: int, reason: str) -> None:
        """Forget a connection whose transport has gone."""
        ...


class Connection:
    """One connection of this node: the receiver of its transport, the carrier of its session, a recipient of deliveries.

    All methods are called on the event loop.

    Args:
        node: What it shares with its neighbours.
        transport: The socket.
        admission: What the handshake has proven.
        opened_at: Unix seconds.
    """

    __slots__ = (
        "_closed_with",
        "admission",
        "deadline",
        "framing",
        "gone",
        "node",
        "opened_at",
        "outbox",
        "paused",
        "policy",
        "port",
        "session",
        "verifier",
    )

    session: Session
    outbox: Outbox
    verifier: Verifier | None

    def __init__(self, node: Host, transport: Transport, admission: Admission, opened_at: float) -> None:
        self.node = node
        self.admission = admission
        self.policy = node.policy
        self._closed_with: Close | None = None
        self.gone = False
        """Whether nothing more is to be sent on it."""
        self.paused = False
        """Whether no more is read until the session wants it again."""
        self.port = transport
        self.framing: Framing | None = None if admission.subprotocol.signed else transport.framing
        self.opened_at = opened_at
        self.deadline = 0
        """The tick at which the node looks at this connection again."""

    def begin(self, session: Session, server_nonce: str | None) -> None:
        """Hold a conversation, and send its first frame.

        Args:
            session: The conversation; this connection carries out what it wants.
            server_nonce: The server's half of the key material, base64url; None on an unsigned connection.
        """
        self.session = session
        self.outbox = session.outbox
        self.verifier = session.verifier
        self._send(session.welcome(server_nonce, self.opened_at))

    # -------------------------------------------------------------------------------------------- as others see it

    @property
    def session_id(self) -> str:
        """Give its name."""
        return self.session.session_id

    @property
    def principal(self) -> Principal:
        """Give who speaks on it now."""
        return self.session.principal

    @property
    def address_key(self) -> str:
        """Give what limits by address count."""
        return self.admission.address_key

    @property
    def encoding(self) -> Encoding:
        """Give how its frames are written."""
        return self.admission.subprotocol.encoding

    @property
    def facts(self) -> ConnectionFacts:
        """Give what is known of the socket."""
        return self.admission.facts

    @property
    def idle(self) -> bool:
        """Tell whether no command is on its way."""
        return not self.session.busy

    @property
    def identity(self) -> tuple[str, str]:
        """Give tenant and subject."""
        principal = self.session.principal
        return principal.tenant, principal.subject

    @property
    def intake(self) -> Intake:
        """Give what takes the messages of this connection and its neighbours."""
        return self.node.intake

    @property
    def max_buffered_bytes(self) -> int:
        """Give how many octets may wait for the peer."""
        return self.node.send_buffer_bytes

    def may_see_presence(self, channel: str) -> bool:
        """Ask the policy whether joins and leaves of the channel may be shown."""
        return self.session.may("channel.presence", channel, self.node.clock())

    def next_deadline(self) -> float:
        """Tell when the session is to look at the time again, Unix seconds."""
        return self.session.next_deadline(heard=self.port.heard)

    # -------------------------------------------------------------------------------------------- from the transport

    def unsupported(self) -> None:
        """End a connection that has been sent a message of the other kind, before any look at a signature."""
        self.end(Closes.UNSUPPORTED_DATA)

    def overflowed(self) -> None:
        """End a connection whose peer reads too slowly; one that has gone meanwhile is no longer slow."""
        if self._closed_with is None and self.session.phase is not Phase.CLOSED:
            self.node.metrics.slow_consumer()
            self.end(Closes.SLOW_CONSUMER)

    def lost(self, code: int) -> None:
        """Note that the transport has gone.

        Args:
            code: The close code that the peer sent; 1006 where it sent none.
        """
        if self.session.phase is Phase.CLOSED:
            return
        self.tell(Lost())
        self._leave()
        close = self._closed_with
        self.node.closed(self, code if close is None else close.code, "" if close is None else close.reason)

    # -------------------------------------------------------------------------------------------- from the node

    def deliver(self, batch: Batch) -> None:
        """Send pushes: signed for this connection alone where it is signed, or over a transport that takes messages only."""
        try:
            self._send(self.outbox.signed(batch.bodies(self.encoding)))
        except BaseException:
            self.port.abort()  # a message is missing here now; the others have theirs
            raise

    def adopt_policy(self) -> None:
        """Let the node's policy count from now on, for what is open too."""
        before, now = self.policy, self.node.policy
        if before is now:
            return
        self.policy = now
        for channel in self.session.subscriptions:
            kept = now.channel_options(channel).presence
            if kept is not before.channel_options(channel).presence:
                self.node.run_aside(be_present(self, channel, present=kept), self)
        self.tell(PolicyChanged(self.policy, self.node.clock()))

    def look_at_deadlines(self, now: float) -> None:
        """Let the session look at the time, Unix seconds."""
        self.tell(TimePassed(now, self.port.heard))

    def end(self, close: Close) -> None:
        """Close, behind all that is on its way."""
        self.tell(Ended(close))

    def hold(self) -> bool:
        """Read no more for a while, where that is not so already; tell whether `go_on` is to follow."""
        if self.paused or self.gone:
            return False
        self.port.pause_reading(())
        return True

    def go_on(self) -> None:
        """Read again."""
        if not self.paused:
            self.port.resume_reading()

    # -------------------------------------------------------------------------------------------- the loop

    def tell(self, event: Event) -> None:
        """Bring an event to the session, carry out what it wants, send what it says."""
        unsent = self.node.unsent
        unsent.append(self)
        try:
            self.do(self.session.handle(event))
            self.flush()
        finally:
            unsent.pop()

    def do(self, wanted: list[Effect]) -> None:
        """Carry effects out."""
        for effect in wanted:
            self._DO[effect.__class__](self, effect)

    def flush(self) -> None:
        """Send what the session has said, in one write."""
        payloads = self.outbox.flush()
        if payloads:
            self._send(payloads)

    def _send(self, payloads: list[bytes]) -> None:
        if not self.gone:
            self.port.send(payloads)

    # -------------------------------------------------------------------------------------------- commands

    def carry(self, effect: Effect) -> object:
        """Carry out what a command asks for; see `gateway.core.session.Carrier`."""
        return CARRY[effect.__class__](self, effect)

    def catch_up(self, channel: str) -> None:
        """Let what has been published to a subscribed channel stand before what is answered about it next."""
        if channel in self.session.subscriptions:
            self.put(self.node.hub.due(self, channel))

    def put(self, pushes: list[SharedPush]) -> None:
        """Have pushes wait with the answers, in their place among them."""
        encoding = self.encoding
        self.outbox.waiting.extend([push.body(encoding) for push in pushes])

    # -------------------------------------------------------------------------------------------- effects

    def _do_drop_subscription(self, effect: effects.Unsubscribe) -> None:
        self.node.run_aside(end_subscription(self, effect.channel, self), self)

    def _do_adopt_principal(self, effect: effects.AdoptPrincipal) -> None:
        self.node.adopted(self, effect.principal)

    def _do_pause_reading(self, _effect: effects.PauseReading) -> None:
        untaken, self.session.untaken = self.session.untaken, []
        self.paused = True
        self.port.pause_reading(untaken)

    def _do_resume_reading(self, _effect: effects.ResumeReading) -> None:
        self.paused = False
        self.port.resume_reading()

    def _do_send_ping(self, _effect: effects.SendPing) -> None:
        self.port.ping()

    def _do_end(self, effect: effects.End) -> None:
        self._closed_with = effect.close
        self.flush()
        if effect.close is Closes.DRAINING:
            self.put(self.node.hub.due(self))
            self.flush()
        self.gone = True
        self.port.close(effect.close.code, effect.close.reason, LINGER_S)
        self._leave()

    def _leave(self) -> None:
        """Give back all that the connection holds of the node; the socket may linger a while."""
        for channel in list(self.session.subscriptions):
            self.node.run_aside(end_subscription(self, channel, self), self)
        self.session.subscriptions.clear()
        self.node.left(self)

    _DO: ClassVar[Mapping[type, Callable[..., None]]] = {
        effects.Unsubscribe: _do_drop_subscription,
        effects.AdoptPrincipal: _do_adopt_principal,
        effects.PauseReading: _do_pause_reading,
        effects.ResumeReading: _do_resume_reading,
        effects.SendPing: _do_send_ping,
        effects.End: _do_end,
    }
