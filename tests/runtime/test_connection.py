"""A connection over a broker that waits, as one between nodes does: order and completeness are kept all the same."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import pytest
from talk import ALICE, ALLOW, NOW, PERMISSIVE, DictPolicy

from gateway.adapters.memory_broker import MemoryBroker
from gateway.core.channels import Position
from gateway.core.commands import BUILT_IN_ACTIONS, ActionRegistry, ActionSpec
from gateway.core.decision import ChannelOptions
from gateway.core.errors import HandshakeRefusedError, Refusal, StateUnavailableError
from gateway.core.handshake import SUBPROTOCOLS
from gateway.core.principal import ConnectionFacts, Principal
from gateway.core.session_ports import SessionLimits
from gateway.runtime.admission import Admission
from gateway.runtime.connection import Connection
from gateway.runtime.held import MAX_HELD
from gateway.runtime.node import Node, NodeLimits
from gateway.runtime.null_metrics import NullMetrics
from gateway.runtime.ports import Broadcast, Deliver, Direct, Page, VerifiedCredential

ROOM = "room:acme:1"
KEPT = ChannelOptions(history_messages=10, history_ttl_s=60.0, presence=True)


class KeepingPolicy(DictPolicy):
    """Keeps history and presence everywhere."""

    def channel_options(self, _channel: str) -> ChannelOptions:
        return KEPT


@dataclass
class WaitingBroker:
    """The memory broker behind a gate: every call waits until the test opens it, and may then fail."""

    inner: MemoryBroker
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    failing: bool = False
    in_process: bool = False

    def attach(self, deliver: Deliver) -> None:
        self.inner.attach(deliver)

    async def _pass(self) -> None:
        await self.gate.wait()
        if self.failing:
            raise StateUnavailableError("the broker is away")

    async def publish(
        self, channel: str, data: object, sender: str, at: float, options: ChannelOptions
    ) -> Position | None:
        await self._pass()
        return await self.inner.publish(channel, data, sender, at, options)

    async def subscribe(self, channel: str) -> None:
        await self.inner.subscribe(channel)

    async def unsubscribe(self, channel: str) -> None:
        await self.inner.unsubscribe(channel)

    async def position(self, channel: str, options: ChannelOptions) -> Position | None:
        await self._pass()
        return await self.inner.position(channel, options)

    async def history(
        self, channel: str, options: ChannelOptions, *, limit: int, after: int | None, before: int | None
    ) -> Page:
        await self._pass()
        return await self.inner.history(channel, options, limit=limit, after=after, before=before)

    async def join(self, channel: str, tenant: str, subject: str, connection: str) -> None:
        await self.inner.join(channel, tenant, subject, connection)

    async def leave(self, channel: str, tenant: str, subject: str, connection: str) -> None:
        await self.inner.leave(channel, tenant, subject, connection)

    async def members(self, channel: str) -> Mapping[tuple[str, str], int]:
        return await self.inner.members(channel)

    async def send(self, direct: Direct) -> int:
        return await self.inner.send(direct)

    async def broadcast(self, broadcast: Broadcast) -> None:
        await self.inner.broadcast(broadcast)


class Wire:
    """A transport that keeps what it is given."""

    framing = None

    def __init__(self) -> None:
        self.sent: list[dict[str, object]] = []
        self.closed: tuple[int, str] | None = None
        self.reading = True
        self.buffered = 0
        self.heard = True
        self.untaken: list[bytes] = []

    def send(self, payloads: Sequence[bytes]) -> None:
        self.sent.extend(json.loads(payload) for payload in payloads)

    def write(self, octets: bytes) -> None:
        raise NotImplementedError

    def ping(self) -> None:
        """Send nothing."""

    def close(self, code: int, reason: str, linger_s: float) -> None:
        assert linger_s == 5.0
        self.closed = (code, reason)

    def abort(self) -> None:
        """Drop nothing."""

    def buffered_bytes(self) -> int:
        return self.buffered

    def pause_reading(self, untaken: Sequence[bytes]) -> None:
        self.reading = False
        self.untaken = list(untaken)

    def resume_reading(self) -> None:
        self.reading = True


class QuietLog:
    """Keeps the names of events."""

    def __init__(self) -> None:
        self.events: list[str] = []

    def debug(self, event: str, **_fields: object) -> None:
        self.events.append(event)

    info = warning = error = debug


class Verifier:
    """Proves one token, and knows of one revocation when told."""

    def __init__(self) -> None:
        self.revoked = False
        self.unavailable = False
        self.roles: tuple[str, ...] | None = None

    async def verify_token(self, _token: str, _now: float) -> VerifiedCredential:
        await asyncio.sleep(0)
        if self.unavailable:
            raise StateUnavailableError("the database is away")
        return VerifiedCredential(Principal("alice", "acme", ("member",), {}, NOW + 5000, ALICE.token))

    async def redeem_ticket(self, _ticket: str, _origin: str | None, _now: float) -> VerifiedCredential:
        raise HandshakeRefusedError(Refusal.INVALID_TICKET)

    def is_revoked(self, _principal: Principal) -> bool:
        return self.revoked

    def current(self, principal: Principal) -> Principal:
        return principal if self.roles is None else replace(principal, roles=self.roles)


@dataclass
class House:
    """A node over a broker that waits."""

    node: Node
    broker: WaitingBroker
    verifier: Verifier
    log: QuietLog

    def open(self) -> tuple[Connection | None, Wire]:
        wire = Wire()
        admission = Admission(
            VerifiedCredential(ALICE), SUBPROTOCOLS["gateway.v1.json"], None, ConnectionFacts("192.0.2.1"), "192.0.2.1"
        )
        return self.node.open(admission, wire), wire

    def connect(self) -> tuple[Connection, Wire]:
        connection, wire = self.open()
        assert connection is not None
        wire.sent.clear()
        return connection, wire


@pytest.fixture
def house() -> House:
    broker, verifier, log = WaitingBroker(MemoryBroker(1_000_000, lambda: NOW)), Verifier(), QuietLog()
    node = Node(
        policy=KeepingPolicy({**PERMISSIVE, "orders.create": ALLOW}),
        registry=ActionRegistry((*BUILT_IN_ACTIONS, ActionSpec("orders.create"))),
        broker=broker,
        verifier=verifier,
        metrics=NullMetrics(),
        log=log,
        limits=NodeLimits(10, 10, 10, 100_000, SessionLimits(65_536, 1000.0, 3, 25.0)),
        clock=lambda: NOW,
        timer=lambda: NOW,
        entropy=lambda count: bytes(count - 1) + bytes([len(log.events)]),
        handlers={},
    )
    return House(node, broker, verifier, log)


def say(connection: Connection, command_id: int, action: str, channel: str | None = None, data: object = None) -> None:
    command: dict[str, object] = {"id": command_id, "action": action, "data": data}
    if channel is not None:
        command["channel"] = channel
    for transport, answers in connection.intake.take([(connection, [json.dumps(command).encode()])]):
        transport.send(answers)


async def settle() -> None:
    """Let every task run as far as it can."""
    for _ in range(20):
        await asyncio.sleep(0)


async def test_publications_of_one_channel_keep_their_order_while_the_broker_waits(house: House) -> None:
    connection, wire = house.connect()
    for n in range(1, 6):
        say(connection, n, "channel.publish", ROOM, n)
    await settle()
    assert wire.sent == []
    assert not connection.idle
    house.broker.gate.set()
    await settle()
    assert [(frame["id"], frame["data"]["offset"]) for frame in wire.sent] == [(n, n) for n in range(1, 6)]  # type: ignore[index]
    assert connection.idle


async def test_what_comes_before_the_reply_to_a_subscribe_is_held_back_and_never_sent_twice(house: House) -> None:
    connection, wire = house.connect()
    say(connection, 1, "channel.subscribe", ROOM)
    await settle()
    await house.broker.inner.publish(ROOM, "in the reply's position", "bob", NOW, KEPT)
    house.broker.gate.set()
    await asyncio.sleep(0)
    await house.broker.inner.publish(ROOM, "after it", "bob", NOW, KEPT)
    await settle()
    reply, *pushes = wire.sent
    seen = reply["data"]["offset"]  # type: ignore[index]
    assert reply["type"] == "reply"
    assert [push["offset"] for push in pushes] == list(range(seen + 1, 3))


async def test_recovery_and_pushes_meet_without_a_gap(house: House) -> None:
    for n in range(1, 4):
        await house.broker.inner.publish(ROOM, n, "bob", NOW, KEPT)
    position = await house.broker.inner.position(ROOM, KEPT)
    assert position is not None
    connection, wire = house.connect()
    say(connection, 1, "channel.subscribe", ROOM, {"recover": {"epoch": position.epoch, "offset": 1}})
    await settle()
    await house.broker.inner.publish(ROOM, 4, "bob", NOW, KEPT)
    house.broker.gate.set()
    await settle()
    await house.broker.inner.publish(ROOM, 5, "bob", NOW, KEPT)
    await settle()
    reply, *pushes = wire.sent
    recovered = [message["offset"] for message in reply["data"]["messages"]]  # type: ignore[index]
    assert recovered + [push["offset"] for push in pushes] == [2, 3, 4, 5]


async def test_a_subscribe_that_the_broker_fails_leaves_nothing_behind(house: House) -> None:
    connection, wire = house.connect()
    house.broker.failing = True
    house.broker.gate.set()
    say(connection, 1, "channel.subscribe", ROOM)
    await settle()
    assert wire.sent[0]["error"]["code"] == "unavailable"  # type: ignore[index]
    assert house.node.hub.channels() == 0
    assert await house.broker.members(ROOM) == {}


async def test_a_subscribe_whose_connection_goes_meanwhile_leaves_nothing_behind(house: House) -> None:
    connection, _ = house.connect()
    say(connection, 1, "channel.subscribe", ROOM)
    await settle()
    connection.lost(1006)
    house.broker.gate.set()
    await settle()
    assert house.node.hub.channels() == 0
    assert await house.broker.members(ROOM) == {}


async def test_more_than_may_be_held_back_ends_the_connection(house: House) -> None:
    connection, wire = house.connect()
    say(connection, 1, "channel.subscribe", ROOM)
    await settle()
    for n in range(MAX_HELD + 1):
        house.node.hub.message(ROOM, n, "bob", NOW, None)
    await settle()
    assert wire.closed == (1013, "slow_consumer")


async def test_the_end_of_a_connection_is_told_to_a_broker_that_waits(house: House) -> None:
    house.broker.gate.set()
    connection, _ = house.connect()
    say(connection, 1, "channel.subscribe", ROOM)
    await settle()
    assert await house.broker.members(ROOM) == {("acme", "alice"): 1}
    connection.lost(1000)
    connection.lost(1000)
    await settle()
    assert await house.broker.members(ROOM) == {}


async def test_reading_pauses_while_as_many_commands_wait_as_may(house: House) -> None:
    connection, wire = house.connect()
    for n in range(1, 70):
        say(connection, n, "channel.publish", f"room:{n}", n)
    assert not wire.reading
    house.broker.gate.set()
    await settle()
    assert wire.reading
    assert len(wire.sent) == 69


async def test_a_fault_in_work_aside_ends_the_connection_with_1011(house: House) -> None:
    connection, wire = house.connect()

    async def fail() -> None:
        await asyncio.sleep(0)
        raise ZeroDivisionError

    house.node.spawn(fail(), connection)
    await settle()
    assert wire.closed == (1011, "internal")
    assert "connection.failed" in house.log.events


async def test_a_fault_while_a_message_is_taken_ends_its_connection_with_1011_and_no_other(house: House) -> None:
    (broken, broken_wire), (sound, sound_wire) = house.connect(), house.connect()
    house.broker.in_process = True  # a lie, which shows when a call waits
    publish = json.dumps({"id": 1, "action": "channel.publish", "channel": ROOM, "data": 1}).encode()
    ping = json.dumps({"id": 2, "action": "ping"}).encode()
    answers = house.node.intake.take([(broken, [publish, ping]), (sound, [ping])])
    assert broken_wire.closed == (1011, "internal")
    assert [(transport, len(payloads)) for transport, payloads in answers] == [(sound_wire, 1)]
    assert "connection.failed" in house.log.events
    with pytest.raises(RuntimeError, match="has waited"):
        house.node.run_aside(house.broker.position(ROOM, KEPT), broken)
    broken.lost(1006)
    sound.lost(1006)


async def test_a_token_revoked_while_it_was_proven_does_not_refresh(house: House) -> None:
    connection, wire = house.connect()
    say(connection, 1, "session.refresh", None, {"token": "t"})
    house.verifier.revoked = True
    await settle()
    assert wire.sent[0]["error"]["code"] == "invalid_data"  # type: ignore[index]
    house.verifier.unavailable = True
    say(connection, 1, "session.refresh", None, {"token": "t"})
    await settle()
    assert wire.sent[1]["error"]["code"] == "unavailable"  # type: ignore[index]


async def test_a_handshake_that_ends_late_is_looked_at_once_more(house: House) -> None:
    house.verifier.revoked = True
    assert house.open()[0] is None
    house.verifier.revoked = False
    house.node.draining = True
    connection, wire = house.open()
    assert connection is None
    assert wire.closed == (1001, "draining")


async def test_roles_that_changed_while_a_handshake_was_proven_count_from_the_welcome_on(house: House) -> None:
    house.verifier.roles = ("guest",)
    connection, wire = house.open()
    assert connection is not None
    assert connection.principal == replace(ALICE, roles=("guest",))
    assert wire.sent[0]["roles"] == ["guest"]  # type: ignore[index]
    connection.lost(1006)


async def test_roles_that_changed_while_a_token_was_proven_count_from_its_refresh_on(house: House) -> None:
    connection, _ = house.connect()
    say(connection, 1, "session.refresh", None, {"token": "t"})
    house.verifier.roles = ("guest",)  # the verifier has answered by the old ones, or is about to
    await settle()
    assert connection.principal.roles == ("guest",)
    connection.lost(1006)


async def test_an_action_that_nothing_carries_out_is_unavailable(house: House) -> None:
    connection, wire = house.connect()
    say(connection, 1, "orders.create")
    await settle()
    assert wire.sent[0]["error"]["code"] == "unavailable"  # type: ignore[index]


async def test_who_subscribes_once_more_while_the_broker_waits_misses_nothing_and_gets_nothing_twice(
    house: House,
) -> None:
    house.broker.gate.set()
    connection, wire = house.connect()
    say(connection, 1, "channel.subscribe", ROOM)
    await settle()
    house.broker.gate.clear()
    await house.broker.inner.publish(ROOM, "due", "bob", NOW, KEPT)
    say(connection, 2, "channel.subscribe", ROOM)
    await settle()
    await house.broker.inner.publish(ROOM, "meanwhile", "bob", NOW, KEPT)
    await settle()
    house.broker.gate.set()
    await settle()
    await house.broker.inner.publish(ROOM, "after", "bob", NOW, KEPT)
    await settle()
    assert [frame.get("id", frame.get("data")) for frame in wire.sent if frame["type"] != "presence"] == [
        1,
        "due",
        2,
        "after",
    ]
    (reply,) = (frame for frame in wire.sent if frame.get("id") == 2)
    assert reply["data"]["offset"] == 2  # type: ignore[index] # it stands for `meanwhile`, too
    assert house.node.hub.subscriptions() == 1


async def test_a_broker_of_this_process_that_is_away_is_told_by_an_error(house: House) -> None:
    house.broker.in_process = house.broker.failing = True
    house.broker.gate.set()
    connection, wire = house.connect()
    say(connection, 1, "channel.history", ROOM)
    assert wire.sent[0]["error"]["code"] == "unavailable"  # type: ignore[index]
    connection.lost(1006)


async def test_the_same_policy_again_asks_nothing_anew(house: House) -> None:
    connection, _ = house.connect()
    policy = house.node.policy
    assert isinstance(policy, KeepingPolicy)
    asked = len(policy.bound_to)
    house.node.adopt_policy(policy)
    connection.adopt_policy()
    assert len(policy.bound_to) == asked


async def test_a_signed_connection_is_not_opened_without_a_key(house: House) -> None:
    admission = Admission(
        VerifiedCredential(ALICE),
        SUBPROTOCOLS["gateway.v1.json.signed"],
        bytes(16),
        ConnectionFacts("192.0.2.1", signed=True),
        "192.0.2.1",
    )
    with pytest.raises(ValueError, match="without a key"):
        house.node.open(admission, Wire())
    assert house.node.connections() == []
