"""Signing keys: sealed at rest, made once, and readable after the secret has changed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from identity_kit import Clock, database_url

from gateway.adapters.change_log import KEY_GRACE_S, DatabaseChanges
from gateway.adapters.database import Database
from gateway.adapters.identity import open_database
from gateway.adapters.key_store import KeyStore, SigningKey
from gateway.adapters.sealing import SealBrokenError, Sealer
from gateway.runtime.ports import Change, ChangeKind

OLD, NEW = "the old secret, 32 characters long", "the new secret, 32 characters long"


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    async with open_database(database_url(tmp_path)) as database:
        yield database


def keys(database: Database, secret: str, previous: str | None = None) -> KeyStore:
    return KeyStore(database, Sealer(secret, previous), Clock(), 900)


def same(first: list[SigningKey], second: list[SigningKey]) -> bool:
    return [(key.kid, key.seed, key.active) for key in first] == [(key.kid, key.seed, key.active) for key in second]


async def test_the_first_load_makes_a_key_and_the_next_one_finds_it(database: Database) -> None:
    made = await keys(database, NEW).load()
    assert [key.active for key in made] == [True]
    assert same(made, await keys(database, NEW).load())


async def test_processes_that_start_at_once_agree_on_one_key(database: Database, tmp_path: Path) -> None:
    async with open_database(database_url(tmp_path)) as other:
        loaded = await asyncio.gather(*(keys(at, NEW).load() for at in (database, other) for _ in range(4)))
    assert all(same(each, loaded[0]) for each in loaded)


async def test_of_two_rotations_at_once_each_leaves_one_key_that_signs(database: Database, tmp_path: Path) -> None:
    (first,) = await keys(database, NEW).load()
    async with open_database(database_url(tmp_path)) as other:
        made = await asyncio.gather(*(keys(at, NEW).rotate() for at in (database, other)))
    kept = await keys(database, NEW).all()
    assert {key.kid for key in kept} == {first.kid, *made}
    assert [key.active for key in kept].count(True) == 1


async def test_a_rotation_is_announced_and_the_new_key_is_kept_for_tokens_of_the_usual_life(database: Database) -> None:
    store = keys(database, NEW)
    await store.load()
    made = await store.rotate()
    [(_, announced)] = await DatabaseChanges(database).after(0)
    assert announced == Change(ChangeKind.KEYS, key=made, at=Clock().now)
    assert await store.longest_ttl_s() == 900
    await store.keep_for(5000)
    await store.keep_for(60)
    assert await store.longest_ttl_s() == 5000
    await store.rotate()
    assert [key.kept_until for key in await store.all()] == [
        Clock().now + 900 + KEY_GRACE_S,
        Clock().now + 5000 + KEY_GRACE_S,
        None,
    ]


async def test_dropping_leaves_the_new_key_alone(database: Database) -> None:
    store = keys(database, NEW)
    await store.load()
    await store.rotate()
    made = await store.rotate(now=True)
    assert [(key.kid, key.active) for key in await store.all()] == [(made, True)]


async def test_keys_are_pruned_only_when_their_tokens_have_ended_and_the_active_one_never(database: Database) -> None:
    store, changes, now = keys(database, NEW), DatabaseChanges(database), Clock().now
    (first,) = await store.load()
    made = await store.rotate()
    await changes.prune(now + 900 + KEY_GRACE_S)
    assert {key.kid for key in await store.all()} == {first.kid, made}
    await changes.prune(now + 900 + KEY_GRACE_S + 1)
    assert [key.kid for key in await store.all()] == [made]
    assert [change.kind for _, change in await changes.after(0) if change] == [ChangeKind.KEYS] * 2
    await changes.prune(now + 10 * 365 * 86_400)
    assert [key.kid for key in await store.all()] == [made]


async def test_another_secret_opens_nothing_and_the_message_says_what_to_do(database: Database) -> None:
    await keys(database, OLD).load()
    with pytest.raises(SealBrokenError, match="GATEWAY_SECRET_KEY_PREVIOUS") as broken:
        await keys(database, NEW).load()
    assert OLD not in str(broken.value)
    assert NEW not in str(broken.value)


async def test_the_previous_secret_opens_what_it_sealed_and_is_not_needed_again(database: Database) -> None:
    made = await keys(database, OLD).load()
    assert same(made, await keys(database, NEW, OLD).load())
    assert same(made, await keys(database, NEW).load())
    with pytest.raises(SealBrokenError):
        await keys(database, OLD).load()


async def test_no_key_stands_in_the_file_as_it_is(database: Database, tmp_path: Path) -> None:
    (key,) = await keys(database, NEW).load()
    stored = b"".join(path.read_bytes() for path in tmp_path.iterdir())  # noqa: ASYNC240 - a small file
    assert key.kid.encode() in stored
    assert key.seed not in stored
    assert key.private.private_numbers().private_value.to_bytes(32, "big") not in stored


def test_a_sealed_value_is_bound_to_its_context_and_to_every_bit() -> None:
    sealer = Sealer(NEW)
    sealed = sealer.seal(b"plain", "kid-1")
    assert sealer.open(sealed, "kid-1") == (b"plain", False)
    assert sealed != sealer.seal(b"plain", "kid-1")
    for broken, context in (
        (sealed, "kid-2"),
        (sealed[:-1], "kid-1"),
        (sealed + b"x", "kid-1"),
        (bytes([sealed[0] ^ 1]) + sealed[1:], "kid-1"),
        (sealed[:-1] + bytes([sealed[-1] ^ 1]), "kid-1"),
        (b"", "kid-1"),
        (b"x" * 12, "kid-1"),
    ):
        with pytest.raises(SealBrokenError):
            sealer.open(broken, context)


def test_a_sealer_never_shows_its_keys() -> None:
    assert repr(Sealer(NEW, OLD)) == "Sealer()"
