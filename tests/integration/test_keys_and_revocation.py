"""Rotated keys and revoked tokens on a running gateway: what its clients see of commands of another process."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from identity_kit import RecordedLog
from running_gateway import SECRET_KEY, RunningGateway, command
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from gateway.adapters.change_log import DatabaseChanges
from gateway.adapters.identity import Identity, TokenServices, open_identity, open_token_services
from gateway.core.errors import HandshakeRefusedError, Refusal
from gateway.runtime.null_metrics import NullMetrics
from gateway.runtime.ports import Change
from gateway.runtime.token_revocation import revoke_token


@asynccontextmanager
async def services(gateway: RunningGateway) -> AsyncIterator[TokenServices]:
    """Open what a command of another process opens."""
    async with open_token_services(
        gateway.gateway.settings.database_url,
        secret_key=SECRET_KEY,
        secret_key_previous=None,
        terms=gateway.gateway.identity.terms,
    ) as opened:
        yield opened


@asynccontextmanager
async def second_node(gateway: RunningGateway) -> AsyncIterator[Identity]:
    """Open the identity of another node over the same database; what it hears of it is up to the test."""
    async with open_identity(
        gateway.gateway.settings.database_url,
        frozenset,
        secret_key=SECRET_KEY,
        secret_key_previous=None,
        terms=gateway.gateway.identity.terms,
        password_grant=True,
        log=RecordedLog(),
        metrics=NullMetrics(),
    ) as identity:
        await identity.changes.poll(lambda _: None)
        yield identity


async def kids(gateway: RunningGateway) -> list[str]:
    return [key["kid"] for key in (await gateway.http.get("/.well-known/jwks.json")).json()["keys"]]


async def refused(gateway: RunningGateway, token: str = "", query: str = "") -> tuple[int, str]:
    """Connect with a credential that is no longer good; give the close."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    async with connect(f"{gateway.ws_url}{query}", additional_headers=headers) as socket:
        with pytest.raises(ConnectionClosed):
            await socket.recv()
        return socket.close_code or 0, socket.close_reason or ""


# ---------------------------------------------------------------------------------------------- keys


async def test_a_rotated_key_still_proves_its_tokens_and_stands_beside_the_new_one(gateway: RunningGateway) -> None:
    before = await gateway.token("alice")
    open_before = await gateway.peer("alice", answer=before)
    [old] = await kids(gateway)
    await command(gateway, "keys", "rotate")
    assert (await gateway.event("keys.changed"))["connections"] == 0
    both = await kids(gateway)
    assert (len(both), old in both) == (2, True)
    assert await open_before.do("ping") == {}
    again = await gateway.peer("alice", answer=before, signed=True)
    assert await again.do("ping") == {}
    fresh = await gateway.peer("alice", answer=await gateway.token("alice"), signed=True)
    assert await fresh.do("ping") == {}


async def test_a_dropped_key_takes_its_tokens_tickets_and_connections_along(gateway: RunningGateway) -> None:
    before = await gateway.token("alice")
    ticket = await gateway.ticket(before["access_token"])
    victim, signed = await gateway.peer("alice", answer=before), await gateway.peer("bob", signed=True)
    [old] = await kids(gateway)
    await command(gateway, "keys", "rotate", "--now")
    assert await victim.closed() == (1008, "revoked_token")
    assert await signed.closed() == (1008, "revoked_token")
    assert (await gateway.event("keys.changed"))["connections"] == 2
    assert await refused(gateway, before["access_token"]) == (1008, "invalid_token")
    assert await refused(gateway, query=f"?ticket={ticket}") == (1008, "revoked_token")
    assert old not in await kids(gateway)
    answer = await gateway.http.post("/ws/ticket", headers={"Authorization": f"Bearer {before['access_token']}"})
    assert (answer.status_code, answer.json()["error"]) == (401, "invalid_token")
    fresh = await gateway.peer("alice", signed=True)
    assert await fresh.do("ping") == {}
    assert await gateway.metric("gateway_revocation_seconds_count") == 1.0


async def test_a_retired_key_goes_when_its_tokens_have_ended_and_takes_no_refreshed_session_along(
    gateway: RunningGateway,
) -> None:
    refreshed, stale = await gateway.peer("alice"), await gateway.peer("bob")
    async with services(gateway) as other:
        await other.keys.rotate()
        await gateway.event("keys.changed", connections=0)
        await refreshed.do("session.refresh", None, {"token": (await gateway.token("alice"))["access_token"]})
        [retired] = [key for key in await other.keys.all() if not key.active]
        assert retired.kept_until is not None
    changes = DatabaseChanges(gateway.gateway.identity.database)
    await changes.prune(retired.kept_until - 0.1)
    assert retired.kid in await kids(gateway)
    await changes.prune(retired.kept_until + 0.1)
    # By then its token would have ended by itself: a session that still stands on it proves that the key is gone.
    assert await stale.closed() == (1008, "revoked_token")
    assert retired.kid not in await kids(gateway)
    assert await refreshed.do("ping") == {}


async def test_a_token_of_a_key_that_this_node_has_not_heard_of_yet_is_good(gateway: RunningGateway) -> None:
    await gateway.token("alice")
    async with second_node(gateway) as behind:
        async with services(gateway) as other:
            await other.keys.rotate()
        await gateway.event("keys.changed")
        fresh = await gateway.token("alice")
        proven = await behind.credentials.verify_token(fresh["access_token"], gateway.gateway.node.clock())
        assert proven.principal.subject == "alice"


async def test_a_dropped_key_is_dropped_on_every_node(gateway: RunningGateway) -> None:
    token = (await gateway.token("alice"))["access_token"]
    async with second_node(gateway) as behind:
        now = gateway.gateway.node.clock()
        ticket = (await behind.credentials.issue_ticket(token, None, now)).ticket
        principal = (await behind.credentials.verify_token(token, now)).principal
        await command(gateway, "keys", "rotate", "--now")
        assert not behind.credentials.is_revoked(principal), "not heard yet"
        heard: list[Change] = []
        await behind.changes.poll(heard.append)
        assert [change.kind.value for change in heard] == ["keys"]
        assert behind.credentials.is_revoked(principal)
        with pytest.raises(HandshakeRefusedError) as unknown:
            await behind.credentials.verify_token(token, now)
        assert unknown.value.refusal is Refusal.INVALID_TOKEN
        with pytest.raises(HandshakeRefusedError) as gone:
            await behind.credentials.redeem_ticket(ticket, None, now)
        assert gone.value.refusal is Refusal.REVOKED_TOKEN


# ---------------------------------------------------------------------------------------------- single tokens


async def test_a_revoked_token_closes_its_connections_and_opens_no_more(gateway: RunningGateway) -> None:
    stolen, other = await gateway.token("alice"), await gateway.token("alice")
    ticket = await gateway.ticket(stolen["access_token"])
    victim, elsewhere = await gateway.peer("alice", answer=stolen), await gateway.peer("alice", answer=other)
    await command(gateway, "token", "revoke", stdin=f"{stolen['access_token']}\n")
    assert await victim.closed() == (1008, "revoked_token")
    assert await refused(gateway, stolen["access_token"]) == (1008, "revoked_token")
    assert await refused(gateway, query=f"?ticket={ticket}") == (1008, "revoked_token")
    assert await elsewhere.do("ping") == {}
    told = await gateway.event("token.revoked", subject="alice")
    assert (told["reason"], told["connections"], told["issuer"]) == ("token_revoked", 1, gateway.url)
    await command(gateway, "token", "revoke", stdin=stolen["access_token"])
    assert await gateway.metric("gateway_revocation_seconds_count") == 1.0


async def test_a_token_is_revoked_by_its_name_alone(gateway: RunningGateway) -> None:
    answer = await gateway.token("alice")
    victim = await gateway.peer("alice", answer=answer)
    [jti] = [c.principal.token.jti for c in gateway.gateway.node.connections()]
    await command(gateway, "token", "revoke", "--jti", jti, public_url=gateway.url)
    assert await victim.closed() == (1008, "revoked_token")
    assert await refused(gateway, answer["access_token"]) == (1008, "revoked_token")
    assert (await gateway.event("token.revoked"))["jti"] == jti


async def test_a_session_refreshed_with_another_token_goes_by_that_one(gateway: RunningGateway) -> None:
    first, second = await gateway.token("alice"), await gateway.token("alice")
    peer = await gateway.peer("alice", answer=first)
    await peer.do("session.refresh", None, {"token": second["access_token"]})
    async with services(gateway) as other:
        await revoke_token(other.tokens, other.revocations, first["access_token"], gateway.gateway.node.clock())
        await gateway.event("token.revoked", connections=0)
        assert await peer.do("ping") == {}
        await revoke_token(other.tokens, other.revocations, second["access_token"], gateway.gateway.node.clock())
    assert await peer.closed() == (1008, "revoked_token")


async def test_each_change_of_an_account_is_told_once_with_the_connections_it_touches(gateway: RunningGateway) -> None:
    alice = await gateway.peer("alice")
    accounts = gateway.gateway.identity.accounts
    await accounts.set_roles("alice", ["viewer"])
    changed = await gateway.event("account.changed", subject="alice")
    assert (changed["roles"], changed["connections"]) == (["viewer"], 1)
    await accounts.disable("alice")
    assert await alice.closed() == (1008, "session_revoked")
    ended = await gateway.event("account.ended", subject="alice")
    assert (ended["connections"], len(gateway.events("account.ended"))) == (1, 1)
    assert await gateway.metric("gateway_revocation_seconds_count") == 2.0


async def test_a_node_whose_secret_is_no_longer_the_keys_own_trusts_nothing_and_hears_on(
    gateway: RunningGateway,
) -> None:
    answer = await gateway.token("alice")
    alice = await gateway.peer(answer=answer)
    await gateway.token("bob")
    async with open_token_services(
        gateway.gateway.settings.database_url,
        secret_key="another secret of thirty-two bytes or more",
        secret_key_previous=SECRET_KEY,
        terms=gateway.gateway.identity.terms,
    ) as elsewhere:
        await elsewhere.keys.rotate()
        assert await alice.closed() == (1008, "revoked_token")
    down = await gateway.event("database.down")
    assert "another secret" in down["detail"]
    form = {"grant_type": "password", "username": "bob", "password": "correct horse battery bob"}
    assert (await gateway.http.post("/token", data=form)).status_code == 503
    assert (await gateway.http.get("/healthz")).status_code == 200
