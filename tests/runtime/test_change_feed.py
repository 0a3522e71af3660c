"""Account commands reach a running node: the feed, the caches behind it, and what happens when the database is away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from identity_kit import Kit, RecordedLog, opened

from gateway.adapters.change_log import DatabaseChanges
from gateway.adapters.schema import CHANGES
from gateway.adapters.token_store import DatabaseRefreshTokens, DatabaseRevocations
from gateway.core.accounts import Account, AccountKind
from gateway.core.errors import HandshakeRefusedError, Refusal, StateUnavailableError
from gateway.core.principal import Principal, TokenIdentity
from gateway.runtime.account_directory import AccountDirectory
from gateway.runtime.change_feed import POLL_S, PolledChangeFeed
from gateway.runtime.identity_ports import Family
from gateway.runtime.ports import Change, ChangeKind, VerifiedCredential
from gateway.runtime.token_issue import issue_token

ISSUER = "https://gateway.example"


@pytest.fixture
async def kit(tmp_path: Path) -> AsyncIterator[Kit]:
    async with opened(tmp_path) as kit:
        await kit.add("alice")
        yield kit


def test_the_feed_is_polled_several_times_within_the_second_that_a_change_may_take() -> None:
    assert POLL_S <= 0.25


async def token(kit: Kit, name: str = "alice") -> str:
    account = await kit.identity.accounts.find(name)
    assert account is not None
    issued = issue_token(
        kit.identity.tokens,
        kit.identity.terms,
        account,
        client_id="gateway",
        roles=account.roles,
        narrowed=False,
        family="f1",
        now=kit.clock.now,
    )
    return issued.minted.token


async def verify(kit: Kit, access_token: str) -> VerifiedCredential:
    return await kit.identity.credentials.verify_token(access_token, kit.clock.now)


async def heard(kit: Kit) -> list[Change]:
    changes: list[Change] = []
    await kit.identity.changes.poll(changes.append)
    return changes


async def generation(kit: Kit, name: str = "alice") -> str:
    account = await kit.identity.accounts.find(name)
    assert account is not None
    return account.generation


async def test_each_command_is_told_once_in_order_with_what_now_counts(kit: Kit) -> None:
    accounts = kit.identity.accounts
    assert await heard(kit) == [], "what was before the start is in the tables already"
    await accounts.set_roles("alice", ["moderator"])
    before = await generation(kit)
    await accounts.set_password("alice", "another good password")
    second = await generation(kit)
    await accounts.disable("alice")
    third = await generation(kit)
    await accounts.enable("alice")
    await accounts.delete("alice", AccountKind.USER)
    assert len({before, second, third}) == 3
    ended, roles, now = ChangeKind.SUBJECT_ENDED, ("moderator",), kit.clock.now
    assert await heard(kit) == [
        Change(ChangeKind.ROLES, "alice", before, roles=roles, at=now),
        Change(ended, "alice", second, roles=roles, at=now),
        Change(ended, "alice", third, roles=roles, at=now),
        Change(ChangeKind.ROLES, "alice", third, roles=roles, at=now),
        Change(ended, "alice", "", at=now),
    ]
    assert await heard(kit) == []


async def test_a_reused_refresh_token_tells_of_its_family(kit: Kit) -> None:
    await heard(kit)
    now = kit.clock.now
    refresh = DatabaseRefreshTokens(kit.identity.database, ISSUER)
    await refresh.open(Family("f1", "alice", "g", "gateway", None, now + 100), "r1", now + 10, now)
    await refresh.rotate("r1", "r2", now + 10, now)
    await refresh.rotate("r1", "r3", now + 10, now + 11)
    assert await heard(kit) == [Change(ChangeKind.FAMILY_REVOKED, "alice", "f1", ISSUER, at=now + 11)]


async def test_a_verifier_without_a_feed_asks_the_database_each_time(kit: Kit) -> None:
    access_token = await token(kit)
    await verify(kit, access_token)
    await kit.identity.accounts.disable("alice")
    with pytest.raises(HandshakeRefusedError) as refused:
        await verify(kit, access_token)
    assert refused.value.refusal is Refusal.REVOKED_TOKEN


async def test_a_node_knows_what_it_has_heard_without_asking(kit: Kit) -> None:
    await heard(kit)
    credential = await verify(kit, await token(kit))
    principal = credential.principal
    assert not kit.identity.credentials.is_revoked(principal)
    await kit.identity.accounts.set_password("alice", "another good password")
    assert not kit.identity.credentials.is_revoked(principal), "not heard yet"
    await heard(kit)
    assert kit.identity.credentials.is_revoked(principal)
    fresh = await verify(kit, await token(kit))
    assert not kit.identity.credentials.is_revoked(fresh.principal)


async def test_changed_roles_are_those_of_the_next_verification(kit: Kit) -> None:
    await heard(kit)
    access_token = await token(kit)
    assert (await verify(kit, access_token)).principal.roles == ("member", "viewer")
    await kit.identity.accounts.set_roles("alice", ["moderator"])
    await heard(kit)
    assert (await verify(kit, access_token)).principal.roles == ("moderator",)


async def test_roles_heard_while_a_token_was_proven_are_the_newest_and_a_narrowed_one_gets_none_beyond(
    kit: Kit,
) -> None:
    credentials = kit.identity.credentials
    await heard(kit)
    principal = (await verify(kit, await token(kit))).principal
    narrowed = replace(principal, roles=("viewer",), token=replace(principal.token, narrowed_to=("viewer",)))
    assert credentials.current(principal) is principal
    await kit.identity.accounts.set_roles("alice", ["moderator"])
    assert credentials.current(principal) is principal, "not heard yet"
    await heard(kit)
    assert credentials.current(principal) == replace(principal, roles=("moderator",))
    assert credentials.current(narrowed).roles == ()
    await kit.identity.accounts.set_roles("alice", ["moderator", "viewer"])
    await heard(kit)
    assert credentials.current(narrowed).roles == ("viewer",)


async def test_subjects_without_an_account_here_keep_their_roles(kit: Kit) -> None:
    foreign = Principal("alice", "acme", ("guest",), token=TokenIdentity("https://other.example", "j"))
    await kit.identity.accounts.set_roles("alice", ["member"])
    await heard(kit)
    assert kit.identity.credentials.current(foreign) is foreign
    assert not kit.identity.credentials.is_revoked(foreign)


async def test_an_answer_of_the_database_is_newer_than_what_was_heard_before_it() -> None:
    store, clock = OneAccount(), Ticking()
    accounts = directory(store, NoRevocations(), clock)
    accounts.hear(Change(ChangeKind.ROLES, subject="alice", roles=("member",)))
    assert accounts.newest_roles("alice") == ("member",)
    await accounts.find("alice")  # which has no roles there, as a change not heard yet would have it
    assert accounts.newest_roles("alice") == ()
    assert accounts.newest_roles("bob") is None


async def test_a_name_created_anew_revives_no_token_and_its_own_are_good(kit: Kit) -> None:
    await heard(kit)
    old = await token(kit)
    await verify(kit, old)
    await kit.identity.accounts.delete("alice", AccountKind.USER)
    await heard(kit)
    with pytest.raises(HandshakeRefusedError) as refused:
        await verify(kit, old)
    assert refused.value.refusal is Refusal.REVOKED_TOKEN
    await kit.add("alice")
    with pytest.raises(HandshakeRefusedError):
        await verify(kit, old)
    fresh = await verify(kit, await token(kit))
    assert not kit.identity.credentials.is_revoked(fresh.principal)


async def test_enabling_revives_no_token(kit: Kit) -> None:
    old = await token(kit)
    await kit.identity.accounts.disable("alice")
    await kit.identity.accounts.enable("alice")
    with pytest.raises(HandshakeRefusedError) as refused:
        await verify(kit, old)
    assert refused.value.refusal is Refusal.REVOKED_TOKEN
    assert (await verify(kit, await token(kit))).principal.subject == "alice"


async def test_a_feed_that_runs_tells_of_a_command_of_another_process(kit: Kit, tmp_path: Path) -> None:
    told: asyncio.Queue[Change] = asyncio.Queue()
    await heard(kit)
    async with opened(tmp_path, kit.clock) as other, asyncio.timeout(10):
        running = asyncio.create_task(kit.identity.changes.run(told.put_nowait))
        await other.identity.accounts.disable("alice")
        assert (await told.get()).kind is ChangeKind.SUBJECT_ENDED
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def test_revocations_from_before_the_start_are_known(kit: Kit, tmp_path: Path) -> None:
    now = kit.clock.now
    refresh = DatabaseRefreshTokens(kit.identity.database, ISSUER)
    await refresh.open(Family("f1", "alice", "g", "gateway", None, now + 100), "r1", now + 10, now)
    await refresh.rotate("r1", "r2", now + 10, now)
    await refresh.rotate("r1", "r3", now + 10, now + 11)
    access_token = await token(kit)
    async with opened(tmp_path, kit.clock) as later:
        for _ in range(2):
            with pytest.raises(HandshakeRefusedError) as refused:
                await verify(later, access_token)
            assert refused.value.refusal is Refusal.REVOKED_TOKEN
            await heard(later)


async def test_a_change_of_a_kind_that_only_a_later_release_knows_is_passed_over(kit: Kit) -> None:
    await heard(kit)
    row = {"kind": "from_the_future", "subject": "", "key": "", "issuer": "", "roles": [], "at": kit.clock.now}
    async with kit.identity.database.write() as connection:
        await connection.execute(CHANGES.insert().values(row))
    await kit.identity.accounts.disable("alice")
    assert [change.kind for change in await heard(kit)] == [ChangeKind.SUBJECT_ENDED]


async def test_old_changes_are_dropped_and_numbers_never_come_again(kit: Kit) -> None:
    await kit.identity.accounts.set_roles("alice", ["member"])
    changes = DatabaseChanges(kit.identity.database)
    newest = await changes.newest()
    await changes.prune(kit.clock.now + 8 * 86_400)
    assert await changes.after(0) == []
    await kit.identity.accounts.set_roles("alice", ["viewer"])
    assert [number for number, _ in await changes.after(0)] == [newest + 1]


# ---------------------------------------------------------------------------------------------- fakes of the ports


class ChangesThatComeAndGo:
    """A change table that can be away, and where a lower number may appear late."""

    def __init__(self) -> None:
        self.rows: dict[int, Change] = {}
        self.away = False

    async def newest(self) -> int:
        return max(await self._rows(), default=0)

    async def after(self, number: int) -> list[tuple[int, Change | None]]:
        rows = await self._rows()
        return [(at, rows[at]) for at in sorted(rows) if at > number]

    async def prune(self, now: float) -> None:
        raise StateUnavailableError(f"away at {now}")

    async def _rows(self) -> dict[int, Change]:
        await asyncio.sleep(0)
        if self.away:
            raise StateUnavailableError("away")
        return self.rows


class QueuedLog(RecordedLog):
    """Gives the names of its events one by one."""

    def __init__(self) -> None:
        super().__init__()
        self.queue: asyncio.Queue[str] = asyncio.Queue()

    def info(self, event: str, **fields: object) -> None:
        del fields
        self.queue.put_nowait(str(event))

    error = info


class OneAccount:
    """A store with one account, counting how often it is asked."""

    def __init__(self) -> None:
        self.account: Account | None = Account("alice", AccountKind.USER, "g1", password_hash="$argon2id$x")
        self.asked = 0
        self.between = lambda: None

    async def find(self, name: str) -> Account | None:
        self.asked += 1
        account = self.account if self.account is not None and self.account.name == name else None
        self.between()
        return account


class NoRevocations:
    """Nothing is revoked, and it is counted how often that is asked."""

    def __init__(self) -> None:
        self.asked = 0

    async def is_revoked(self, token: TokenIdentity) -> bool:
        del token
        self.asked += 1
        return False

    async def live(self, now: float, most: int) -> list[Change]:
        del now, most
        return []


class Ticking:
    """A monotonic clock that only tests move."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def directory(store: OneAccount, revocations: NoRevocations, clock: Ticking) -> AccountDirectory:
    return AccountDirectory(store, revocations, clock)  # type: ignore[arg-type]


def change(kind: ChangeKind, **fields: str) -> Change:
    return Change(kind, **fields)  # type: ignore[arg-type]


async def test_an_account_is_known_without_asking_while_the_feed_is_heard() -> None:
    store, clock = OneAccount(), Ticking()
    accounts = directory(store, NoRevocations(), clock)
    await accounts.find("alice")
    assert accounts.known("alice") is None, "without a feed nothing is kept"
    accounts.believe(clock.now)
    await accounts.find("alice")
    known = accounts.known("alice")
    assert known is not None
    assert known.password_hash is None, "a cache needs no hashes"
    clock.now += 1.01
    assert accounts.known("alice") is None, "a feed that has not been heard for a second is not believed"


async def test_a_token_that_is_newer_than_the_news_of_its_account_is_good(kit: Kit) -> None:
    await heard(kit)
    old = await token(kit)
    await verify(kit, old)
    await kit.identity.accounts.set_password("alice", "another good password")
    fresh = await verify(kit, await token(kit))
    assert not kit.identity.credentials.is_revoked(fresh.principal)
    await heard(kit)
    assert not kit.identity.credentials.is_revoked(fresh.principal)
    with pytest.raises(HandshakeRefusedError):
        await verify(kit, old)


async def test_an_answer_that_a_change_has_overtaken_is_asked_for_again() -> None:
    store, clock = OneAccount(), Ticking()
    accounts = directory(store, NoRevocations(), clock)
    accounts.believe(clock.now)

    def end() -> None:
        if store.asked == 1:
            store.account = Account("alice", AccountKind.USER, "g2")
            accounts.hear(change(ChangeKind.SUBJECT_ENDED, subject="alice", key="g2"))

    store.between = end
    found = await accounts.find("alice")
    assert found is not None
    assert found.generation == "g2"


async def test_an_answer_that_is_always_overtaken_is_given_but_not_kept() -> None:
    store, clock = OneAccount(), Ticking()
    accounts = directory(store, NoRevocations(), clock)
    accounts.believe(clock.now)
    store.between = lambda: accounts.hear(change(ChangeKind.ROLES, subject="bob"))
    assert await accounts.find("alice") is not None
    assert accounts.known("alice") is None


async def test_revocations_are_asked_for_only_while_the_feed_is_not_heard() -> None:
    revocations, clock = NoRevocations(), Ticking()
    accounts = directory(OneAccount(), revocations, clock)
    token_identity = TokenIdentity(ISSUER, "j1", "f1")
    assert not await accounts.is_revoked(token_identity)
    assert revocations.asked == 1
    accounts.believe(clock.now)
    assert not await accounts.is_revoked(token_identity)
    assert revocations.asked == 1
    accounts.hear(change(ChangeKind.TOKEN_REVOKED, issuer=ISSUER, key="j1"))
    assert await accounts.is_revoked(token_identity)
    assert accounts.is_known_revoked(Principal("alice", token=token_identity))
    assert not accounts.is_known_revoked(Principal("alice", token=TokenIdentity("https://other.example", "j1", "")))


async def test_a_family_without_a_name_is_never_a_revoked_one() -> None:
    accounts = directory(OneAccount(), NoRevocations(), Ticking())
    accounts.hear(change(ChangeKind.FAMILY_REVOKED, issuer=ISSUER, key=""))
    assert not accounts.is_known_revoked(Principal("alice", token=TokenIdentity(ISSUER, "j1", "")))


async def test_loading_drops_what_has_ended() -> None:
    revocations = NoRevocations()
    accounts = directory(OneAccount(), revocations, Ticking())
    principal = Principal("alice", token=TokenIdentity(ISSUER, "j1", "f1"))
    accounts.hear(change(ChangeKind.FAMILY_REVOKED, issuer=ISSUER, key="f1"))
    assert accounts.is_known_revoked(principal)
    await accounts.load(0.0)
    assert not accounts.is_known_revoked(principal)


async def test_an_outage_is_told_once_and_nothing_of_it_is_missed(kit: Kit) -> None:
    table, log, told = ChangesThatComeAndGo(), QueuedLog(), asyncio.Queue[Change]()
    accounts = directory(OneAccount(), NoRevocations(), Ticking())
    feed = PolledChangeFeed(table, accounts, kit.identity.tokens, kit.clock, log)
    async with asyncio.timeout(10):
        await feed.poll(told.put_nowait)
        table.away = True
        running = asyncio.create_task(feed.run(told.put_nowait))
        assert await log.queue.get() == "database.down"
        table.rows[1] = change(ChangeKind.SUBJECT_ENDED, subject="alice", key="g2")
        table.away = False
        assert (await told.get()).subject == "alice"
        assert await log.queue.get() == "database.up"
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    assert log.queue.empty()


async def test_a_lower_number_that_appears_late_is_still_told_and_none_twice(kit: Kit) -> None:
    table, told = ChangesThatComeAndGo(), []
    accounts = directory(OneAccount(), NoRevocations(), Ticking())
    feed = PolledChangeFeed(table, accounts, kit.identity.tokens, kit.clock, RecordedLog())
    await feed.poll(told.append)
    for number, name in ((2, "second"), (1, "late"), (3, "third")):
        table.rows[number] = change(ChangeKind.ROLES, subject=name)
        await feed.poll(told.append)
    assert [one.subject for one in told] == ["second", "late", "third"]


async def test_rotated_keys_are_read_again_before_anybody_is_told(kit: Kit) -> None:
    table, told = ChangesThatComeAndGo(), []
    accounts = directory(OneAccount(), NoRevocations(), Ticking())
    before = kit.identity.tokens._keys
    feed = PolledChangeFeed(table, accounts, kit.identity.tokens, kit.clock, RecordedLog())
    await feed.poll(told.append)
    table.rows[1] = change(ChangeKind.KEYS)
    await feed.poll(lambda one: told.append((one, kit.identity.tokens._keys is before)))
    assert told == [(change(ChangeKind.KEYS), False)]


class PrunedTable(ChangesThatComeAndGo):
    """Tells when it is cleared up; is away the first time."""

    def __init__(self) -> None:
        super().__init__()
        self.pruned: asyncio.Queue[float] = asyncio.Queue()

    async def prune(self, now: float) -> None:
        self.pruned.put_nowait(now)
        if self.pruned.qsize() == 1:
            raise StateUnavailableError("away")


async def test_what_has_ended_is_cleared_up_again_and_again(kit: Kit) -> None:
    table = PrunedTable()
    accounts = directory(OneAccount(), NoRevocations(), Ticking())
    feed = PolledChangeFeed(table, accounts, kit.identity.tokens, kit.clock, RecordedLog(), prune_s=0.001)
    running = asyncio.create_task(feed.run(lambda _change: None))
    async with asyncio.timeout(10):
        assert [await table.pruned.get() for _ in range(3)] == [kit.clock.now] * 3
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_a_burst_of_more_changes_than_one_reading_takes_is_told_whole(kit: Kit) -> None:
    await heard(kit)
    row = {"kind": "roles", "subject": "bob", "key": "", "issuer": "", "roles": [], "at": kit.clock.now}
    async with kit.identity.database.write() as connection:
        await connection.execute(CHANGES.insert(), [row] * 1500)
    assert [len(await heard(kit)) for _ in range(3)] == [1000, 500, 0]


async def test_every_revocation_is_found_in_the_table_by_issuer_and_key(kit: Kit) -> None:
    revocations = DatabaseRevocations(kit.identity.database)
    now = kit.clock.now
    refresh = DatabaseRefreshTokens(kit.identity.database, ISSUER)
    await refresh.open(Family("f1", "alice", "g", "gateway", ("viewer",), now + 100), "r1", now + 10, now)
    await refresh.rotate("r1", "r2", now + 10, now)
    await refresh.rotate("r1", "r3", now + 10, now + 11)
    assert await revocations.is_revoked(TokenIdentity(ISSUER, "any", "f1"))
    assert not await revocations.is_revoked(TokenIdentity(ISSUER, "f1", ""))
    assert not await revocations.is_revoked(TokenIdentity("https://other.example", "any", "f1"))
    assert await revocations.live(now, 10) == [Change(ChangeKind.FAMILY_REVOKED, key="f1", issuer=ISSUER)]
