"""An audience under any order of comings, goings and pushes, served in shares of any size, held against a model that is a list."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, precondition, rule
from node_kit import Metrics, decode, whole_frames

from gateway.core.frames import Encoding, MessagePush, PresencePush, SharedPush
from gateway.core.wire_frames import PLAIN, Framing
from gateway.runtime.fan_out import MAX_WAITING, Audience, Batch

CHANNEL = "room:acme:1"
SUBJECTS = ("alice", "bob")


class Subscriber:
    """A recipient that remembers what it got, by the number that each push carries; its own port, too."""

    def __init__(self, subject: str, framing: Framing | None, encoding: Encoding, *, sees_presence: bool) -> None:
        self.identity = ("acme", subject)
        self.framing = framing
        self.port = self
        self.encoding = encoding
        self.sees_presence = sees_presence
        self.got: list[int] = []
        self.due: list[int] = []

    def may_see_presence(self, channel: str) -> bool:
        assert channel == CHANNEL
        return self.sees_presence

    def write(self, octets: bytes) -> None:
        assert self.framing is not None
        self.keep(whole_frames(octets))

    def deliver(self, batch: Batch) -> None:
        assert self.framing is None
        self.keep(batch.bodies(self.encoding))

    def keep(self, bodies: list[bytes]) -> None:
        for body in bodies:
            frame = decode(body, self.encoding)
            self.got.append(frame["data"] if frame["type"] == "message" else int(frame["event"]))


class AudienceMachine(RuleBasedStateMachine):
    """Lets subscribers come and go while messages wait, and while they are on their way to some."""

    here = Bundle("here")
    gone = Bundle("gone")

    def __init__(self) -> None:
        super().__init__()
        self.metrics = Metrics()
        self.audience = Audience(self.metrics, CHANNEL)
        self.everybody: list[Subscriber] = []
        self.present: list[Subscriber] = []
        self.pushed = 0

    def enter(self, subscriber: Subscriber) -> Subscriber:
        self.audience.add(subscriber)
        self.present.append(subscriber)
        assert subscriber in self.audience
        return subscriber

    @rule(
        target=here,
        subject=st.sampled_from(SUBJECTS),
        encoding=st.sampled_from(list(Encoding)),
        framed=st.booleans(),
        sees_presence=st.booleans(),
    )
    def comes(self, subject: str, encoding: Encoding, *, framed: bool, sees_presence: bool) -> Subscriber:
        framing = PLAIN[encoding] if framed else None
        subscriber = Subscriber(subject, framing, encoding, sees_presence=sees_presence)
        self.everybody.append(subscriber)
        return self.enter(subscriber)

    @rule(target=here, subscriber=consumes(gone))
    def comes_again(self, subscriber: Subscriber) -> Subscriber:
        return self.enter(subscriber)

    @rule(target=gone, subscriber=consumes(here))
    def goes(self, subscriber: Subscriber) -> Subscriber:
        """Whoever goes gets nothing more, not even what waits."""
        self.audience.remove(subscriber)
        self.present.remove(subscriber)
        subscriber.due = subscriber.got[:]
        return subscriber

    @precondition(lambda self: self.audience.waiting < MAX_WAITING)
    @rule(about=st.none() | st.sampled_from(SUBJECTS))
    def is_told(self, about: str | None) -> None:
        """A message is for all that are there; of a presence nobody hears who may not, nor whom it tells of."""
        self.pushed += 1
        if about is None:
            self.audience.push(SharedPush(MessagePush(CHANNEL, self.pushed, "alice", 0.0)))
        else:
            self.audience.push(
                SharedPush(PresencePush(CHANNEL, str(self.pushed), about), about=("acme", about))  # type: ignore[arg-type] # a number for the event
            )
        for subscriber in self.present:
            if about is None or (subscriber.sees_presence and subscriber.identity[1] != about):
                subscriber.due.append(self.pushed)

    @rule(subscriber=here)
    def is_given_what_is_due(self, subscriber: Subscriber) -> None:
        subscriber.keep([push.body(subscriber.encoding) for push in self.audience.due(subscriber)])
        assert subscriber.got == subscriber.due

    @rule(share=st.integers(1, 4))
    def is_served(self, share: int) -> None:
        waited = not self.audience.idle
        before = sum(len(subscriber.got) for subscriber in self.everybody)
        self.audience.serve(share)
        after = sum(len(subscriber.got) for subscriber in self.everybody)
        assert after == before or waited

    @invariant()
    def all_have_got_the_first_of_what_is_theirs_in_its_order_and_once(self) -> None:
        assert len(self.audience) == len(self.present)
        assert set(self.audience) == set(self.present)
        for subscriber in self.everybody:
            assert subscriber.got == subscriber.due[: len(subscriber.got)]
        assert self.metrics.deliveries == sum(len(subscriber.got) for subscriber in self.everybody)

    def teardown(self) -> None:
        """In the end everybody has got all of it, and that end comes within as many calls as there are recipients and rounds."""
        for _ in range(2 * len(self.present) + 2):
            if self.audience.idle:
                break
            self.audience.serve(1)
        assert self.audience.idle
        for subscriber in self.everybody:
            assert subscriber.got == subscriber.due


TestAudience = AudienceMachine.TestCase
TestAudience.settings = settings(max_examples=300, stateful_step_count=40, deadline=None)
