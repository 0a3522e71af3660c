"""Counters of failed logins in the database: the limits, who is spared, who waits."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from identity_kit import Clock, database_url

from gateway.adapters.change_log import DatabaseChanges
from gateway.adapters.database import Database
from gateway.adapters.identity import open_database
from gateway.adapters.schema import THROTTLES
from gateway.adapters.throttle_store import DatabaseThrottle
from gateway.core.throttle import LEASE_S
from gateway.runtime.identity_ports import Attempt, ThrottledError

HOME, AWAY = "198.51.100.1", "203.0.113.7"


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    async with open_database(database_url(tmp_path)) as database:
        yield database


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def throttle(database: Database, clock: Clock) -> DatabaseThrottle:
    return DatabaseThrottle(database, clock)


async def fail(throttle: DatabaseThrottle, name: str, address: str, times: int = 1) -> None:
    for _ in range(times):
        await throttle.failed(await throttle.begin(name, address))


async def succeed(throttle: DatabaseThrottle, name: str, address: str) -> None:
    await throttle.succeeded(await throttle.begin(name, address))


async def wait_of(throttle: DatabaseThrottle, name: str, address: str) -> float:
    with pytest.raises(ThrottledError) as held_up:
        await throttle.begin(name, address)
    return held_up.value.retry_after_s


async def test_fifty_failures_from_an_address_hold_up_every_name_there_but_those_at_home(
    throttle: DatabaseThrottle, clock: Clock
) -> None:
    await succeed(throttle, "alice", HOME)
    for number in range(50):
        await fail(throttle, f"guess-{number}", HOME)
    assert await wait_of(throttle, "guess-50", HOME) == 1.0
    await fail(throttle, "alice", HOME, 5)
    assert await wait_of(throttle, "alice", HOME) == 1.0, "its own pair still counts"
    assert await wait_of(throttle, "guess-50", HOME) == 32.0, "what is spared is counted all the same"
    await succeed(throttle, "guess-50", AWAY)
    clock.now += 900
    await fail(throttle, "guess-50", HOME)


async def test_a_hundred_failures_for_a_name_hold_it_up_everywhere_but_at_home(
    throttle: DatabaseThrottle, clock: Clock
) -> None:
    await succeed(throttle, "alice", HOME)
    for number in range(25):
        await fail(throttle, "alice", f"192.0.2.{number}", 4)
    assert await wait_of(throttle, "alice", AWAY) == 1.0
    await succeed(throttle, "alice", HOME)
    await succeed(throttle, "bob", AWAY)
    clock.now += 3599
    assert (await throttle.begin("alice", AWAY)).spared is False
    clock.now += LEASE_S
    clock.now += 3600
    await fail(throttle, "alice", AWAY)


async def test_a_home_is_forgotten_after_thirty_days(throttle: DatabaseThrottle, clock: Clock) -> None:
    await succeed(throttle, "alice", HOME)
    clock.now += 30 * 86_400 - 1
    attempt = await throttle.begin("alice", HOME)
    assert attempt.spared
    await throttle.abandoned(attempt)
    clock.now += 1
    assert not (await throttle.begin("alice", HOME)).spared


async def test_an_abandoned_attempt_counts_for_nothing(throttle: DatabaseThrottle) -> None:
    for _ in range(20):
        await throttle.abandoned(await throttle.begin("alice", HOME))
    await fail(throttle, "alice", HOME, 5)


async def in_flight(throttle: DatabaseThrottle, count: int) -> list[Attempt]:
    return [await throttle.begin("alice", HOME) for _ in range(count)]


async def test_the_sixth_attempt_waits_for_the_five_in_flight_and_is_refused_when_they_fail(
    throttle: DatabaseThrottle,
) -> None:
    attempts = await in_flight(throttle, 5)
    sixth = asyncio.create_task(throttle.begin("alice", HOME))
    for attempt in attempts:
        assert not sixth.done()
        await throttle.failed(attempt)
    with pytest.raises(ThrottledError):
        await sixth


async def test_the_sixth_attempt_runs_when_one_in_flight_succeeds(throttle: DatabaseThrottle) -> None:
    attempts = await in_flight(throttle, 5)
    sixth = asyncio.create_task(throttle.begin("alice", HOME))
    await throttle.succeeded(attempts[0])
    assert isinstance(await sixth, Attempt)


async def test_attempts_on_another_node_are_waited_for_too(
    throttle: DatabaseThrottle, database: Database, clock: Clock
) -> None:
    attempts = await in_flight(DatabaseThrottle(database, clock), 5)
    sixth = asyncio.create_task(throttle.begin("alice", HOME))
    for attempt in attempts:
        await DatabaseThrottle(database, clock).abandoned(attempt)
    assert isinstance(await sixth, Attempt)


async def test_attempts_of_a_process_that_died_are_given_up(throttle: DatabaseThrottle, clock: Clock) -> None:
    await in_flight(throttle, 5)
    clock.now += LEASE_S
    assert isinstance(await throttle.begin("alice", HOME), Attempt)


async def test_two_names_and_addresses_never_share_a_counter_by_running_together(throttle: DatabaseThrottle) -> None:
    await fail(throttle, "ab", "c", 5)
    await fail(throttle, "a", "bc", 5)
    assert await wait_of(throttle, "ab", "c") == 1.0


async def test_names_stand_nowhere_in_the_tables(throttle: DatabaseThrottle, database: Database) -> None:
    await fail(throttle, "hunter2-typed-into-the-name", HOME)
    async with database.read() as connection:
        rows = (await connection.execute(sa.select(THROTTLES))).all()
    assert len(rows) == 3
    assert "hunter2" not in repr(rows)
    assert HOME not in repr(rows)


async def test_idle_counters_are_cleared_up(throttle: DatabaseThrottle, database: Database, clock: Clock) -> None:
    await fail(throttle, "alice", HOME)
    changes = DatabaseChanges(database)
    count = sa.select(sa.func.count()).select_from(THROTTLES)
    for now, left in ((clock.now + 899, 3), (clock.now + 901, 1), (clock.now + 3601, 0)):
        await changes.prune(now)
        async with database.read() as connection:
            assert (await connection.execute(count)).scalar_one() == left
