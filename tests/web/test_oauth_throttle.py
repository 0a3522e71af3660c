"""Guessing at `/token` over a real socket: what is counted, who has to wait, and that parallel guesses gain nothing."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from identity_kit import PASSWORD, Kit, served

WRONG = "a wrong password"


@pytest.fixture
async def kit(tmp_path: Path) -> AsyncIterator[Kit]:
    async with served(tmp_path) as kit:
        await kit.add("alice")
        yield kit


def throttled(answer: httpx.Response) -> int:
    assert (answer.status_code, answer.json()["error"]) == (429, "slow_down")
    assert answer.headers["cache-control"] == "no-store"
    return int(answer.headers["retry-after"])


async def fail(kit: Kit, times: int, name: str = "alice", address: str = "192.0.2.1") -> None:
    for _ in range(times):
        answer = await kit.login(name, WRONG, address=address)
        assert (answer.status_code, answer.json()["error"]) == (400, "invalid_grant")


async def test_after_five_failures_the_next_attempt_waits_whatever_its_password(kit: Kit) -> None:
    await fail(kit, 5)
    assert throttled(await kit.login("alice", WRONG)) == 1
    assert throttled(await kit.login("alice", PASSWORD)) == 1
    kit.clock.now += 1
    assert (await kit.login()).status_code == 200
    assert kit.metrics.failures == [("password", "invalid_grant")] * 5 + [("password", "slow_down")] * 2


async def test_each_further_failure_doubles_the_wait_and_refused_attempts_do_not_count(kit: Kit) -> None:
    await fail(kit, 5)
    waits = []
    for _ in range(11):
        for _ in range(2):
            wait = throttled(await kit.login("alice", WRONG))
        waits.append(wait)
        kit.clock.now += wait
        await fail(kit, 1)
    assert waits == [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 900]


async def test_unknown_names_are_throttled_alike(kit: Kit) -> None:
    await fail(kit, 5, "nobody")
    assert throttled(await kit.login("nobody", WRONG)) == 1
    await fail(kit, 5, "not even a name!")
    assert throttled(await kit.login("not even a name!", WRONG)) == 1


async def test_wrong_client_secrets_are_throttled_alike(kit: Kit) -> None:
    secret = (await kit.identity.accounts.add_client("billing", roles=("publisher",))).client_secret
    for name in ("billing", "no-such-client"):
        for _ in range(5):
            answer = await kit.token(grant_type="client_credentials", auth=(name, "wrong"))
            assert answer.status_code == 401
        assert throttled(await kit.token(grant_type="client_credentials", auth=(name, secret))) == 1
    kit.clock.now += 1
    assert (await kit.token(grant_type="client_credentials", auth=("billing", secret))).status_code == 200


async def test_a_success_clears_its_own_pair(kit: Kit) -> None:
    for _ in range(3):
        await fail(kit, 4)
        assert (await kit.login()).status_code == 200


async def test_a_success_clears_nothing_but_its_own_pair(kit: Kit) -> None:
    await fail(kit, 4, address="192.0.2.2")
    assert (await kit.login()).status_code == 200
    await fail(kit, 1, address="192.0.2.2")
    assert throttled(await kit.login(address="192.0.2.2")) == 1


async def test_failures_are_forgotten_after_fifteen_quiet_minutes(kit: Kit) -> None:
    await fail(kit, 5)
    kit.clock.now += 900
    await fail(kit, 5)
    assert throttled(await kit.login()) == 1


async def test_failures_spread_over_more_than_a_minute_reach_no_limit(kit: Kit) -> None:
    for _ in range(12):
        await fail(kit, 1)
        kit.clock.now += 16


async def test_another_address_is_not_held_up(kit: Kit) -> None:
    await fail(kit, 5)
    assert (await kit.login(address="192.0.2.2")).status_code == 200


async def test_one_ipv6_site_is_one_address(kit: Kit) -> None:
    for host in range(5):
        await fail(kit, 1, address=f"2001:db8:1:2::{host:x}")
    assert throttled(await kit.login(address="2001:db8:1:2:ffff::1")) == 1
    assert (await kit.login(address="2001:db8:1:3::1")).status_code == 200


async def test_at_home_the_pairs_own_limit_still_counts(kit: Kit) -> None:
    assert (await kit.login()).status_code == 200
    await fail(kit, 5)
    assert throttled(await kit.login()) == 1


async def test_of_parallel_guesses_no_more_are_tried_than_may_fail(kit: Kit) -> None:
    answers = await asyncio.gather(*(kit.login("alice", f"guess number {n:02}") for n in range(20)))
    assert Counter(answer.status_code for answer in answers) == {400: 5, 429: 15}


async def test_the_right_password_among_parallel_guesses_is_no_oracle_beyond_the_limit(kit: Kit) -> None:
    await fail(kit, 4)
    answers = await asyncio.gather(*(kit.login("alice", WRONG) for _ in range(10)))
    assert Counter(answer.status_code for answer in answers) == {400: 1, 429: 9}
    assert throttled(await kit.login()) == 1


async def test_parallel_logins_with_the_right_password_all_succeed(kit: Kit) -> None:
    answers = await asyncio.gather(*(kit.login() for _ in range(12)))
    assert {answer.status_code for answer in answers} == {200}


async def test_two_servers_on_one_database_count_together(kit: Kit, tmp_path: Path) -> None:
    async with served(tmp_path, kit.clock) as other:
        answers = await asyncio.gather(*(server.login("alice", WRONG) for server in (kit, other) for _ in range(8)))
        assert Counter(answer.status_code for answer in answers) == {400: 5, 429: 11}
        assert throttled(await other.login()) == 1
