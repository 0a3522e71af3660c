"""The frame parser: what is a command, what is not, and what the peer is told."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime

import msgspec
import pytest

from gateway.core.errors import FrameError
from gateway.core.frames import (
    MAX_BATCH,
    MAX_DEPTH,
    MAX_ID,
    MAX_MEMBERS,
    BroadcastPush,
    Command,
    Encoding,
    FrameParser,
    MessagePush,
    SharedPush,
)

JSON = FrameParser(Encoding.JSON)
MSGPACK = FrameParser(Encoding.MSGPACK)
NO_ID = None


def command(**members: object) -> bytes:
    return json.dumps({"id": 7, "action": "channel.publish", **members}).encode()


def packed(**members: object) -> bytes:
    return msgspec.msgpack.encode({"id": 7, "action": "channel.publish", **members})


def nested(depth: int) -> bytes:
    """Nest `depth` containers, the command's object counted."""
    return b'{"id":7,"action":"a","data":' + b"[" * (depth - 1) + b"]" * (depth - 1) + b"}"


def test_a_json_command_is_read_whole() -> None:
    body = command(channel="room:acme:1", data={"text": "hi", "list": [1, 2.5, None, True, {"x": "y"}]})
    wanted = Command(7, "channel.publish", "room:acme:1", {"text": "hi", "list": [1, 2.5, None, True, {"x": "y"}]})
    assert JSON.parse(body) == wanted
    assert MSGPACK.parse(msgspec.msgpack.encode(json.loads(body))) == wanted


def test_absent_data_is_not_null_data() -> None:
    assert JSON.parse(command()).data is msgspec.UNSET
    assert JSON.parse(command(data=None)).data is None


def test_scalars_are_data() -> None:
    for value in (True, False, None, 0, -(2**63), 2**63 - 1, 1.5, "text"):
        assert JSON.parse(command(data=value)).data == value
        assert MSGPACK.parse(packed(data=value)).data == value


def test_of_duplicate_keys_the_last_counts() -> None:
    assert JSON.parse(b'{"id":1,"action":"a","id":2,"data":{"x":1,"x":2}}') == Command(2, "a", data={"x": 2})


@pytest.mark.parametrize(
    ("body", "command_id"),
    [
        pytest.param(b"", NO_ID, id="empty frame"),
        pytest.param(b"   ", NO_ID, id="white space"),
        pytest.param(b"{", NO_ID, id="cut"),
        pytest.param(b"hello", NO_ID, id="no JSON"),
        pytest.param(b"5", NO_ID, id="a number"),
        pytest.param(b"null", NO_ID, id="null"),
        pytest.param(b'"text"', NO_ID, id="a string"),
        pytest.param(b"{}", NO_ID, id="nothing in it"),
        pytest.param(b'\xef\xbb\xbf{"id":7,"action":"a"}', NO_ID, id="a byte order mark"),
        pytest.param(b'{"id":7,"action":"a"}{', NO_ID, id="something behind"),
        pytest.param(b'{"id":7}', 7, id="no action"),
        pytest.param(b'{"action":"a"}', NO_ID, id="no id"),
        pytest.param(b'{"id":0,"action":"a"}', NO_ID, id="id 0"),
        pytest.param(b'{"id":-1,"action":"a"}', NO_ID, id="id negative"),
        pytest.param(b'{"id":9007199254740992,"action":"a"}', NO_ID, id="id 2^53"),
        pytest.param(b'{"id":9223372036854775808,"action":"a"}', NO_ID, id="id 2^63"),
        pytest.param(b'{"id":1.0,"action":"a"}', NO_ID, id="id float"),
        pytest.param(b'{"id":true,"action":"a"}', NO_ID, id="id bool"),
        pytest.param(b'{"id":"7","action":"a"}', NO_ID, id="id string"),
        pytest.param(b'{"id":null,"action":"a"}', NO_ID, id="id null"),
        pytest.param(b'{"id":7,"id":"x","action":"a"}', NO_ID, id="the last id counts"),
        pytest.param(b'{"id":7,"action":5}', 7, id="action no string"),
        pytest.param(b'{"id":7,"action":null}', 7, id="action null"),
        pytest.param(b'{"id":7,"action":"a","channel":5}', 7, id="channel no string"),
        pytest.param(b'{"id":7,"action":"a","channel":null}', 7, id="channel null"),
        pytest.param(b'{"id":7,"action":"a","extra":1}', 7, id="unknown member"),
        pytest.param(b'{"id":7,"action":"a","data":NaN}', NO_ID, id="NaN is no JSON"),
        pytest.param(b'{"id":7,"action":"a","data":-Infinity}', NO_ID, id="Infinity is no JSON"),
        pytest.param(b'{"id":7,"action":"a","data":1e400}', 7, id="a float too large"),
        pytest.param(b'{"id":7,"action":"a","data":9223372036854775808}', 7, id="2^63"),
        pytest.param(b'{"id":7,"action":"a","data":[-9223372036854775809]}', 7, id="less than -2^63"),
        pytest.param(b'{"id":7,"action":"a","data":' + b"9" * 5000 + b"}", 7, id="5,000 digits"),
        pytest.param(b'{"id":7,"action":"a","data":"\\ud800"}', 7, id="a lone surrogate"),
        pytest.param(b'{"id":7,"action":"a","data":{"\\udfff":1}}', 7, id="a lone surrogate in a key"),
        pytest.param(b'{"id":"7","action":"a","data":"\\ud800"}', NO_ID, id="a lone surrogate and no id"),
        pytest.param(b'{"id":7,"action":"a","data":["\\ud800",NaN]}', NO_ID, id="a lone surrogate in no JSON"),
        pytest.param(b'["\\ud800"]', NO_ID, id="a lone surrogate in an array"),
        pytest.param(b'{"id":7,"action":"a","data":"\x00"}', NO_ID, id="a control character in a string"),
        pytest.param(b'{"id":7,"action":"\xff"}', 7, id="not UTF-8, which a text message never is"),
        pytest.param(nested(MAX_DEPTH + 1), 7, id="one level too deep"),
        pytest.param(nested(5000), NO_ID, id="5,000 levels"),
    ],
)
def test_what_is_no_json_command_is_a_frame_error_with_the_id_that_can_be_read(
    body: bytes, command_id: int | None
) -> None:
    with pytest.raises(FrameError) as caught:
        JSON.parse(body)
    assert caught.value.command_id == command_id
    assert caught.value.code == "bad_frame"


@pytest.mark.parametrize(
    ("body", "command_id"),
    [
        pytest.param(b"", NO_ID, id="empty frame"),
        pytest.param(b"\xc1", NO_ID, id="the byte that is never used"),
        pytest.param(b"{}", NO_ID, id="JSON"),
        pytest.param(packed(data=math.nan), 7, id="NaN"),
        pytest.param(packed(data=[math.inf]), 7, id="infinity"),
        pytest.param(packed(data=2**63), 7, id="2^63"),
        pytest.param(packed(data={"x": 2**64 - 1}), 7, id="2^64 - 1"),
        pytest.param(packed(data=b"bin"), 7, id="bin"),
        pytest.param(packed(data=[msgspec.msgpack.Ext(5, b"x")]), 7, id="an extension type"),
        pytest.param(packed(data=datetime(2026, 1, 1, tzinfo=UTC)), 7, id="a timestamp"),
        pytest.param(packed(data={1: "x"}), 7, id="a key that is no string"),
        pytest.param(packed(data={"x": {None: "x"}}), 7, id="a key that is nil"),
        pytest.param(b"\x83\xa2id\x07\xa6action\xa1a\xa4data\xa3\xed\xa0\x80", 7, id="a surrogate in UTF-8"),
        pytest.param(packed(extra=1), 7, id="unknown member"),
        pytest.param(msgspec.msgpack.encode({"id": 7, 1: 2}), 7, id="a member whose name is no string"),
        pytest.param(msgspec.msgpack.encode({1: 2, "id": 0}), NO_ID, id="such a member, and an id that is none"),
        pytest.param(b"\x82\xa2id\x07\x80\x01", NO_ID, id="a member whose name is a map"),
        pytest.param(b"\x83\xa2id\x07\xa6action\xa1a\xa4data" + b"\x91" * 32 + b"\xc0", 7, id="one level too deep"),
        pytest.param(b"\x83\xa2id\x07\xa6action\xa1a\xa4data" + b"\x91" * 5000 + b"\xc0", NO_ID, id="5,000 levels"),
    ],
)
def test_what_is_no_msgpack_command_is_a_frame_error(body: bytes, command_id: int | None) -> None:
    with pytest.raises(FrameError) as caught:
        MSGPACK.parse(body)
    assert caught.value.command_id == command_id


def test_the_deepest_nesting_that_may_be_passes() -> None:
    assert JSON.parse(nested(MAX_DEPTH)).id == 7


def test_more_members_than_may_be_are_a_frame_error() -> None:
    most = {str(n): 0 for n in range(MAX_MEMBERS)}
    assert JSON.parse(command(data=most)).data == most
    with pytest.raises(FrameError, match="members"):
        JSON.parse(command(data={**most, "one": "more"}))


def test_the_largest_id_passes() -> None:
    assert JSON.parse(b'{"id":%d,"action":"a"}' % MAX_ID).id == MAX_ID


def test_a_message_never_repeats_the_payload() -> None:
    with pytest.raises(FrameError) as caught:
        JSON.parse(b'{"id":7,"action":"a","channel":{"secret":"hunter2"}}')
    assert "hunter2" not in caught.value.message


# ----------------------------------------------------------------------------------------------------- batches


@pytest.mark.parametrize(
    ("body", "batch"),
    [
        (b"[", True),
        (b" \r\n\t[1]", True),
        (b"{}", False),
        (b" {}", False),
        (b"", False),
        (b"   ", False),
        (b"x", False),
    ],
)
def test_a_json_array_is_a_batch(body: bytes, batch: bool) -> None:  # noqa: FBT001 - a parametrized expectation
    assert JSON.is_batch(body) is batch


@pytest.mark.parametrize(
    ("value", "batch"), [([], True), ([1] * 20, True), ([1] * 70_000, True), ({}, False), ("x", False), (None, False)]
)
def test_a_msgpack_array_is_a_batch(value: object, batch: bool) -> None:  # noqa: FBT001 - a parametrized expectation
    assert MSGPACK.is_batch(msgspec.msgpack.encode(value)) is batch
    assert MSGPACK.is_batch(b" [") is False


def test_a_batch_is_taken_apart_and_each_command_stands_for_itself() -> None:
    items = JSON.split(b' [{"id":1,"action":"a"}, {"id":0}]')
    assert JSON.parse(items[0]) == Command(1, "a")
    with pytest.raises(FrameError):
        JSON.parse(items[1])
    assert len(MSGPACK.split(msgspec.msgpack.encode([{"id": 1}] * MAX_BATCH))) == MAX_BATCH


@pytest.mark.parametrize(
    "body",
    [
        b"[]",
        b"[" + b",".join([b"{}"] * (MAX_BATCH + 1)) + b"]",
        b"[1]",
        b"[{},null]",
        b"[{},[{}]]",
        b'["{}"]',
        b"[{}",
        b"[NaN]",
        b"[" * 5000,
        b'[{},"\xff"]',
    ],
)
def test_an_array_that_is_no_batch_is_one_frame_error(body: bytes) -> None:
    with pytest.raises(FrameError) as caught:
        JSON.split(body)
    assert caught.value.command_id is None


def test_a_msgpack_array_of_scalars_is_a_frame_error() -> None:
    with pytest.raises(FrameError, match="objects only"):
        MSGPACK.split(msgspec.msgpack.encode([{}, 1]))


# ----------------------------------------------------------------------------------------------------- pushes


def test_a_shared_push_is_encoded_once_for_each_encoding() -> None:
    shared = SharedPush(BroadcastPush({"a": 1}, "alice", 5.0))
    assert shared.body(Encoding.JSON) == b'{"type":"broadcast","data":{"a":1},"sender":"alice","at":5.0}'
    assert shared.body(Encoding.JSON) is shared.body(Encoding.JSON)
    assert msgspec.msgpack.decode(shared.body(Encoding.MSGPACK)) == msgspec.json.decode(shared.body(Encoding.JSON))
    assert shared.body(Encoding.MSGPACK) is shared.body(Encoding.MSGPACK)


def test_a_message_without_history_has_neither_offset_nor_epoch() -> None:
    body = SharedPush(MessagePush("room:1", None, "bob", 1.5)).body(Encoding.JSON)
    assert json.loads(body) == {"type": "message", "channel": "room:1", "data": None, "sender": "bob", "at": 1.5}
