"""Passwords: parameters, junk, re-hashing, the bounded queue."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from passlib.hash import argon2, bcrypt

from gateway.adapters.passwords import PasslibPasswords
from gateway.runtime.identity_ports import HashingBusyError, PasswordCheck

PASSWORD = "correct horse battery"


@pytest.fixture
def passwords() -> Iterator[PasslibPasswords]:
    passwords = PasslibPasswords(threads=2, queued=2)
    yield passwords
    passwords.close()


async def test_a_hash_is_argon2id_with_the_documented_parameters(passwords: PasslibPasswords) -> None:
    hashed = await passwords.hash(PASSWORD)
    assert hashed.startswith("$argon2id$v=19$m=19456,t=2,p=1$")
    assert hashed != await passwords.hash(PASSWORD)
    assert await passwords.check(PASSWORD, hashed) == PasswordCheck(matches=True)
    assert await passwords.check("another password", hashed) == PasswordCheck(matches=False)


@pytest.mark.parametrize(
    "weaker",
    [
        bcrypt.using(rounds=4).hash(PASSWORD),
        argon2.using(type="ID", memory_cost=8192, time_cost=1, parallelism=1).hash(PASSWORD),
        argon2.using(type="I", memory_cost=19456, time_cost=2, parallelism=1).hash(PASSWORD),
    ],
    ids=["bcrypt", "argon2id, smaller", "argon2i"],  # a salt in an id makes every collection another
)
async def test_a_hash_by_other_parameters_is_taken_and_a_better_one_given(
    passwords: PasslibPasswords, weaker: str
) -> None:
    checked = await passwords.check(PASSWORD, weaker)
    assert checked.matches
    assert checked.better_hash is not None
    assert await passwords.check(PASSWORD, checked.better_hash) == PasswordCheck(matches=True)
    assert await passwords.check("another password", weaker) == PasswordCheck(matches=False)


@pytest.mark.parametrize(
    "stored",
    [
        None,
        "",
        "junk",
        "plain:correct horse battery",
        PASSWORD,
        "$2b$12$short",
        "$argon2id$",
        "$argon2id$v=19$m=19456,t=2,p=1$abc$def",
        "$argon2id$v=19$m=1,t=0,p=0$c29tZXNhbHRzb21lc2FsdA$c29tZWhhc2hzb21laGFzaA",
        "$argon2id$v=99$m=19456,t=2,p=1$c29tZXNhbHRzb21lc2FsdA$c29tZWhhc2hzb21laGFzaA",
        "\x00" * 100,
        "é",
    ],
)
async def test_junk_in_the_store_matches_nothing_and_raises_nothing(
    passwords: PasslibPasswords, stored: str | None
) -> None:
    assert await passwords.check(PASSWORD, stored) == PasswordCheck(matches=False)


@pytest.mark.parametrize("password", ["", "\ud800", "a\x00b", "x" * 100_000, "pass\nword"])
async def test_a_password_that_cannot_be_one_matches_nothing_and_raises_nothing(
    passwords: PasslibPasswords, password: str
) -> None:
    for stored in (await passwords.hash(PASSWORD), bcrypt.using(rounds=4).hash(PASSWORD), None):
        assert await passwords.check(password, stored) == PasswordCheck(matches=False)


async def test_a_full_queue_refuses_at_once_and_takes_again_when_there_is_room(passwords: PasslibPasswords) -> None:
    await passwords.warm()
    running = [asyncio.create_task(passwords.hash(PASSWORD)) for _ in range(4)]
    await asyncio.sleep(0)
    with pytest.raises(HashingBusyError) as busy:
        await passwords.hash(PASSWORD)
    assert busy.value.retry_after_s > 0
    await asyncio.gather(*running)
    assert await passwords.hash(PASSWORD)


async def test_room_comes_back_when_whoever_waited_has_gone(passwords: PasslibPasswords) -> None:
    for _ in range(5):
        running = [asyncio.create_task(passwords.hash(PASSWORD)) for _ in range(4)]
        await asyncio.sleep(0)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        while True:
            try:
                assert await passwords.check(PASSWORD, None) == PasswordCheck(matches=False)
            except HashingBusyError:
                await asyncio.sleep(0)  # the threads are still at what nobody waits for
            else:
                break


async def test_the_event_loop_goes_on_while_passwords_are_hashed(passwords: PasslibPasswords) -> None:
    task = asyncio.create_task(passwords.hash(PASSWORD))
    turns = 0
    while not task.done():
        turns += 1
        await asyncio.sleep(0)
    assert turns > 10


def test_neither_password_nor_hash_shows_in_a_result() -> None:
    assert "argon2" not in repr(PasswordCheck(matches=True, better_hash="$argon2id$x"))
