"""A session to talk to: a policy that is a dictionary, an observer that remembers, and a way to read what the session says."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec

from gateway.core.commands import ActionRegistry
from gateway.core.decision import BoundPolicy, ChannelOptions, Decision, Effect, Permission, Reason
from gateway.core.effects import Effect as Wanted
from gateway.core.errors import CommandError, ErrorCode, SignatureFailure
from gateway.core.frames import Encoding
from gateway.core.principal import ConnectionFacts, Principal, TokenIdentity
from gateway.core.session import Session
from gateway.core.session_events import Event
from gateway.core.session_ports import PENDING, Publisher, SessionLimits
from gateway.core.signing import Signer, Verifier, verify_all
from gateway.core.turn import Turn

NOW = 1_000_000.0
ALICE = Principal("alice", "acme", ("member",), {}, NOW + 900, TokenIdentity("https://issuer", "jti-1"))
LIMITS = SessionLimits(65_536, 1000.0, 3, 25.0)
ALLOW = Decision(Effect.ALLOW, Reason.RULE, "a.yaml:1")
DENY = Decision(Effect.DENY, Reason.DEFAULT, code=ErrorCode.PERMISSION_DENIED)


@dataclass
class DictPolicy:
    """Decides by (action, channel), else by action, else denies."""

    answers: dict[object, Decision]
    version: str = "000000000000"
    roles: frozenset[str] = frozenset({"member"})
    bound_to: list[Principal] = field(default_factory=list)
    standing: bool = True

    def bind(self, principal: Principal) -> BoundPolicy:
        self.bound_to.append(principal)
        return self

    def channel_options(self, _channel: str) -> ChannelOptions:
        return ChannelOptions()

    def decide(self, action: str, channel: str | None, _data: object, _facts: ConnectionFacts, _now: float) -> Decision:
        return self.answers.get((action, channel)) or self.answers.get(action) or DENY

    def stands(self, action: str, channel: str | None, *, signed: bool) -> bool:  # noqa: ARG002 - all is the same here
        return self.standing and self.decide(action, channel, None, ConnectionFacts(), 0.0).allowed

    def permissions(self, actions: tuple[str, ...], channel: str | None) -> list[Permission]:
        facts = ConnectionFacts()
        return [Permission(a, conditional=False) for a in actions if self.decide(a, channel, None, facts, 0.0).allowed]


@dataclass
class Witness:
    """Remembers all that an observer is told."""

    seen: list[tuple[object, ...]] = field(default_factory=list)
    time: float = NOW

    def timer(self) -> float:
        return self.time

    def decide(
        self, policy: BoundPolicy, action: str, channel: str | None, data: object, facts: ConnectionFacts, now: float
    ) -> Decision:
        decision = policy.decide(action, channel, data, facts, now)
        self.seen.append(("decided", action, channel, data))
        return decision

    def denied(self, _session: Session, command_id: int, action: str, channel: str | None, _decision: Decision) -> None:
        self.seen.append(("denied", command_id, action, channel))

    def finished(self, action: str, outcome: str, duration_s: float) -> None:
        self.seen.append(("finished", action, outcome, duration_s))

    def signature_failed(self, _session: Session, failure: SignatureFailure) -> None:
        self.seen.append(("signature", failure))


@dataclass
class Waiter:
    """Carries nothing out: keeps what is asked for, and answers later, or at once where it has been told what."""

    asked: list[Wanted] = field(default_factory=list)
    answers: dict[type, object] = field(default_factory=dict)

    caught_up: list[str] = field(default_factory=list)

    def catch_up(self, channel: str) -> None:
        self.caught_up.append(channel)

    def carry(self, effect: Wanted) -> object:
        self.asked.append(effect)
        answer = self.answers.get(effect.__class__, PENDING)
        if isinstance(answer, CommandError):
            raise answer
        return answer


PERMISSIVE = dict.fromkeys(ActionRegistry().names(), ALLOW)


@dataclass
class Talk:
    """One conversation, driven by hand."""

    session: Session
    witness: Witness
    carrier: Waiter
    policy: DictPolicy
    encoding: Encoding
    client: Signer | None
    server: Verifier | None
    now: float = NOW
    turn: Turn = field(default_factory=lambda: Turn(NOW, NOW))

    def send(self, *commands: dict[str, object], batch: bool = False) -> list[Wanted]:
        """Send each command in a frame of its own, or all as a batch."""
        encode: Callable[[object], bytes] = (
            msgspec.json.encode if self.encoding is Encoding.JSON else msgspec.msgpack.encode
        )
        bodies = [encode(list(commands))] if batch else [encode(command) for command in commands]
        return [effect for body in bodies for effect in self.send_bytes(body)]

    def send_bytes(self, body: bytes) -> list[Wanted]:
        return self.receive(body if self.client is None else self.client.sign(body))

    def receive(self, *payloads: bytes) -> list[Wanted]:
        """Let payloads come in as they are; give what is asked for, by commands first."""
        self.witness.time = self.now
        self.carrier.asked.clear()
        bodies, verifier = list(payloads), self.session.verifier
        failures = [] if verifier is None else verify_all([(verifier, bodies, self.session)])
        self.turn = Turn(self.now, self.now)
        wanted = self.session.receive(bodies, self.turn)
        for session, failure in failures:
            wanted += session.refuse_signature(failure)
        return [*self.carrier.asked, *wanted]

    def tell(self, event: Event) -> list[Wanted]:
        self.witness.time = max(self.witness.time, getattr(event, "now", 0.0))
        self.carrier.asked.clear()
        wanted = self.session.handle(event)
        return [*self.carrier.asked, *wanted]

    def said(self) -> list[object]:
        """Read what the session has to say, signatures verified."""
        payloads = self.session.outbox.flush()
        bodies = [p if self.server is None else self.server.verify(p) for p in payloads]
        decode = json.loads if self.encoding is Encoding.JSON else msgspec.msgpack.decode
        return [decode(body) for body in bodies]

    def errors(self) -> list[tuple[object, object]]:
        """Read the (id, code) of what the session says; every frame is to be an error."""
        return [(frame.get("id"), frame["error"]["code"]) for frame in self.said()]


def talk(
    *,
    answers: dict[object, Decision] | None = None,
    encoding: Encoding = Encoding.JSON,
    signed: bool = False,
    registry: ActionRegistry | None = None,
    limits: SessionLimits = LIMITS,
    principal: Principal = ALICE,
    publisher: Publisher | None = None,
) -> Talk:
    policy, witness, carrier = DictPolicy(PERMISSIVE if answers is None else answers), Witness(), Waiter()
    client_key, server_key = b"c" * 32, b"s" * 32
    session = Session(
        session_id="s1",
        principal=principal,
        policy=policy,
        registry=registry or ActionRegistry(),
        encoding=encoding,
        facts=ConnectionFacts("192.0.2.1", "", signed),
        limits=limits,
        signer=Signer(server_key, encoding) if signed else None,
        verifier=Verifier(client_key, encoding) if signed else None,
        observer=witness,
        carrier=carrier,
        publisher=publisher,
        now=NOW,
    )
    return Talk(
        session,
        witness,
        carrier,
        policy,
        encoding,
        Signer(client_key, encoding) if signed else None,
        Verifier(server_key, encoding) if signed else None,
    )
