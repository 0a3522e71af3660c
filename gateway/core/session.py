"""One conversation: (phase, event) to effects and frames.

Owns the order of the checks, the commands in flight, the subscriptions, the counters of abuse, and the phases, which change by
the table at the end of this module and nowhere else. Refuses to own sockets, clocks and stores: events bring the time, effects
ask the runtime, and what it cannot answer at once comes back as an event. A session never raises: what a command cannot have is
an error frame, what a connection cannot survive is an `End`.

A publication over a broker in this process is by far the most frequent command. What does not change between two of them on one
channel is kept, and nothing is kept in flight for it; that way is written out within `receive`, for each call would be a tenth of
it. Every other command goes the long way (`_take`).

It is longer than a module should be: whoever changes a phase has to see all that happens in it, and a class in two files would hide that.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import ClassVar, Final, assert_never

import msgspec

from gateway.core import effects
from gateway.core.channels import Position
from gateway.core.commands import ActionRegistry, ActionSpec, shape
from gateway.core.deadlines import Deadlines, Due
from gateway.core.decision import ChannelOptions, Decision, Permission, Policy
from gateway.core.effects import Effect
from gateway.core.errors import Close, Closes, CommandError, ErrorCode, FrameError, SignatureFailure
from gateway.core.frames import (
    UNREADABLE,
    Command,
    DrainingPush,
    Encoding,
    ErrorBody,
    ErrorFrame,
    ExpiringPush,
    FrameParser,
    LimitsWelcome,
    Reply,
    SigningWelcome,
    UnsubscribedPush,
    Welcome,
    check,
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
    Refreshed,
    RolesChanged,
    TimePassed,
)
from gateway.core.session_ports import PENDING, Carrier, Observer, Publisher, PublishNow, SessionLimits
from gateway.core.signing import Signer, Verifier
from gateway.core.turn import Turn

ABUSE_LIMIT, REFUSED_LIMIT, ABUSE_WINDOW_S = 10, 100, 10.0

UNKNOWN_ACTION = "unknown"
"""The metric label of commands whose action is not registered, or could not be read."""

_PUBLISH: Final = "channel.publish"

MAX_PUBLISHABLE = 64
"""Channels of one connection whose standing permission to publish is kept; with one more all are looked up anew."""

_NOTHING_KEPT: Final[Mapping[str, ChannelOptions]] = MappingProxyType({})

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
        carrier: Who carries out what commands ask for.
        publisher: The broker, where it is in this process; else None.
        now: Unix seconds.
    """

    __slots__ = (
        "_abuse",
        "_bound",
        "_bucket",
        "_carrier",
        "_deadlines",
        "_deaf",
        "_halted",
        "_in_flight",
        "_limits",
        "_observer",
        "_parser",
        "_policy",
        "_publishable",
        "_publisher",
        "_refused",
        "_registry",
        "_tools",
        "facts",
        "outbox",
        "phase",
        "principal",
        "session_id",
        "subscriptions",
        "untaken",
        "verifier",
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
        signer: Signer | None,
        verifier: Verifier | None,
        observer: Observer,
        carrier: Carrier,
        publisher: Publisher | None,
        now: float,
    ) -> None:
        self.session_id = session_id
        self.principal = principal
        self.phase = Phase.OPEN
        self.subscriptions: dict[str, object] = {}
        self._policy = policy
        self._bound = policy.bind(principal)
        self._publishable: dict[str, ChannelOptions] | Mapping[str, ChannelOptions] = _NOTHING_KEPT
        self._registry = registry
        self._parser = PARSERS[encoding]
        self.facts = facts
        self._limits = limits
        self._observer = observer
        self._carrier = carrier
        self._publisher = publisher
        self._bucket = TokenBucket(limits.commands_per_s, max(1.0, 2 * limits.commands_per_s), now)
        # Most connections never need these two, and there may be many thousands of them.
        self._abuse: SlidingCount | None = None
        self._refused: SlidingCount | None = None
        self._in_flight = InFlight()
        self._deadlines = Deadlines(principal.expires_at, limits.heartbeat_s, now)
        self.outbox = Outbox(encoding, signer)
        self.verifier = verifier
        self._halted = False
        self._deaf = False
        # What `receive` works with never changes: to take it from one place costs less than from eight.
        self._tools = (
            self._parser.decode,
            self._in_flight.running,
            self._bucket,
            None if publisher is None else publisher.publish_now,
            principal.subject,
            self.outbox,
            self.outbox.waiting,
            self.outbox.empty_reply,
        )
        self.untaken: list[bytes] = []
        """What `receive` has not taken because it had to pause, or to end; whoever offers it again takes it from here."""

    # ------------------------------------------------------------------------------------------------ the two ways out

    def handle(self, event: Event) -> list[Effect]:
        """Take one event; give what is to be done, in order. Frames wait in `outbox` until it is flushed."""
        return self.TRANSITIONS[self.phase][event.__class__](self, event)

    def welcome(self, server_nonce: str | None, now: float) -> list[bytes]:
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
        self.outbox.put(frame)
        return self.outbox.flush()

    # ------------------------------------------------------------------------------------------------ what handlers see

    def has_room_for(self, channel: str) -> bool:
        """Tell whether the connection may subscribe to one more channel, or has subscribed to this one."""
        if channel in self.subscriptions:
            return True
        coming = self._in_flight.count("channel.subscribe")
        return len(self.subscriptions) + coming < self._limits.max_channels

    @property
    def busy(self) -> bool:
        """Tell whether a command is on its way."""
        return bool(self._in_flight.running)

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

    def receive(self, bodies: list[bytes], turn: Turn) -> list[Effect]:  # noqa: C901, PLR0912 - the hot path, where a call costs as much as a check
        """Take whole data messages one after the other; give what is to be done, in order.

        Reading may have to pause before the last of them, or the conversation end: then `untaken` has the rest.

        Args:
            bodies: Their contents, of the connection's encoding, with the signatures taken off.
            turn: The turn that they are taken in.
        """
        wanted: list[Effect] = []
        if self._deaf:
            return wanted
        decode, running, bucket, publish_now, subject, outbox, waiting, empty_reply = self._tools
        now = turn.now
        tokens = bucket.fill(now)
        published = 0
        left = iter(bodies)
        for body in left:
            try:
                command = decode(body)
                data = command.data
                if data.__class__ is not str:
                    check(data)
            except UNREADABLE as error:
                self._take_other(body, error, now, wanted)
                if self._halted:
                    break
                tokens = bucket.tokens
                continue
            if command.action == _PUBLISH and not running and tokens >= 1.0 and data is not msgspec.UNSET:
                # With nothing under way that it could overtake, a publication that is known to be permitted goes out at once.
                channel = command.channel
                options = self._publishable.get(channel)  # type: ignore[arg-type] # UNSET is no key
                if options is not None:
                    bucket.tokens = tokens = tokens - 1.0
                    if turn.timed:
                        position = publish_now(channel, data, subject, now, options)  # type: ignore[misc,arg-type] # without it nothing is publishable
                    else:
                        position = self._publish_timed(publish_now, channel, data, turn)  # type: ignore[arg-type] # as above
                    published += 1
                    if channel in self.subscriptions:
                        self._carrier.catch_up(channel)
                    if position is None:
                        waiting.append(empty_reply(command.id))
                    else:
                        outbox.put(Reply(command.id, {"offset": position.offset, "epoch": position.epoch}))
                    continue
            self._take(command, body, now, wanted)
            if self._halted:
                break
            tokens = bucket.tokens
        if published:
            timer = self._observer.timer
            turn.ends += [timer()] * published
        if self._halted:
            self._halted = False
            self.untaken = list(left)
        return wanted

    def _publish_timed(self, publish_now: PublishNow, channel: str, data: object, turn: Turn) -> Position | None:
        """Publish at once what is known to be permitted, and note for the turn how long it took to know and to publish."""
        timer = self._observer.timer
        began = timer()
        options = self._publishable[channel]
        decided = timer()
        position = publish_now(channel, data, self.principal.subject, turn.now, options)
        turn.decided_s, turn.published_s, turn.timed = decided - began, timer() - decided, True
        return position

    def refuse_signature(self, failure: SignatureFailure) -> list[Effect]:
        """End a conversation in which a message came whose signature does not hold."""
        if self._deaf:
            return []
        self._observer.signature_failed(self, failure)
        missing = failure is SignatureFailure.MISSING
        return self._end(Closes.SIGNATURE_REQUIRED if missing else Closes.SIGNATURE_INVALID)

    def _take_other(self, body: bytes, error: Exception, now: float, wanted: list[Effect]) -> None:
        """Take a frame that is no command: a batch, or nothing that can be read."""
        parser = self._parser
        if not parser.is_batch(body):
            self._refuse_frame(parser.fault(body, error), now, wanted)
            return
        try:
            items = parser.split(body)
        except FrameError as fault:
            self._refuse_frame(fault, now, wanted)
            return
        self.outbox.in_arrays = True
        for item in items:
            if self.phase is Phase.CLOSING:
                break
            try:
                command = parser.parse(item)
            except FrameError as fault:
                self._refuse_frame(fault, now, wanted)
            else:
                self._take(command, bytes(item), now, wanted)

    def _take(self, command: Command, body: bytes, now: float, wanted: list[Effect]) -> None:
        """Take a command, now or in its turn behind others that are under way.

        Args:
            command: The command.
            body: What it was read from.
            now: Unix seconds.
            wanted: Where effects go.
        """
        in_flight = self._in_flight
        if not in_flight.running:
            self._begin(command, now, wanted)
        elif in_flight.holds(command.id):
            self._refuse_frame(FrameError(f"id {command.id} is in flight already", command.id), now, wanted)
        elif in_flight.admit(command, body):
            self._begin(command, now, wanted)
        elif in_flight.must_pause():
            self._halted = True
            wanted.append(effects.PauseReading())

    def _begin(self, command: Command, now: float, wanted: list[Effect]) -> None:
        """Carry a command through every check, then hand it to its handler, and what that wants to the carrier."""
        action, command_id = command.action, command.id
        spec = self._registry.find(action)
        channel = None if command.channel is msgspec.UNSET else command.channel
        began = self._observer.timer()
        wait_s = self._bucket.take(now)  # whatever becomes of it: each command counts
        try:
            data = self._check(spec, command, channel, now, wait_s)
            handler = HANDLERS.get(action)
            todo = (
                effects.Invoke(command_id, action, channel, data)
                if handler is None
                else handler(self, command_id, channel, data)
            )
            answer = todo.data if isinstance(todo, Answer) else self._carrier.carry(todo)
        except CommandError as error:
            self._refuse(command_id, UNKNOWN_ACTION if spec is None else action, error, 0.0)
            if (wait_s or error.code is ErrorCode.RATE_LIMITED) and self._counts_as_abuse(now):
                wanted.extend(self._end(Closes.RATE_LIMITED))
            return
        asked = command.data if action == "channel.subscribe" else msgspec.UNSET
        running = Running(action, channel, asked, self._bound, began)
        if answer is PENDING:
            self._in_flight.begin(command_id, running)
        else:
            wanted.extend(self._answer(command_id, running, answer, now))

    def _check(
        self, spec: ActionSpec | None, command: Command, channel: str | None, now: float, wait_s: float
    ) -> object:
        """Make the checks that all actions share, in their order: known action, shape, rate, decision with its obligations.

        Args:
            spec: What is known of the action; None for one that is not.
            command: The command.
            channel: Its channel.
            now: Unix seconds.
            wait_s: Seconds until the rate of the connection would allow for it.

        Raises:
            CommandError: One of them does not hold.
        """
        if spec is None:
            raise CommandError(ErrorCode.UNKNOWN_ACTION, "no such action")
        data = shape(spec, command)
        if wait_s:
            raise CommandError(ErrorCode.RATE_LIMITED, "too many commands on this connection", wait_s)
        if spec.permission:
            asked = None if command.data is msgspec.UNSET else command.data
            decision = self._observer.decide(self._bound, spec.name, channel, asked, self.facts, now)
            if not decision.allowed:
                self._observer.denied(self, command.id, spec.name, channel, decision)
                raise _denial(decision)
            if channel is not None and spec.name == _PUBLISH:
                self._remember_publishable(channel)
        return data

    def _remember_publishable(self, channel: str) -> None:
        """Keep that a channel may be published to, where that is so whatever is published, and whenever."""
        if self._publisher is None or not self._bound.stands(_PUBLISH, channel, signed=self.facts.signed):
            return
        kept = self._publishable
        if not isinstance(kept, dict) or len(kept) >= MAX_PUBLISHABLE:
            kept = self._publishable = {}
        kept[channel] = self._policy.channel_options(channel)

    def _answer(self, command_id: int, done: Running, data: object, now: float) -> list[Effect]:
        """Answer a command that has been carried out, and note what it has changed."""
        self.outbox.put(Reply(command_id, data))
        self._observer.finished(done.action, "ok", max(0.0, self._observer.timer() - done.started_at))
        if done.channel is None:
            return []
        if done.action == "channel.unsubscribe":
            self.subscriptions.pop(done.channel, None)
        elif done.action == "channel.subscribe":
            self.subscriptions[done.channel] = None if done.data is msgspec.UNSET else done.data
            if done.allowed_by is not self._bound:  # the policy or the roles have changed while it was on its way
                return self._decide_again(now)
        return []

    def _complete(self, event: Completed) -> list[Effect]:
        wanted = self._answer(event.id, self._in_flight.end(event.id), event.data, event.now)
        return wanted + self._go_on(event.now)

    def _fail(self, event: Failed) -> list[Effect]:
        done = self._in_flight.end(event.id)
        self._refuse(event.id, done.action, event.error, max(0.0, self._observer.timer() - done.started_at))
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
        self._bind()
        return [effects.AdoptPrincipal(principal), *self._decide_again(now)]

    def _go_on(self, now: float) -> list[Effect]:
        """Begin what has waited, as far as it may."""
        wanted: list[Effect] = []
        in_flight = self._in_flight
        while self.phase is not Phase.CLOSING and (body := in_flight.next()) is not None:
            self._begin(self._parser.parse(body), now, wanted)
        if in_flight.may_resume():
            wanted.append(effects.ResumeReading())
        return wanted

    # ------------------------------------------------------------------------------------------------ refusals

    def _refuse_frame(self, error: FrameError, now: float, wanted: list[Effect]) -> None:
        self._refuse(error.command_id, UNKNOWN_ACTION, error, 0.0)
        if self._abuse is None:
            self._abuse = SlidingCount(ABUSE_LIMIT, ABUSE_WINDOW_S)
        if self._abuse.add(now):
            wanted.extend(self._end(Closes.PROTOCOL_ABUSE))

    def _counts_as_abuse(self, now: float) -> bool:
        """Count a command that a rate has refused; tell whether there have been too many."""
        if self._refused is None:
            self._refused = SlidingCount(REFUSED_LIMIT, ABUSE_WINDOW_S)
        return self._refused.add(now)

    def _refuse(self, command_id: int | None, action: str, error: CommandError, duration_s: float) -> None:
        retry = msgspec.UNSET if error.retry_after_s is None else round(error.retry_after_s, 3)
        body = ErrorBody(error.code.value, error.message, retry)
        self.outbox.put(ErrorFrame(body, msgspec.UNSET if command_id is None else command_id))
        self._observer.finished(action, error.code.value, duration_s)

    def _end(self, close: Close) -> list[Effect]:
        """Leave for the closing phase; the frames that wait still go out before the close."""
        self.phase = Phase.CLOSING
        self._halted = self._deaf = True
        self._in_flight.forget_waiting()
        return [effects.End(close)]

    # ------------------------------------------------------------------------------------------------ slow events

    def _look_at_deadlines(self, event: TimePassed) -> list[Effect]:
        wanted: list[Effect] = []
        for due in self._deadlines.look(event.now, heard=event.heard):
            match due:
                case Due.EXPIRING:
                    self.outbox.put(ExpiringPush(self.principal.expires_at))
                case Due.PING:
                    wanted.append(effects.SendPing())
                case Due.EXPIRED:
                    wanted += self._end(Closes.EXPIRED_TOKEN)
                case Due.SILENT:
                    wanted += self._end(Closes.PING_TIMEOUT)
                case _:
                    assert_never(due)
        return wanted

    def next_deadline(self, *, heard: bool) -> float:
        """Tell when `TimePassed` is next due, Unix seconds.

        Args:
            heard: Whether the peer has been heard since the last ping.
        """
        return self._deadlines.next_at(heard=heard)

    def _adopt_policy(self, event: PolicyChanged) -> list[Effect]:
        self._policy = event.policy
        self._bind()
        return self._decide_again(event.now)

    def _bind(self) -> None:
        self._bound = self._policy.bind(self.principal)
        self._publishable = _NOTHING_KEPT

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
        self.outbox.put(UnsubscribedPush(channel, reason))
        return [effects.Unsubscribe(None, channel)]

    def _lose_position(self, event: PositionLost) -> list[Effect]:
        return self._drop(event.channel, "position_lost")

    def _drain(self, event: DrainStarted) -> list[Effect]:
        self.phase = Phase.DRAINING
        self.outbox.put(DrainingPush(event.reconnect_after_s))
        return []

    def _finish(self, event: Ended) -> list[Effect]:
        return self._end(event.close)

    def _lose(self, _event: Lost) -> list[Effect]:
        self.phase = Phase.CLOSED
        self._deaf = True
        self._in_flight.forget_waiting()
        self.outbox.drop()
        del (
            self._carrier
        )  # the two hold each other: without this they would wait for the collector, thousands at a time
        return []

    def _complete_late(self, event: Completed | Failed | Refreshed) -> list[Effect]:
        """Forget a command whose connection closes: the peer no longer listens."""
        self._in_flight.end(event.id)
        return []

    def _ignore(self, _event: Event) -> list[Effect]:
        return []

    # ------------------------------------------------------------------------------------------------ the table

    _TALKING: ClassVar[Mapping[type, Transition]] = {
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
