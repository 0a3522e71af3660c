"""What happens to open connections: expiry, refresh, revocation, roles, policies, silence, slowness, limits, drain."""

from __future__ import annotations

import asyncio
import socket
import time

import pytest
from road import Road
from running_gateway import PASSWORD, POLICY, WAIT_S, RunningGateway, Start
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from gateway.compose import Extension
from gateway.core.accounts import AccountKind
from gateway.core.commands import ActionSpec, ChannelUse
from gateway.core.errors import CommandError, ErrorCode
from gateway.runtime.extensions import ActionHandler, Invocation

ROOM = "room:acme:1"


# ------------------------------------------------------------------------------------------------- time


async def test_a_session_is_told_that_it_expires_and_closed_when_it_has(start: Start) -> None:
    gateway = await start(access_token_ttl_s="4")
    alice = await gateway.peer("alice")
    expiring = await alice.push("expiring")
    assert expiring["expires_at"] == alice.welcome["expires_at"]
    assert await alice.closed() == (1008, "expired_token")
    assert time.time() >= alice.welcome["expires_at"]


async def test_a_refreshed_session_lives_as_long_as_its_new_token(start: Start) -> None:
    gateway = await start(access_token_ttl_s="4")
    alice = await gateway.peer("alice", signed=True)
    await alice.push("expiring")
    async with asyncio.timeout(10):
        newer = await gateway.token("alice")
        while True:
            refreshed = await alice.do("session.refresh", None, {"token": newer["access_token"]})
            if refreshed["expires_at"] > alice.welcome["expires_at"]:
                break
            newer = await gateway.token("alice")
    assert (await alice.do("session.describe"))["expires_at"] == refreshed["expires_at"]
    await asyncio.sleep(max(0.0, alice.welcome["expires_at"] - time.time()) + 0.3)
    assert await alice.do("ping") == {}


async def test_the_token_of_somebody_else_does_not_refresh_a_session(gateway: RunningGateway) -> None:
    alice = await gateway.peer("alice")
    other = await gateway.token("bob")
    assert await alice.refused("session.refresh", None, {"token": other["access_token"]}) == "permission_denied"
    assert await alice.refused("session.refresh", None, {"token": "x.y.z"}) == "invalid_data"
    described = await alice.do("session.describe")
    assert (described["subject"], described["expires_at"]) == ("alice", alice.welcome["expires_at"])


async def test_a_refresh_reads_the_roles_anew_and_holds_subscriptions_against_them(gateway: RunningGateway) -> None:
    alice = await gateway.peer("alice")
    await alice.do("channel.subscribe", "plain:acme:1")
    narrow = await gateway.token("alice", scope="member")
    await gateway.add_user("carl", "viewer", "member")
    carl = await gateway.peer("carl")
    await carl.do("channel.subscribe", "plain:acme:1")
    narrow = await gateway.token("carl", scope="viewer")
    await carl.do("session.refresh", None, {"token": narrow["access_token"]})
    assert (await carl.push("unsubscribed")) == {
        "type": "unsubscribed",
        "channel": "plain:acme:1",
        "reason": "permission_revoked",
    }
    assert await carl.refused("channel.publish", ROOM, 1) == "permission_denied"


async def by_hand(gateway: RunningGateway) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Connect a client that answers no ping by itself."""
    answer = await gateway.token("alice")
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write(
        f"GET /ws HTTP/1.1\r\nHost: 127.0.0.1:{gateway.port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
        f"Authorization: Bearer {answer['access_token']}\r\n\r\n".encode()
    )
    return reader, writer


@pytest.mark.slow
async def test_a_silent_client_is_pinged_and_closed_after_ten_seconds(start: Start) -> None:
    gateway = await start(heartbeat_s="0.2")
    reader, writer = await by_hand(gateway)
    # On plain ASGI the pings are the server's, which tells nobody why it has ended a connection: it counts as one without a code.
    ping, reason, told = {
        Road.WIRE: (b"\x89\x00", b"ping_timeout", (1011, "ping_timeout")),
        Road.PLAIN_ASGI: (b"\x89\x04", b"keepalive ping timeout", (1005, "")),
    }[gateway.road]
    began = time.monotonic()
    async with asyncio.timeout(20):
        received = await reader.read(-1)
    assert received.count(ping) == 1
    assert received.endswith(b"\x03\xf3" + reason)
    assert time.monotonic() - began >= 10
    writer.close()
    line = await gateway.event("connection.closed")
    assert (line["code"], line.get("reason", "")) == told
    assert await gateway.metric("gateway_connections") == 0


async def test_a_client_that_answers_pings_stays(start: Start) -> None:
    """Whoever is silent gets one ping and no other, as above."""
    gateway = await start(heartbeat_s="0.1")
    reader, writer = await by_hand(gateway)
    async with asyncio.timeout(WAIT_S):
        for _ in range(4):
            await reader.readuntil(b"\x89")
            payload = await reader.readexactly((await reader.readexactly(1))[0])
            writer.write(bytes((0x8A, 0x80 | len(payload), 0, 0, 0, 0)) + payload)
    writer.close()
    await writer.wait_closed()


# ------------------------------------------------------------------------------------------------- revocation


@pytest.mark.parametrize("how", ["disable", "delete", "set_password"])
async def test_an_ended_account_closes_its_connections(gateway: RunningGateway, how: str) -> None:
    answer = await gateway.token("alice")
    alice, bob = await gateway.peer(answer=answer), await gateway.peer("bob")
    accounts = gateway.gateway.identity.accounts
    match how:
        case "disable":
            await accounts.disable("alice")
        case "delete":
            await accounts.delete("alice", AccountKind.USER)
        case _:
            await accounts.set_password("alice", PASSWORD.format(name="new"))
    assert await alice.closed() == (1008, "session_revoked")
    assert await bob.do("ping") == {}
    async with connect(
        gateway.ws_url, additional_headers={"Authorization": f"Bearer {answer['access_token']}"}
    ) as again:
        with pytest.raises(ConnectionClosed):
            await again.recv()
        assert (again.close_code, again.close_reason) == (1008, "revoked_token")
    assert await gateway.metric("gateway_revocation_seconds_count") == 1
    assert await gateway.metric("gateway_connection_attempts_total", outcome="revoked_token") == 1


async def test_changed_roles_are_decided_again_on_open_connections(gateway: RunningGateway) -> None:
    alice = await gateway.peer("alice")
    await alice.do("channel.subscribe", "plain:acme:1")
    await alice.do("channel.subscribe", ROOM)
    await gateway.gateway.identity.accounts.set_roles("alice", ["viewer"])
    push = await alice.push("unsubscribed")
    assert push == {"type": "unsubscribed", "channel": "plain:acme:1", "reason": "permission_revoked"}
    assert (await alice.do("session.describe"))["subscriptions"] == [ROOM]
    assert (await alice.do("session.describe"))["roles"] == ["viewer"]
    assert await alice.refused("channel.publish", ROOM, 1) == "permission_denied"


async def test_the_reuse_of_a_refresh_token_closes_the_connections_of_its_family(gateway: RunningGateway) -> None:
    first = await gateway.token("alice")
    other = await gateway.peer(answer=await gateway.token("alice"))
    alice = await gateway.peer(answer=first)

    async def refresh(token: str) -> dict[str, str]:
        form = {"grant_type": "refresh_token", "refresh_token": token}
        response = await gateway.http.post("/token", data=form)
        return gateway.keep(response.json())

    second = await refresh(first["refresh_token"])
    await refresh(second["refresh_token"])
    assert (await refresh(first["refresh_token"]))["error"] == "invalid_grant"
    assert await alice.closed() == (1008, "revoked_token")
    assert await other.do("ping") == {}


async def test_a_changed_policy_counts_at_once_and_ends_what_it_forbids(gateway: RunningGateway) -> None:
    alice = await gateway.peer("alice")
    await alice.do("channel.subscribe", ROOM)
    await alice.do("channel.subscribe", "plain:acme:1")
    old = gateway.gateway.node.policy.version
    gateway.policy_file.write_text(POLICY.replace('"plain:{tenant}:*"', '"other:{tenant}:*"'))
    push = await alice.push("unsubscribed")
    assert push["channel"] == "plain:acme:1"
    assert await alice.refused("channel.publish", "plain:acme:1", 1) == "permission_denied"
    assert await alice.do("channel.publish", ROOM, 1)
    line = await gateway.event("policy.reloaded")
    assert line["policy"] != old
    assert await gateway.metric("gateway_policy_info", version=line["policy"]) == 1
    assert await gateway.metric("gateway_policy_reloads_total", outcome="ok") == 1


async def test_a_broken_policy_is_refused_whole_and_the_last_good_one_stays(gateway: RunningGateway) -> None:
    alice = await gateway.peer("alice")
    version = gateway.gateway.node.policy.version
    gateway.policy_file.write_text(POLICY.replace("inherits: [viewer]", "inherit: [viewer]"))
    line = await gateway.event("policy.refused")
    assert "policy.yaml" in str(line)
    assert "inherit" in str(line)
    assert gateway.gateway.node.policy.version == version
    assert await alice.do("channel.publish", ROOM, 1)
    assert await gateway.metric("gateway_policy_reloads_total", outcome="error") == 1


async def test_presence_that_a_policy_begins_or_ends_counts_for_who_is_there_already(gateway: RunningGateway) -> None:
    alice, vera = await gateway.peer("alice"), await gateway.peer("vera")
    await vera.do("channel.subscribe", ROOM)
    await alice.do("channel.subscribe", ROOM)
    assert (await vera.push("presence"))["event"] == "join"
    gateway.policy_file.write_text(POLICY.replace("presence: true", "presence: false"))
    assert (await vera.push("presence")) == {"type": "presence", "channel": ROOM, "event": "leave", "subject": "alice"}
    assert await vera.do("channel.presence", ROOM) == {"members": []}
    gateway.policy_file.write_text(POLICY)
    assert (await vera.push("presence"))["event"] == "join"
    assert len((await vera.do("channel.presence", ROOM))["members"]) == 2


# ------------------------------------------------------------------------------------------------- limits


@pytest.mark.parametrize("limit", ["max_connections", "max_connections_per_user", "max_connections_per_address"])
async def test_a_connection_beyond_a_limit_loses(start: Start, limit: str) -> None:
    gateway = await start(**{limit: "2"})
    answer = await gateway.token("alice")
    first, _ = await gateway.peer(answer=answer), await gateway.peer(answer=answer)
    async with connect(
        gateway.ws_url, additional_headers={"Authorization": f"Bearer {answer['access_token']}"}
    ) as third:
        with pytest.raises(ConnectionClosed):
            await third.recv()
        assert (third.close_code, third.close_reason) == (1013, "connection_limit")
    assert await gateway.metric("gateway_connection_attempts_total", outcome="connection_limit") == 1
    await first.socket.close()
    await gateway.event("connection.closed")
    assert await (await gateway.peer(answer=answer)).do("ping") == {}


async def test_a_flood_from_an_address_is_refused_before_the_upgrade(start: Start) -> None:
    gateway = await start(handshakes_per_s="0.1")  # one at once, the next in ten seconds
    alice = await gateway.peer("alice")
    answer = await gateway.token("alice")
    for _ in range(2):
        with pytest.raises(InvalidStatus) as refused:
            await connect(gateway.ws_url, additional_headers={"Authorization": f"Bearer {answer['access_token']}"})
        assert (refused.value.response.status_code, refused.value.response.headers["retry-after"]) == (429, "10")
    assert await gateway.metric("gateway_connection_attempts_total", outcome="flood") == 2
    assert await alice.do("ping") == {}


async def test_a_slow_consumer_is_cut_off_and_hurts_nobody_else(start: Start) -> None:
    gateway = await start(send_buffer_bytes="200000", commands_per_s="10000")
    alice, vera = await gateway.peer("alice"), await gateway.peer("vera")
    await vera.do("channel.subscribe", ROOM)
    answer = await gateway.token("bob")
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port, limit=1024)
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    writer.write(
        f"GET /ws HTTP/1.1\r\nHost: 127.0.0.1:{gateway.port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
        f"Authorization: Bearer {answer['access_token']}\r\n\r\n".encode()
    )
    await reader.readuntil(b"\r\n\r\n")
    subscribe = b'{"id":1,"action":"channel.subscribe","channel":"room:acme:1"}'
    writer.write(bytes([0x81, 0x80 | len(subscribe), 0, 0, 0, 0]) + subscribe)
    assert (await vera.push("presence"))["subject"] == "bob"
    writer.transport.pause_reading()
    for n in range(600):
        await alice.do("channel.publish", ROOM, "x" * 30_000)
        assert (await vera.push("message"))["offset"] == n + 1
        if await gateway.metric("gateway_slow_consumers_total"):
            break
    assert await gateway.metric("gateway_slow_consumers_total") == 1
    line = await gateway.event("connection.closed", subject="bob")
    assert (line["code"], line["reason"]) == (1013, "slow_consumer")
    writer.transport.abort()


async def test_one_answer_holds_at_most_half_of_the_send_buffer(start: Start) -> None:
    gateway = await start(send_buffer_bytes="100000")
    alice = await gateway.peer("alice")
    for n in range(20):
        await alice.do("channel.publish", ROOM, f"{n:010000}")
    newest = await alice.do("channel.history", ROOM)
    assert 1 < len(newest["messages"]) <= 5
    assert newest["messages"][-1]["offset"] == 20
    oldest = await alice.do("channel.history", ROOM, {"after": 0})
    assert [m["offset"] for m in oldest["messages"]][:2] == [1, 2]
    too_much = await alice.do("channel.subscribe", ROOM, {"recover": {"epoch": newest["epoch"], "offset": 1}})
    assert (too_much["recovered"], too_much["messages"]) == (False, [])
    enough = await alice.do("channel.subscribe", ROOM, {"recover": {"epoch": newest["epoch"], "offset": 18}})
    assert (enough["recovered"], len(enough["messages"])) == (True, 2)


# ------------------------------------------------------------------------------------------------- extensions


async def _create(invocation: Invocation) -> object:
    return {"created": invocation.data, "by": invocation.principal.subject}


async def _refuse(_invocation: Invocation) -> object:
    raise CommandError(ErrorCode.UNAVAILABLE, "closed today")


async def _fail(_invocation: Invocation) -> object:
    raise RuntimeError("hunter2")


async def _hang(_invocation: Invocation) -> object:
    await asyncio.Event().wait()
    return None


EXTENSIONS = tuple(
    Extension(ActionSpec(f"orders.{name}", ChannelUse.NONE, None), ActionHandler(handle, timeout_s))
    for name, handle, timeout_s in [
        ("create", _create, 10.0),
        ("refuse", _refuse, 10.0),
        ("fail", _fail, 10.0),
        ("hang", _hang, 0.05),
    ]
)


async def test_registered_handlers_answer_and_their_failures_have_codes(start: Start) -> None:
    gateway = await start(extensions=EXTENSIONS)
    alice = await gateway.peer("alice")
    assert await alice.do("orders.create", None, 5) == {"created": 5, "by": "alice"}
    assert await alice.refused("orders.refuse", None, 1) == "unavailable"
    assert await alice.refused("orders.hang", None, 1) == "timeout"
    failed = await alice.ask("orders.fail", None, 1)
    assert failed["error"] == {"code": "internal", "message": "the action has failed"}
    assert await alice.do("ping") == {}
    await gateway.event("command.failed", action="orders.fail")
    for action, outcome in (("orders.create", "ok"), ("orders.hang", "timeout"), ("orders.fail", "internal")):
        assert await gateway.metric("gateway_commands_total", action=action, outcome=outcome) == 1


async def test_an_id_in_flight_is_refused_over_the_wire(start: Start) -> None:
    gateway = await start(extensions=EXTENSIONS)
    alice = await gateway.peer("alice")
    await alice.send({"id": 5, "action": "orders.hang", "data": 1})
    await alice.send({"id": 5, "action": "ping"})
    assert (await alice.answer(5))["error"]["code"] == "bad_frame"
    assert (await alice.answer(5))["error"]["code"] == "timeout"


async def test_more_commands_than_may_be_in_flight_wait_their_turn(start: Start) -> None:
    gateway = await start(extensions=EXTENSIONS, commands_per_s="1000")
    alice = await gateway.peer("alice")
    for n in range(200):
        await alice.send({"id": n + 1, "action": "orders.hang", "data": n})
    codes = [(await alice.frame())["error"]["code"] for _ in range(200)]
    assert codes == ["timeout"] * 200
    assert await alice.do("ping") == {}


# ------------------------------------------------------------------------------------------------- drain


async def test_a_drain_sends_each_client_away_with_a_time_to_come_back(start: Start) -> None:
    gateway = await start(drain_s="1")
    answer = await gateway.token("alice")
    peers = [await gateway.peer(answer=answer) for _ in range(5)]
    stopping = asyncio.create_task(gateway.stop())
    drains = [await peer.push("draining") for peer in peers]
    assert len({push["reconnect_after_s"] for push in drains}) > 1
    assert all(0.5 <= push["reconnect_after_s"] <= 2 for push in drains)
    for peer in peers:
        assert await peer.closed() == (1001, "draining")
    await stopping
    assert (await gateway.event("server.draining"))["connections"] == 5


async def test_while_draining_nobody_new_is_taken_and_readiness_is_off(start: Start) -> None:
    gateway = await start(drain_s="2", extensions=EXTENSIONS)
    answer = await gateway.token("alice")
    peers = [await gateway.peer(answer=answer) for _ in range(2)]
    assert (await gateway.http.get("/readyz")).status_code == 200
    stopping = asyncio.create_task(gateway.stop())
    await gateway.event("server.draining")
    ready = await gateway.http.get("/readyz")
    assert (ready.status_code, ready.json()["status"]) == (503, "draining")
    assert (await gateway.http.get("/healthz")).status_code == 200
    response = await gateway.http.get(
        "/ws",
        headers={
            "Upgrade": "websocket",
            "Connection": "Upgrade",
            "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
        },
    )
    assert (response.status_code, response.headers["retry-after"]) == (503, "1")
    assert await gateway.metric("gateway_connection_attempts_total", outcome="draining") == 1
    for peer in peers:
        assert (await peer.closed())[0] == 1001
    await stopping
