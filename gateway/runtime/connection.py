"""A session on a transport: carries effects out, sends frames within the send buffer's bound, reports the end.

Owns the doing of each effect. Refuses to own decisions (the session's), membership (the hub's) and limits of the node (the node's).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import msgspec

from gateway.core import effects
from gateway.core.batches import MAX_JOINED_BYTES
from gateway.core.decision import ChannelOptions, Policy
from gateway.core.effects import Effect
from gateway.core.errors import (
    Close,
    Closes,
    CommandError,
    ErrorCode,
    HandshakeRefusedError,
    Refusal,
    StateUnavailableError,
)
from gateway.core.frames import MessagePush, Push, SharedPush
from gateway.core.handshake import Subprotocol
from gateway.core.outbox import Outbox
from gateway.core.principal import ConnectionFacts, Principal
from gateway.core.session import PENDING, Phase, Session
from gateway.core.session_events import Completed, Ended, Event, Failed, Lost, PolicyChanged, Refreshed, TimePassed
from gateway.core.signing import Verifier
from gateway.core.wire_frames import Framing
from gateway.runtime import errands
from gateway.runtime.fan_out import Batch
from gateway.runtime.hub import Hub
from gateway.runtime.ports import Broker, CredentialVerifier, Intake, Metrics, Transport, VerifiedCredential

LINGER_S = 5.0
"""Seconds that a close frame may stay unanswered, and that a slow consumer has to drain what is queued before it."""

MAX_HELD = 10_000
"""Publications held back behind the reply to a subscribe."""


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
    answered_last: Connection | None

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


class _Held:
    """Stands for a connection among a channel's subscribers until the reply to its subscribe is sent, and keeps what comes."""

    __slots__ = ("_connection", "pushes", "upto")

    framing: Framing | None = None

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.pushes: list[SharedPush] = []
        self.upto = 0
        """The offset that the reply tells."""

    @property
    def port(self) -> Transport:
        """Not asked, for there is no framing."""
        raise NotImplementedError

    @property
    def identity(self) -> tuple[str, str]:
        """Give tenant and subject."""
        return self._connection.identity

    def may_see_presence(self, channel: str) -> bool:
        """Ask the policy whether joins and leaves of the channel may be shown."""
        return self._connection.may_see_presence(channel)

    def deliver(self, batch: Batch) -> None:
        """Keep what comes; of too much, end the connection."""
        if len(self.pushes) + len(batch.pushes) > MAX_HELD:
            asyncio.get_running_loop().call_soon(self._connection.overflowed)
        else:
            self.pushes.extend(batch.pushes)

    def behind_the_reply(self) -> list[SharedPush]:
        """Give what the reply does not hold."""
        return [each for each in self.pushes if not _told(each.push, self.upto)]


def _told(push: Push, upto: int) -> bool:
    """Tell whether a position holds a push already."""
    return isinstance(push, MessagePush) and push.offset is not msgspec.UNSET and push.offset <= upto


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
        "_admission",
        "_closed_with",
        "_node",
        "deadline",
        "framing",
        "gone",
        "opened_at",
        "outbox",
        "policy",
        "port",
        "session",
        "verifier",
    )

    session: Session
    outbox: Outbox
    verifier: Verifier | None

    def __init__(self, node: Host, transport: Transport, admission: Admission, opened_at: float) -> None:
        self._node = node
        self._admission = admission
        self.policy = node.policy
        self._closed_with: Close | None = None
        self.gone = False
        """Whether nothing more is to be sent on it."""
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
        return self._admission.address_key

    @property
    def facts(self) -> ConnectionFacts:
        """Give what is known of the socket."""
        return self._admission.facts

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
        return self._node.intake

    @property
    def max_buffered_bytes(self) -> int:
        """Give how many octets may wait for the peer."""
        return self._node.send_buffer_bytes

    def may_see_presence(self, channel: str) -> bool:
        """Ask the policy whether joins and leaves of the channel may be shown."""
        return self.session.may("channel.presence", channel, self._node.clock())

    def next_deadline(self) -> float:
        """Tell when the session is to look at the time again, Unix seconds."""
        return self.session.next_deadline(heard=self.port.heard)

    # -------------------------------------------------------------------------------------------- from the transport

    def unsupported(self) -> None:
        """End a connection that has been sent a message of the other kind, before any look at a signature."""
        self.end(Closes.UNSUPPORTED_DATA)

    def overflowed(self) -> None:
        """End a connection whose peer reads too slowly."""
        if self._closed_with is None:
            self._node.metrics.slow_consumer()
            self.end(Closes.SLOW_CONSUMER)

    def lost(self, code: int) -> None:
        """Note that the transport has gone.

        Args:
            code: The close code that the peer sent; 1006 where it sent none.
        """
        if self.session.phase is Phase.CLOSED:
            return
        self._take(Lost())
        self._leave()
        close = self._closed_with
        self._node.closed(self, code if close is None else close.code, "" if close is None else close.reason)

    # -------------------------------------------------------------------------------------------- from the node

    def deliver(self, batch: Batch) -> None:
        """Send pushes: signed for this connection alone where it is signed, or over a transport that takes messages only."""
        try:
            self._send(self.outbox.signed(batch.bodies(self._admission.subprotocol.encoding)))
        except BaseException:
            self.port.abort()  # a message is missing here now; the others have theirs
            raise

    def adopt_policy(self) -> None:
        """Let the node's policy count from now on, for what is open too."""
        before, now = self.policy, self._node.policy
        if before is now:
            return
        self.policy = now
        for channel in self.session.subscriptions:
            kept = now.channel_options(channel).presence
            if kept is not before.channel_options(channel).presence:
                self._node.run_aside(self._be_present(channel, present=kept), self)
        self._take(PolicyChanged(self.policy, self._node.clock()))

    def tell(self, event: Event) -> None:
        """Bring the session an event of the node: time, roles, drain."""
        self._take(event)

    def look_at_deadlines(self, now: float) -> None:
        """Let the session look at the time, Unix seconds."""
        self._take(TimePassed(now, self.port.heard))

    def end(self, close: Close) -> None:
        """Close, behind all that is on its way."""
        self._take(Ended(close))

    # -------------------------------------------------------------------------------------------- the loop

    def _take(self, event: Event) -> None:
        """Bring an event to the session, carry out what it wants, send what it says."""
        self.do(self.session.handle(event))
        self.flush()

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
        return self._CARRY[effect.__class__](self, effect)

    def catch_up(self, channel: str) -> None:
        """Let what has been published to a subscribed channel stand before what is answered about it next."""
        if channel in self.session.subscriptions:
            self._put(self._node.hub.due(self, channel))

    def _put(self, pushes: list[SharedPush]) -> None:
        """Have pushes wait with the answers, in their place among them."""
        encoding = self._admission.subprotocol.encoding
        self.outbox.waiting.extend([push.body(encoding) for push in pushes])

    def _answer(self, command_id: int, work: Coroutine[Any, Any, object]) -> object:
        """Carry a command out: at once where the broker is in this process, else as a task."""
        if not self._node.broker.in_process:
            self._node.spawn(self._answer_later(command_id, work), self)
            return PENDING
        try:
            work.send(None)
        except StopIteration as result:
            return result.value
        except StateUnavailableError as error:
            raise _as_command_error(error) from None
        work.close()
        raise RuntimeError("a broker that says it is in this process has waited")

    async def _answer_later(self, command_id: int, work: Coroutine[Any, Any, object]) -> None:
        event: Event
        try:
            event = Completed(command_id, await work, self._node.clock())
        except (CommandError, StateUnavailableError) as error:
            event = Failed(command_id, _as_command_error(error), self._node.clock())
        self._take(event)

    def _make_room(self) -> None:
        """Send large answers that wait before one more is made: those of a whole batch would be many times the send buffer.

        Raises:
            CommandError: `unavailable`: the peer has not read the last ones.
        """
        if self.outbox.waiting_bytes > MAX_JOINED_BYTES:
            self.flush()
        if self.port.buffered_bytes() > self._node.send_buffer_bytes:
            raise CommandError(ErrorCode.UNAVAILABLE, "too many answers wait to be read")

    def _options(self, channel: str) -> ChannelOptions:
        return self.policy.channel_options(channel)

    def _room_bytes(self) -> int:
        """Tell what one answer may hold: half of the send buffer, so that it never fills it alone."""
        return self._node.send_buffer_bytes // 2

    def _carry_publish(self, effect: effects.Publish) -> object:
        answer = self._answer(effect.id, self._publish(effect))
        self.catch_up(effect.channel)
        return answer

    async def _publish(self, effect: effects.Publish) -> object:
        node = self._node
        started = node.timer()
        subject = self.session.principal.subject
        answer = await errands.publish(node.broker, self._options(effect.channel), effect, subject, node.clock())
        node.metrics.broker_publish(node.timer() - started)
        return answer

    def _carry_subscribe(self, effect: effects.Subscribe) -> object:
        self._node.answered_last = self
        self._make_room()
        if self._node.broker.in_process:
            self.catch_up(effect.channel)
            return self._answer(effect.id, self._subscribe(effect, self))
        self._node.spawn(self._subscribe_later(effect), self)
        return PENDING

    async def _subscribe_later(self, effect: effects.Subscribe) -> None:
        """Subscribe over a broker that waits: what comes before the reply is held back behind it."""
        hub, channel = self._node.hub, effect.channel
        held = _Held(self)
        if channel in self.session.subscriptions:
            self.catch_up(channel)
            self.flush()
            hub.replace(self, held, channel)
        await self._answer_later(effect.id, self._subscribe(effect, held))
        if channel not in self.session.subscriptions:  # the broker failed, or the connection has gone meanwhile
            await self._unsubscribe(channel, held)
            return
        held.pushes += hub.due(held, channel)
        hub.replace(held, self, channel)
        self._put(held.behind_the_reply())
        self.flush()

    async def _subscribe(self, effect: effects.Subscribe, recipient: Connection | _Held) -> object:
        node, channel = self._node, effect.channel
        options = self._options(channel)
        if node.hub.subscribe(recipient, channel):
            await node.broker.subscribe(channel)
        if options.presence:
            await self._be_present(channel, present=True)
        answer = await errands.position_and_missed(
            node.broker, options, effect, self._admission.subprotocol.encoding, self._room_bytes()
        )
        offset = answer.get("offset")
        if isinstance(recipient, _Held) and isinstance(offset, int):
            recipient.upto = offset
        return answer

    async def _be_present(self, channel: str, *, present: bool) -> None:
        principal, broker = self.session.principal, self._node.broker
        move = broker.join if present else broker.leave
        await move(channel, principal.tenant, principal.subject, self.session_id)

    def _carry_unsubscribe(self, effect: effects.Unsubscribe) -> object:
        self.catch_up(effect.channel)
        if effect.id is None:
            raise ValueError("an unsubscribe that nobody asked for is not carried out as a command")
        return self._answer(effect.id, self._unsubscribe(effect.channel, self))

    async def _unsubscribe(self, channel: str, recipient: Connection | _Held) -> object:
        node = self._node
        last = node.hub.unsubscribe(recipient, channel)
        await self._be_present(channel, present=False)
        if last:
            await node.broker.unsubscribe(channel)
        return {}

    def _carry_read_history(self, effect: effects.ReadHistory) -> object:
        self._make_room()
        self.catch_up(effect.channel)
        options, encoding = self._options(effect.channel), self._admission.subprotocol.encoding
        return self._answer(
            effect.id, errands.read_history(self._node.broker, options, effect, encoding, self._room_bytes())
        )

    def _carry_read_presence(self, effect: effects.ReadPresence) -> object:
        channel = effect.channel
        self.catch_up(channel)
        return self._answer(effect.id, errands.read_presence(self._node.broker, self._options(channel), channel))

    def _carry_send_to_user(self, effect: effects.SendToUser) -> object:
        node, sender = self._node, self.session.principal
        return self._answer(effect.id, errands.send_to_user(node.broker, effect, sender, node.clock()))

    def _carry_send_to_tenant(self, effect: effects.SendToTenant) -> object:
        node, sender = self._node, self.session.principal
        return self._answer(effect.id, errands.send_to_tenant(node.broker, effect, sender, node.clock()))

    def _carry_verify_token(self, effect: effects.VerifyToken) -> object:
        self._node.spawn(self._verify_token(effect), self)
        return PENDING

    async def _verify_token(self, effect: effects.VerifyToken) -> None:
        node = self._node
        event: Event
        try:
            credential = await node.verifier.verify_token(effect.token, node.clock())
            if node.verifier.is_revoked(credential.principal):  # the news came while the token was being proven
                raise HandshakeRefusedError(Refusal.REVOKED_TOKEN)  # noqa: TRY301 - answered as every unusable token is
        except HandshakeRefusedError as error:
            refused = CommandError(ErrorCode.INVALID_DATA, f"the token cannot be used: `{error.refusal.value}`")
            event = Failed(effect.id, refused, node.clock())
        except StateUnavailableError as error:
            event = Failed(effect.id, _as_command_error(error), node.clock())
        else:
            event = Refreshed(effect.id, node.verifier.current(credential.principal), node.clock())
        self._take(event)

    def _carry_invoke(self, effect: effects.Invoke) -> object:
        self._node.spawn(self._answer_later(effect.id, self._node.invoke(effect, self)), self)
        return PENDING

    _CARRY: ClassVar[Mapping[type, Callable[..., object]]] = {
        effects.Publish: _carry_publish,
        effects.Subscribe: _carry_subscribe,
        effects.Unsubscribe: _carry_unsubscribe,
        effects.ReadHistory: _carry_read_history,
        effects.ReadPresence: _carry_read_presence,
        effects.SendToUser: _carry_send_to_user,
        effects.SendToTenant: _carry_send_to_tenant,
        effects.VerifyToken: _carry_verify_token,
        effects.Invoke: _carry_invoke,
    }

    # -------------------------------------------------------------------------------------------- effects

    def _do_drop_subscription(self, effect: effects.Unsubscribe) -> None:
        self._node.run_aside(self._unsubscribe(effect.channel, self), self)

    def _do_adopt_principal(self, effect: effects.AdoptPrincipal) -> None:
        self._node.adopted(self, effect.principal)

    def _do_pause_reading(self, _effect: effects.PauseReading) -> None:
        untaken, self.session.untaken = self.session.untaken, []
        self.port.pause_reading(untaken)

    def _do_resume_reading(self, _effect: effects.ResumeReading) -> None:
        self.port.resume_reading()

    def _do_send_ping(self, _effect: effects.SendPing) -> None:
        self.port.ping()

    def _do_end(self, effect: effects.End) -> None:
        self._closed_with = effect.close
        self.flush()
        if effect.close is Closes.DRAINING:
            self._put(self._node.hub.due(self))
            self.flush()
        self.gone = True
        self.port.close(effect.close.code, effect.close.reason, LINGER_S)
        self._leave()

    def _leave(self) -> None:
        """Give back all that the connection holds of the node; the socket may linger a while."""
        for channel in list(self.session.subscriptions):
            self._node.run_aside(self._unsubscribe(channel, self), self)
        self.session.subscriptions.clear()
        self._node.left(self)

    _DO: ClassVar[Mapping[type, Callable[..., None]]] = {
        effects.Unsubscribe: _do_drop_subscription,
        effects.AdoptPrincipal: _do_adopt_principal,
        effects.PauseReading: _do_pause_reading,
        effects.ResumeReading: _do_resume_reading,
        effects.SendPing: _do_send_ping,
        effects.End: _do_end,
    }


def _as_command_error(error: CommandError | StateUnavailableError) -> CommandError:
    if isinstance(error, CommandError):
        return error
    return CommandError(ErrorCode.UNAVAILABLE, "the gateway cannot do this now; try again")
