"""A node with clients of every kind under any order of commands and news: each is told of a channel all that it is due, in one order.

The model knows no queue and no turn: it says what each client hears of each channel, answers included, as if all were sent at once.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from node_kit import Frame, KeepingPolicy, Member, open_house
from talk import ALLOW, PERMISSIVE

from gateway.core.decision import ChannelOptions
from gateway.core.frames import Encoding

CHANNELS = ["room:1", "room:2"]
KEPT = ChannelOptions(history_messages=1000, history_ttl_s=60.0)
FREE = {**PERMISSIVE}
ONE_ROOM = {**{k: v for k, v in PERMISSIVE.items() if k != "channel.subscribe"}, ("channel.subscribe", "room:1"): ALLOW}
POLICIES = [FREE, ONE_ROOM]
KINDS: list[dict[str, object]] = [
    {},
    {"encoding": Encoding.MSGPACK},
    {"signed": True},
    {"framed": False, "encoding": Encoding.MSGPACK},
]
SUBSCRIBE, UNSUBSCRIBE, PUBLISH = "channel.subscribe", "channel.unsubscribe", "channel.publish"

Said = tuple[str, int]
"""What a client hears of a channel: a word, and the offset where there is one."""


class Client:
    """A member, what it is to hear, and what it has asked."""

    def __init__(self, member: Member, name: str) -> None:
        self.member = member
        self.name = name
        self.subscribed: set[str] = set()
        self.due: dict[str, list[Said]] = defaultdict(list)
        self.asked: dict[int, tuple[str, str]] = {}

    def heard(self) -> dict[str, list[Said]]:
        """Read what was written, by channel; direct messages and broadcasts count as channels of their own."""
        heard: dict[str, list[Said]] = defaultdict(list)
        for frame in self.member.line.frames:
            channel, said = self._read(frame)
            heard[channel].append(said)
        return heard

    def _read(self, frame: Frame) -> tuple[str, Said]:
        match frame["type"]:
            case "message":
                assert frame["data"] == frame["offset"]
                return frame["channel"], ("message", frame["offset"])
            case "unsubscribed":
                return frame["channel"], ("revoked", 0)
            case "direct" | "broadcast" as kind:
                return kind, (kind, frame["data"])
            case "error":
                assert frame["error"]["code"] == "permission_denied"
                action, channel = self.asked[frame["id"]]
                return channel, (f"denied {action}", 0)
            case _:
                action, channel = self.asked[frame["id"]]
                return channel, (action, frame["data"].get("offset", 0))


class NodeMachine(RuleBasedStateMachine):
    """Lets what several clients have sent come in one turn, and news between turns."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.house = open_house(policy=KeepingPolicy(FREE, options=KEPT))
        self.allowed = FREE
        self.clients = [self.enter(n) for n in range(len(KINDS))]
        self.offsets = dict.fromkeys(CHANNELS, 0)
        self.told = 0

    def enter(self, number: int) -> Client:
        name = f"u{number}"
        return Client(self.house.join(name, **KINDS[number]), name)  # type: ignore[arg-type] # those of `join`

    def turn(self, do: Callable[[], object]) -> None:
        """Do something in a turn of the loop, and let the end of the turn come."""

        async def once() -> None:
            do()

        self.loop.run_until_complete(once())

    def may_subscribe(self, channel: str) -> bool:
        return SUBSCRIBE in self.allowed or (SUBSCRIBE, channel) in self.allowed

    def expect(self, client: Client, action: str, channel: str) -> object:
        """Say what an action brings to whom; give the data to send."""
        client.asked[client.member.asked + 1] = (action, channel)
        heard = client.due[channel]
        match action:
            case "channel.subscribe" if not self.may_subscribe(channel):
                heard.append((f"denied {action}", 0))
            case "channel.subscribe":
                client.subscribed.add(channel)
                heard.append((action, self.offsets[channel]))
            case "channel.unsubscribe":
                client.subscribed.discard(channel)
                heard.append((action, 0))
            case _:
                self.offsets[channel] += 1
                for each in self.clients:
                    if channel in each.subscribed:
                        each.due[channel].append(("message", self.offsets[channel]))
                heard.append((action, self.offsets[channel]))
                return self.offsets[channel]
        return None

    @rule(
        reads=st.dictionaries(
            st.sampled_from(range(len(KINDS))),
            st.lists(
                st.tuples(st.sampled_from([SUBSCRIBE, UNSUBSCRIBE, PUBLISH]), st.sampled_from(CHANNELS)),
                min_size=1,
                max_size=5,
            ),
            min_size=1,
        )
    )
    def commands_come(self, reads: dict[int, list[tuple[str, str]]]) -> None:
        """What several connections have read in one turn is taken together, and answered in one write each."""
        taken = []
        for number, commands in reads.items():
            client = self.clients[number]
            bodies = []
            for action, channel in commands:
                data = self.expect(client, action, channel)
                bodies.append(client.member.body(action, channel, *([data] if action == PUBLISH else [])))
            taken.append((client.member.connection, bodies))

        def take() -> None:
            answers = self.house.node.intake.take(taken)  # type: ignore[arg-type] # connections are receivers
            assert len(answers) == len(reads)
            for transport, payloads in answers:
                transport.send(payloads)

        self.turn(take)

    @rule(to=st.sampled_from(range(len(KINDS))))
    def somebody_is_sent_a_message(self, to: int) -> None:
        self.told += 1
        self.clients[to].due["direct"].append(("direct", self.told))
        self.turn(lambda: self.house.send(f"u{to}", self.told))

    @rule()
    def the_tenant_is_sent_a_broadcast(self) -> None:
        self.told += 1
        for client in self.clients:
            client.due["broadcast"].append(("broadcast", self.told))
        self.turn(lambda: self.house.broadcast(self.told))

    @rule(allowed=st.sampled_from(POLICIES))
    def the_policy_changes(self, allowed: dict[object, object]) -> None:
        """A right that is revoked ends what is open, at once and with nothing behind it."""
        self.allowed = allowed  # type: ignore[assignment] # one of those above
        for client in self.clients:
            for channel in [c for c in client.subscribed if not self.may_subscribe(c)]:
                client.subscribed.remove(channel)
                client.due[channel].append(("revoked", 0))

        def adopt() -> None:
            self.house.node.adopt_policy(KeepingPolicy(self.allowed, options=KEPT))
            for client in self.clients:
                client.member.connection.adopt_policy()

        self.turn(adopt)

    @rule(number=st.sampled_from(range(len(KINDS))))
    def a_client_goes_and_comes_back(self, number: int) -> None:
        self.turn(lambda: self.clients[number].member.connection.lost(1006))
        self.turn(lambda: self.clients.__setitem__(number, self.enter(number)))

    @invariant()
    def each_has_heard_all_that_it_was_due_in_order_and_once(self) -> None:
        for client in self.clients:
            heard = client.heard()
            for channel in set(heard) | set(client.due):
                assert heard[channel] == client.due[channel], (client.name, channel)
            assert client.member.line.closed is None
        assert self.house.node.hub.subscriptions() == sum(len(client.subscribed) for client in self.clients)

    def teardown(self) -> None:
        """When all have gone nothing is left."""
        for client in self.clients:
            self.turn(lambda client=client: client.member.connection.lost(1006))  # type: ignore[misc]
        hub = self.house.node.hub
        assert (len(hub), hub.channels(), hub.subscriptions()) == (0, 0, 0)
        assert hub._by_tenant == {}
        assert hub._fan_out._alone == {}
        self.loop.close()


TestNode = NodeMachine.TestCase
TestNode.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
