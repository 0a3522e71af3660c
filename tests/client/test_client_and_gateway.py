"""The client against the real gateway: what both believe of the protocol is the same."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from typing import Any

import httpx
import pytest
from running_gateway import RunningGateway, password

from gateway.client import (
    Authorization,
    CommandRefusedError,
    Connected,
    ConnectionEndedError,
    Direction,
    Disconnected,
    Event,
    Gap,
    GatewayClient,
    LoginRefusedError,
    PasswordLogin,
    ServiceLogin,
    Subscribed,
    UnreachableError,
)
from gateway.core.frames import BroadcastPush, DirectPush, MessagePush, PresencePush, UnsubscribedPush

Start = Callable[..., Any]
ROOM = "room:acme:1"
WAIT_S = 20


async def client(gateway: RunningGateway, name: str, **settings: Any) -> GatewayClient:  # noqa: ANN401 - whatever it takes
    if name in gateway.users:
        await gateway.add_user(name, gateway.users.pop(name))
    return GatewayClient(gateway.url, PasswordLogin(name, password(name)), **settings)


async def until(events: AsyncIterator[Event], kind: type[Any]) -> Any:  # noqa: ANN401 - of that kind
    async with asyncio.timeout(WAIT_S):
        async for event in events:
            if isinstance(event, kind):
                return event
    raise AssertionError


@pytest.mark.parametrize("ticket", [False, True])
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("encoding", ["json", "msgpack"])
async def test_two_clients_talk_in_every_way_to_connect(
    start: Start,
    encoding: str,
    signed: bool,  # noqa: FBT001 - a parameter of the test
    ticket: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    gateway = await start()
    way = {"encoding": encoding, "signed": signed, "ticket": ticket}
    async with await client(gateway, "alice", **way) as alice, await client(gateway, "bob", **way) as bob:
        subscribed = await alice.subscribe(ROOM)
        assert subscribed == Subscribed(subscribed.position, recovered=False, messages=())
        await bob.subscribe(ROOM)
        events = alice.events()
        assert (await until(events, PresencePush)).subject == "bob"
        published = await bob.publish(ROOM, {"text": "grüß dich"})
        message = await until(events, MessagePush)
        assert published is not None
        assert (message.data, message.sender, message.offset) == ({"text": "grüß dich"}, "bob", published.offset)
        assert await bob.send("alice", [1]) == 1
        assert (await until(events, DirectPush)).data == [1]
        await bob.broadcast(None)
        assert (await until(events, BroadcastPush)).data is None
        assert await alice.presence(ROOM) == {"alice": 1, "bob": 1}
        assert (await alice.history(ROOM, limit=1))["messages"][0]["data"] == {"text": "grüß dich"}
        await alice.unsubscribe(ROOM)
        with pytest.raises(CommandRefusedError, match="permission_denied"):
            await alice.publish("room:umbrella:1", 1)


async def test_client_renews_short_tokens_and_stays_connected(start: Start) -> None:
    gateway = await start(access_token_ttl_s="2")
    renewals: asyncio.Queue[object] = asyncio.Queue()

    def observe(direction: Direction, frame: Any) -> None:  # noqa: ANN401 - any frame
        if direction is Direction.SENT and frame["action"] == "session.refresh":
            renewals.put_nowait(frame)

    async with await client(gateway, "alice", signed=True, observe=observe) as alice:
        first = alice.tokens
        async with asyncio.timeout(WAIT_S):
            await renewals.get()
            await renewals.get()  # two lives on, still the first connection
        assert alice.tokens != first
        assert (await alice.command("session.describe"))["expires_at"] > alice.welcome.expires_at
        assert not any(isinstance(event, Disconnected) for event in await _so_far(alice))


async def _so_far(connected: GatewayClient) -> list[Event]:
    """Give the events that are there already."""
    async with aclosing(connected.events()) as events:
        return [await anext(events) for _ in range(connected._events.qsize())]


async def test_ended_account_ends_the_client_for_good(start: Start) -> None:
    gateway = await start()
    async with await client(gateway, "alice") as alice:
        await gateway.gateway.identity.accounts.disable("alice")
        with pytest.raises(ConnectionEndedError, match="1008 session_revoked"):
            await until(alice.events(), Disconnected)
        with pytest.raises(ConnectionEndedError, match="1008 session_revoked"):
            await alice.command("ping")


async def test_changed_roles_end_a_subscription_with_an_event(start: Start) -> None:
    gateway = await start()
    async with await client(gateway, "alice") as alice:
        await alice.subscribe(ROOM)
        await gateway.gateway.identity.accounts.set_roles("alice", ["operator"])
        ended = await until(alice.events(), UnsubscribedPush)
        assert (ended.channel, ended.reason) == (ROOM, "permission_revoked")
        assert alice.subscriptions == ()


async def test_client_comes_back_to_the_next_server_and_tells_the_gap(start: Start) -> None:
    gateway = await start()
    async with await client(gateway, "alice", signed=True) as alice:
        await alice.subscribe(ROOM)
        events = alice.events()
        await gateway.stop()
        ended = await until(events, Disconnected)
        assert isinstance(ended.cause, ConnectionEndedError)
        assert (ended.cause.code, ended.cause.reason) == (1001, "draining")
        await start(port=gateway.port, users={})
        assert (await until(events, Connected)).again
        assert (await until(events, Gap)).channel == ROOM  # the memory broker began a new epoch
        assert alice.subscriptions == (ROOM,)
        assert await alice.publish(ROOM, "still here") is not None


async def test_service_account_connects_by_its_secret(start: Start) -> None:
    gateway = await start()
    created = await gateway.gateway.identity.accounts.add_client("billing+1@x", roles=["member"], tenant="acme")
    secret = gateway.secrets.watch(created.client_secret, "client secret")
    async with GatewayClient(gateway.url, ServiceLogin(created.client_id, secret), signed=True) as service:
        assert service.welcome.subject == "billing+1@x"
        assert service.welcome.tenant == "acme"
        assert service.tokens is not None
        assert service.tokens.refresh_token is None


async def test_login_that_is_refused_says_why(start: Start) -> None:
    gateway = await start()
    await client(gateway, "alice")
    authorization = Authorization(gateway.url)
    for login, error in (
        (PasswordLogin("alice", "wrong wrong wrong"), "invalid_grant"),
        (PasswordLogin("alice", password("alice"), ("admin",)), "invalid_scope"),
        (ServiceLogin("nobody", "wrong"), "invalid_client"),
    ):
        with pytest.raises(LoginRefusedError) as caught:
            await login.tokens(authorization)
        assert caught.value.error == error
        assert "wrong wrong" not in repr(login)
    await authorization.close()


async def test_something_that_is_no_gateway_is_told_apart() -> None:
    answers = iter([httpx.Response(200, text="<html>"), httpx.Response(404), httpx.Response(502, text="bad gateway")])
    transport = httpx.MockTransport(lambda _request: next(answers))
    async with httpx.AsyncClient(transport=transport) as http:
        authorization = Authorization("http://gateway.example", http)
        for _ in range(3):
            with pytest.raises(UnreachableError, match="not as a gateway does"):
                await PasswordLogin("alice", "x").tokens(authorization)


@pytest.mark.parametrize(
    ("given", "base"),
    [
        ("localhost:8000", "http://localhost:8000"),
        ("ws://h/ws", "http://h"),
        ("wss://h:1/base/ws", "https://h:1/base"),
        ("https://h/", "https://h"),
    ],
)
async def test_address_may_be_of_either_scheme(given: str, base: str) -> None:
    authorization = Authorization(given)
    assert authorization.base_url == base
    await authorization.close()


@pytest.mark.parametrize("given", ["ftp://h", "http://", ""])
def test_what_is_no_address_is_refused(given: str) -> None:
    with pytest.raises(ValueError, match="no address of a gateway"):
        GatewayClient(given, PasswordLogin("a", "b"))
