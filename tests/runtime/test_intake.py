"""What all connections have read in a turn: taken in order, answered in order, each for itself, and no further than may be."""

from __future__ import annotations

import asyncio

import pytest
from node_kit import Frame, House, KeepingPolicy, Member, open_house
from talk import PERMISSIVE

from gateway.core.decision import ChannelOptions
from gateway.core.frames import Encoding
from gateway.core.in_flight import MAX_IN_FLIGHT
from gateway.runtime.extensions import ActionHandler, Invocation
from gateway.runtime.fan_out import MAX_WAITING
from gateway.runtime.ports import Read

ROOM = "room:acme:1"


class Desk:
    """Handlers that answer when the test says so."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.begun: list[object] = []

    async def slow(self, invocation: Invocation) -> object:
        self.begun.append(invocation.data)
        await self.open.wait()
        return invocation.data


@pytest.fixture
def desk() -> Desk:
    return Desk()


@pytest.fixture
def house(desk: Desk) -> House:
    policy = KeepingPolicy(
        {**PERMISSIVE, "work.slow": PERMISSIVE["channel.publish"]},
        options=ChannelOptions(history_messages=1000, history_ttl_s=60.0),
    )
    return open_house(policy=policy, handlers={"work.slow": ActionHandler(desk.slow, 10.0)})


def take(*reads: tuple[Member, list[bytes]]) -> None:
    """Have several connections' reads be taken together."""
    wanted: list[Read] = [(member.connection, bodies) for member, bodies in reads]
    for transport, answers in reads[0][0].connection.intake.take(wanted):
        transport.send(answers)


async def settle() -> None:
    """Let every task run as far as it can."""
    for _ in range(10):
        await asyncio.sleep(0)


def ids(frames: list[Frame]) -> list[object]:
    return [frame["id"] for frame in frames if "id" in frame]


# ------------------------------------------------------------------------------------------------- order


@pytest.mark.parametrize("signed", [False, True], ids=["unsigned", "signed"])
@pytest.mark.parametrize("encoding", list(Encoding))
async def test_commands_are_carried_out_and_answered_in_their_order(
    house: House,
    encoding: Encoding,
    *,
    signed: bool,
) -> None:
    alice = house.join(encoding=encoding, signed=signed)
    alice.take(*(alice.body("channel.publish", ROOM, n) for n in range(50)))
    assert [(frame["id"], frame["data"]["offset"]) for frame in alice.line.frames] == [(n, n) for n in range(1, 51)]
    assert len(alice.line.writes) == 1


async def test_what_several_have_read_in_a_turn_is_carried_out_connection_by_connection(house: House) -> None:
    alice, bob, vera = house.join("alice"), house.join("bob"), house.join("vera")
    vera.say("channel.subscribe", ROOM)
    take(
        (bob, [bob.body("channel.publish", ROOM, f"bob {n}") for n in range(3)]),
        (alice, [alice.body("channel.publish", ROOM, f"alice {n}") for n in range(3)]),
    )
    await settle()
    assert [frame["data"] for frame in vera.line.frames if frame["type"] == "message"] == [
        *(f"bob {n}" for n in range(3)),
        *(f"alice {n}" for n in range(3)),
    ]
    assert (ids(alice.line.frames), ids(bob.line.frames)) == ([1, 2, 3], [1, 2, 3])


async def test_what_is_answered_at_once_overtakes_what_is_not(house: House, desk: Desk) -> None:
    alice = house.join()
    alice.take(alice.body("work.slow", None, "slow"), alice.body("ping"))
    assert ids(alice.line.frames) == [2]
    desk.open.set()
    await settle()
    assert ids(alice.line.frames) == [2, 1]


# ------------------------------------------------------------------------------------------------- refusals


async def test_a_signature_that_does_not_hold_ends_its_connection_and_no_other(house: House) -> None:
    forged, sound = house.join("alice", signed=True), house.join("bob", signed=True)
    first, second = forged.body("channel.publish", ROOM, 1), forged.body("channel.publish", ROOM, 2)
    broken = second[:-1] + bytes([second[-1] ^ 1])
    take((forged, [first, broken, forged.body("ping")]), (sound, [sound.body("ping")]))
    assert forged.line.closed == (1008, "signature_invalid")
    assert ids(sound.line.frames) == [1]
    # What came before it is carried out and answered; what came behind it is neither.
    assert ids(forged.line.frames) == [1]


async def test_an_unsigned_message_ends_a_signed_connection(house: House) -> None:
    alice = house.join(signed=True)
    alice.take(b'{"id":1,"action":"ping"}')
    assert (alice.line.closed, alice.line.frames) == ((1008, "signature_required"), [])


async def test_what_comes_behind_what_ends_the_connection_is_not_carried_out(house: House) -> None:
    vera = house.join("vera")
    vera.say("channel.subscribe", ROOM)
    vera.line.writes.clear()
    alice = house.join()
    alice.take(*[b"{"] * 10, alice.body("channel.publish", ROOM, "late"))
    assert alice.line.closed == (1008, "protocol_abuse")
    assert [frame["error"]["code"] for frame in alice.line.frames] == ["bad_frame"] * 10
    alice.take(alice.body("channel.publish", ROOM, "later"))
    await settle()
    assert vera.line.frames == []
    assert len(alice.line.frames) == 10


async def test_what_comes_in_behind_a_close_of_the_nodes_is_not_carried_out(house: House) -> None:
    vera, alice = house.join("vera"), house.join()
    vera.say("channel.subscribe", ROOM)
    vera.line.writes.clear()
    alice.connection.unsupported()
    assert alice.line.closed == (1003, "unsupported_data")
    alice.take(alice.body("channel.publish", ROOM, "late"))
    await settle()
    assert (vera.line.frames, alice.line.frames) == ([], [])


async def test_an_answer_that_comes_behind_a_close_is_dropped(house: House, desk: Desk) -> None:
    alice = house.join()
    alice.say("work.slow", None, 1)
    await settle()
    alice.connection.overflowed()
    alice.connection.overflowed()
    desk.open.set()
    await settle()
    assert (alice.line.closed, alice.line.frames) == ((1013, "slow_consumer"), [])
    assert house.metrics.slow_consumers == 1, "of one that is cut off already it is not news"


# ------------------------------------------------------------------------------------------------- the cap


async def test_reading_pauses_at_the_cap_and_not_before(house: House) -> None:
    alice = house.join()
    for n in range(MAX_IN_FLIGHT):
        alice.say("work.slow", None, n)
    assert (alice.line.reading, alice.line.pauses) == (True, 0)
    alice.say("work.slow", None, "one more")
    assert (alice.line.reading, alice.line.untaken) == (False, [])


async def test_a_paused_connection_goes_on_in_order_where_it_stopped_and_forgets_nothing(
    house: House, desk: Desk
) -> None:
    alice, bob = house.join("alice"), house.join("bob")
    many = MAX_IN_FLIGHT + 50
    bodies = [alice.body("work.slow", None, n) for n in range(many)]
    take((alice, bodies), (bob, [bob.body("ping")]))
    assert not alice.line.reading
    untaken = alice.line.untaken
    assert untaken == bodies[many - len(untaken) :]
    assert ids(bob.line.frames) == [1], "nobody else is held up"
    bob.say("channel.publish", ROOM, 1)
    assert ids(bob.line.frames) == [1, 2]
    await settle()
    assert desk.begun == list(range(MAX_IN_FLIGHT))
    desk.open.set()
    await settle()
    assert alice.line.reading
    alice.take_again()
    await settle()
    assert (desk.begun, ids(alice.line.frames)) == (list(range(many)), list(range(1, many + 1)))


@pytest.mark.parametrize("encoding", Encoding)
async def test_a_paused_signed_connection_goes_on_with_what_it_has_proven(
    house: House, desk: Desk, encoding: Encoding
) -> None:
    alice = house.join(signed=True, encoding=encoding)
    many = MAX_IN_FLIGHT + 50
    alice.take(*(alice.body("work.slow", None, n) for n in range(many)))
    assert not alice.line.reading
    desk.open.set()
    await settle()
    alice.take_again()
    await settle()
    assert alice.line.closed is None
    assert desk.begun == list(range(many))
    alice.say("ping")
    assert alice.line.frames[-1]["id"] == many + 1


async def test_what_is_offered_again_is_not_taken_for_proven_where_it_is_new(house: House, desk: Desk) -> None:
    alice = house.join(signed=True)
    alice.take(*(alice.body("work.slow", None, n) for n in range(MAX_IN_FLIGHT + 1)))
    desk.open.set()
    await settle()
    alice.take(b'{"id":1,"action":"ping"}')
    assert alice.line.closed == (1008, "signature_required")


async def test_who_is_paused_for_its_commands_is_not_read_again_for_what_has_gone_out(house: House, desk: Desk) -> None:
    bob = house.join("bob")
    bob.say("channel.subscribe", ROOM)
    alice = house.join("alice")
    alice.take(
        *(alice.body("channel.publish", ROOM, n) for n in range(MAX_WAITING + 1)),
        *(alice.body("work.slow", None, n) for n in range(MAX_IN_FLIGHT + 2)),
    )
    assert (alice.line.reading, alice.line.pauses, len(alice.line.untaken)) == (False, 1, 1)
    await settle()
    assert len([frame for frame in bob.line.frames if frame["type"] == "message"]) == MAX_WAITING + 1
    assert not alice.line.reading, "its commands are still under way"
    desk.open.set()
    await settle()
    assert alice.line.reading


async def test_a_close_forgets_what_has_not_begun(house: House, desk: Desk) -> None:
    alice = house.join()
    alice.take(*(alice.body("work.slow", None, n) for n in range(MAX_IN_FLIGHT + 1)))
    await settle()
    alice.connection.lost(1006)
    desk.open.set()
    await settle()
    assert desk.begun == list(range(MAX_IN_FLIGHT))
    assert alice.line.frames == []


async def test_commands_about_one_channel_wait_for_each_other_and_others_pass(house: House, desk: Desk) -> None:
    alice = house.join()
    alice.take(
        alice.body("work.slow", ROOM, "first"),
        alice.body("channel.publish", ROOM, "second"),
        alice.body("work.slow", ROOM, "third"),
    )
    await settle()
    assert (desk.begun, ids(alice.line.frames)) == (["first"], [])
    desk.open.set()
    await settle()
    assert (desk.begun, ids(alice.line.frames)) == (["first", "third"], [1, 2, 3])


# ------------------------------------------------------------------------------------------------- policies


async def test_a_new_policy_counts_for_the_very_next_command_of_the_turn(house: House) -> None:
    alice = house.join()
    alice.say("channel.publish", ROOM, 1)
    alice.say("channel.publish", ROOM, 2)  # known to be permitted by now
    house.node.adopt_policy(KeepingPolicy({}))
    alice.take(alice.body("channel.publish", ROOM, 3), alice.body("ping"))
    assert [frame.get("error", {}).get("code", "ok") for frame in alice.line.frames] == [
        "ok",
        "ok",
        "permission_denied",
        "ok",
    ]
