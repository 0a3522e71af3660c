"""A conversation: what each event brings in each phase, and the order of the checks."""

from __future__ import annotations

import json
import typing
from dataclasses import dataclass, field

import msgspec
import pytest
from talk import ALICE, ALLOW, NOW, PERMISSIVE, DictPolicy, Talk, talk

from gateway.core import effects, session_events
from gateway.core.channels import Position
from gateway.core.commands import BUILT_IN_ACTIONS, ActionRegistry, ActionSpec, ChannelUse, RecoverFrom
from gateway.core.decision import ChannelOptions, Decision, Effect, Reason
from gateway.core.effects import End
from gateway.core.errors import Closes, CommandError, ErrorCode, SignatureFailure
from gateway.core.frames import BroadcastPush, Encoding, SharedPush
from gateway.core.handlers import HANDLERS
from gateway.core.in_flight import MAX_IN_FLIGHT
from gateway.core.principal import Principal, TokenIdentity
from gateway.core.session import MAX_PUBLISHABLE, Phase, Session
from gateway.core.session_events import (
    Completed,
    DrainStarted,
    Ended,
    Failed,
    Lost,
    PolicyChanged,
    PositionLost,
    Refreshed,
    RolesChanged,
    TimePassed,
)
from gateway.core.session_ports import SessionLimits

PUBLISH = {"id": 1, "action": "channel.publish", "channel": "room:acme:1", "data": {"text": "hi"}}
SUBSCRIBE = {"id": 1, "action": "channel.subscribe", "channel": "room:acme:1"}


# ------------------------------------------------------------------------------------------------- the table


def test_every_event_has_a_row_in_every_phase() -> None:
    events = set(typing.get_args(session_events.Event))
    assert set(Session.TRANSITIONS) == set(Phase)
    for phase, rows in Session.TRANSITIONS.items():
        assert set(rows) == events, phase


def test_every_built_in_action_has_a_handler() -> None:
    assert set(HANDLERS) == {spec.name for spec in BUILT_IN_ACTIONS}


def test_an_action_can_be_registered_once_only() -> None:
    with pytest.raises(ValueError, match="twice"):
        ActionRegistry([*BUILT_IN_ACTIONS, ActionSpec("ping")])


def test_an_unknown_action_is_taken_to_need_permission() -> None:
    assert ActionRegistry().needs_permission("orders.create")
    assert not ActionRegistry().needs_permission("ping")


# ------------------------------------------------------------------------------------------------- welcome


def test_the_welcome_tells_who_where_and_what_limits() -> None:
    conversation = talk()
    assert json.loads(conversation.session.welcome(None, NOW)[0]) == {
        "type": "welcome",
        "session": "s1",
        "subject": "alice",
        "roles": ["member"],
        "tenant": "acme",
        "expires_at": NOW + 900,
        "server_time": NOW,
        "heartbeat_s": 25.0,
        "limits": {"frame_bytes": 65_536, "commands_per_s": 1000.0, "channels": 3},
    }


@pytest.mark.parametrize("encoding", list(Encoding))
def test_the_welcome_of_a_signed_connection_is_the_servers_frame_zero(encoding: Encoding) -> None:
    conversation = talk(signed=True, encoding=encoding)
    assert conversation.server is not None
    body = conversation.server.verify(conversation.session.welcome("bm9uY2U", NOW)[0])
    decode = json.loads if encoding is Encoding.JSON else msgspec.msgpack.decode
    assert decode(body)["signing"] == {"nonce": "bm9uY2U"}
    conversation.send({"id": 1, "action": "ping"})
    assert conversation.said() == [{"type": "reply", "id": 1, "data": {}}]


# ------------------------------------------------------------------------------------------------- commands


@pytest.mark.parametrize("encoding", list(Encoding))
def test_a_permitted_publish_is_asked_of_the_runtime_and_answered_when_done(encoding: Encoding) -> None:
    conversation = talk(encoding=encoding)
    assert conversation.send(PUBLISH) == [effects.Publish(1, "room:acme:1", {"text": "hi"})]
    assert conversation.said() == []
    assert conversation.session.busy
    assert conversation.tell(Completed(1, {"offset": 1, "epoch": "e"}, NOW + 0.5)) == []
    assert conversation.said() == [{"type": "reply", "id": 1, "data": {"offset": 1, "epoch": "e"}}]
    assert conversation.witness.seen == [
        ("decided", "channel.publish", "room:acme:1", {"text": "hi"}),
        ("finished", "channel.publish", "ok", 0.5),
    ]
    assert not conversation.session.busy


@pytest.mark.parametrize(
    ("command", "wanted"),
    [
        (SUBSCRIBE, effects.Subscribe(1, "room:acme:1", None)),
        (
            {**SUBSCRIBE, "data": {"recover": {"epoch": "e", "offset": 4}}},
            effects.Subscribe(1, "room:acme:1", RecoverFrom("e", 4)),
        ),
        ({**SUBSCRIBE, "action": "channel.presence"}, effects.ReadPresence(1, "room:acme:1")),
        ({**SUBSCRIBE, "action": "channel.history"}, effects.ReadHistory(1, "room:acme:1", 100, None, None)),
        (
            {**SUBSCRIBE, "action": "channel.history", "data": {"limit": 5, "after": 2, "before": 9}},
            effects.ReadHistory(1, "room:acme:1", 5, 9, 2),
        ),
        ({"id": 1, "action": "user.send", "data": {"to": "bob", "data": 5}}, effects.SendToUser(1, "bob", 5)),
        ({"id": 1, "action": "broadcast", "data": None}, effects.SendToTenant(1, None)),
        ({"id": 1, "action": "session.refresh", "data": {"token": "t"}}, effects.VerifyToken(1, "t")),
    ],
)
def test_each_action_asks_for_its_effect(command: dict[str, object], wanted: effects.Effect) -> None:
    assert talk().send(command) == [wanted]


def test_the_token_of_a_refresh_does_not_show() -> None:
    assert "hunter2" not in repr(effects.VerifyToken(1, "hunter2"))


def test_describe_tells_the_principal_and_its_subscriptions() -> None:
    conversation = talk()
    conversation.session.subscriptions.update({"room:b": None, "room:a": None})
    conversation.send({"id": 2, "action": "session.describe"})
    assert conversation.said() == [
        {
            "type": "reply",
            "id": 2,
            "data": {
                "subject": "alice",
                "roles": ["member"],
                "tenant": "acme",
                "expires_at": NOW + 900,
                "subscriptions": ["room:a", "room:b"],
            },
        }
    ]


def test_permissions_lists_what_may_be_done_on_a_channel_or_without_one() -> None:
    conversation = talk(answers={("channel.publish", "room:1"): ALLOW, "broadcast": ALLOW})
    conversation.send({"id": 1, "action": "session.permissions", "channel": "room:1"})
    conversation.send({"id": 2, "action": "session.permissions"})
    on_channel, without = ({entry["action"] for entry in frame["data"]["actions"]} for frame in conversation.said())
    assert on_channel == {"session.permissions", "channel.unsubscribe", "channel.publish"}
    assert without == {"ping", "session.describe", "session.permissions", "session.refresh", "broadcast"}


def test_actions_that_need_no_permission_are_not_asked_of_the_policy() -> None:
    conversation = talk(answers={})
    for command_id, action in enumerate(("ping", "session.describe", "session.permissions"), start=1):
        conversation.send({"id": command_id, "action": action})
    conversation.send({"id": 9, "action": "channel.unsubscribe", "channel": "room:1"})
    assert [frame["type"] for frame in conversation.said()] == ["reply"] * 4
    assert not [seen for seen in conversation.witness.seen if seen[0] == "decided"]


def test_a_registered_action_that_is_not_built_in_is_invoked() -> None:
    registry = ActionRegistry([*BUILT_IN_ACTIONS, ActionSpec("orders.create", ChannelUse.OPTIONAL, None)])
    conversation = talk(registry=registry, answers={"orders.create": ALLOW})
    wanted = conversation.send({"id": 1, "action": "orders.create", "data": [1]})
    assert wanted == [effects.Invoke(1, "orders.create", None, [1])]


# ------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("command", "code"),
    [
        ({"id": 1, "action": "nosuch"}, "unknown_action"),
        ({"id": 1, "action": "ping\x00\n"}, "unknown_action"),
        ({"id": 1, "action": "a." * 1000}, "unknown_action"),
        ({"id": 1, "action": "ping", "channel": "room:1"}, "invalid_data"),
        ({"id": 1, "action": "ping", "data": {"x": 1}}, "invalid_data"),
        ({"id": 1, "action": "ping", "data": 5}, "invalid_data"),
        ({"id": 1, "action": "channel.publish", "data": 1}, "invalid_data"),
        ({"id": 1, "action": "channel.publish", "channel": "room:1"}, "invalid_data"),
        ({"id": 1, "action": "channel.publish", "channel": "", "data": 1}, "invalid_data"),
        ({"id": 1, "action": "channel.publish", "channel": "a:\x01", "data": 1}, "invalid_data"),
        ({"id": 1, "action": "channel.publish", "channel": ":".join("a" * 1000), "data": 1}, "invalid_data"),
        ({"id": 1, "action": "channel.subscribe", "channel": "a", "data": {"recover": {"epoch": 1}}}, "invalid_data"),
        ({"id": 1, "action": "channel.history", "channel": "a", "data": {"limit": 0}}, "invalid_data"),
        ({"id": 1, "action": "channel.history", "channel": "a", "data": {"limit": 1001}}, "invalid_data"),
        ({"id": 1, "action": "channel.history", "channel": "a", "data": {"limit": True}}, "invalid_data"),
        ({"id": 1, "action": "channel.history", "channel": "a", "data": {"after": -1}}, "invalid_data"),
        ({"id": 1, "action": "channel.history", "channel": "a", "data": {"more": 1}}, "invalid_data"),
        ({"id": 1, "action": "user.send", "data": {"to": "bob"}}, "invalid_data"),
        ({"id": 1, "action": "user.send", "data": {"to": 5, "data": 1}}, "invalid_data"),
        ({"id": 1, "action": "user.send"}, "invalid_data"),
        ({"id": 1, "action": "broadcast"}, "invalid_data"),
        ({"id": 1, "action": "session.refresh", "data": {}}, "invalid_data"),
    ],
)
def test_a_command_of_the_wrong_shape_is_refused_and_the_connection_stays(
    command: dict[str, object], code: str
) -> None:
    conversation = talk()
    assert conversation.send(command) == []
    assert conversation.errors() == [(1, code)]
    conversation.send({"id": 1, "action": "ping", "data": None})
    assert conversation.said() == [{"type": "reply", "id": 1, "data": {}}]


def test_shape_comes_before_permission_and_an_unknown_action_is_unknown_for_everybody() -> None:
    conversation = talk(answers={})
    conversation.send({"id": 1, "action": "channel.publish"}, {"id": 2, "action": "nosuch"}, PUBLISH)
    assert conversation.errors() == [(1, "invalid_data"), (2, "unknown_action"), (1, "permission_denied")]
    assert conversation.witness.seen == [
        ("finished", "channel.publish", "invalid_data", 0.0),
        ("finished", "unknown", "unknown_action", 0.0),
        ("decided", "channel.publish", "room:acme:1", {"text": "hi"}),
        ("denied", 1, "channel.publish", "room:acme:1"),
        ("finished", "channel.publish", "permission_denied", 0.0),
    ]


def test_a_denial_says_no_more_than_its_code() -> None:
    rule = Decision(Effect.DENY, Reason.RULE, "secret.yaml:7", ErrorCode.PERMISSION_DENIED, detail="hunter2")
    conversation = talk(answers={"channel.publish": rule})
    conversation.send(PUBLISH)
    assert conversation.said() == [
        {"type": "error", "id": 1, "error": {"code": "permission_denied", "message": "not permitted"}}
    ]


def test_an_unmet_obligation_has_its_own_code() -> None:
    signed = Decision(Effect.DENY, Reason.OBLIGATION, "a:1", ErrorCode.SIGNATURE_REQUIRED)
    rate = Decision(Effect.DENY, Reason.OBLIGATION, "a:2", ErrorCode.RATE_LIMITED, 0.25)
    conversation = talk(answers={"channel.publish": signed, "broadcast": rate})
    conversation.send(PUBLISH, {"id": 2, "action": "broadcast", "data": 1})
    first, second = conversation.said()
    assert first["error"]["code"] == "signature_required"
    assert second["error"] == {
        "code": "rate_limited",
        "message": "too many commands of this kind",
        "retry_after_s": 0.25,
    }


def test_what_the_runtime_cannot_do_is_an_error_frame() -> None:
    conversation = talk()
    conversation.send(PUBLISH)
    conversation.tell(Failed(1, CommandError(ErrorCode.UNAVAILABLE, "later"), NOW + 1))
    assert conversation.errors() == [(1, "unavailable")]
    assert conversation.witness.seen[-1] == ("finished", "channel.publish", "unavailable", 1.0)


def test_an_id_in_flight_is_refused_and_free_again_afterwards() -> None:
    conversation = talk()
    conversation.send(PUBLISH)
    assert conversation.send({"id": 1, "action": "ping"}) == []
    assert conversation.errors() == [(1, "bad_frame")]
    conversation.tell(Completed(1, {}, NOW))
    conversation.send({"id": 1, "action": "ping"})
    assert [frame["type"] for frame in conversation.said()] == ["reply", "reply"]


def test_no_more_channels_than_the_limit_can_be_subscribed() -> None:
    conversation = talk()
    for n in range(4):
        conversation.send({"id": n + 1, "action": "channel.subscribe", "channel": f"room:{n}"})
    assert conversation.errors() == [(4, "channel_limit")]
    for n in range(3):
        conversation.tell(Completed(n + 1, {}, NOW))
    conversation.said()
    assert conversation.send({"id": 5, "action": "channel.subscribe", "channel": "room:3"}) == []
    assert conversation.errors() == [(5, "channel_limit")]
    again = conversation.send({"id": 6, "action": "channel.subscribe", "channel": "room:0"})
    assert again == [effects.Subscribe(6, "room:0", None)]


def test_without_the_right_to_history_nothing_is_recovered() -> None:
    conversation = talk(answers={"channel.subscribe": ALLOW})
    wanted = conversation.send({**SUBSCRIBE, "data": {"recover": {"epoch": "e", "offset": 1}}})
    assert wanted == [effects.Subscribe(1, "room:acme:1", None)]


# ------------------------------------------------------------------------------------------------- rates and abuse


def test_commands_beyond_the_burst_are_refused_with_the_time_to_wait() -> None:
    conversation = talk(limits=SessionLimits(65_536, 2.0, 3, 25.0))
    for n in range(5):
        conversation.send({"id": n + 1, "action": "ping"})
    said = conversation.said()
    assert [frame["type"] for frame in said] == ["reply"] * 4 + ["error"]
    assert said[-1]["error"] == {
        "code": "rate_limited",
        "message": "too many commands on this connection",
        "retry_after_s": 0.5,
    }
    conversation.now += 0.5
    conversation.send({"id": 1, "action": "ping"})
    assert conversation.said() == [{"type": "reply", "id": 1, "data": {}}]


def test_the_hundredth_command_refused_by_a_rate_in_ten_seconds_ends_the_connection() -> None:
    conversation = talk(limits=SessionLimits(65_536, 0.01, 3, 25.0), answers={})
    for n in range(100):
        assert conversation.send({"id": n + 1, "action": "ping"}) == [], n
    assert conversation.send({"id": 101, "action": "ping"}) == [End(Closes.RATE_LIMITED)]
    assert len(conversation.said()) == 101
    assert conversation.session.phase is Phase.CLOSING


@pytest.mark.parametrize(
    ("command", "code"),
    [
        ({"action": "nosuch"}, "unknown_action"),
        ({"action": "channel.subscribe"}, "invalid_data"),
        ({"action": "channel.publish", "channel": "no channel", "data": 1}, "invalid_data"),
    ],
)
def test_commands_that_nothing_comes_of_count_as_others_do(command: dict[str, object], code: str) -> None:
    """They are told what is wrong with them, whatever the rate; and they take from it, and end what goes on with them."""
    conversation = talk(limits=SessionLimits(65_536, 2.0, 3, 25.0))
    for n in range(4):
        conversation.send({"id": n + 1, **command})
    conversation.send({"id": 5, "action": "ping"})
    assert [each for _, each in conversation.errors()] == [code] * 4 + ["rate_limited"]
    for n in range(98):
        assert conversation.send({"id": n + 1, **command}) == [], n
    assert conversation.send({"id": 99, **command}) == [End(Closes.RATE_LIMITED)]
    assert {each for _, each in conversation.errors()} == {code}


def test_refusals_spread_over_more_than_ten_seconds_do_not_end_it() -> None:
    conversation = talk(limits=SessionLimits(65_536, 0.001, 3, 25.0))
    for n in range(300):
        conversation.now += 0.2
        assert conversation.send({"id": n + 1, "action": "ping"}) == []


def test_the_tenth_bad_frame_in_ten_seconds_ends_the_connection() -> None:
    conversation = talk()
    for _ in range(9):
        assert conversation.send_bytes(b"{}") == []
    assert conversation.send_bytes(b"[]") == [End(Closes.PROTOCOL_ABUSE)]
    assert conversation.errors() == [(None, "bad_frame")] * 10


def test_a_batch_of_bad_commands_counts_each_and_stops_at_the_tenth() -> None:
    conversation = talk()
    assert conversation.send_bytes(b"[" + b",".join([b"{}"] * 12) + b"]") == [End(Closes.PROTOCOL_ABUSE)]
    (batch,) = conversation.said()
    assert len(batch) == 10


# ------------------------------------------------------------------------------------------------- batches


@pytest.mark.parametrize("encoding", list(Encoding))
@pytest.mark.parametrize("signed", [False, True])
def test_replies_to_a_batch_come_as_an_array(encoding: Encoding, signed: bool) -> None:  # noqa: FBT001 - parametrized
    conversation = talk(encoding=encoding, signed=signed)
    conversation.send({"id": 1, "action": "ping"}, {"id": 2, "action": "nosuch"}, batch=True)
    ((first, second),) = conversation.said()
    assert first == {"type": "reply", "id": 1, "data": {}}
    assert (second["id"], second["error"]["code"]) == (2, "unknown_action")


def test_only_a_connection_that_has_sent_a_batch_gets_arrays() -> None:
    conversation = talk()
    conversation.send({"id": 1, "action": "ping"}, {"id": 2, "action": "ping"})
    assert [frame["id"] for frame in conversation.said()] == [1, 2]


def test_one_answer_is_no_array() -> None:
    conversation = talk()
    conversation.send({"id": 1, "action": "ping"}, batch=True)
    assert conversation.said() == [{"type": "reply", "id": 1, "data": {}}]


def test_joined_arrays_are_bounded() -> None:
    registry = ActionRegistry([*BUILT_IN_ACTIONS, ActionSpec("big", data=None)])
    conversation = talk(registry=registry, answers={"big": ALLOW})
    conversation.send(*({"id": n, "action": "big", "data": 0} for n in (1, 2, 3)), batch=True)
    for n in (1, 2, 3):
        conversation.tell(Completed(n, "x" * 30_000, NOW))
    assert 90_000 < conversation.session.outbox.waiting_bytes < 91_000
    first, second = conversation.said()
    assert [frame["id"] for frame in first] == [1, 2]
    assert second["id"] == 3


def test_commands_of_a_batch_about_one_channel_are_carried_out_in_their_order() -> None:
    conversation = talk()
    batch = [{**PUBLISH, "id": 1}, {**PUBLISH, "id": 2}, {**PUBLISH, "id": 3, "channel": "room:acme:2"}]
    assert conversation.send(*batch, batch=True) == [effects.Publish(1, "room:acme:1", {"text": "hi"})]
    assert conversation.send({**PUBLISH, "id": 2}) == []
    assert conversation.errors() == [(2, "bad_frame")]
    assert conversation.tell(Completed(1, {}, NOW)) == [
        effects.Publish(2, "room:acme:1", {"text": "hi"}),
        effects.Publish(3, "room:acme:2", {"text": "hi"}),
    ]
    assert conversation.tell(Failed(2, CommandError(ErrorCode.INTERNAL, "x"), NOW)) == []


def test_a_waiting_command_holds_back_only_while_its_channel_is_busy() -> None:
    conversation = talk()
    conversation.send({**PUBLISH, "id": 1}, {**PUBLISH, "id": 2, "channel": "room:2"}, {**PUBLISH, "id": 3})
    assert conversation.tell(Completed(2, {}, NOW)) == []
    assert conversation.tell(Failed(1, CommandError(ErrorCode.INTERNAL, "x"), NOW)) == [
        effects.Publish(3, "room:acme:1", {"text": "hi"})
    ]


def test_reading_pauses_at_the_cap_of_commands_in_flight_and_goes_on_below() -> None:
    conversation = talk()
    for n in range(MAX_IN_FLIGHT):
        conversation.send({**PUBLISH, "id": n + 1, "channel": f"room:{n}"})
    assert conversation.send({**PUBLISH, "id": 100, "channel": "room:x"}) == [effects.PauseReading()]
    assert conversation.send({**PUBLISH, "id": 101, "channel": "room:y"}) == []
    assert conversation.tell(Completed(1, {}, NOW)) == [effects.Publish(100, "room:x", {"text": "hi"})]
    assert conversation.tell(Completed(2, {}, NOW)) == [effects.Publish(101, "room:y", {"text": "hi"})]
    assert conversation.tell(Completed(3, {}, NOW)) == [effects.ResumeReading()]
    conversation.send({**PUBLISH, "id": 102, "channel": "room:z"})
    assert conversation.send({**PUBLISH, "id": 103, "channel": "room:0"}) == [effects.PauseReading()]


def test_reading_goes_on_once_what_waited_has_begun() -> None:
    conversation = talk()
    for n in range(MAX_IN_FLIGHT):
        conversation.send({**PUBLISH, "id": n + 1, "channel": f"room:{n}"})
    conversation.send({**PUBLISH, "id": 100, "channel": "room:0"})
    assert conversation.tell(Completed(2, {}, NOW)) == []
    resumed = conversation.tell(Completed(1, {}, NOW))
    assert resumed == [effects.Publish(100, "room:0", {"text": "hi"}), effects.ResumeReading()]


# ------------------------------------------------------------------------------------------------- encodings, signatures


def test_an_unsigned_frame_on_a_signed_connection_closes_with_signature_required() -> None:
    conversation = talk(signed=True)
    conversation.client = None
    assert conversation.send(PUBLISH) == [End(Closes.SIGNATURE_REQUIRED)]
    assert conversation.witness.seen == [("signature", SignatureFailure.MISSING)]


def test_a_frame_that_is_replayed_closes_with_signature_invalid_before_it_is_parsed() -> None:
    conversation = talk(signed=True)
    assert conversation.client is not None
    payload = conversation.client.sign(b"not even a frame")
    conversation.receive(payload)
    assert conversation.receive(payload) == [End(Closes.SIGNATURE_INVALID)]
    assert conversation.witness.seen[-1] == ("signature", SignatureFailure.MISMATCH)


# ------------------------------------------------------------------------------------------------- pushes


@pytest.mark.parametrize("encoding", list(Encoding))
def test_a_push_is_signed_in_its_place_and_what_waits_behind_it(encoding: Encoding) -> None:
    conversation = talk(signed=True, encoding=encoding)
    bodies = [SharedPush(BroadcastPush(n, "bob", NOW)).body(encoding) for n in range(2)]
    conversation.send({"id": 1, "action": "ping"})
    payloads = conversation.session.outbox.signed(bodies)
    assert conversation.server is not None
    assert [conversation.server.verify(payload) for payload in payloads] == bodies
    assert conversation.said() == [{"type": "reply", "id": 1, "data": {}}]
    assert talk().session.outbox.signed(bodies) == bodies


def test_encoded_frames_keep_their_place_among_the_answers() -> None:
    conversation = talk(signed=True)
    conversation.send({"id": 1, "action": "ping"})
    conversation.session.outbox.waiting.append(b'{"type":"broadcast"}')
    conversation.send({"id": 2, "action": "ping"})
    assert conversation.said() == [reply(1), {"type": "broadcast"}, reply(2)]


# ------------------------------------------------------------------------------------------------- subscriptions


def subscribed(*channels: str, answers: dict[object, Decision] | None = None) -> Talk:
    conversation = talk(answers=answers)
    for n, channel in enumerate(channels, start=1):
        conversation.send({"id": n, "action": "channel.subscribe", "channel": channel})
        conversation.tell(Completed(n, {}, NOW))
    conversation.said()
    return conversation


def test_a_subscription_begins_with_its_reply_and_ends_with_unsubscribe() -> None:
    conversation = subscribed("room:1")
    assert conversation.session.subscriptions == {"room:1": None}
    wanted = conversation.send({"id": 2, "action": "channel.unsubscribe", "channel": "room:1"})
    assert wanted == [effects.Unsubscribe(2, "room:1")]
    conversation.tell(Completed(2, {}, NOW))
    assert conversation.session.subscriptions == {}


def test_a_changed_policy_ends_what_it_no_longer_permits_with_the_data_of_the_subscribe() -> None:
    conversation = subscribed("room:1", "room:2")
    wanted = conversation.tell(PolicyChanged(DictPolicy({("channel.subscribe", "room:2"): ALLOW}), NOW))
    assert wanted == [effects.Unsubscribe(None, "room:1")]
    assert conversation.said() == [{"type": "unsubscribed", "channel": "room:1", "reason": "permission_revoked"}]
    conversation.send(PUBLISH)
    assert conversation.errors() == [(1, "permission_denied")]


def test_a_rate_that_is_used_up_does_not_end_a_subscription() -> None:
    conversation = subscribed("room:1")
    rate = Decision(Effect.DENY, Reason.OBLIGATION, "a:2", ErrorCode.RATE_LIMITED, 0.25)
    assert conversation.tell(PolicyChanged(DictPolicy({"channel.subscribe": rate}), NOW)) == []


def test_changed_roles_are_adopted_and_decided_again() -> None:
    conversation = subscribed("room:1")
    conversation.policy.answers = {}
    adopted = Principal("alice", "acme", ("viewer",), {}, ALICE.expires_at, ALICE.token)
    wanted = conversation.tell(RolesChanged(("viewer",), NOW))
    assert wanted == [effects.AdoptPrincipal(adopted), effects.Unsubscribe(None, "room:1")]
    assert conversation.session.principal.roles == ("viewer",)
    assert conversation.policy.bound_to[-1] == adopted
    assert conversation.tell(RolesChanged(("viewer",), NOW)) == []


def test_roles_of_a_narrowed_token_never_widen() -> None:
    token = TokenIdentity("https://issuer", "jti-1", narrowed_to=("viewer",))
    conversation = talk(principal=Principal("alice", "acme", ("viewer",), {}, NOW + 900, token))
    assert conversation.tell(RolesChanged(("admin", "viewer"), NOW)) == []
    conversation.tell(RolesChanged(("admin",), NOW))
    assert conversation.session.principal.roles == ()


def test_a_lost_position_ends_the_subscription_once() -> None:
    conversation = subscribed("room:1")
    assert conversation.tell(PositionLost("room:1")) == [effects.Unsubscribe(None, "room:1")]
    assert conversation.said() == [{"type": "unsubscribed", "channel": "room:1", "reason": "position_lost"}]
    assert conversation.tell(PositionLost("room:1")) == []


# ------------------------------------------------------------------------------------------------- refresh


def refreshing() -> Talk:
    conversation = talk()
    conversation.send({"id": 1, "action": "session.refresh", "data": {"token": "t"}})
    return conversation


def test_a_refreshed_session_speaks_with_the_new_token() -> None:
    conversation = refreshing()
    new = Principal("alice", "acme", ("admin",), {"desk": "fx"}, NOW + 2000, TokenIdentity("https://issuer", "jti-2"))
    assert conversation.tell(Refreshed(1, new, NOW)) == [effects.AdoptPrincipal(new)]
    assert conversation.said() == [{"type": "reply", "id": 1, "data": {"expires_at": NOW + 2000}}]
    assert conversation.session.principal is new


def test_a_subscribe_that_was_on_its_way_when_the_policy_changed_is_decided_again() -> None:
    conversation = talk()
    conversation.send(SUBSCRIBE)
    assert conversation.tell(PolicyChanged(DictPolicy({}), NOW)) == []
    assert conversation.tell(Completed(1, {}, NOW)) == [effects.Unsubscribe(None, "room:acme:1")]
    assert [frame["type"] for frame in conversation.said()] == ["reply", "unsubscribed"]


@pytest.mark.parametrize(
    "other",
    [
        Principal("bob", "acme", (), {}, NOW + 2000, ALICE.token),
        Principal("alice", "umbrella", (), {}, NOW + 2000, ALICE.token),
        Principal("alice", "acme", (), {}, NOW + 2000, TokenIdentity("https://other", "jti-2")),
    ],
)
def test_the_token_of_another_subject_tenant_or_issuer_is_not_taken(other: Principal) -> None:
    conversation = refreshing()
    assert conversation.tell(Refreshed(1, other, NOW)) == []
    assert conversation.errors() == [(1, "permission_denied")]
    assert conversation.session.principal is ALICE


# ------------------------------------------------------------------------------------------------- time


def test_expiring_is_told_once_and_expiry_closes() -> None:
    conversation = talk()
    session = conversation.session
    assert session.next_deadline(heard=True) == NOW + 25.0
    assert conversation.tell(TimePassed(NOW + 839, heard=True)) == [effects.SendPing()]
    assert session.next_deadline(heard=True) == NOW + 840
    conversation.tell(TimePassed(NOW + 840, heard=True))
    conversation.tell(TimePassed(NOW + 841, heard=True))
    assert conversation.said() == [{"type": "expiring", "expires_at": NOW + 900}]
    assert conversation.tell(TimePassed(NOW + 900, heard=True)) == [End(Closes.EXPIRED_TOKEN)]


def test_a_refresh_moves_the_expiry() -> None:
    conversation = talk()
    conversation.tell(TimePassed(NOW + 850, heard=True))
    conversation.now = NOW + 850
    conversation.send({"id": 1, "action": "session.refresh", "data": {"token": "t"}})
    new = Principal("alice", "acme", ("member",), {}, NOW + 1800, ALICE.token)
    conversation.tell(Refreshed(1, new, NOW + 850))
    assert End(Closes.EXPIRED_TOKEN) not in conversation.tell(TimePassed(NOW + 900, heard=True))
    conversation.said()
    conversation.tell(TimePassed(NOW + 1740, heard=True))
    assert conversation.said() == [{"type": "expiring", "expires_at": NOW + 1800}]


def test_silence_for_ten_seconds_after_a_ping_closes() -> None:
    conversation = talk()
    assert conversation.tell(TimePassed(NOW + 24, heard=True)) == []
    assert conversation.tell(TimePassed(NOW + 25, heard=True)) == [effects.SendPing()]
    assert conversation.session.next_deadline(heard=False) == NOW + 35
    assert conversation.tell(TimePassed(NOW + 34, heard=False)) == []
    assert conversation.tell(TimePassed(NOW + 35, heard=False)) == [End(Closes.PING_TIMEOUT)]


def test_who_is_pinged_more_often_than_it_may_be_silent_is_looked_at_as_often() -> None:
    conversation = talk(limits=SessionLimits(65_536, 2.0, 3, 1.0))
    assert conversation.tell(TimePassed(NOW + 1, heard=True)) == [effects.SendPing()]
    assert conversation.session.next_deadline(heard=False) == NOW + 2
    assert conversation.tell(TimePassed(NOW + 2, heard=True)) == [effects.SendPing()]


def test_any_sign_of_life_after_a_ping_keeps_the_connection() -> None:
    conversation = talk()
    conversation.tell(TimePassed(NOW + 25, heard=True))
    assert conversation.tell(TimePassed(NOW + 35, heard=True)) == []
    assert conversation.tell(TimePassed(NOW + 50, heard=True)) == [effects.SendPing()]


# ------------------------------------------------------------------------------------------------- drain and end


def test_a_draining_session_still_works_until_it_is_closed() -> None:
    conversation = talk()
    assert conversation.tell(DrainStarted(2.5)) == []
    assert conversation.session.phase is Phase.DRAINING
    conversation.send({"id": 1, "action": "ping"})
    assert conversation.said() == [
        {"type": "draining", "reconnect_after_s": 2.5},
        {"type": "reply", "id": 1, "data": {}},
    ]
    assert conversation.tell(DrainStarted(9.0)) == []
    assert conversation.tell(Ended(Closes.DRAINING)) == [End(Closes.DRAINING)]
    assert conversation.said() == []


def test_after_the_close_nothing_is_done_any_more() -> None:
    conversation = talk()
    conversation.send(PUBLISH, {**PUBLISH, "id": 2})
    conversation.tell(Ended(Closes.NORMAL))
    assert conversation.send({"id": 3, "action": "ping"}) == []
    assert conversation.tell(Completed(1, {}, NOW)) == []
    assert conversation.tell(TimePassed(NOW + 9999, heard=False)) == []
    assert conversation.said() == []
    assert conversation.tell(Lost()) == []
    assert conversation.session.phase is Phase.CLOSED
    assert conversation.tell(Lost()) == []


def test_what_waits_when_the_transport_goes_is_dropped() -> None:
    conversation = talk()
    conversation.send({"id": 1, "action": "ping"})
    conversation.tell(Lost())
    assert conversation.said() == []


def test_what_waits_in_the_backlog_is_not_begun_by_a_connection_that_ends() -> None:
    conversation = talk(limits=SessionLimits(65_536, 0.01, 3, 25.0), answers=PERMISSIVE)
    conversation.send(PUBLISH)
    wanted = [effect for n in range(100) for effect in conversation.send({**PUBLISH, "id": n + 2})]
    assert wanted == [effects.PauseReading()]
    wanted = conversation.tell(Completed(1, {}, NOW))
    assert wanted == [End(Closes.RATE_LIMITED), effects.ResumeReading()]
    assert conversation.session.phase is Phase.CLOSING


# ------------------------------------------------------------------------------------------------- publishing at once


@dataclass
class Press:
    """A broker in this process: keeps what is published, and says where it stands."""

    position: Position | None = None
    published: list[tuple[object, ...]] = field(default_factory=list)

    def publish_now(
        self, channel: str, data: object, sender: str, at: float, options: ChannelOptions
    ) -> Position | None:
        self.published.append((channel, data, sender, at, options))
        return self.position


def publish(number: int, data: object = "hi", channel: str = "room:acme:1") -> dict[str, object]:
    return {"id": number, "action": "channel.publish", "channel": channel, "data": data}


def reply(number: int, **data: object) -> dict[str, object]:
    return {"type": "reply", "id": number, "data": data}


@pytest.mark.parametrize("encoding", list(Encoding))
@pytest.mark.parametrize("signed", [False, True])
def test_once_permitted_a_channel_is_published_to_without_the_long_way(encoding: Encoding, *, signed: bool) -> None:
    press = Press()
    conversation = talk(publisher=press, encoding=encoding, signed=signed)
    assert conversation.send(publish(1)) == [effects.Publish(1, "room:acme:1", "hi")]
    conversation.tell(Completed(1, {}, NOW))
    assert conversation.send(publish(2), publish(3, {"x": [1]})) == []
    assert conversation.said() == [reply(1), reply(2), reply(3)]
    assert press.published == [
        ("room:acme:1", "hi", "alice", NOW, ChannelOptions()),
        ("room:acme:1", {"x": [1]}, "alice", NOW, ChannelOptions()),
    ]
    assert conversation.turn.ends == [NOW]
    conversation.receive()
    assert conversation.turn.ends == []
    assert not conversation.session.busy


def test_the_reply_tells_the_position_and_stands_behind_the_publishers_own_message() -> None:
    press = Press(Position(7, "e"))
    conversation = talk(publisher=press)
    conversation.carrier.answers = {effects.Publish: {"offset": 6, "epoch": "e"}, effects.Subscribe: {}}
    conversation.send(publish(1), publish(2))
    assert conversation.said() == [reply(1, offset=6, epoch="e"), reply(2, offset=7, epoch="e")]
    assert conversation.carrier.caught_up == []
    conversation.send({**SUBSCRIBE, "id": 3}, publish(4))
    assert conversation.carrier.caught_up == ["room:acme:1"]
    assert [frame["id"] for frame in conversation.said()] == [3, 4]  # type: ignore[index]


def test_a_publication_without_data_goes_the_long_way_and_is_refused() -> None:
    press = Press()
    conversation = talk(publisher=press)
    conversation.carrier.answers = {effects.Publish: {}}
    conversation.send(publish(1), {"id": 2, "action": "channel.publish", "channel": "room:acme:1"})
    assert conversation.said()[1]["error"]["code"] == "invalid_data"  # type: ignore[index]
    assert press.published == []


def test_the_rate_counts_for_publications_at_once_too() -> None:
    conversation = talk(publisher=Press(), limits=SessionLimits(65_536, 2.0, 3, 25.0))
    conversation.carrier.answers = {effects.Publish: {}}
    conversation.send(*[publish(n) for n in range(1, 7)])
    codes = [frame.get("error", {}).get("code") for frame in conversation.said()]  # type: ignore[attr-defined]
    assert codes == [None] * 4 + ["rate_limited"] * 2


@pytest.mark.parametrize(
    "news",
    [
        PolicyChanged(DictPolicy({}), NOW),
        RolesChanged(("guest",), NOW),
    ],
)
def test_another_policy_or_role_ends_what_was_kept_of_the_old_one(news: PolicyChanged | RolesChanged) -> None:
    press = Press()
    conversation = talk(publisher=press, answers=dict(PERMISSIVE))
    conversation.carrier.answers = {effects.Publish: {}}
    conversation.send(publish(1), publish(2))
    conversation.policy.answers.clear()
    conversation.tell(news)
    conversation.said()
    conversation.send(publish(3))
    assert conversation.errors() == [(3, "permission_denied")]
    assert len(press.published) == 1


def test_nothing_is_kept_of_an_answer_that_may_change_by_itself() -> None:
    press = Press()
    conversation = talk(publisher=press)
    conversation.policy.standing = False
    conversation.carrier.answers = {effects.Publish: {}}
    conversation.send(publish(1), publish(2), publish(3))
    assert conversation.said() == [reply(1), reply(2), reply(3)]
    assert press.published == []


def test_what_is_kept_of_many_channels_is_bounded() -> None:
    press = Press()
    conversation = talk(publisher=press, limits=SessionLimits(65_536, 10_000.0, 3, 25.0))
    conversation.carrier.answers = {effects.Publish: {}}
    channels = [f"room:acme:{n}" for n in range(MAX_PUBLISHABLE + 1)]
    conversation.send(*[publish(n, channel=channel) for n, channel in enumerate(channels, start=1)])
    conversation.send(publish(1000, channel=channels[0]), publish(1001, channel=channels[-1]))
    assert [channel for channel, *_ in press.published] == [channels[-1]]
    assert len(conversation.said()) == len(channels) + 2


def test_a_publication_waits_its_turn_behind_what_is_in_flight() -> None:
    press = Press()
    conversation = talk(publisher=press)
    conversation.carrier.answers = {effects.Publish: {}}
    conversation.send(publish(1))
    del conversation.carrier.answers[effects.Publish]
    conversation.send({"id": 2, "action": "channel.history", "channel": "room:acme:1"})
    conversation.send(publish(3))
    assert [frame["id"] for frame in conversation.said()] == [1]  # type: ignore[index]
    assert conversation.tell(Completed(2, {}, NOW)) == [effects.Publish(3, "room:acme:1", "hi")]
    assert press.published == []


def test_what_cannot_be_carried_out_is_answered_with_its_code() -> None:
    conversation = talk()
    conversation.carrier.answers = {effects.Publish: CommandError(ErrorCode.UNAVAILABLE, "not now")}
    conversation.send(publish(1))
    assert conversation.errors() == [(1, "unavailable")]
    assert not conversation.session.busy


# ------------------------------------------------------------------------------------------------- several at once


def test_publications_of_one_turn_are_timed_by_the_first_of_them() -> None:
    press = Press()
    conversation = talk(publisher=press)
    conversation.carrier.answers = {effects.Publish: {}}
    conversation.send(publish(1))
    conversation.receive(*[json.dumps(publish(n)).encode() for n in (2, 3, 4)])
    assert [data for _, data, *_ in press.published] == ["hi"] * 3
    assert conversation.turn.timed
    assert conversation.turn.ends == [NOW] * 3
    assert conversation.said() == [reply(n) for n in range(1, 5)]


def test_messages_that_come_together_are_answered_in_their_order() -> None:
    conversation = talk()
    bodies = [json.dumps({"id": n, "action": "ping"}).encode() for n in range(1, 5)]
    assert conversation.receive(*bodies) == []
    assert conversation.said() == [reply(n) for n in range(1, 5)]


def test_what_comes_behind_the_end_of_a_conversation_is_not_taken() -> None:
    conversation = talk(signed=True)
    good = json.dumps({"id": 1, "action": "ping"}).encode()
    assert conversation.client is not None
    signed = [conversation.client.sign(good), b"unsigned", conversation.client.sign(good)]
    assert conversation.receive(*signed) == [End(Closes.SIGNATURE_REQUIRED)]
    assert conversation.said() == [reply(1)]
    assert conversation.receive(good) == []
    assert conversation.said() == []


def test_what_comes_behind_a_pause_is_left_for_later() -> None:
    conversation = talk()
    bodies = [json.dumps(publish(n, channel=f"room:acme:{n}")).encode() for n in range(1, MAX_IN_FLIGHT + 5)]
    wanted = conversation.receive(*bodies)
    assert wanted[-1] == effects.PauseReading()
    assert conversation.session.untaken == bodies[MAX_IN_FLIGHT + 1 :]
    wanted = conversation.tell(Completed(1, {}, NOW))
    assert wanted == [effects.Publish(MAX_IN_FLIGHT + 1, f"room:acme:{MAX_IN_FLIGHT + 1}", "hi")]
    assert conversation.tell(Completed(2, {}, NOW)) == [effects.ResumeReading()]
