"""What one client sends in a flood: what nothing comes of counts too, and what is honest gets all of its answers, in order."""

from __future__ import annotations

import pytest
from running_gateway import RunningGateway, Start

from gateway.core.in_flight import MAX_IN_FLIGHT
from gateway.runtime.fan_out import MAX_WAITING

ROOM = "room:acme:1"


@pytest.mark.parametrize(
    "command", [{"action": "nosuch"}, {"action": "channel.subscribe", "data": 1}], ids=["unknown", "misshapen"]
)
async def test_commands_that_nothing_comes_of_end_the_connection_in_batches_too(
    gateway: RunningGateway, command: dict[str, object]
) -> None:
    alice, bob = await gateway.peer("alice"), await gateway.peer("bob")
    burst = 2 * int(gateway.gateway.settings.commands_per_s)
    for first in range(0, 2 * burst + 200, 50):
        await alice.send([{"id": first + n + 1, **command} for n in range(50)])
    assert await alice.closed() == (1008, "rate_limited")
    assert await bob.do("ping") == {}


@pytest.mark.parametrize("signed", [False, True], ids=["unsigned", "signed"])
async def test_more_commands_than_may_be_in_flight_are_all_answered(start: Start, *, signed: bool) -> None:
    gateway: RunningGateway = await start(commands_per_s="10000")
    answer = await gateway.token("alice")
    alice = await gateway.peer(signed=signed, answer=answer)
    slow, quick = 2 * MAX_IN_FLIGHT, 20
    refresh = {"action": "session.refresh", "data": {"token": answer["access_token"]}}
    for n in range(slow):
        await alice.send({"id": n + 1, **refresh})
    for n in range(slow, slow + quick):
        await alice.send({"id": n + 1, "action": "ping"})
    answered = [await alice.frame() for _ in range(slow + quick)]
    assert {frame["type"] for frame in answered} == {"reply"}
    assert sorted(frame["id"] for frame in answered) == list(range(1, slow + quick + 1))


async def test_who_brings_more_than_may_wait_loses_nothing_and_disorders_nothing(start: Start) -> None:
    gateway: RunningGateway = await start(commands_per_s="100000")
    alice, bob, again = await gateway.peer("alice"), await gateway.peer("bob"), await gateway.peer("alice")
    for peer in (alice, again):
        await peer.do("channel.subscribe", ROOM)
    many = 4 * MAX_WAITING
    for n in range(many):
        await bob.send({"id": n + 1, "action": "channel.publish", "channel": ROOM, "data": n})
    assert [(await bob.frame())["type"] for _ in range(many)] == ["reply"] * many
    for peer in (alice, again):
        assert [(await peer.push("message"))["data"] for _ in range(many)] == list(range(many))
    assert await bob.do("ping") == {}
