from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest
from certificates import certified
from scripted_gateway import SIGNING_KEY, Peer, Script, until_closed

from gateway.client import (
    CommandRefusedError,
    Connected,
    ConnectionEndedError,
    Direction,
    Disconnected,
    Event,
    Gap,
    GatewayClient,
    LoginRefusedError,
    Position,
    ProtocolViolationError,
    PushesNotReadError,
    SubscriptionLost,
    TokenLogin,
    Tokens,
    UnreachableError,
    UpgradeRefusedError,
)
from gateway.client import client as client_module
from gateway.core.frames import DirectPush, ErrorFrame, MessagePush, UnsubscribedPush

Start = Callable[..., AbstractAsyncContextManager[Any]]
TOKENS = Tokens("the-token", SIGNING_KEY)
AT = {"sender": "bob", "at": 1.5}


class NoWait(random.Random):
    """Chance that never is one; tests that reconnect wait half of the shortest wait."""

    def random(self) -> float:
        return 0.0


def client(url: str, **settings: Any) -> GatewayClient:  # noqa: ANN401 - whatever the client takes
    return GatewayClient(url, TokenLogin(TOKENS), dice=NoWait(), **settings)


async def take(events: AsyncIterator[Event], count: int) -> list[Event]:
    return [await asyncio.wait_for(anext(events), 10) for _ in range(count)]


async def to_the_end(connected: GatewayClient) -> list[Event]:
    return [event async for event in connected.events()]


@pytest.mark.parametrize("encoding", ["json", "msgpack"])
@pytest.mark.parametrize("signed", [False, True])
async def test_client_sends_commands_and_reads_pushes_in_every_subprotocol(
    scripted: Start,
    encoding: str,
    signed: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    async def script(peer: Peer) -> None:
        assert peer.headers["Authorization"] == "Bearer the-token"
        await peer.greet()
        await peer.reply({"offset": 1, "epoch": "e"}, action="channel.publish", channel="room:acme:1", data={"a": "ä"})
        await peer.send({"type": "direct", "data": [1, None], **AT})
        await peer.send({"type": "of-a-later-version", "x": 1})
        await peer.send(
            [
                {"type": "broadcast", "data": 1, **AT, "unknown": 1},
                {"type": "error", "error": {"code": "x", "message": "y"}},
            ]
        )
        await until_closed(peer)

    async with scripted(script) as gateway, client(gateway.url, encoding=encoding, signed=signed) as connected:
        assert connected.welcome.subject == "alice"
        assert await connected.publish("room:acme:1", {"a": "ä"}) == Position("e", 1)
        first, direct, broadcast, error = await take(connected.events(), 4)
        assert first == Connected(connected.welcome, again=False)
        assert direct == DirectPush(data=[1, None], sender="bob", at=1.5)
        assert isinstance(error, ErrorFrame)
        assert broadcast != direct
    assert gateway.failures == []


async def test_replies_out_of_order_find_their_commands_and_refusals_are_raised(scripted: Start) -> None:
    async def script(peer: Peer) -> None:
        await peer.greet()
        first, second, third = [await peer.receive() for _ in range(3)]
        assert [command["id"] for command in (first, second, third)] == [1, 2, 3]
        await peer.send({"type": "reply", "id": second["id"], "data": {"n": 2}})
        error = {"code": "rate_limited", "message": "slow down", "retry_after_s": 0.25}
        await peer.send({"type": "error", "id": third["id"], "error": error})
        await peer.send({"type": "reply", "id": 99, "data": {}})
        await peer.send({"type": "reply", "id": first["id"], "data": {"n": 1}})
        await until_closed(peer)

    async with scripted(script) as gateway, client(gateway.url) as connected:
        results = await asyncio.gather(
            *[connected.command("ping") for _ in range(3)],
            return_exceptions=True,
        )
        assert results[:2] == [{"n": 1}, {"n": 2}]
        assert isinstance(results[2], CommandRefusedError)
        assert (results[2].code, results[2].retry_after_s) == ("rate_limited", 0.25)


async def test_every_action_has_its_method(scripted: Start) -> None:
    async def script(peer: Peer) -> None:
        await peer.greet()
        await peer.reply(action="channel.history", channel="a", data={"limit": 3, "after": 0})
        await peer.reply({"members": [{"subject": "bob", "connections": 2}]}, action="channel.presence", channel="a")
        await peer.reply({"delivered": 4}, action="user.send", data={"to": "bob", "data": None})
        command = await peer.reply(action="broadcast", data=1)
        assert "channel" not in command
        await peer.reply(action="channel.unsubscribe", channel="a")
        await peer.receive()

    async with scripted(script) as gateway, client(gateway.url) as connected:
        await connected.history("a", limit=3, after=0)
        assert await connected.presence("a") == {"bob": 2}
        assert await connected.send("bob", None) == 4
        await connected.broadcast(1)
        await connected.unsubscribe("a")
        await connected.send_as_is([{"id": 70, "action": "ping"}])


async def test_observer_sees_frames_without_their_signatures(scripted: Start) -> None:
    async def script(peer: Peer) -> None:
        await peer.greet()
        await peer.reply()
        await until_closed(peer)

    seen: list[tuple[Direction, Any]] = []
    async with (
        scripted(script) as gateway,
        client(gateway.url, signed=True, observe=lambda *frame: seen.append(frame)) as connected,
    ):
        await connected.command("ping")
    assert [(direction, frame.get("type")) for direction, frame in seen] == [
        (Direction.RECEIVED, "welcome"),
        (Direction.SENT, None),
        (Direction.RECEIVED, "reply"),
    ]
    assert seen[1][1] == {"id": 1, "action": "ping"}


# ---------------------------------------------------------------------------------------------- what must not pass


async def test_close_after_accept_tells_code_and_reason(scripted: Start) -> None:
    async def script(peer: Peer) -> None:
        await peer.socket.close(1008, "revoked_token")

    async with scripted(script) as gateway:
        with pytest.raises(ConnectionEndedError) as caught:
            await client(gateway.url).__aenter__()
    assert (caught.value.code, caught.value.reason) == (1008, "revoked_token")


async def test_client_closes_when_another_subprotocol_is_chosen(scripted: Start) -> None:
    async with scripted(until_closed, subprotocol="gateway.v1.json") as gateway:
        with pytest.raises(ProtocolViolationError):
            await client(gateway.url, signed=True).__aenter__()


async def test_client_refuses_a_first_frame_that_is_no_welcome(scripted: Start) -> None:
    async def script(peer: Peer) -> None:
        await peer.send({"type": "reply", "id": 1, "data": {}})
        await until_closed(peer)

    async with scripted(script) as gateway:
        with pytest.raises(ProtocolViolationError, match="does not hold"):
            await client(gateway.url).__aenter__()


async def welcome_signed_with_another_key(peer: Peer) -> None:
    await peer.greet(signing={"nonce": "A" * 43})  # signed for a nonce that is not the one told
    await until_closed(peer)


async def welcome_without_signature(peer: Peer) -> None:
    await peer.socket.send('{"type":"welcome","signing":{"nonce":"' + "A" * 43 + '"}}')
    await until_closed(peer)


async def welcome_without_nonce(peer: Peer) -> None:
    await peer.greet(signing=None)
    await until_closed(peer)


async def welcome_with_a_short_nonce(peer: Peer) -> None:
    await peer.greet(signing={"nonce": "AAAA"})
    await until_closed(peer)


async def welcome_in_binary(peer: Peer) -> None:
    await peer.socket.send(b"s1." + b"0" * 64 + b".{}")
    await until_closed(peer)


@pytest.mark.parametrize(
    "script",
    [
        welcome_signed_with_another_key,
        welcome_without_signature,
        welcome_without_nonce,
        welcome_with_a_short_nonce,
        welcome_in_binary,
    ],
)
async def test_client_trusts_no_welcome_that_is_not_signed_for_this_connection(scripted: Start, script: Script) -> None:
    async with scripted(script) as gateway:
        with pytest.raises(ProtocolViolationError):
            await client(gateway.url, signed=True).__aenter__()


async def replayed(peer: Peer) -> None:
    assert peer.signer is not None
    payload = peer.signer.sign(b'{"type":"direct","data":1,"sender":"bob","at":1.0}')
    await peer.socket.send(payload, text=True)
    await peer.socket.send(payload, text=True)


async def dropped(peer: Peer) -> None:
    assert peer.signer is not None
    peer.signer.sign(b"{}")
    await peer.send({"type": "direct", "data": 1, **AT})


async def altered(peer: Peer) -> None:
    assert peer.signer is not None
    payload = peer.signer.sign(b'{"type":"direct","data":1,"sender":"bob","at":1.0}')
    await peer.socket.send(payload.replace(b"bob", b"eve"), text=True)


async def unsigned(peer: Peer) -> None:
    await peer.socket.send('{"type":"direct","data":1,"sender":"bob","at":1.0}')


@pytest.mark.parametrize("attack", [replayed, dropped, altered, unsigned])
async def test_frame_that_fails_its_signature_closes_with_1008_and_never_comes_back(
    scripted: Start, attack: Script
) -> None:
    closes = []

    async def script(peer: Peer) -> None:
        await peer.greet()
        await attack(peer)
        await until_closed(peer)
        closes.append((peer.socket.close_code, peer.socket.close_reason))

    async with scripted(script) as gateway, client(gateway.url, signed=True) as connected:
        with pytest.raises(ProtocolViolationError, match="altered on its way"):
            await to_the_end(connected)
        with pytest.raises(ProtocolViolationError):
            await connected.command("ping")
    assert closes == [(1008, "signature_invalid")]
    assert gateway.connections == 1


@pytest.mark.parametrize("frame", ["not json", "[1]", '"x"', '{"type":"direct"}', b"\x80"])
async def test_frame_that_cannot_be_read_closes_with_1002(scripted: Start, frame: str | bytes) -> None:
    closes = []

    async def script(peer: Peer) -> None:
        await peer.greet()
        await peer.socket.send(frame)
        await until_closed(peer)
        closes.append(peer.socket.close_code)

    async with scripted(script) as gateway, client(gateway.url) as connected:
        with pytest.raises(ProtocolViolationError):
            await connected.command("ping")
    assert closes == [1002]


async def test_signed_connection_without_a_key_is_refused_before_it_is_made(scripted: Start) -> None:
    async with scripted(until_closed) as gateway:
        with pytest.raises(ProtocolViolationError, match="need a signing key"):
            await GatewayClient(gateway.url, TokenLogin(Tokens("t")), signed=True).__aenter__()
    assert gateway.connections == 0


@pytest.mark.parametrize("status", [HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.NOT_FOUND])
async def test_refused_upgrade_tells_its_status(scripted: Start, status: HTTPStatus) -> None:
    async with scripted(until_closed, refuse_with=[status]) as gateway:
        with pytest.raises(UpgradeRefusedError) as caught:
            await client(gateway.url).__aenter__()
    assert (caught.value.status, caught.value.retry_after_s) == (status, 0.0)


async def test_nobody_there_is_told_in_a_sentence(unused_tcp_port: int) -> None:
    with pytest.raises(UnreachableError, match="connection refused"):
        await client(f"http://127.0.0.1:{unused_tcp_port}").__aenter__()


async def test_certificates_are_checked_against_the_authority_that_was_named(scripted: Start, tmp_path: Path) -> None:
    async def script(peer: Peer) -> None:
        await peer.greet()
        await until_closed(peer)

    server, trusting = certified(tmp_path)
    async with scripted(script, tls=server) as gateway:
        async with client(gateway.url, tls=trusting) as connected:
            assert connected.welcome.subject == "alice"
        with pytest.raises(UnreachableError, match="certificate verify failed"):
            await client(gateway.url).__aenter__()


def test_representations_hold_no_secret() -> None:
    assert "the-token" not in repr(TOKENS)
    assert repr(SIGNING_KEY) not in repr(TOKENS)


# ---------------------------------------------------------------------------------------------- coming back


async def test_client_comes_back_and_recovers_what_it_missed_before_what_is_new(scripted: Start) -> None:
    async def before(peer: Peer) -> None:
        await peer.greet()
        await peer.reply({"epoch": "e", "offset": 4, "recovered": False, "messages": []}, action="channel.subscribe")
        await peer.send({"type": "message", "channel": "a", "data": 5, "offset": 5, "epoch": "e", **AT})
        await peer.send({"type": "draining", "reconnect_after_s": 0.0})
        await peer.socket.close(1001, "draining")

    async def after(peer: Peer) -> None:
        await peer.greet(session="s2")
        command = await peer.receive()
        assert command["data"] == {"recover": {"epoch": "e", "offset": 5}}
        missed = [{"offset": 6, "data": 6, **AT}, {"offset": 7, "data": 7, **AT}]
        reply = {"epoch": "e", "offset": 7, "recovered": True, "messages": missed}
        await peer.send({"type": "reply", "id": command["id"], "data": reply})
        await peer.send({"type": "message", "channel": "a", "data": 8, "offset": 8, "epoch": "e", **AT})
        await until_closed(peer)

    async with scripted(before, after) as gateway, client(gateway.url) as connected:
        await connected.subscribe("a")
        events = await take(connected.events(), 8)
        assert [event.data for event in events if isinstance(event, MessagePush)] == [5, 6, 7, 8]
        assert [event.offset for event in events if isinstance(event, MessagePush)] == [5, 6, 7, 8]
        (ended,) = [event for event in events if isinstance(event, Disconnected)]
        assert (str(ended.cause), ended.returns_after_s) == ("closed with 1001 draining", 0.0)
        assert connected.welcome.session == "s2"
        assert connected.subscriptions == ("a",)
    assert gateway.failures == []


async def test_gap_and_lost_subscription_are_told_and_never_silent(scripted: Start) -> None:
    async def before(peer: Peer) -> None:
        await peer.greet()
        for channel in ("a", "b"):
            await peer.reply({"epoch": "e", "offset": 1, "recovered": False, "messages": []}, channel=channel)
        await peer.socket.close(1011, "internal")

    async def after(peer: Peer) -> None:
        await peer.greet()
        await peer.reply({"epoch": "f", "offset": 9, "recovered": False, "messages": []}, channel="a")
        command = await peer.receive()
        await peer.send({"type": "error", "id": command["id"], "error": {"code": "permission_denied", "message": "no"}})
        await peer.send({"type": "unsubscribed", "channel": "a", "reason": "position_lost"})
        await peer.reply(
            {"epoch": "g", "offset": 2, "recovered": False, "messages": []},
            channel="a",
            data={"recover": {"epoch": "f", "offset": 9}},
        )
        await peer.send({"type": "unsubscribed", "channel": "a", "reason": "permission_revoked"})
        await until_closed(peer)

    async with scripted(before, after) as gateway, client(gateway.url) as connected:
        await connected.subscribe("a")
        await connected.subscribe("b")
        events = await take(connected.events(), 8)
        kinds = [type(event) for event in events]
        assert kinds[:4] == [Connected, Disconnected, Connected, Gap]
        assert kinds.count(Gap) == kinds.count(UnsubscribedPush) == 2
        assert kinds.count(SubscriptionLost) == 1
        assert connected.subscriptions == ()
    assert gateway.failures == []


async def test_subscribe_gives_what_was_missed_since_a_position(scripted: Start) -> None:
    async def script(peer: Peer) -> None:
        await peer.greet()
        await peer.reply(
            {"epoch": "e", "offset": 3, "recovered": True, "messages": [{"offset": 3, "data": "x", **AT}]},
            data={"recover": {"epoch": "e", "offset": 2}},
        )
        await until_closed(peer)

    async with scripted(script) as gateway, client(gateway.url) as connected:
        subscribed = await connected.subscribe("a", recover=Position("e", 2))
        assert subscribed.recovered
        assert [(message.channel, message.data) for message in subscribed.messages] == [("a", "x")]


@pytest.mark.parametrize("reason", ["session_revoked", "revoked_token", "protocol_abuse", "signature_invalid"])
async def test_client_stays_away_after_a_verdict(scripted: Start, reason: str) -> None:
    async def script(peer: Peer) -> None:
        await peer.greet()
        await peer.receive()
        await peer.socket.close(1008, reason)

    async with scripted(script) as gateway, client(gateway.url) as connected:
        with pytest.raises(ConnectionEndedError, match=reason):
            await connected.command("ping")
        with pytest.raises(ConnectionEndedError, match=reason):
            await to_the_end(connected)
        with pytest.raises(ConnectionEndedError, match=reason):
            await connected.command("ping")
    assert gateway.connections == 1


async def test_command_in_flight_fails_with_the_connection_and_later_ones_wait_for_the_next(scripted: Start) -> None:
    async def before(peer: Peer) -> None:
        await peer.greet()
        await peer.receive()
        peer.socket.transport.abort()

    async def after(peer: Peer) -> None:
        await peer.greet()
        await peer.reply({"n": 2})
        await until_closed(peer)

    async with scripted(before, after) as gateway, client(gateway.url) as connected:
        with pytest.raises(ConnectionEndedError, match="1006"):
            await connected.command("ping")
        assert await connected.command("ping") == {"n": 2}


async def test_refused_upgrade_while_coming_back_is_tried_again(scripted: Start) -> None:
    async def script(peer: Peer) -> None:
        await peer.greet()
        if gateway.connections == 1:
            gateway.refuse_with = [HTTPStatus.SERVICE_UNAVAILABLE]
            await peer.socket.close(1013, "connection_limit")
        await until_closed(peer)

    async with scripted(script) as gateway, client(gateway.url) as connected:
        events = await take(connected.events(), 4)
        assert [type(event) for event in events] == [Connected, Disconnected, Disconnected, Connected]


async def test_without_reconnect_the_first_close_is_the_end(scripted: Start) -> None:
    async def script(peer: Peer) -> None:
        await peer.greet()
        await peer.socket.close(1001)

    async with scripted(script) as gateway, client(gateway.url, reconnect=False) as connected:
        with pytest.raises(ConnectionEndedError, match="1001"):
            await to_the_end(connected)


async def test_ended_token_without_another_is_the_end_and_no_circle(scripted: Start) -> None:
    async def script(peer: Peer) -> None:
        await peer.greet()
        await peer.socket.close(1008, "expired_token")

    async with scripted(script) as gateway, client(gateway.url) as connected:
        with pytest.raises(LoginRefusedError, match="no other token"):
            await to_the_end(connected)
    assert gateway.connections == 1


async def test_events_that_nobody_reads_end_the_connection_and_say_so(
    scripted: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "MAX_EVENTS", 3)

    async def script(peer: Peer) -> None:
        await peer.greet()
        for number in range(4):
            await peer.send({"type": "broadcast", "data": number, **AT})
        await until_closed(peer)

    async with scripted(script) as gateway, client(gateway.url) as connected:
        with pytest.raises(PushesNotReadError):
            await connected.command("ping")
        with pytest.raises(PushesNotReadError):
            await to_the_end(connected)
    assert gateway.connections == 1


async def test_close_ends_the_events_without_an_error(scripted: Start) -> None:
    async def script(peer: Peer) -> None:
        await peer.greet()
        await until_closed(peer)

    async with scripted(script) as gateway:
        connected = client(gateway.url)
        await connected.__aenter__()
        await connected.close()
        assert [type(event) async for event in connected.events()] == [Connected]
        with contextlib.suppress(ConnectionEndedError):
            await connected.command("ping")
