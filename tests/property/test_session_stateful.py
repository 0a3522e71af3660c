"""A session under any order of events, held against a model that is a few sets."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from talk import ALICE, ALLOW, NOW, PERMISSIVE, DictPolicy, talk

from gateway.core import effects
from gateway.core.effects import Effect, End
from gateway.core.errors import Closes, CommandError, ErrorCode
from gateway.core.in_flight import MAX_IN_FLIGHT
from gateway.core.principal import Principal
from gateway.core.session import Phase
from gateway.core.session_events import (
    Completed,
    DrainStarted,
    Ended,
    Failed,
    Lost,
    PolicyChanged,
    PositionLost,
    Refreshed,
    RolesChanged,
    TimePassed,
)
from gateway.core.session_ports import SessionLimits

CHANNELS = [f"room:{n}" for n in range(4)]
ACTIONS = ["channel.subscribe", "channel.unsubscribe", "channel.publish", "channel.history"]
POLICIES = [
    DictPolicy(PERMISSIVE),
    DictPolicy({**{("channel.subscribe", c): ALLOW for c in CHANNELS[:2]}, "channel.publish": ALLOW}),
    DictPolicy({}),
]


class SessionMachine(RuleBasedStateMachine):
    """Sends commands, answers effects late and in any order, and brings news in between."""

    def __init__(self) -> None:
        super().__init__()
        self.talk = talk(limits=SessionLimits(65_536, 1_000_000.0, 3, 25.0))
        self.pending: dict[int, Effect] = {}
        self.asked: set[int] = set()
        self.next_id = 0
        self.ended = False
        self.lost = False

    def take(self, wanted: list[Effect]) -> None:
        """Do what the session wants, except answering, which the rules do when they like."""
        for effect in wanted:
            assert not self.lost
            if isinstance(effect, End):
                assert not self.ended
                self.ended = True
            elif getattr(effect, "id", None) is not None:
                assert effect.id not in self.pending
                self.pending[effect.id] = effect
        for frame in self.talk.said():
            if frame["type"] in {"reply", "error"}:
                self.asked.remove(frame["id"])  # each command is answered once

    @rule(action=st.sampled_from(ACTIONS), channel=st.sampled_from(CHANNELS))
    def send(self, action: str, channel: str) -> None:
        self.next_id += 1
        if not self.ended and not self.lost:
            self.asked.add(self.next_id)
        self.take(self.talk.send({"id": self.next_id, "action": action, "channel": channel, "data": None}
                                 if action != "channel.publish"
                                 else {"id": self.next_id, "action": action, "channel": channel, "data": 1}))  # fmt: skip

    @rule()
    def send_refresh(self) -> None:
        self.next_id += 1
        if not self.ended and not self.lost:
            self.asked.add(self.next_id)
        self.take(self.talk.send({"id": self.next_id, "action": "session.refresh", "data": {"token": "t"}}))

    @precondition(lambda self: self.pending)
    @rule(data=st.data(), good=st.booleans())
    def answer(self, data: st.DataObject, *, good: bool) -> None:
        command_id = data.draw(st.sampled_from(sorted(self.pending)))
        effect = self.pending.pop(command_id)
        if not good:
            self.take(self.talk.tell(Failed(command_id, CommandError(ErrorCode.UNAVAILABLE, "no"), NOW)))
        elif isinstance(effect, effects.VerifyToken):
            renewed = Principal("alice", "acme", ("member",), {}, NOW + 9000, ALICE.token)
            self.take(self.talk.tell(Refreshed(command_id, renewed, NOW)))
        else:
            self.take(self.talk.tell(Completed(command_id, {}, NOW)))

    @rule(policy=st.sampled_from(POLICIES))
    def change_policy(self, policy: DictPolicy) -> None:
        self.talk.policy = policy
        self.take(self.talk.tell(PolicyChanged(policy, NOW)))

    @rule(roles=st.sampled_from([("member",), ("viewer",), ()]))
    def change_roles(self, roles: tuple[str, ...]) -> None:
        self.take(self.talk.tell(RolesChanged(roles, NOW)))

    @rule(channel=st.sampled_from(CHANNELS))
    def lose_position(self, channel: str) -> None:
        self.take(self.talk.tell(PositionLost(channel)))

    @rule(seconds=st.integers(0, 60))
    def pass_time(self, seconds: int) -> None:
        self.talk.now += seconds
        self.take(self.talk.tell(TimePassed(self.talk.now, heard=True)))

    @rule()
    def drain(self) -> None:
        self.take(self.talk.tell(DrainStarted(1.0)))

    @precondition(lambda self: self.next_id > 15)
    @rule()
    def end(self) -> None:
        self.take(self.talk.tell(Ended(Closes.NORMAL)))

    @precondition(lambda self: self.next_id > 20)
    @rule()
    def lose(self) -> None:
        self.take(self.talk.tell(Lost()))
        self.lost = True

    @invariant()
    def holds_what_it_may(self) -> None:
        session = self.talk.session
        assert len(session.subscriptions) <= 3
        assert len(self.pending) <= MAX_IN_FLIGHT or self.ended
        assert (session.phase is Phase.CLOSED) is self.lost
        if self.ended and not self.lost:
            assert session.phase is Phase.CLOSING
        if not self.ended and not self.lost:
            facts = session.facts
            for channel in session.subscriptions:
                assert self.talk.policy.decide("channel.subscribe", channel, None, facts, NOW).allowed

    @invariant()
    def commands_about_one_channel_are_carried_out_one_after_the_other(self) -> None:
        channels = [effect.channel for effect in self.pending.values() if hasattr(effect, "channel")]
        assert len(channels) == len(set(channels))


SessionMachine.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
test_a_session_keeps_its_promises_under_any_order_of_events = SessionMachine.TestCase
