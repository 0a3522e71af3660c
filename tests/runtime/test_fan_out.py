"""From one message to many: encoded once, joined into one write, fair to other channels, and no more for who does not read."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from loop_turns import Turns
from node_kit import House, Line, Member, open_house
from talk import PERMISSIVE, DictPolicy

from gateway.core.frames import Encoding
from gateway.core.wire_frames import PLAIN
from gateway.runtime.fan_out import MAX_WAITING, MOST_WAITING, TURN_SHARE
from gateway.runtime.ports import Broadcast, Direct

ROOM, OTHER = "room:acme:1", "room:acme:2"
CROWD = 3 * TURN_SHARE


@pytest.fixture
def house() -> House:
    return open_house()


def subscriber(house: House, channel: str = ROOM, **options: bool | Encoding | str) -> Member:
    member = house.join(**options)  # type: ignore[arg-type] # those of `join`
    member.say("channel.subscribe", channel)
    member.line.writes.clear()
    return member


def publish(house: House, *data: object, channel: str = ROOM) -> None:
    for each in data:
        house.node.hub.message(channel, each, "bob", 0.0, None)


def got(member: Member) -> list[object]:
    return [frame["data"] for frame in member.line.frames if frame["type"] in {"message", "broadcast", "direct"}]


async def turn() -> None:
    """Let what waits for the end of this turn happen, and no more than one turn's share of it."""
    await asyncio.sleep(0)


async def served(house: House, member: Member, last: object) -> None:
    """Wait until a member has got a message; who else waits shows in the deliveries."""
    async with asyncio.timeout(10):
        while last not in got(member):
            await turn()
    assert house.metrics.deliveries > 0


# ------------------------------------------------------------------------------------------------- encoded once


class CountingFraming:
    """A framing that counts how often it is asked."""

    def __init__(self, encoding: Encoding) -> None:
        self.encoding = encoding
        self.calls: list[Sequence[bytes]] = []

    def frames(self, payloads: Sequence[bytes]) -> bytes:
        self.calls.append(payloads)
        return PLAIN[self.encoding].frames(payloads)


async def test_a_message_is_encoded_and_framed_once_for_all_that_are_written_alike(house: House) -> None:
    for encoding in Encoding:
        framing = CountingFraming(encoding)
        framed = [subscriber(house, encoding=encoding, framing=framing) for _ in range(50)]
        alone = [subscriber(house, encoding=encoding, framed=False) for _ in range(50)]
        framing.calls.clear()  # the replies
        for member in framed + alone:
            member.line.payloads.clear()
        publish(house, "hi")
        await turn()
        assert [got(member) for member in framed + alone] == [["hi"]] * 100
        ((body,),) = framing.calls
        assert {id(member.line.octets[0]) for member in framed} == {id(framed[0].line.octets[0])}
        assert {id(payload) for member in alone for payload in member.line.payloads} == {id(body)}


async def test_what_is_signed_is_signed_for_each_and_holds(house: House) -> None:
    members = [subscriber(house, encoding=encoding, signed=True) for encoding in Encoding for _ in range(3)]
    publish(house, "a", "b")
    await turn()
    publish(house, "c")
    await turn()
    assert [got(member) for member in members] == [["a", "b", "c"]] * 6  # the line verifies each, and their counters
    assert len({payload for member in members for payload in member.line.payloads[-1:]}) == 6


# ------------------------------------------------------------------------------------------------- joined writes


@pytest.mark.parametrize("kind", [{}, {"framed": False}, {"signed": True}], ids=["framed", "alone", "signed"])
async def test_messages_of_one_turn_are_one_write_for_each_recipient(house: House, kind: dict[str, bool]) -> None:
    members = [subscriber(house, **kind) for _ in range(10)]
    publish(house, 1, 2, 3)
    await turn()
    assert [len(member.line.writes) for member in members] == [1] * 10
    publish(house, 4)
    await turn()
    assert [len(member.line.writes) for member in members] == [2] * 10
    assert [got(member) for member in members] == [[1, 2, 3, 4]] * 10


async def test_direct_messages_of_one_turn_are_one_write(house: House) -> None:
    alice, bob = house.join("alice"), house.join("bob")
    for n in range(3):
        assert house.node.hub.direct(Direct("acme", "alice", n, "bob", 0.0)) == 1
    assert alice.line.writes == []
    await turn()
    assert (len(alice.line.writes), got(alice), got(bob)) == (1, [0, 1, 2], [])


async def test_commands_of_one_read_are_answered_in_one_write_with_what_they_bring_in_its_place(house: House) -> None:
    alice = house.join()
    alice.take(
        alice.body("channel.subscribe", ROOM),
        alice.body("channel.publish", ROOM, "x"),
        alice.body("ping"),
        alice.body("channel.publish", ROOM, "y"),
    )
    assert len(alice.line.writes) == 1
    assert [frame.get("id", frame.get("data")) for frame in alice.line.writes[0]] == [1, "x", 2, 3, "y", 4]
    await turn()
    assert len(alice.line.writes) == 1, "and nothing comes twice"


async def test_where_nobody_can_be_asked_to_wait_more_than_may_wait_goes_out_before_the_next_one_and_in_order(
    house: House,
) -> None:
    members = [subscriber(house) for _ in range(3)]
    publish(house, *range(MOST_WAITING))
    assert [got(member) for member in members] == [[]] * 3
    publish(house, MOST_WAITING)
    assert [got(member) for member in members] == [list(range(MOST_WAITING))] * 3
    await turn()
    assert [got(member) for member in members] == [list(range(MOST_WAITING + 1))] * 3


async def test_more_direct_messages_than_may_wait_go_out_before_the_next_one_and_in_order(house: House) -> None:
    alice = house.join("alice")
    for n in range(MAX_WAITING + 1):
        house.node.hub.direct(Direct("acme", "alice", n, "bob", 0.0))
    assert got(alice) == list(range(MAX_WAITING))
    await turn()
    assert got(alice) == list(range(MAX_WAITING + 1))


def take_together(*said: tuple[Member, list[bytes]]) -> None:
    """Have messages come over many connections in one turn."""
    intake = said[0][0].connection.intake
    for transport, answers in intake.take([(member.connection, bodies) for member, bodies in said]):
        transport.send(answers)


def publications(member: Member, *data: object) -> tuple[Member, list[bytes]]:
    return member, [member.body("channel.publish", ROOM, each) for each in data]


async def test_all_who_have_just_subscribed_are_answered_before_more_than_may_wait_goes_out(house: House) -> None:
    alice, bob, carol = house.join("alice"), house.join("bob"), house.join("carol")
    many = MOST_WAITING + 4
    take_together(
        (alice, [alice.body("channel.subscribe", ROOM)]),
        (bob, [bob.body("channel.subscribe", ROOM)]),
        publications(carol, *range(many)),
    )
    await turn()
    for member in (alice, bob):
        assert member.line.frames[0]["id"] == 1
        assert got(member) == list(range(many))


async def test_who_publishes_to_its_own_channel_hears_it_in_order_whatever_goes_out_early(house: House) -> None:
    alice, bob, carol = subscriber(house), subscriber(house), house.join("carol")
    take_together(publications(alice, 0), publications(carol, *range(1, MOST_WAITING + 4)), publications(bob, -1))
    await turn()
    assert got(alice) == got(bob) == [*range(MOST_WAITING + 4), -1]


# ------------------------------------------------------------------------------------------------- who is asked to wait


async def test_who_brings_more_than_may_wait_is_read_no_more_until_it_has_gone_out(house: House) -> None:
    crowd = [subscriber(house) for _ in range(3 * TURN_SHARE)]
    talkers = [house.join(f"talker {n}") for n in range(4)]
    quiet = house.join("quiet")
    take_together(
        *(publications(talker, *range(100 * n, 100 * (n + 1))) for n, talker in enumerate(talkers)),
        (quiet, [quiet.body("ping")]),
    )
    assert house.metrics.deliveries == 0, "nothing goes out in the call"
    assert [talker.line.reading for talker in talkers] == [True, True, False, False]
    assert quiet.line.reading
    await turn()
    assert house.metrics.deliveries == TURN_SHARE * 400
    await turn()
    await turn()
    assert all(talker.line.reading for talker in talkers)
    assert all(got(member) == list(range(400)) for member in crowd)


async def test_who_goes_while_it_is_asked_to_wait_is_forgotten(house: House) -> None:
    subscriber(house)
    alice = house.join("alice")
    alice.take(*publications(alice, *range(MAX_WAITING + 1))[1])
    assert not alice.line.reading
    alice.connection.lost(1006)
    await turn()
    assert house.metrics.deliveries == MAX_WAITING + 1


# ------------------------------------------------------------------------------------------------- fairness


async def test_a_crowd_is_served_a_share_in_each_turn(house: House) -> None:
    crowd = [subscriber(house) for _ in range(CROWD)]
    publish(house, "news")
    reached = []
    for _ in range(4):
        await turn()
        reached.append(sum("news" in got(member) for member in crowd))
    assert reached == [TURN_SHARE, 2 * TURN_SHARE, 3 * TURN_SHARE, 3 * TURN_SHARE]


async def test_a_crowd_holds_up_no_other_channel(house: House) -> None:
    """However much is published to it, the other one waits for one turn of the crowd's."""
    for _ in range(CROWD):
        subscriber(house)
    other = subscriber(house, OTHER)
    publish(house, *range(10))
    for n in range(10):
        publish(house, n, channel=OTHER)
        publish(house, "more")
        with Turns() as turns:
            await served(house, other, n)
        assert turns.turn <= 2, "the share of the crowd, then its own"
    assert got(other) == list(range(10))


async def test_many_crowds_are_served_in_turn(house: House) -> None:
    channels = [f"room:acme:{n}" for n in range(4)]
    watchers = {}
    for channel in channels:
        crowd = [subscriber(house, channel) for _ in range(TURN_SHARE)]
        watchers[channel] = crowd
    for channel in channels:
        publish(house, "news", channel=channel)
    for turns in range(1, 5):
        await turn()
        whole = [channel for channel in channels if all("news" in got(member) for member in watchers[channel])]
        assert len(whole) == turns


async def test_messages_to_single_connections_leave_half_of_the_turn_to_channels(house: House) -> None:
    many = [house.join(f"u{n}") for n in range(2 * TURN_SHARE)]
    room = subscriber(house)
    for n in range(2 * TURN_SHARE):
        house.node.hub.direct(Direct("acme", f"u{n}", "hi", "bob", 0.0))
    publish(house, "news")
    await turn()
    assert got(room) == ["news"]
    assert sum(map(len, map(got, many))) == TURN_SHARE // 2
    for _ in range(4):
        await turn()
    assert sum(map(len, map(got, many))) == 2 * TURN_SHARE


# ------------------------------------------------------------------------------------------------- comings and goings


async def test_a_revoked_right_ends_what_waits_too(house: House) -> None:
    alice, bob = subscriber(house), subscriber(house)
    publish(house, "before")
    denying = DictPolicy({**PERMISSIVE})
    del denying.answers["channel.subscribe"]
    alice.connection.node.policy = denying
    alice.connection.adopt_policy()
    await turn()
    assert [frame["type"] for frame in alice.line.frames] == ["unsubscribed"]
    assert got(bob) == ["before"]


async def test_who_leaves_in_the_midst_of_a_crowd_gets_nothing_more(house: House) -> None:
    crowd = [subscriber(house) for _ in range(2 * TURN_SHARE)]
    publish(house, "first")
    await turn()
    waiting = [member for member in crowd if not got(member)]
    publish(house, "second")
    for member in waiting:
        member.say("channel.unsubscribe", ROOM)
    await turn()
    # What was on its way stands before the answer, and nothing behind it.
    kinds = {tuple(frame.get("data") or frame["type"] for frame in member.line.frames) for member in waiting}
    assert kinds == {("first", "second", "reply")}
    await turn()
    assert {tuple(got(member)) for member in crowd} == {("first", "second")}
    assert house.node.hub.subscriptions() == TURN_SHARE


async def test_who_goes_in_the_midst_of_a_crowd_is_written_nothing_more(house: House) -> None:
    crowd = [subscriber(house) for _ in range(2 * TURN_SHARE)]
    publish(house, "news")
    await turn()
    waiting = [member for member in crowd if not got(member)]
    for member in waiting:
        member.connection.lost(1006)
    await turn()
    assert (len(waiting), [got(member) for member in waiting]) == (TURN_SHARE, [[]] * TURN_SHARE)
    assert house.metrics.deliveries == TURN_SHARE


async def test_a_line_that_goes_gets_none_of_what_waits(house: House) -> None:
    alice, bob = subscriber(house), subscriber(house)
    publish(house, "late")
    house.node.hub.direct(Direct("acme", "alice", "late", "bob", 0.0))
    house.node.hub.broadcast(Broadcast("acme", "late", "bob", 0.0))
    alice.connection.lost(1006)
    await turn()
    assert alice.line.writes == []
    assert sorted(map(str, got(bob))) == ["late", "late", "late"]
    assert house.metrics.deliveries == 3


async def test_a_fault_of_one_delivery_holds_up_nobody_for_more_than_a_turn(house: House) -> None:
    class Broken(Line):
        def write(self, _octets: bytes) -> None:
            raise ZeroDivisionError

    faults = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: faults.append(type(context["exception"])))
    members = [subscriber(house) for _ in range(5)]
    broken = subscriber(house, OTHER)
    broken.connection.port = Broken()
    house.node.hub.replace(broken.connection, broken.connection, OTHER)
    publish(house, "x", channel=OTHER)
    publish(house, "x")
    for _ in range(3):
        await turn()
    assert [got(member) for member in members] == [["x"]] * 5
    assert faults == [ZeroDivisionError]


async def test_a_fault_in_what_is_signed_drops_its_connection(house: House) -> None:
    class Broken(Line):
        def send(self, _payloads: Sequence[bytes]) -> None:
            raise ZeroDivisionError

    faults = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: faults.append(type(context["exception"])))
    signed, sound = subscriber(house, signed=True), subscriber(house)
    line = signed.connection.port = Broken()
    publish(house, "x")
    for _ in range(2):
        await turn()
    assert (line.aborted, faults, got(sound)) == (True, [ZeroDivisionError], ["x"])


async def test_a_room_in_which_all_talk_gets_its_share_of_a_turn_and_no_more(house: House) -> None:
    """Each of them has been given a part of it already, behind its own message, and another part than the next one."""
    crowd = [subscriber(house) for _ in range(2 * TURN_SHARE)]
    together = 200
    take_together(*(publications(member, n) for n, member in enumerate(crowd[:together])))
    already = house.metrics.deliveries
    assert already == sum(range(1, together + 1))
    writes = [len(member.line.writes) for member in crowd]
    await turn()
    assert sum(len(member.line.writes) - before for member, before in zip(crowd, writes, strict=True)) == TURN_SHARE
    for _ in range(4):
        await turn()
    assert all(got(member) == list(range(together)) for member in crowd)
