"""`portcullis.js` in Node against the real gateway: what its scripted peer promises, the real one keeps."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from node_client import NodeClient, RejectedError, node_client
from running_gateway import RunningGateway, password, run_gateway
from secret_watch import SecretWatch

ROOM = "room:acme:1"
Start = Callable[..., Any]


async def present(gateway: RunningGateway, name: str) -> None:
    """Make one of the usual users, unless it is there."""
    if name in gateway.users:
        await gateway.add_user(name, gateway.users.pop(name))


@contextlib.asynccontextmanager
async def logged_in(gateway: RunningGateway, name: str, **options: object) -> AsyncIterator[NodeClient]:
    """Give a connected client of this user."""
    await present(gateway, name)
    async with node_client(url=gateway.url, **options) as client:
        await client.call("login", name, password(name))
        await client.call("connect")
        yield client


@pytest.mark.parametrize("options", [{}, {"signed": False}, {"credential": "subprotocol"}], ids=str)
async def test_two_clients_talk_and_see_each_other(gateway: RunningGateway, options: dict[str, object]) -> None:
    async with logged_in(gateway, "alice", **options) as alice, logged_in(gateway, "vera") as vera:
        assert (await alice.call("get", "session"))["subject"] == "alice"
        await vera.call("subscribe", ROOM)
        await alice.call("subscribe", ROOM)
        assert (await vera.event("presence"))["event"] == "join"
        published = await alice.call("publish", ROOM, {"text": "grüezi 🏰"})
        heard = await vera.event("message")
        assert (heard["sender"], heard["data"], heard["offset"]) == (
            "alice",
            {"text": "grüezi 🏰"},
            published["offset"],
        )
        assert (await vera.call("history", ROOM, {"limit": 1}))["messages"][0]["data"] == {"text": "grüezi 🏰"}
        members = (await vera.call("presence", ROOM))["members"]
        assert sorted(member["subject"] for member in members) == ["alice", "vera"]
        assert (await alice.call("send", "vera", [1])) == {"delivered": 1}
        assert (await vera.event("direct"))["data"] == [1]
        await alice.call("broadcast", "all")
        assert (await vera.event("broadcast"))["sender"] == "alice"
        assert await alice.call("unsubscribe", ROOM) == {}
        assert (await vera.event("presence"))["event"] == "leave"


async def test_refusals_carry_their_codes(gateway: RunningGateway) -> None:
    async with logged_in(gateway, "alice", signed=False) as alice:
        for method, arguments, code in (
            ("publish", ["room:acme:announcements", 1], "permission_denied"),
            ("subscribe", ["room:umbrella:1"], "permission_denied"),
            ("publish", ["signed:acme:1", 1], "signature_required"),
            ("publish", ["no channel", 1], "invalid_data"),
            ("request", ["no.such.action"], "unknown_action"),
        ):
            with pytest.raises(RejectedError, match=code):
                await alice.call(method, *arguments)
        for _ in range(2):
            await alice.call("publish", "rated:acme:1", 1)
        with pytest.raises(RejectedError, match="rate_limited") as limited:
            await alice.call("publish", "rated:acme:1", 1)
        assert limited.value.detail["retry_after_s"] > 0


async def test_what_a_rule_wants_signed_passes_when_signed(gateway: RunningGateway) -> None:
    async with logged_in(gateway, "alice") as alice:
        await alice.call("publish", "signed:acme:1", 1)


async def test_wrong_password_is_refused(gateway: RunningGateway) -> None:
    await present(gateway, "alice")
    async with node_client(url=gateway.url) as client:
        with pytest.raises(RejectedError, match="invalid_grant"):
            await client.call("login", "alice", "not the password")


async def test_batch_is_answered_in_full(gateway: RunningGateway) -> None:
    async with logged_in(gateway, "alice") as alice:
        answers = await alice.call("batch", [{"action": "ping"}, {"action": "no.such"}, {"action": "session.describe"}])
        assert answers[0] == {}
        assert answers[1]["error"]["code"] == "unknown_action"
        assert answers[2]["subject"] == "alice"


async def test_permissions_tell_what_a_page_may_offer(gateway: RunningGateway) -> None:
    async with logged_in(gateway, "vera") as vera:
        granted = {each["action"] for each in (await vera.call("permissions", ROOM))["actions"]}
        assert "channel.subscribe" in granted
        assert "channel.publish" not in granted


async def test_dropped_line_recovers_without_gap_or_duplicate(gateway: RunningGateway) -> None:
    bob = await gateway.peer("bob")
    async with logged_in(gateway, "alice", backoffFirstMs=300) as alice:
        await alice.call("subscribe", ROOM)
        await bob.do("channel.publish", ROOM, 1)
        await alice.event("message", offset=1)
        await alice.call("drop")
        for number in (2, 3):
            await bob.do("channel.publish", ROOM, number)
        resubscribed = await alice.event("resubscribed")
        assert resubscribed.pop("epoch")
        assert resubscribed == {"channel": ROOM, "recovered": True, "messages": 2, "offset": 3}
        await bob.do("channel.publish", ROOM, 4)
        await alice.event("message", offset=4)
        assert [event["data"] for event in alice.seen("message")] == [1, 2, 3, 4]


async def test_restart_is_survived_and_lost_history_is_told(tmp_path: Path, secret_watch: SecretWatch) -> None:
    async with contextlib.AsyncExitStack() as restarts:
        first = await restarts.enter_async_context(run_gateway(tmp_path, secret_watch))
        async with logged_in(first, "alice") as alice:
            await alice.call("subscribe", ROOM)
            await alice.call("publish", ROOM, 1)
            await restarts.aclose()
            assert "reconnect_after_s" in await alice.event("draining")
            assert (await alice.event("close"))["next"] == "told"
            await restarts.enter_async_context(run_gateway(tmp_path, secret_watch, users={}, port=first.port))
            assert (await alice.event("resubscribed"))["recovered"] is False
            assert await alice.call("publish", ROOM, 2) == {"offset": 1, "epoch": alice.seen("message")[-1]["epoch"]}


async def test_short_lived_token_is_renewed_again_and_again_on_one_connection(start: Start) -> None:
    gateway = await start(access_token_ttl_s="2")
    async with logged_in(gateway, "alice") as alice:
        for _ in range(2):
            await alice.event("renewed")
        assert await alice.call("ping") == {}
        assert alice.seen("close") == []


async def test_token_that_cannot_be_renewed_ends_with_expired_token(start: Start) -> None:
    gateway = await start(access_token_ttl_s="4")
    tokens = [{name: value for name, value in (await gateway.token("alice")).items() if name != "refresh_token"}]
    async with node_client(url=gateway.url, tokens=tokens, credential="subprotocol", reconnect=False) as client:
        await client.call("connect")
        close = await client.event("close")
        assert (close["code"], close["reason"], close["next"]) == (1008, "expired_token", "stop")


async def test_disabled_account_is_told_and_does_not_come_back(gateway: RunningGateway) -> None:
    async with logged_in(gateway, "alice") as alice:
        await gateway.gateway.identity.accounts.disable("alice")
        close = await alice.event("close")
        assert (close["code"], close["reason"], close["next"]) == (1008, "session_revoked", "stop")
        await alice.event("state", state="closed")


async def test_revoked_permission_ends_the_subscription(gateway: RunningGateway) -> None:
    async with logged_in(gateway, "alice") as alice:
        await alice.call("subscribe", ROOM)
        await gateway.gateway.identity.accounts.set_roles("alice", ["operator"])
        assert await alice.event("unsubscribed") == {
            "type": "unsubscribed",
            "channel": ROOM,
            "reason": "permission_revoked",
        }


async def test_full_server_is_tried_again_until_there_is_room(start: Start) -> None:
    gateway = await start(max_connections_per_user="1")
    first = await gateway.peer("alice")
    async with node_client(url=gateway.url) as client:
        await client.call("login", "alice", password("alice"))
        opening = client.start("connect")
        close = await client.event("close")
        assert (close["code"], close["reason"], close["next"]) == (1013, "connection_limit", "backoff")
        await first.socket.close()
        welcome = await asyncio.wait_for(opening, 15)
        assert welcome["type"] == "welcome"


async def test_silence_is_broken_by_a_ping_that_the_gateway_answers(start: Start) -> None:
    gateway = await start(heartbeat_s="1")
    async with logged_in(gateway, "alice", livenessGraceMs=50) as alice:
        while True:
            frame = await alice.event("frame", direction="out")
            if frame["content"]["action"] == "ping":
                break
        await alice.event("frame", direction="in")
        assert alice.seen("close") == []
