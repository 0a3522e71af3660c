"""`POST /ws/ticket` over a real socket, and what becomes of a ticket."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from identity_kit import ACCESS_TTL_S, Kit, served

from gateway.core.errors import HandshakeRefusedError, Refusal
from gateway.core.signing import hkdf_sha256

ORIGIN = "https://app.example"


@pytest.fixture
async def kit(tmp_path: Path) -> AsyncIterator[Kit]:
    async with served(tmp_path) as kit:
        await kit.add("alice")
        yield kit


async def login(kit: Kit) -> tuple[str, bytes]:
    body = (await kit.login()).json()
    return body["access_token"], base64.urlsafe_b64decode(body["signing_key"] + "=")


async def ask(kit: Kit, token: str, body: object = None) -> httpx.Response:
    headers = {"authorization": f"Bearer {token}"}
    if body is None:
        return await kit.http.post("/ws/ticket", headers=headers)
    return await kit.http.post("/ws/ticket", headers=headers, json=body)


async def refusal(kit: Kit, ticket: str, origin: str | None = None) -> Refusal:
    with pytest.raises(HandshakeRefusedError) as refused:
        await kit.identity.credentials.redeem_ticket(ticket, origin, kit.clock.now)
    assert not ticket or ticket not in f"{refused.value!r}{refused.value.detail}"
    return refused.value.refusal


async def test_a_ticket_stands_for_its_token_once(kit: Kit) -> None:
    token, signing_key = await login(kit)
    answer = await ask(kit, token)
    assert (answer.status_code, answer.headers["cache-control"]) == (200, "no-store")
    assert set(answer.json()) == {"ticket", "expires_in"}
    assert answer.json()["expires_in"] == 30
    ticket = answer.json()["ticket"]
    credential = await kit.identity.credentials.redeem_ticket(ticket, None, kit.clock.now)
    direct = await kit.identity.credentials.verify_token(token, kit.clock.now)
    assert credential.principal == direct.principal
    assert credential.signing_key == hkdf_sha256(signing_key, ticket.encode(), b"gateway.v1 ticket")
    assert await refusal(kit, ticket) is Refusal.INVALID_TICKET


async def test_of_parallel_redemptions_one_succeeds(kit: Kit) -> None:
    token, _ = await login(kit)
    ticket = (await ask(kit, token)).json()["ticket"]
    redeem = kit.identity.credentials.redeem_ticket
    outcomes = await asyncio.gather(*(redeem(ticket, None, kit.clock.now) for _ in range(8)), return_exceptions=True)
    assert sum(not isinstance(outcome, HandshakeRefusedError) for outcome in outcomes) == 1


async def test_a_ticket_ends_after_thirty_seconds(kit: Kit) -> None:
    token, _ = await login(kit)
    first, second = [(await ask(kit, token)).json()["ticket"] for _ in range(2)]
    kit.clock.now += 29.9
    await kit.identity.credentials.redeem_ticket(first, None, kit.clock.now)
    kit.clock.now += 0.1
    assert await refusal(kit, second) is Refusal.INVALID_TICKET


async def test_a_ticket_is_bound_to_its_origin_however_that_is_spelled(kit: Kit) -> None:
    token, _ = await login(kit)
    ticket = (await ask(kit, token, {"origin": "HTTPS://App.Example:443"})).json()["ticket"]
    await kit.identity.credentials.redeem_ticket(ticket, ORIGIN, kit.clock.now)


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "http://app.example", "https://app.example:8443", "null", None]
)
async def test_from_another_origin_or_none_a_bound_ticket_is_invalid_and_spent(kit: Kit, origin: str | None) -> None:
    token, _ = await login(kit)
    ticket = (await ask(kit, token, {"origin": ORIGIN})).json()["ticket"]
    assert await refusal(kit, ticket, origin) is Refusal.INVALID_TICKET
    assert await refusal(kit, ticket, ORIGIN) is Refusal.INVALID_TICKET


async def test_an_unbound_ticket_is_good_from_anywhere(kit: Kit) -> None:
    token, _ = await login(kit)
    for body in (None, {}, {"origin": None}):
        ticket = (await ask(kit, token, body)).json()["ticket"]
        await kit.identity.credentials.redeem_ticket(ticket, "https://anywhere.example", kit.clock.now)


async def test_a_ticket_answers_for_its_token(kit: Kit) -> None:
    token, _ = await login(kit)
    kit.clock.now += ACCESS_TTL_S - 10
    expired, revoked = [(await ask(kit, token)).json()["ticket"] for _ in range(2)]
    await kit.identity.accounts.set_password("alice", "another good password")
    assert await refusal(kit, revoked) is Refusal.REVOKED_TOKEN
    kit.clock.now += 11
    assert await refusal(kit, expired) is Refusal.EXPIRED_TOKEN


async def test_junk_is_an_invalid_ticket(kit: Kit) -> None:
    for ticket in ("", "x", "A" * 43, "A" * 42 + "B", "é" * 43, "A" * 10_000, "\x00", "' OR 1=1 --"):
        assert await refusal(kit, ticket) is Refusal.INVALID_TICKET


async def test_a_ticket_is_not_stored_as_it_is(kit: Kit, tmp_path: Path) -> None:
    token, signing_key = await login(kit)
    ticket = (await ask(kit, token)).json()["ticket"]
    stored = b"".join(path.read_bytes() for path in tmp_path.iterdir())  # noqa: ASYNC240 - a small file
    for secret in (ticket.encode(), token.encode(), signing_key):
        assert secret not in stored


async def test_without_a_token_the_challenge_stands_alone(kit: Kit) -> None:
    for headers in ({}, {"authorization": "Basic YTpi"}):
        answer = await kit.http.post("/ws/ticket", headers=headers)
        assert (answer.status_code, answer.headers["www-authenticate"]) == (401, 'Bearer realm="gateway"')


async def test_a_refused_token_is_named_in_the_challenge(kit: Kit) -> None:
    token, _ = await login(kit)
    cases = {
        "x": "the access token is invalid",
        token[:-4] + "AAAA": "the access token is invalid",
    }
    for bad, description in cases.items():
        answer = await ask(kit, bad)
        assert answer.status_code == 401
        assert answer.json() == {"error": "invalid_token", "error_description": description}
        assert answer.headers["www-authenticate"] == (
            f'Bearer realm="gateway", error="invalid_token", error_description="{description}"'
        )
    kit.clock.now += ACCESS_TTL_S
    assert (await ask(kit, token)).json()["error_description"] == "the access token has expired"


async def test_two_authorizations_and_an_empty_one_are_an_invalid_token(kit: Kit) -> None:
    token, _ = await login(kit)
    for headers in ([("authorization", f"Bearer {token}")] * 2, [("authorization", "Bearer")]):
        answer = await kit.http.post("/ws/ticket", headers=headers)
        assert (answer.status_code, answer.json()["error"]) == (401, "invalid_token")


async def test_a_body_that_is_no_object_with_an_origin_is_an_invalid_request(kit: Kit) -> None:
    token, _ = await login(kit)
    bodies = (
        "{",
        "[]",
        '"x"',
        '{"origin":1}',
        '{"origin":"null"}',
        '{"origin":"app.example"}',
        '{"origin":"https://app.example/path"}',
        '{"origin":"https://app.example","more":1}',
        "[" * 5000,
        '{"origin":"' + "x" * 20_000 + '"}',
    )
    for body in bodies:
        answer = await kit.http.post("/ws/ticket", content=body, headers={"authorization": f"Bearer {token}"})
        assert (answer.status_code, answer.json()["error"]) == (400, "invalid_request"), body[:50]


async def test_roles_of_a_ticket_are_the_stores_at_its_redemption(kit: Kit) -> None:
    token, _ = await login(kit)
    ticket = (await ask(kit, token)).json()["ticket"]
    before = await kit.identity.credentials.verify_token(token, kit.clock.now)
    await kit.identity.accounts.set_roles("alice", ["moderator"])
    credential = await kit.identity.credentials.redeem_ticket(ticket, None, kit.clock.now)
    assert credential.principal == replace(before.principal, roles=("moderator",))
