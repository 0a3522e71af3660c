"""One conversation: (phase, event) to effects and frames.

Owns the order of the checks, the commands in flight, the subscriptions, the counters of abuse, and the phases, which change by
the table at the end of this module and nowhere else. Refuses to own sockets, clocks and stores: events bring the time, effects
ask the runtime, results come back as events. A session never raises: what a command cannot have is an error frame, what a
connection cannot survive is an `End`.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar, Protocol, assert_never

import msgspec

from gateway.core import effects
from gateway.core.commands import ActionRegistry, ActionSpec, shape
from gateway.core.deadlines import Deadlines, Due
from gateway.core.decision import BoundPolicy, Decision, Permission, Policy
from gateway.core.effects import Effect
from gateway.core.errors import Close, Closes, CommandError, ErrorCode, FrameError, SignatureError, SignatureFailure
from gateway.core.frames import (
    Command,
    DrainingPush,
    Encoding,
    ErrorBody,
    ErrorFrame,
    ExpiringPush,
    FrameParser,
    LimitsWelcome,
    Reply,
    SharedPush,
    SigningWelcome,
    UnsubscribedPush,
    Welcome,
)
from gateway.core.handlers import HANDLERS, Answer
from gateway.core.in_flight import InFlight, Running
from gateway.core.limits import SlidingCount, TokenBucket
from gateway.core.outbox import Outbox
from gateway.core.principal import ConnectionFacts, Principal
from gateway.core.session_events import (
    Completed,
    DrainStarted,
    Ended,
    Event,
    Failed,
    Lost,
    PolicyChanged,
    PositionLost,
    Received,
    Refreshed,
    RolesChanged,
    TimePassed,
)
from gateway.core.signing import FrameSigner, FrameVerifier

ABUSE_LIMIT, REFUSED_LIMIT, ABUSE_WINDOW_S = 10, 100, 10.0

UNKNOWN_ACTION = "unknown"
"""The metric label of commands whose action is not registered, or could not be read."""


PARSERS: Mapping[Encoding, FrameParser] = MappingProxyType({encoding: FrameParser(encoding) for encoding in Encoding})
"""One parser for each encoding: it keeps nothing between frames."""


class Phase(enum.Enum):
    """Where a conversation stands."""

    OPEN = "open"
    DRAINING = "draining"
    CLOSING = "closing"
    CLOSED = "closed"

    # Members are singletons; the default would hash their name, in Python, twice for each command.
    __hash__ = object.__hash__


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


class Observer(Protocol):
    """Who watches: decisions are timed, counted and logged here, for the core has no clock and no log."""

    def decide(
        self, policy: BoundPolicy, action: str, channel: str | None, data: object, facts: ConnectionFacts, now: float
    ) -> Decision:
        """Ask the policy for a command."""
        ...

    def denied(self, session: Session, command_id: int, action: str, channel: str | None, decision: Decision) -> None:
        """Note a denial."""
        ...

    def finished(self, action: str, outcome: str, duration_s: float) -> None:
        """Note the end of a command: `ok` or an error code."""
        ...

    def signature_failed(self, session: Session, failure: SignatureFailure) -> None:
        """Note a frame whose signature did not hold."""
        ...


Transition = Callable[..., list[Effect]]
"""(session, event) to effects; a row of the table."""


# ---------------------------------------------------------------------------------------------------- session


class Session:
    """The conversation on one connection.

    Args:
        session_id: What logs and the welcome call it.
        principal: Who speaks.
        policy: The policy that counts now.
        registry: The known actions.
        encoding: How frames are written.
        facts: What a policy may ask of the connection.
        limits: What it may use.
        signer: Signs outgoing frames; None on an unsigned connection.
        verifier: Verifies incoming frames; None on an unsigned connection.
        observer: Who watches.
        now: Unix seconds.
    """

    __slots__ = (
        "_abuse",
        "_bound",
        "_bucket",
        "_deadlines",
        "_encoding",
        "_in_flight",
        "_limits",
        "_observer",
        "_outbox",
        "_parser",
        "_policy",
        "_refused",
        "_registry",
        "_verifier",
        "facts",
        "phase",
        "principal",
        "session_id",
        "subscriptions",
    )

    def __init__(
        self,
        *,
        session_id: str,
        principal: Principal,
        policy: Policy,
        registry: ActionRegistry,
        encoding: Encoding,
        facts: ConnectionFacts,
        limits: SessionLimits,
        signer: FrameSigner | None,
        verifier: FrameVerifier | None,
        observer: Observer,
        now: float,
    ) -> None:
        self.session_id = session_id
        self.principal = principal
        self.phase = Phase.OPEN
        self.subscriptions: dict[str, object] = {}
        self._policy = policy
        self._bound = policy.bind(principal)
        self._registry = registry
        self._encoding = encoding
        self._parser = PARSERS[encoding]
        self.facts = facts
        self._limits = limits
        self._verifier = verifier
        self._observer = observer
        self._bucket = TokenBucket(limits.commands_per_s, max(1.0, 2 * limits.commands_per_s), now)
        self._abuse = SlidingCount(ABUSE_LIMIT, ABUSE_WINDOW_S)
        self._refused = SlidingCount(REFUSED_LIMIT, ABUSE_WINDOW_S)
        self._in_flight = InFlight()
        self._deadlines = Deadlines(principal.expires_at, limits.heartbeat_s, now)
        self._outbox = Outbox(encoding, signer)

    # ------------------------------------------------------------------------------------------------ the two ways out

    def handle(self, event: Event) -> list[Effect]:
        """Take one event; give what is to be done, in order. Frames wait in the outbox until `flush`."""
        return self.TRANSITIONS[self.phase][event.__class__](self, event)

    def flush(self) -> list[bytes]:
        """Give the payloads of all frames that wait, signed in their order; replies to batches are joined into arrays."""
        return self._outbox.flush()

    @property
    def waiting_bytes(self) -> int:
        """Tell how much waits for `flush`."""
        return self._outbox.waiting_bytes

    def welcome(self, server_nonce: str | None, now: float) -> bytes:
        """Give the payload of the first frame; before anything else goes out.

        Args:
            server_nonce: The server's half of the key material, base64url; None on an unsigned connection.
            now: Unix seconds.
        """
        principal, limits = self.principal, self._limits
        frame = Welcome(
            session=self.session_id,
            subject=principal.subject,
            roles=principal.roles,
            tenant=principal.tenant,
            expires_at=principal.expires_at,
            server_time=now,
            heartbeat_s=limits.heartbeat_s,
            limits=LimitsWelcome(limits.max_frame_bytes, limits.commands_per_s, limits.max_channels),
            signing=msgspec.UNSET if server_nonce is None else SigningWelcome(server_nonce),
        )
        return self._outbox.payload(frame)

    def payload(self, push: SharedPush) -> bytes | None:
        """Give the payload of a push to this connection; None when it is past that. The outbox is to be empty."""
        if self.phase is Phase.CLOSING or self.phase is Phase.CLOSED:
            return None
        return self._outbox.shared_payload(push)

    # ------------------------------------------------------------------------------------------------ what handlers see

    def has_room_for(self, channel: str) -> bool:
        """Tell whether the connection may subscribe to one more channel, or has subscribed to this one."""
        if channel in self.subscriptions:
            return True
        coming = self._in_flight.count("channel.subscribe")
        return len(self.subscriptions) + coming <= self._limits.max_channels

    @property
    def busy(self) -> bool:
        """Tell whether a command is on its way."""
        return bool(self._in_flight)

    def may(self, action: str, channel: str, now: float | None = None) -> bool:
        """Ask the policy on behalf of another action, with no data.

        Args:
            action: A registered action with a channel.
            channel: The channel.
            now: Unix seconds; None for the time of the command that is being handled.
        """
        return self._bound.decide(action, channel, None, self.facts, self._bucket.at if now is None else now).allowed

    def permissions(self, channel: str | None) -> list[Permission]:
        """List what the principal may do, on `channel` or without one."""
        names = self._registry.without_channel if channel is None else self._registry.with_channel
        asked = tuple(name for name in names if self._registry.needs_permission(name))
        free = [Permission(name, conditional=False) for name in names if name not in asked]
        return free + self._bound.permissions(asked, channel)

    # ------------------------------------------------------------------------------------------------ commands

    def _receive(self, event: Received) -> list[Effect]:
        text = self._encoding is Encoding.JSON
        if event.text is not text:
            return self._end(Closes.UNSUPPORTED_DATA)
        body = event.payload
        if self._verifier is not None:
            try:
                body = self._verifier.verify(body)
            except SignatureError as error:
                self._observer.signature_failed(self, error.failure)
                missing = error.failure is SignatureFailure.MISSING
                return self._end(Closes.SIGNATURE_REQUIRED if missing else Closes.SIGNATURE_INVALID)
        wanted: list[Effect] = []
        parser = self._parser
        try:
            if parser.is_batch(body):
                items = parser.split(body)
                self._outbox.in_arrays = True
                for item in items:
                    if self.phase is Phase.CLOSING:
                        break
                    self._receive_one(item, event.now, wanted)
            else:
                self._receive_one(body, event.now, wanted)
        except FrameError as error:
            self._refuse_frame(error, event.now, wanted)
        return wanted

    def _receive_one(self, body: bytes | msgspec.Raw, now: float, wanted: list[Effect]) -> None:
        try:
            command = self._parser.parse(body)
        except FrameError as error:
            self._refuse_frame(error, now, wanted)
            return
        if self._in_flight.holds(command.id):
            self._refuse_frame(FrameError(f"id {command.id} is in flight already", command.id), now, wanted)
        elif self._in_flight.admit(command):
            self._begin(command, now, wanted)
        elif self._in_flight.must_pause():
            wanted.append(effects.PauseReading())

    def _begin(self, command: Command, now: float, wanted: list[Effect]) -> None:
        """Carry a command through every check, then hand it to its handler."""
        action, command_id = command.action, command.id
        spec = self._registry.find(action)
        if spec is None:
            self._refuse(command_id, UNKNOWN_ACTION, CommandError(ErrorCode.UNKNOWN_ACTION, "no such action"), 0.0)
            return
        channel = None if command.channel is msgspec.UNSET else command.channel
        self._in_flight.begin(command_id, Running(action, channel, command.data, self._bound, now))
        try:
            data = self._check(spec, command, channel, now)
            handler = HANDLERS.get(action)
            todo = (
                effects.Invoke(command_id, action, channel, data)
                if handler is None
                else handler(self, command_id, channel, data)
            )
        except CommandError as error:
            self._in_flight.end(command_id)
            self._refuse(command_id, action, error, 0.0)
            if error.code is ErrorCode.RATE_LIMITED and self._refused.add(now):
                wanted.extend(self._end(Closes.RATE_LIMITED))
            return
        if isinstance(todo, Answer):
            self._in_flight.end(command_id)
            self._outbox.put(Reply(command_id, todo.data))
            self._observer.finished(action, "ok", 0.0)
        else:
            wanted.append(todo)

    def _check(self, spec: ActionSpec, command: Command, channel: str | None, now: float) -> object:
        """Make the checks that all actions share, in their order: shape, rate, decision with its obligations.

        Raises:
            CommandError: One of them does not hold.
        """
        data = shape(spec, command)
        wait_s = self._bucket.take(now)
        if wait_s:
            raise CommandError(ErrorCode.RATE_LIMITED, "too many commands on this connection", wait_s)
        if spec.permission:
            asked = None if command.data is msgspec.UNSET else command.data
            decision = self._observer.decide(self._bound, spec.name, channel, asked, self.facts, now)
            if not decision.allowed:
                self._observer.denied(self, command.id, spec.name, channel, decision)
                raise _denial(decision)
        return data

    def _complete(self, event: Completed) -> list[Effect]:
        done = self._in_flight.end(event.id)
        self._outbox.put(Reply(event.id, event.data))
        self._observer.finished(done.action, "ok", max(0.0, event.now - done.started_at))
        wanted: list[Effect] = []
        if done.channel is not None:
            if done.action == "channel.subscribe":
                self.subscriptions[done.channel] = None if done.data is msgspec.UNSET else done.data
                if done.allowed_by is not self._bound:  # the policy or the roles have changed while it was on its way
                    wanted = self._decide_again(event.now)
            elif done.action == "channel.unsubscribe":
                self.subscriptions.pop(done.channel, None)
        return wanted + self._go_on(event.now)

    def _fail(self, event: Failed) -> list[Effect]:
        done = self._in_flight.end(event.id)
        self._refuse(event.id, done.action, event.error, max(0.0, event.now - done.started_at))
        return self._go_on(event.now)

    def _refresh(self, event: Refreshed) -> list[Effect]:
        old, new = self.principal, event.principal
        if (new.subject, new.tenant, new.token.issuer) != (old.subject, old.tenant, old.token.issuer):
            error = CommandError(ErrorCode.PERMISSION_DENIED, "the token is another subject's, tenant's or issuer's")
            return self._fail(Failed(event.id, error, event.now))
        self._deadlines.renew(new.expires_at)
        wanted = self._complete(Completed(event.id, {"expires_at": new.expires_at}, event.now))
        return wanted + self._become(new, event.now)

    def _become(self, principal: Principal, now: float) -> list[Effect]:
        """Speak for `principal` from now on; hold what is open against what it may."""
        self.principal = principal
        self._bound = self._policy.bind(principal)
        return [effects.AdoptPrincipal(principal), *self._decide_again(now)]

    def _go_on(self, now: float) -> list[Effect]:
        """Begin what has waited, as far as it may."""
        wanted: list[Effect] = []
        while self.phase is not Phase.CLOSING and (command := self._in_flight.next()) is not None:
            self._begin(command, now, wanted)
        if self._in_flight.may_resume():
            wanted.append(effects.ResumeReading())
        return wanted

    # ------------------------------------------------------------------------------------------------ refusals

    def _refuse_frame(self, error: FrameError, now: float, wanted: list[Effect]) -> None:
        self._refuse(error.command_id, UNKNOWN_ACTION, error, 0.0)
        if self._abuse.add(now):
            wanted.extend(self._end(Closes.PROTOCOL_ABUSE))

    def _refuse(self, command_id: int | None, action: str, error: CommandError, duration_s: float) -> None:
        retry = msgspec.UNSET if error.retry_after_s is None else round(error.retry_after_s, 3)
        body = ErrorBody(error.code.value, error.message, retry)
        self._outbox.put(ErrorFrame(body, msgspec.UNSET if command_id is None else command_id))
        self._observer.finished(action, error.code.value, duration_s)

    def _end(self, close: Close) -> list[Effect]:
        """Leave for the closing phase; the frames that wait still go out before the close."""
        self.phase = Phase.CLOSING
        self._in_flight.forget_waiting()
        return [effects.End(close)]

    # ------------------------------------------------------------------------------------------------ slow events

    def _look_at_deadlines(self, event: TimePassed) -> list[Effect]:
        wanted: list[Effect] = []
        for due in self._deadlines.look(event.now, event.heard_at):
            match due:
                case Due.EXPIRING:
                    self._outbox.put(ExpiringPush(self.principal.expires_at))
                case Due.PING:
                    wanted.append(effects.SendPing())
                case Due.EXPIRED:
                    wanted += self._end(Closes.EXPIRED_TOKEN)
                case Due.SILENT:
                    wanted += self._end(Closes.PING_TIMEOUT)
                case _:
                    assert_never(due)
        return wanted

    def next_deadline(self, heard_at: float) -> float:
        """Tell when `TimePassed` is next due, Unix seconds, if the peer was last heard at `heard_at`."""
        return self._deadlines.next_at(heard_at)

    def _adopt_policy(self, event: PolicyChanged) -> list[Effect]:
        self._policy = event.policy
        self._bound = event.policy.bind(self.principal)
        return self._decide_again(event.now)

    def _adopt_roles(self, event: RolesChanged) -> list[Effect]:
        old = self.principal
        roles, narrowed_to = event.roles, old.token.narrowed_to
        if narrowed_to is not None:
            roles = tuple(role for role in roles if role in narrowed_to)
        if roles == old.roles:
            return []
        return self._become(Principal(old.subject, old.tenant, roles, old.claims, old.expires_at, old.token), event.now)

    def _decide_again(self, now: float) -> list[Effect]:
        """Hold every open subscription against the policy, with the data of its subscribe."""
        wanted: list[Effect] = []
        for channel, data in list(self.subscriptions.items()):
            decision = self._bound.decide("channel.subscribe", channel, data, self.facts, now)
            if not decision.allowed and decision.code is not ErrorCode.RATE_LIMITED:
                wanted += self._drop(channel, "permission_revoked")
        return wanted

    def _drop(self, channel: str, reason: str) -> list[Effect]:
        if channel not in self.subscriptions:
            return []
        del self.subscriptions[channel]
        self._outbox.put(UnsubscribedPush(channel, reason))
        return [effects.Unsubscribe(None, channel)]

    def _lose_position(self, event: PositionLost) -> list[Effect]:
        return self._drop(event.channel, "position_lost")

    def _drain(self, event: DrainStarted) -> list[Effect]:
        self.phase = Phase.DRAINING
        self._outbox.put(DrainingPush(event.reconnect_after_s))
        return []

    def _finish(self, event: Ended) -> list[Effect]:
        return self._end(event.close)

    def _lose(self, _event: Lost) -> list[Effect]:
        self.phase = Phase.CLOSED
        self._in_flight.forget_waiting()
        self._outbox.drop()
        return []

    def _complete_late(self, event: Completed | Failed | Refreshed) -> list[Effect]:
        """Forget a command whose connection closes: the peer no longer listens."""
        self._in_flight.end(event.id)
        return []

    def _ignore(self, _event: Event) -> list[Effect]:
        return []

    # ------------------------------------------------------------------------------------------------ the table

    _TALKING: ClassVar[Mapping[type, Transition]] = {
        Received: _receive,
        Completed: _complete,
        Failed: _fail,
        Refreshed: _refresh,
        TimePassed: _look_at_deadlines,
        PolicyChanged: _adopt_policy,
        RolesChanged: _adopt_roles,
        Ended: _finish,
        DrainStarted: _drain,
        PositionLost: _lose_position,
        Lost: _lose,
    }
    _SILENT: ClassVar[Mapping[type, Transition]] = {
        **dict.fromkeys(_TALKING, _ignore),
        Completed: _complete_late,
        Failed: _complete_late,
        Refreshed: _complete_late,
        Lost: _lose,
    }
    TRANSITIONS: ClassVar[Mapping[Phase, Mapping[type, Transition]]] = {
        Phase.OPEN: _TALKING,
        Phase.DRAINING: {**_TALKING, DrainStarted: _ignore},
        Phase.CLOSING: _SILENT,
        Phase.CLOSED: {**_SILENT, Lost: _ignore},
    }


def _denial(decision: Decision) -> CommandError:
    """Say no, and no more of the policy than the code says."""
    match decision.code:
        case ErrorCode.SIGNATURE_REQUIRED:
            return CommandError(ErrorCode.SIGNATURE_REQUIRED, "this action wants a signed connection")
        case ErrorCode.RATE_LIMITED:
            return CommandError(ErrorCode.RATE_LIMITED, "too many commands of this kind", decision.retry_after_s)
        case _:
            return CommandError(ErrorCode.PERMISSION_DENIED, "not permitted")
