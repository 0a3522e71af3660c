"""What a node does for all of its connections, one after the other: a fault of one is nobody else's."""

from __future__ import annotations

import asyncio

from node_kit import KeepingPolicy, open_house
from talk import PERMISSIVE

from gateway.core.decision import ChannelOptions

ROOM, FAULTY = "room:acme:1", "room:acme:2"


class FaultyPolicy(KeepingPolicy):
    """Has a bug that one channel meets."""

    def channel_options(self, channel: str) -> ChannelOptions:
        if channel == FAULTY:
            raise ZeroDivisionError
        return super().channel_options(channel)


async def test_a_policy_that_fails_for_one_connection_counts_for_the_others() -> None:
    house = open_house()
    alice, bob = house.join("alice"), house.join("bob")
    alice.say("channel.subscribe", FAULTY)
    bob.say("channel.subscribe", ROOM)
    following = asyncio.create_task(house.node.follow_policy())
    policy = FaultyPolicy({**PERMISSIVE})
    house.node.adopt_policy(policy)
    for _ in range(3):
        await asyncio.sleep(0)
    assert alice.line.closed == (1011, "internal")
    assert bob.line.closed is None
    assert bob.connection.policy is policy
    assert not following.done()
    following.cancel()


async def test_a_fault_while_a_fault_is_told_drops_the_connection_and_is_told_too() -> None:
    house = open_house()
    alice, bob = house.join("alice"), house.join("bob")

    def close(code: int, reason: str, linger_s: float) -> None:
        raise ZeroDivisionError(code, reason, linger_s)

    alice.line.close = close  # type: ignore[method-assign] # a transport with a bug
    house.node.failed(alice.connection, ValueError())
    assert alice.line.aborted
    assert [event for event, _ in house.log.events if event == "connection.failed"] == ["connection.failed"] * 2
    bob.say("ping")
    assert len(bob.line.frames) == 1
