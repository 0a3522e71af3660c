"""A session on a transport: carries effects out, sends frames within the send buffer's bound, reports the end.

Owns the doing of each effect. Refuses to own decisions (the session's), membership (the hub's) and limits of the node (the node's).
"""

from __future__ import annotations

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
from gateway.core.frames import MessagePush, SharedPush
from gateway.core.handshake import Subprotocol
from gateway.core.principal import ConnectionFacts, Principal
from gateway.core.session import Phase, Session
from gateway.core.session_events import Completed, Ended, Event, Failed, Lost, PolicyChanged, Received, Refreshed
from gateway.runtime import errands
from gateway.runtime.hub import Hub
from gateway.runtime.ports import Broker, CredentialVerifier, Metrics, Transport, VerifiedCredential

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
    """What came for a subscription before the reply to its subscribe; `upto` is the offset that the reply tells."""

    __slots__ = ("pushes", "upto")

    def __init__(self) -> None:
        self.pushes: list[SharedPush] = []
        self.upto = 0


class Connection:
    """One connection of this node. All methods are called on the event loop.

    Args:
        node: What it shares with its neighbours.
        session: The conversation.
        transport: The socket.
        admission: What the handshake has proven.
        opened_at: Unix seconds.
    """

    __slots__ = (
        "_admission",
        "_closed_with",
        "_gone",
        "_held",
        "_node",
        "_policy",
        "_session",
        "_transport",
        "deadline",
        "heard_at",
        "opened_at",
    )

    def __init__(
        self, node: Host, session: Session, transport: Transport, admission: Admission, opened_at: float
    ) -> None:
        self._node = node
        self._session = session
        self._transport = transport
        self._admission = admission
        self._policy = node.policy
        self._held: dict[str, _Held] | None = None
        self._closed_with: Close | None = None
        self._gone = False
        self.opened_at = opened_at
        self.heard_at = opened_at
        self.deadline = 0
        """The tick at which the node looks at this connection again."""

    # -------------------------------------------------------------------------------------------- as others see it

    @property
    def session_id(self) -> str:
        """Give its name."""
        return self._session.session_id

    @property
    def principal(self) -> Principal:
        """Give who speaks on it now."""
        return self._session.principal

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
        return not self._session.busy

    def may_see_presence(self, channel: str) -> bool:
        """Ask the policy whether joins and leaves of the channel may be shown."""
        return self._session.may("channel.presence", channel, self._node.clock())

    def next_deadline(self) -> float:
        """Tell when the session is to look at the time again, Unix seconds."""
        return self._session.next_deadline(self.heard_at)

    # -------------------------------------------------------------------------------------------- from the transport

    def received(self, payload: bytes, *, text: bool) -> None:
        """Take one whole data message."""
        node = self._node
        node.metrics.bytes_received(len(payload))
        try:
            if self._policy is not node.policy:
                self.adopt_policy()
            self._take(Received(payload, text, node.clock()))
        except BaseException:
            # A fault of ours: the transport ends what raises, with 1011; only the bookkeeping is left to do.
            self._closed_with = Closes.INTERNAL
            raise

    def heard(self) -> None:
        """Note a sign of life: any octet from the peer."""
        self.heard_at = self._node.clock()

    def lost(self, code: int) -> None:
        """Note that the transport has gone.

        Args:
            code: The close code that the peer sent; 1006 where it sent none.
        """
        if self._session.phase is Phase.CLOSED:
            return
        self._take(Lost())
        self._leave()
        close = self._closed_with
        self._node.closed(self, code if close is None else close.code, "" if close is None else close.reason)

    # -------------------------------------------------------------------------------------------- from the node

    def welcome(self, server_nonce: str | None) -> None:
        """Send the first frame."""
        self._send(self._session.welcome(server_nonce, self.opened_at))

    def push(self, shared: SharedPush) -> None:
        """Send a push behind the replies that wait."""
        self._flush()
        payload = self._session.payload(shared)
        if payload is not None:
            self._send(payload)

    def push_message(self, channel: str, shared: SharedPush) -> None:
        """Send what a subscription brings; while its subscribe is on its way, hold it back."""
        held = None if self._held is None else self._held.get(channel)
        if held is None:
            self.push(shared)
        elif len(held.pushes) < MAX_HELD:
            held.pushes.append(shared)
        else:
            self.end(Closes.SLOW_CONSUMER)

    def adopt_policy(self) -> None:
        """Let the node's policy count from now on, for what is open too."""
        before, now = self._policy, self._node.policy
        if before is now:
            return
        self._policy = now
        for channel in self._session.subscriptions:
            kept = now.channel_options(channel).presence
            if kept is not before.channel_options(channel).presence:
                self._node.run_aside(self._be_present(channel, present=kept), self)
        self._take(PolicyChanged(self._policy, self._node.clock()))

    def tell(self, event: Event) -> None:
        """Bring the session an event of the node: time, roles, drain."""
        self._take(event)

    def end(self, close: Close) -> None:
        """Close, behind all that is on its way."""
        self._take(Ended(close))

    # -------------------------------------------------------------------------------------------- the loop

    def _take(self, event: Event) -> None:
        """Bring an event to the session, carry out what it wants, send what it says."""
        handle = self._session.handle
        wanted = handle(event)
        done = 0
        while done < len(wanted):  # effects may bring events, and those further effects
            effect = wanted[done]
            done += 1
            wanted = wanted + self._DO[effect.__class__](self, effect)
        self._flush()

    def _flush(self) -> None:
        for payload in self._session.flush():
            self._send(payload)

    def _bound_answers(self) -> None:
        """Send large answers at once: those of a whole batch together would be many times the send buffer."""
        if self._session.waiting_bytes > MAX_JOINED_BYTES:
            self._flush()

    def _send(self, payload: bytes) -> None:
        if self._gone:
            return
        node, transport = self._node, self._transport
        transport.send(payload)
        node.metrics.bytes_sent(len(payload))
        if transport.buffered_bytes() > node.send_buffer_bytes and self._closed_with is None:
            node.metrics.slow_consumer()
            self.end(Closes.SLOW_CONSUMER)

    def _answer(self, command_id: int, work: Coroutine[Any, Any, object]) -> list[Effect]:
        """Carry a command out: at once where the broker is in this process, else as a task."""
        if not self._node.broker.in_process:
            self._node.spawn(self._answer_later(command_id, work), self)
            return []
        try:
            work.send(None)
        except StopIteration as result:
            return self._session.handle(Completed(command_id, result.value, self._node.clock()))
        except (CommandError, StateUnavailableError) as error:
            return self._session.handle(Failed(command_id, _as_command_error(error), self._node.clock()))
        work.close()
        raise RuntimeError("a broker that says it is in this process has waited")

    async def _answer_later(self, command_id: int, work: Coroutine[Any, Any, object]) -> None:
        event: Event
        try:
            event = Completed(command_id, await work, self._node.clock())
        except (CommandError, StateUnavailableError) as error:
            event = Failed(command_id, _as_command_error(error), self._node.clock())
        self._take(event)

    # -------------------------------------------------------------------------------------------- effects

    def _options(self, channel: str) -> ChannelOptions:
        return self._policy.channel_options(channel)

    def _room_bytes(self) -> int:
        """Tell what one answer may hold: half of the send buffer, so that it never fills it alone."""
        return self._node.send_buffer_bytes // 2

    def _do_publish(self, effect: effects.Publish) -> list[Effect]:
        return self._answer(effect.id, self._publish(effect))

    async def _publish(self, effect: effects.Publish) -> object:
        node = self._node
        started = node.timer()
        subject = self._session.principal.subject
        answer = await errands.publish(node.broker, self._options(effect.channel), effect, subject, node.clock())
        node.metrics.broker_publish(node.timer() - started)
        return answer

    def _do_subscribe(self, effect: effects.Subscribe) -> list[Effect]:
        if self._node.broker.in_process:
            wanted = self._answer(effect.id, self._subscribe(effect))
            self._bound_answers()
            return wanted
        self._node.spawn(self._subscribe_later(effect), self)
        return []

    async def _subscribe_later(self, effect: effects.Subscribe) -> None:
        """Subscribe over a broker that waits: what comes before the reply is held back behind it."""
        channel = effect.channel
        if self._held is None:
            self._held = {}
        held = self._held[channel] = _Held()
        await self._answer_later(effect.id, self._subscribe(effect))
        del self._held[channel]
        if channel not in self._session.subscriptions:  # the broker failed, or the connection has gone meanwhile
            await self._unsubscribe(channel)
            return
        for shared in held.pushes:
            offset = shared.push.offset if isinstance(shared.push, MessagePush) else msgspec.UNSET
            if offset is msgspec.UNSET or offset > held.upto:
                self.push(shared)

    async def _subscribe(self, effect: effects.Subscribe) -> object:
        node, channel = self._node, effect.channel
        options = self._options(channel)
        if node.hub.subscribe(self, channel):
            await node.broker.subscribe(channel)
        if options.presence:
            await self._be_present(channel, present=True)
        answer = await errands.position_and_missed(
            node.broker, options, effect, self._admission.subprotocol.encoding, self._room_bytes()
        )
        offset = answer.get("offset")
        if self._held is not None and channel in self._held and isinstance(offset, int):
            self._held[channel].upto = offset
        return answer

    async def _be_present(self, channel: str, *, present: bool) -> None:
        principal, broker = self._session.principal, self._node.broker
        move = broker.join if present else broker.leave
        await move(channel, principal.tenant, principal.subject, self.session_id)

    def _do_unsubscribe(self, effect: effects.Unsubscribe) -> list[Effect]:
        work = self._unsubscribe(effect.channel)
        if effect.id is not None:
            return self._answer(effect.id, work)
        self._node.run_aside(work, self)
        return []

    async def _unsubscribe(self, channel: str) -> object:
        node = self._node
        last = node.hub.unsubscribe(self, channel)
        await self._be_present(channel, present=False)
        if last:
            await node.broker.unsubscribe(channel)
        return {}

    def _do_read_history(self, effect: effects.ReadHistory) -> list[Effect]:
        options, encoding = self._options(effect.channel), self._admission.subprotocol.encoding
        work = errands.read_history(self._node.broker, options, effect, encoding, self._room_bytes())
        wanted = self._answer(effect.id, work)
        self._bound_answers()
        return wanted

    def _do_read_presence(self, effect: effects.ReadPresence) -> list[Effect]:
        channel = effect.channel
        return self._answer(effect.id, errands.read_presence(self._node.broker, self._options(channel), channel))

    def _do_send_to_user(self, effect: effects.SendToUser) -> list[Effect]:
        node, sender = self._node, self._session.principal
        return self._answer(effect.id, errands.send_to_user(node.broker, effect, sender, node.clock()))

    def _do_send_to_tenant(self, effect: effects.SendToTenant) -> list[Effect]:
        node, sender = self._node, self._session.principal
        return self._answer(effect.id, errands.send_to_tenant(node.broker, effect, sender, node.clock()))

    def _do_verify_token(self, effect: effects.VerifyToken) -> list[Effect]:
        self._node.spawn(self._verify_token(effect), self)
        return []

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

    def _do_invoke(self, effect: effects.Invoke) -> list[Effect]:
        self._node.spawn(self._answer_later(effect.id, self._node.invoke(effect, self)), self)
        return []

    def _do_adopt_principal(self, effect: effects.AdoptPrincipal) -> list[Effect]:
        self._node.adopted(self, effect.principal)
        return []

    def _do_pause_reading(self, _effect: effects.PauseReading) -> list[Effect]:
        self._transport.pause_reading()
        return []

    def _do_resume_reading(self, _effect: effects.ResumeReading) -> list[Effect]:
        self._transport.resume_reading()
        return []

    def _do_send_ping(self, _effect: effects.SendPing) -> list[Effect]:
        self._transport.ping()
        return []

    def _do_end(self, effect: effects.End) -> list[Effect]:
        self._closed_with = effect.close
        self._flush()
        self._gone = True
        self._transport.close(effect.close.code, effect.close.reason, LINGER_S)
        self._leave()
        return []

    def _leave(self) -> None:
        """Give back all that the connection holds of the node; the socket may linger a while."""
        for channel in list(self._session.subscriptions):
            self._node.run_aside(self._unsubscribe(channel), self)
        self._session.subscriptions.clear()
        self._node.left(self)

    _DO: ClassVar[Mapping[type, Callable[..., list[Effect]]]] = {
        effects.Publish: _do_publish,
        effects.Subscribe: _do_subscribe,
        effects.Unsubscribe: _do_unsubscribe,
        effects.ReadHistory: _do_read_history,
        effects.ReadPresence: _do_read_presence,
        effects.SendToUser: _do_send_to_user,
        effects.SendToTenant: _do_send_to_tenant,
        effects.VerifyToken: _do_verify_token,
        effects.Invoke: _do_invoke,
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
