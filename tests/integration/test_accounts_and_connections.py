"""What account commands and refused tokens do to open connections: a real gateway, real sockets, commands of another process."""

from __future__ import annotations

import asyncio

from running_gateway import RunningGateway, command, password

NEW_PASSWORD = "a new and better password"


async def test_a_command_of_another_process_ends_the_connections_of_a_disabled_user(gateway: RunningGateway) -> None:
    alice, bob = await gateway.peer("alice"), await gateway.peer("bob")
    await command(gateway, "users", "disable", "alice")
    assert await alice.closed() == (1008, "session_revoked")
    assert await bob.do("ping") == {}
    assert await gateway.metric("gateway_revocation_seconds_bucket", le="1.0") == 1


async def test_a_right_that_another_process_has_taken_ends_an_open_subscription_within_a_second(
    gateway: RunningGateway,
) -> None:
    alice, bob = await gateway.peer("alice"), await gateway.peer("bob")
    for peer in (alice, bob):
        await peer.do("channel.subscribe", "plain:acme:1")
    await command(gateway, "users", "set-roles", "alice", "--role", "viewer")
    assert (await alice.push("unsubscribed"))["reason"] == "permission_revoked"
    await bob.do("channel.publish", "plain:acme:1", "of this alice hears nothing")
    assert (await bob.push("message"))["data"] == "of this alice hears nothing"
    await alice.do("ping")
    assert alice.pushes == []
    # From the commit to the connections, as the gateway itself has measured it.
    assert await gateway.metric("gateway_revocation_seconds_bucket", le="1.0") == 1


async def test_a_command_of_another_process_changes_what_an_open_connection_may_do(gateway: RunningGateway) -> None:
    vera = await gateway.peer("vera")
    refused = await vera.ask("channel.publish", "room:acme:1", {"text": "hi"})
    assert refused["error"]["code"] == "permission_denied"
    await command(gateway, "users", "set-roles", "vera", "--role", "member")
    await asyncio.sleep(1.0)  # by then it must have been told
    await vera.do("channel.publish", "room:acme:1", {"text": "hi"})


async def test_who_logs_in_right_after_a_new_password_stays(gateway: RunningGateway) -> None:
    before = await gateway.peer("alice")
    await gateway.gateway.identity.accounts.set_password("alice", NEW_PASSWORD)
    form = {"grant_type": "password", "username": "alice", "password": NEW_PASSWORD}
    answer = gateway.keep((await gateway.http.post("/token", data=form)).json())
    after = await gateway.peer("alice", answer=answer)
    assert await before.closed() == (1008, "session_revoked")
    await asyncio.sleep(0.5)  # two more readings of the change table
    assert await after.do("ping") == {}


async def test_a_reused_refresh_token_closes_the_connections_of_its_family_and_no_others(
    gateway: RunningGateway,
) -> None:
    stolen, other = await gateway.token("alice"), await gateway.token("alice")
    victim, elsewhere = await gateway.peer("alice", answer=stolen), await gateway.peer("alice", answer=other)

    async def refresh(token: str) -> int:
        form = {"grant_type": "refresh_token", "refresh_token": token}
        response = await gateway.http.post("/token", data=form)
        if response.status_code == 200:
            gateway.keep(response.json())
        return response.status_code

    assert [await refresh(stolen["refresh_token"]) for _ in range(3)] == [200, 200, 400]
    assert await victim.closed() == (1008, "revoked_token")
    assert await elsewhere.do("ping") == {}
    assert await refresh(other["refresh_token"]) == 200
    revoked = await gateway.event("token.revoked", subject="alice")
    assert revoked["reason"] == "refresh_token_reused"
    assert await gateway.metric("gateway_token_failures_total", grant="refresh_token", reason="invalid_grant") == 1.0


async def test_a_narrowed_connection_never_gets_roles_beyond_its_scope(gateway: RunningGateway) -> None:
    await gateway.add_user("nora", "viewer", "member")
    narrowed = await gateway.peer("nora", answer=await gateway.token("nora", scope="viewer"))
    assert narrowed.welcome["roles"] == ["viewer"]
    await gateway.gateway.identity.accounts.set_roles("nora", ["moderator", "viewer"])
    await asyncio.sleep(1.0)  # by then it must have been told
    whole = await gateway.peer("nora", answer=await gateway.token("nora"))
    assert whole.welcome["roles"] == ["moderator", "viewer"]
    assert (await narrowed.do("session.describe"))["roles"] == ["viewer"]


async def test_logins_are_counted_logged_and_refused_by_the_clients_address(gateway: RunningGateway) -> None:
    await gateway.token("alice")
    for _ in range(5):
        form = {"grant_type": "password", "username": "alice", "password": f"not {password('alice')}"}
        assert (await gateway.http.post("/token", data=form)).status_code == 400
    slow = await gateway.http.post("/token", data=form)
    assert (slow.status_code, slow.json()["error"], slow.headers["retry-after"]) == (429, "slow_down", "1")
    assert await gateway.metric("gateway_tokens_issued_total", grant="password") == 1.0
    assert await gateway.metric("gateway_token_failures_total", grant="password", reason="invalid_grant") == 5.0
    assert await gateway.metric("gateway_token_failures_total", grant="password", reason="slow_down") == 1.0
    refused = await gateway.event("token.refused", reason="slow_down")
    assert (refused["subject"], refused["remote_addr"], refused["grant"]) == ("alice", "127.0.0.1", "password")
    assert (await gateway.event("token.issued"))["tenant"] == "acme"
