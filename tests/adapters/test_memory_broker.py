"""The broker of a single node."""

from __future__ import annotations

import sys

import pytest
from broker_conformance import BrokerConformance, HandClock, Inbox

from gateway.adapters.memory_broker import MemoryBroker
from gateway.core.decision import ChannelOptions

MANY = ChannelOptions(history_messages=1000, history_ttl_s=3600.0)


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def inbox() -> Inbox:
    return Inbox()


@pytest.fixture
def broker(clock: HandClock, inbox: Inbox) -> MemoryBroker:
    broker = MemoryBroker(1_000_000, clock)
    broker.attach(inbox)
    return broker


class TestMemoryBroker(BrokerConformance):
    """What every broker keeps to."""


async def count(broker: MemoryBroker, channel: str) -> list[int | None]:
    page = await broker.history(channel, MANY, limit=1000, after=None, before=None)
    return [message.offset for message in page.messages]


async def test_beyond_its_bytes_the_largest_channel_loses_its_oldest(clock: HandClock, inbox: Inbox) -> None:
    broker = MemoryBroker(20_000, clock)
    broker.attach(inbox)
    for _ in range(3):
        await broker.publish("room:small", "x" * 100, "alice", clock(), MANY)
    for _ in range(100):
        await broker.publish("room:large", "x" * 1000, "alice", clock(), MANY)
    assert await count(broker, "room:small") == [1, 2, 3]
    large = await count(broker, "room:large")
    assert 10 <= len(large) <= 16
    assert large[-1] == 100
    assert large == list(range(101 - len(large), 101))


async def test_a_message_larger_than_the_store_is_delivered_and_not_kept(clock: HandClock, inbox: Inbox) -> None:
    broker = MemoryBroker(1000, clock)
    broker.attach(inbox)
    await broker.publish("room:1", "x" * 5000, "alice", clock(), MANY)
    assert await count(broker, "room:1") == []
    assert len(inbox.messages) == 1


async def test_positions_are_bounded_and_a_forgotten_channel_begins_a_new_epoch(clock: HandClock, inbox: Inbox) -> None:
    broker = MemoryBroker(1_000_000, clock, max_positions=2)
    broker.attach(inbox)
    first = await broker.publish("room:1", 1, "alice", clock(), MANY)
    for n in (2, 3):
        await broker.publish(f"room:{n}", 1, "alice", clock(), MANY)
    again = await broker.position("room:1", MANY)
    assert first is not None
    assert again is not None
    assert again.epoch != first.epoch


async def test_a_sweep_frees_what_is_past_its_time_without_a_reader(clock: HandClock, broker: MemoryBroker) -> None:
    await broker.publish("room:1", "x" * 1000, "alice", clock(), MANY)
    clock.now += MANY.history_ttl_s + 1
    assert broker.kept_bytes > 1000
    broker.sweep()
    assert broker.kept_bytes == 0
    position = await broker.position("room:1", MANY)
    assert position is not None
    assert position.offset == 1


async def test_asking_where_made_up_channels_stand_pushes_no_history_out(clock: HandClock, inbox: Inbox) -> None:
    broker = MemoryBroker(1_000_000, clock, max_positions=2)
    broker.attach(inbox)
    first = await broker.publish("room:1", 1, "alice", clock(), MANY)
    for n in range(2, 10):
        assert await count(broker, f"room:{n}") == []
        position = await broker.position(f"room:{n}", MANY)
        assert position is not None
        assert position.offset == 0
    assert await count(broker, "room:1") == [1]
    assert await broker.position("room:1", MANY) == first


async def test_what_was_missed_since_a_question_is_known_by_the_epoch_that_it_gave(
    clock: HandClock, inbox: Inbox
) -> None:
    broker = MemoryBroker(1_000_000, clock, max_positions=1)
    broker.attach(inbox)
    before = await broker.position("room:1", MANY)
    published = await broker.publish("room:1", 1, "alice", clock(), MANY)
    assert before is not None
    assert published is not None
    assert (before.offset, before.epoch) == (0, published.epoch)
    await broker.publish("room:2", 1, "alice", clock(), MANY)  # room:1 is forgotten, with what was published to it
    after = await broker.position("room:1", MANY)
    assert after is not None
    assert after.epoch != before.epoch


async def test_a_full_store_of_many_equal_channels_is_shrunk_in_one_pass(clock: HandClock, inbox: Inbox) -> None:
    channels = 2_000
    broker = MemoryBroker(channels * 1_000, clock)
    broker.attach(inbox)
    calls = 0

    def count_call(_frame: object, event: str, _argument: object) -> None:
        nonlocal calls
        calls += event == "call"

    for n in range(channels):
        await broker.publish(f"room:{n}", "x" * 480, "alice", clock(), MANY)
    assert broker.kept_bytes <= channels * 1_000
    sys.setprofile(count_call)
    try:
        await broker.publish("room:last", "x" * 40_000, "alice", clock(), MANY)
    finally:
        sys.setprofile(None)
    assert broker.kept_bytes <= channels * 1_000
    assert calls < channels  # one walk through all for each that loses its message would be 100,000
