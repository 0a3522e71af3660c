"""What every broker keeps to. Each adapter runs these cases against itself, by a fixture `broker` and a fixture `clock`."""

from __future__ import annotations

from dataclasses import dataclass, field

import msgspec

from gateway.core.channels import Position
from gateway.core.decision import ChannelOptions
from gateway.runtime.ports import Broadcast, Broker, Direct, Message, Presence

HISTORY = ChannelOptions(history_messages=3, history_ttl_s=60.0, presence=True)
PLAIN = ChannelOptions()


@dataclass
class Delivered:
    """A publication as a node gets it."""

    channel: str
    data: object
    sender: str
    at: float
    position: Position | None


@dataclass
class Inbox:
    """A node that keeps what it is given."""

    messages: list[Delivered] = field(default_factory=list)
    presences: list[Presence] = field(default_factory=list)
    directs: list[Direct] = field(default_factory=list)
    broadcasts: list[Broadcast] = field(default_factory=list)

    def message(self, channel: str, data: object, sender: str, at: float, position: Position | None) -> None:
        self.messages.append(Delivered(channel, data, sender, at, position))

    def presence(self, presence: Presence) -> None:
        self.presences.append(presence)

    def direct(self, direct: Direct) -> int:
        self.directs.append(direct)
        return 2

    def broadcast(self, broadcast: Broadcast) -> None:
        self.broadcasts.append(broadcast)


@dataclass
class HandClock:
    """Unix seconds that a test moves."""

    now: float = 1_000_000.0

    def __call__(self) -> float:
        return self.now


def text(message: Message) -> bytes:
    """Give the JSON text that a page keeps of a payload."""
    assert isinstance(message.data, msgspec.Raw)
    return bytes(message.data)


class BrokerConformance:
    """The cases."""

    async def test_a_publication_reaches_the_node_as_it_was(self, broker: Broker, inbox: Inbox) -> None:
        await broker.subscribe("room:1")
        assert await broker.publish("room:1", {"x": [1, None]}, "alice", 5.0, PLAIN) is None
        assert inbox.messages == [Delivered("room:1", {"x": [1, None]}, "alice", 5.0, None)]

    async def test_offsets_count_from_one_within_one_epoch(
        self, broker: Broker, inbox: Inbox, clock: HandClock
    ) -> None:
        await broker.subscribe("room:1")
        first = await broker.publish("room:1", 1, "alice", clock(), HISTORY)
        second = await broker.publish("room:1", 2, "alice", clock(), HISTORY)
        assert first is not None
        assert second is not None
        assert (first.offset, second.offset) == (1, 2)
        assert first.epoch == second.epoch
        assert [m.position for m in inbox.messages] == [first, second]
        assert await broker.position("room:1", HISTORY) == second

    async def test_a_channel_nobody_has_published_to_stands_at_offset_zero(self, broker: Broker) -> None:
        position = await broker.position("room:1", HISTORY)
        assert position is not None
        assert position.offset == 0
        assert await broker.position("room:1", PLAIN) is None

    async def test_a_history_keeps_the_newest(self, broker: Broker, clock: HandClock) -> None:
        for n in range(1, 6):
            await broker.publish("room:1", n, "alice", clock(), HISTORY)
        page = await broker.history("room:1", HISTORY, limit=100, after=None, before=None)
        assert [(m.offset, text(m)) for m in page.messages] == [(3, b"3"), (4, b"4"), (5, b"5")]
        assert page.position is not None
        assert page.position.offset == 5

    async def test_history_bounds_are_exclusive_and_the_limit_cuts_at_the_far_end(
        self, broker: Broker, clock: HandClock
    ) -> None:
        options = ChannelOptions(history_messages=10, history_ttl_s=60.0)
        for n in range(1, 11):
            await broker.publish("room:1", n, "alice", clock(), options)

        async def offsets(limit: int, after: int | None, before: int | None) -> list[int | None]:
            page = await broker.history("room:1", options, limit=limit, after=after, before=before)
            return [m.offset for m in page.messages]

        assert await offsets(3, None, None) == [8, 9, 10]
        assert await offsets(3, 4, None) == [5, 6, 7]
        assert await offsets(3, None, 5) == [2, 3, 4]
        assert await offsets(100, 2, 6) == [3, 4, 5]
        assert await offsets(100, 10, None) == []
        assert await offsets(100, 5, 2) == []

    async def test_what_is_older_than_its_time_to_live_is_gone_and_offsets_go_on(
        self, broker: Broker, clock: HandClock
    ) -> None:
        first = await broker.publish("room:1", 1, "alice", clock(), HISTORY)
        clock.now += 61
        page = await broker.history("room:1", HISTORY, limit=10, after=None, before=None)
        assert page.messages == ()
        second = await broker.publish("room:1", 2, "alice", clock(), HISTORY)
        assert first is not None
        assert second is not None
        assert (second.offset, second.epoch) == (2, first.epoch)

    async def test_a_channel_that_keeps_no_history_any_more_begins_anew_later(
        self, broker: Broker, clock: HandClock
    ) -> None:
        before = await broker.publish("room:1", 1, "alice", clock(), HISTORY)
        await broker.publish("room:1", 2, "alice", clock(), PLAIN)
        after = await broker.publish("room:1", 3, "alice", clock(), HISTORY)
        assert before is not None
        assert after is not None
        assert after.epoch != before.epoch
        page = await broker.history("room:1", PLAIN, limit=10, after=None, before=None)
        assert (page.messages, page.position) == ((), None)

    async def test_only_the_first_join_and_the_last_leave_are_told(self, broker: Broker, inbox: Inbox) -> None:
        await broker.subscribe("room:1")
        await broker.join("room:1", "acme", "alice", "s1")
        await broker.join("room:1", "acme", "alice", "s2")
        await broker.join("room:1", "acme", "alice", "s2")
        await broker.join("room:1", "umbrella", "alice", "s3")
        assert await broker.members("room:1") == {("acme", "alice"): 2, ("umbrella", "alice"): 1}
        for session in ("s1", "s2", "s2", "nobody"):
            await broker.leave("room:1", "acme", "alice", session)
        await broker.leave("room:2", "acme", "alice", "s1")
        await broker.leave("room:1", "umbrella", "alice", "s3")
        assert [(p.event, p.tenant) for p in inbox.presences] == [
            ("join", "acme"),
            ("join", "umbrella"),
            ("leave", "acme"),
            ("leave", "umbrella"),
        ]
        assert await broker.members("room:1") == {}

    async def test_direct_messages_and_broadcasts_reach_the_node(self, broker: Broker, inbox: Inbox) -> None:
        direct = Direct("acme", "bob", 1, "alice", 5.0)
        assert await broker.send(direct) == 2
        await broker.broadcast(Broadcast("acme", 2, "alice", 5.0))
        assert inbox.directs == [direct]
        assert inbox.broadcasts == [Broadcast("acme", 2, "alice", 5.0)]
