"""The main job over a real socket: log in, connect, be allowed and refused, sign, and hear each other."""

from __future__ import annotations

import json
import math
import time

import msgspec
import pytest
from running_gateway import Peer, RunningGateway, Start
from websockets.asyncio.client import connect

from gateway.core.frames import Encoding
from gateway.core.signing import decode_base64url, derive_ticket_key

ROOM = "room:acme:1"
ENCODINGS = pytest.mark.parametrize("encoding", list(Encoding))
SIGNED = pytest.mark.parametrize("signed", [False, True])


@ENCODINGS
@SIGNED
async def test_a_member_publishes_and_a_viewer_hears_it(
    gateway: RunningGateway,
    encoding: Encoding,
    signed: bool,  # noqa: FBT001 - parametrized
) -> None:
    alice = await gateway.peer("alice", encoding=encoding, signed=signed)
    vera = await gateway.peer("vera")
    assert alice.welcome["subject"] == "alice"
    assert alice.welcome["roles"] == ["member"]
    assert alice.welcome["tenant"] == "acme"
    assert alice.welcome["limits"] == {"frame_bytes": 65_536, "commands_per_s": 50.0, "channels": 128}
    assert ("signing" in alice.welcome) is signed
    subscribed = await vera.do("channel.subscribe", ROOM)
    assert (subscribed["offset"], subscribed["recovered"], subscribed["messages"]) == (0, False, [])
    published = await alice.do("channel.publish", ROOM, {"text": "hi"})
    assert published == {"offset": 1, "epoch": subscribed["epoch"]}
    message = await vera.push("message")
    assert abs(message.pop("at") - time.time()) < 10
    assert message == {
        "type": "message",
        "channel": ROOM,
        "data": {"text": "hi"},
        "sender": "alice",
        "offset": 1,
        "epoch": subscribed["epoch"],
    }
    assert await vera.refused("channel.publish", ROOM, 1) == "permission_denied"
    assert await alice.refused("channel.publish", "room:acme:announcements", 1) == "permission_denied"
    assert await alice.refused("channel.subscribe", "room:umbrella:1") == "permission_denied"


async def test_a_denial_is_logged_with_its_rule_and_counted(gateway: RunningGateway) -> None:
    alice = await gateway.peer("alice")
    await alice.refused("channel.publish", "room:acme:announcements", 1)
    await alice.refused("channel.publish", "elsewhere", 1)
    line = await gateway.event("command.denied", channel="room:acme:announcements")
    version = gateway.gateway.node.policy.version
    assert (line["id"], line["action"], line["code"], line["policy"]) == (
        1,
        "channel.publish",
        "permission_denied",
        version,
    )
    assert line["rule"].startswith("policy.yaml:")
    assert (line["subject"], line["tenant"], line["remote_addr"]) == ("alice", "acme", "127.0.0.1")
    assert line["session"] == alice.welcome["session"]
    assert (await gateway.event("command.denied", channel="elsewhere"))["rule"] == "default"
    metric = gateway.metric
    decisions = "gateway_decisions_total"
    assert await metric(decisions, action="channel.publish", effect="deny", reason="rule") == 1
    assert await metric(decisions, action="channel.publish", effect="deny", reason="default") == 1
    assert await metric("gateway_commands_total", action="channel.publish", outcome="permission_denied") == 2


async def test_an_obligation_to_sign_holds_on_an_unsigned_connection_only(gateway: RunningGateway) -> None:
    answer = await gateway.token("alice")
    plain = await gateway.peer(answer=answer)
    signed = await gateway.peer(answer=answer, signed=True)
    assert await plain.refused("channel.publish", "signed:acme:1", 1) == "signature_required"
    assert await signed.do("channel.publish", "signed:acme:1", 1) == {}


async def test_a_rules_rate_counts_for_the_subject_over_all_its_connections(gateway: RunningGateway) -> None:
    answer = await gateway.token("alice")
    first, second = await gateway.peer(answer=answer), await gateway.peer(answer=answer)
    await first.do("channel.publish", "rated:acme:1", 1)
    await second.do("channel.publish", "rated:acme:1", 1)
    refused = await first.ask("channel.publish", "rated:acme:1", 1)
    assert refused["error"]["code"] == "rate_limited"
    assert 0 < refused["error"]["retry_after_s"] <= 2
    bob = await gateway.peer("bob")
    await bob.do("channel.publish", "rated:acme:1", 1)


async def test_a_condition_that_errs_denies_and_the_peer_learns_no_more(gateway: RunningGateway) -> None:
    alice = await gateway.peer("alice")
    assert await alice.do("channel.publish", "priced:acme:1", {"amount": 10, "count": 2}) == {}
    for data in ({"amount": 1, "count": 0}, {"amount": 1000, "count": 1}, {"nothing": 1}, list(range(300))):
        assert await alice.refused("channel.publish", "priced:acme:1", data) == "permission_denied"
    reasons = [line["reason"] for line in gateway.events("command.denied")]
    assert reasons == ["error", "condition", "error", "error"]


async def test_session_actions_answer(gateway: RunningGateway) -> None:
    alice = await gateway.peer("alice")
    await alice.do("channel.subscribe", ROOM)
    assert await alice.do("ping") == {}
    described = await alice.do("session.describe")
    assert described == {
        "subject": "alice",
        "roles": ["member"],
        "tenant": "acme",
        "expires_at": alice.welcome["expires_at"],
        "subscriptions": [ROOM],
    }
    on_priced = await alice.do("session.permissions", "priced:acme:1")
    assert {"action": "channel.publish", "conditional": True} in on_priced["actions"]
    on_room = {
        entry["action"]: entry["conditional"] for entry in (await alice.do("session.permissions", ROOM))["actions"]
    }
    assert on_room["channel.publish"] is False
    without = {entry["action"] for entry in (await alice.do("session.permissions"))["actions"]}
    assert {"broadcast", "user.send"} <= without
    assert "channel.publish" not in without


async def test_history_recovery_and_order(gateway: RunningGateway) -> None:
    alice, vera = await gateway.peer("alice"), await gateway.peer("vera")
    for n in range(1, 8):
        await alice.do("channel.publish", ROOM, n)
    page = await vera.do("channel.history", ROOM, {"limit": 3})
    assert [m["offset"] for m in page["messages"]] == [5, 6, 7]
    assert [m["data"] for m in page["messages"]] == [5, 6, 7]
    page = await vera.do("channel.history", ROOM, {"after": 2, "limit": 2})
    assert [m["offset"] for m in page["messages"]] == [3, 4]
    epoch = page["epoch"]
    recovered = await vera.do("channel.subscribe", ROOM, {"recover": {"epoch": epoch, "offset": 4}})
    assert recovered["recovered"] is True
    assert [m["offset"] for m in recovered["messages"]] == [5, 6, 7]
    await alice.do("channel.publish", ROOM, 8)
    assert (await vera.push("message"))["offset"] == 8
    for wrong in ({"epoch": "other", "offset": 4}, {"epoch": epoch, "offset": 99}):
        answer = await vera.do("channel.subscribe", ROOM, {"recover": wrong})
        assert (answer["recovered"], answer["messages"], answer["offset"]) == (False, [], 8)


async def test_a_channel_without_history_has_neither_offsets_nor_members(gateway: RunningGateway) -> None:
    alice = await gateway.peer("alice")
    assert await alice.do("channel.subscribe", "plain:acme:1") == {"recovered": False, "messages": []}
    assert await alice.do("channel.publish", "plain:acme:1", None) == {}
    message = await alice.push("message")
    assert "offset" not in message
    assert "epoch" not in message
    assert message["data"] is None
    assert await alice.do("channel.history", "plain:acme:1") == {"messages": []}
    assert await alice.do("channel.presence", "plain:acme:1") == {"members": []}


async def test_presence_tells_first_joins_and_last_leaves_to_others_only(gateway: RunningGateway) -> None:
    answer = await gateway.token("alice")
    vera = await gateway.peer("vera")
    await vera.do("channel.subscribe", ROOM)
    first, second = await gateway.peer(answer=answer), await gateway.peer(answer=answer)
    await first.do("channel.subscribe", ROOM)
    await second.do("channel.subscribe", ROOM)
    assert await vera.push("presence") == {"type": "presence", "channel": ROOM, "event": "join", "subject": "alice"}
    members = await vera.do("channel.presence", ROOM)
    assert members == {"members": [{"subject": "alice", "connections": 2}, {"subject": "vera", "connections": 1}]}
    await first.do("channel.unsubscribe", ROOM)
    await second.socket.close()
    assert await vera.push("presence") == {"type": "presence", "channel": ROOM, "event": "leave", "subject": "alice"}
    assert vera.pushes == []
    assert await first.do("channel.unsubscribe", ROOM) == {}
    assert first.pushes == []


async def test_direct_messages_and_broadcasts_stay_in_the_tenant(gateway: RunningGateway) -> None:
    await gateway.add_user("eve", "member", tenant="umbrella")
    alice, bob, eve = await gateway.peer("alice"), await gateway.peer("bob"), await gateway.peer("eve")
    assert await alice.do("user.send", None, {"to": "bob", "data": [1]}) == {"delivered": 1}
    direct = await bob.push("direct")
    assert (direct["data"], direct["sender"]) == ([1], "alice")
    for nobody in ("eve", "nobody", "", "\x00"):
        assert await alice.do("user.send", None, {"to": nobody, "data": 1}) == {"delivered": 0}
    assert await alice.do("broadcast", None, "all") == {}
    assert (await bob.push("broadcast"))["data"] == "all"
    assert (await alice.push("broadcast"))["sender"] == "alice"
    assert await eve.do("ping") == {}
    assert eve.pushes == []


@ENCODINGS
async def test_a_batch_is_answered_in_arrays(gateway: RunningGateway, encoding: Encoding) -> None:
    alice = await gateway.peer("alice", encoding=encoding)
    publish = {"action": "channel.publish", "channel": ROOM}
    await alice.send([{"id": n, **publish, "data": n} for n in range(1, 5)] + [{"id": 9, "action": "nosuch"}])
    answers: list[dict[str, object]] = []
    while len(answers) < 5:
        frame = await alice.frame()
        answers += frame if isinstance(frame, list) else [frame]
    offsets = {answer["id"]: answer.get("data", {}).get("offset") for answer in answers}  # type: ignore[attr-defined]
    assert offsets == {1: 1, 2: 2, 3: 3, 4: 4, 9: None}


async def test_a_publisher_that_subscribes_gets_its_own_message_once(gateway: RunningGateway) -> None:
    alice = await gateway.peer("alice")
    await alice.do("channel.subscribe", ROOM)
    await alice.do("channel.subscribe", ROOM)
    await alice.do("channel.publish", ROOM, 1)
    await alice.do("ping")
    assert [push["type"] for push in alice.pushes] == ["message"]


async def test_integers_and_text_travel_unharmed_between_encodings(gateway: RunningGateway) -> None:
    alice = await gateway.peer("alice", encoding=Encoding.MSGPACK)
    vera = await gateway.peer("vera")
    await vera.do("channel.subscribe", ROOM)
    data = {
        "i": [2**63 - 1, -(2**63), 0],
        "f": [0.1, 1e300, -0.0],
        "s": "\u0000\u2028 😀",
        "n": None,
        "b": [True, False],
    }
    await alice.do("channel.publish", ROOM, data)
    assert (await vera.push("message"))["data"] == data


async def test_of_duplicate_keys_only_the_last_travels_on(gateway: RunningGateway) -> None:
    alice = await gateway.peer("alice")
    await alice.do("channel.subscribe", ROOM)
    await alice.send_body(
        b'{"id":1,"id":77,"action":"ping","action":"channel.publish","channel":"room:acme:1","data":{"a":1,"a":2}}'
    )
    assert (await alice.answer(77))["type"] == "reply"
    assert (await alice.push("message"))["data"] == {"a": 2}


# ------------------------------------------------------------------------------------------------- bad input


BAD_FRAMES = [
    b"",
    b"hello",
    b"{",
    b"[]",
    b"[[]]",
    b'[[{"id":1,"action":"ping"}]]',
    b"[1]",
    b"null",
    b'{"id":0,"action":"ping"}',
    b'{"id":-1,"action":"ping"}',
    b'{"id":9223372036854775808,"action":"ping"}',
    b'{"id":1.5,"action":"ping"}',
    b'{"id":true,"action":"ping"}',
    b'{"id":1,"action":"ping","extra":1}',
    b'{"id":1,"action":"ping","channel":5}',
    b'{"id":1,"action":"ping","data":NaN}',
    b'{"id":1,"action":"ping","data":1e400}',
    b'{"id":1,"action":"ping","data":9223372036854775808}',
    b'{"id":1,"action":"ping","data":"\\ud800"}',
    b'{"id":1,"action":"ping","data":' + b"[" * 32 + b"]" * 32 + b"}",
    b'{"id":1,"action":"ping","data":' + b"[" * 20_000 + b"]" * 20_000 + b"}",
]


@SIGNED
@pytest.mark.parametrize("body", BAD_FRAMES, ids=range(len(BAD_FRAMES)))
async def test_a_bad_frame_is_answered_and_the_connection_goes_on(
    gateway: RunningGateway,
    body: bytes,
    signed: bool,  # noqa: FBT001 - parametrized
) -> None:
    alice = await gateway.peer("alice", signed=signed)
    await alice.send_body(body)
    frame = await alice.frame()
    assert frame["type"] == "error"
    assert frame["error"]["code"] == "bad_frame"
    assert await alice.do("ping") == {}


@pytest.mark.parametrize(
    "value",
    [math.nan, math.inf, 2**63, b"bin", msgspec.msgpack.Ext(1, b"x"), {1: 2}, {b"k": 1}],
    ids=["nan", "inf", "2^63", "bin", "ext", "integer key", "bin key"],
)
async def test_what_json_does_not_have_is_a_bad_frame_in_msgpack_too(gateway: RunningGateway, value: object) -> None:
    alice = await gateway.peer("alice", encoding=Encoding.MSGPACK)
    answer = await alice.ask("channel.publish", ROOM, value)
    assert (answer["id"], answer["error"]["code"]) == (1, "bad_frame")
    assert await alice.do("ping") == {}


@pytest.mark.parametrize(
    ("action", "channel", "data", "code"),
    [
        ("nosuch", None, None, "unknown_action"),
        ("ping\x00\x1b[31m", None, None, "unknown_action"),
        (":".join(["x"] * 1000), None, None, "unknown_action"),
        ("channel.publish", "a\x00b", 1, "invalid_data"),
        ("channel.publish", ":".join(["a"] * 1000), 1, "invalid_data"),
        ("channel.publish", "a::b", 1, "invalid_data"),
        ("channel.publish", "room:*:1", 1, "invalid_data"),
        ("channel.publish", "ä:b", 1, "invalid_data"),
        ("channel.history", ROOM, {"limit": 0}, "invalid_data"),
        ("channel.history", ROOM, {"limit": 10, "more": 1}, "invalid_data"),
        ("broadcast", ROOM, 1, "invalid_data"),
        ("session.refresh", None, {"token": "nonsense"}, "invalid_data"),
    ],
)
async def test_a_wrong_command_has_its_code(
    gateway: RunningGateway, action: str, channel: str | None, data: object, code: str
) -> None:
    alice = await gateway.peer("alice")
    assert await alice.refused(action, channel, data) == code
    assert await alice.do("ping") == {}


async def test_an_action_without_permission_is_denied_and_an_unknown_one_unknown(gateway: RunningGateway) -> None:
    await gateway.add_user("nemo")
    nemo = await gateway.peer("nemo")
    assert nemo.welcome["roles"] == []
    assert await nemo.refused("channel.publish", ROOM, 1) == "permission_denied"
    assert await nemo.refused("nosuch") == "unknown_action"


async def test_the_tenth_bad_frame_in_ten_seconds_closes(gateway: RunningGateway) -> None:
    alice = await gateway.peer("alice")
    for _ in range(10):
        await alice.send_body(b"{}")
    frames = [await alice.frame() for _ in range(10)]
    assert {frame["error"]["code"] for frame in frames} == {"bad_frame"}
    assert await alice.closed() == (1008, "protocol_abuse")


async def test_the_hundredth_command_refused_by_a_rate_closes(start: Start) -> None:
    gateway = await start(commands_per_s="1")
    alice = await gateway.peer("alice")
    for n in range(1, 104):
        await alice.send({"id": n, "action": "ping"})
    assert await alice.closed() == (1008, "rate_limited")
    line = await gateway.event("connection.closed", session=alice.welcome["session"])
    assert (line["code"], line["reason"]) == (1008, "rate_limited")
    assert await gateway.metric("gateway_disconnections_total", code="1008") == 1


async def test_no_more_channels_than_the_limit(start: Start) -> None:
    gateway = await start(max_channels="2")
    alice = await gateway.peer("alice")
    assert alice.welcome["limits"]["channels"] == 2
    await alice.do("channel.subscribe", "room:acme:1")
    await alice.do("channel.subscribe", "room:acme:2")
    assert await alice.refused("channel.subscribe", "room:acme:3") == "channel_limit"
    await alice.do("channel.subscribe", "room:acme:2")
    await alice.do("channel.unsubscribe", "room:acme:2")
    await alice.do("channel.subscribe", "room:acme:3")


@SIGNED
async def test_a_frame_at_the_limit_passes_and_one_byte_more_closes(
    gateway: RunningGateway,
    signed: bool,  # noqa: FBT001 - parametrized
) -> None:
    alice = await gateway.peer("alice", signed=signed)
    head, tail = b'{"id":1,"action":"channel.publish","channel":"room:acme:1","data":"', b'"}'
    room = 65_536 - len(head) - len(tail) - (68 if signed else 0)
    await alice.send_body(head + b"x" * room + tail)
    assert (await alice.answer(1))["type"] == "reply"
    await alice.send_body(head + b"x" * (room + 1) + tail)
    assert await alice.closed() == (1009, "frame_too_large")


@pytest.mark.parametrize("encoding", list(Encoding))
@SIGNED
async def test_the_other_kind_of_message_closes_with_1003(
    gateway: RunningGateway,
    encoding: Encoding,
    signed: bool,  # noqa: FBT001 - parametrized
) -> None:
    alice = await gateway.peer("alice", encoding=encoding, signed=signed)
    await alice.socket.send(b'{"id":1,"action":"ping"}', text=encoding is Encoding.MSGPACK)
    assert await alice.closed() == (1003, "unsupported_data")


# ------------------------------------------------------------------------------------------------- signatures


@ENCODINGS
async def test_an_unsigned_frame_on_a_signed_connection_closes(gateway: RunningGateway, encoding: Encoding) -> None:
    alice = await gateway.peer("alice", encoding=encoding, signed=True)
    await alice.socket.send(alice.encode({"id": 1, "action": "ping"}), text=encoding is Encoding.JSON)
    assert await alice.closed() == (1008, "signature_required")
    assert await gateway.metric("gateway_signature_failures_total", reason="missing") == 1
    assert (await gateway.event("signature.invalid"))["reason"] == "missing"


@ENCODINGS
async def test_a_replayed_frame_closes(gateway: RunningGateway, encoding: Encoding) -> None:
    alice = await gateway.peer("alice", encoding=encoding, signed=True)
    assert alice.signer is not None
    payload = alice.signer.sign(alice.encode({"id": 1, "action": "ping"}))
    for _ in range(2):
        await alice.socket.send(payload, text=encoding is Encoding.JSON)
    assert await alice.closed() == (1008, "signature_invalid")
    assert await gateway.metric("gateway_signature_failures_total", reason="mismatch") == 1


@ENCODINGS
async def test_a_reflected_frame_closes(gateway: RunningGateway, encoding: Encoding) -> None:
    alice = await gateway.peer("alice", encoding=encoding, signed=True)
    assert alice.signer is not None
    await alice.send({"id": 1, "action": "ping"})
    reflected = await alice._payload()
    await alice.socket.send(reflected, text=encoding is Encoding.JSON)
    assert await alice.closed() == (1008, "signature_invalid")


async def test_a_malformed_signature_closes(gateway: RunningGateway) -> None:
    alice = await gateway.peer("alice", signed=True)
    await alice.socket.send("s1.abc." + json.dumps({"id": 1, "action": "ping"}))
    assert await alice.closed() == (1008, "signature_invalid")
    assert await gateway.metric("gateway_signature_failures_total", reason="malformed") == 1


async def test_a_ticket_has_a_key_of_its_own_and_the_tokens_key_does_not_open_it(gateway: RunningGateway) -> None:
    answer = await gateway.token("alice")
    key = decode_base64url(answer["signing_key"])
    assert key is not None
    nonce, encoded = bytes(range(16)), "AAECAwQFBgcICQoLDA0ODw"
    ticket = await gateway.ticket(answer["access_token"])
    async with connect(
        f"{gateway.ws_url}?ticket={ticket}&nonce={encoded}", subprotocols=["gateway.v1.json.signed"]
    ) as socket:
        peer = Peer(socket, Encoding.JSON)
        await peer.welcome_with(derive_ticket_key(key, ticket), nonce)
        assert await peer.do("ping") == {}
    async with connect(
        f"{gateway.ws_url}?ticket={ticket}&nonce={encoded}", subprotocols=["gateway.v1.json.signed"]
    ) as socket:
        assert await Peer(socket, Encoding.JSON).closed() == (1008, "invalid_ticket")


async def test_commands_before_a_clients_close_are_carried_out(gateway: RunningGateway) -> None:
    vera = await gateway.peer("vera")
    await vera.do("channel.subscribe", ROOM)
    # Without a bound, or a client that has twenty replies to read yet would not read the answer to its close.
    alice = await gateway.peer("alice", max_queue=None)
    for n in range(20):
        await alice.send({"id": n + 1, "action": "channel.publish", "channel": ROOM, "data": n})
    await alice.socket.close()
    seen = [(await vera.push("message"))["data"] for _ in range(20)]
    assert seen == list(range(20))
    line = await gateway.event("connection.closed", session=alice.welcome["session"])
    assert line["code"] == 1000
