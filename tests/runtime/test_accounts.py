"""Account commands: each rule, what each one ends, and what operators are told."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from identity_kit import ISSUER, PASSWORD, ROLES, Kit, opened

from gateway.core.accounts import AccountError, AccountKind
from gateway.runtime.accounts import issue_for
from gateway.runtime.development_users import USERS, ensure_development_users
from gateway.runtime.grants import Logins
from gateway.runtime.identity_ports import Attempt, HashingBusyError


@pytest.fixture
async def kit(tmp_path: Path) -> AsyncIterator[Kit]:
    async with opened(tmp_path) as kit:
        yield kit


async def test_an_account_has_what_it_was_given(kit: Kit) -> None:
    await kit.identity.accounts.add_user(
        "alice", PASSWORD, roles=["viewer", "member"], tenant="acme", claims={"department": "sales"}
    )
    account = await kit.identity.accounts.find("alice")
    assert account is not None
    assert (account.kind, account.tenant, account.roles, account.claims) == (
        AccountKind.USER,
        "acme",
        ("member", "viewer"),
        {"department": "sales"},
    )
    assert (account.disabled, account.development) == (False, False)
    assert account.created_at == kit.clock.now
    assert [listed.name for listed in await kit.identity.accounts.all(AccountKind.USER)] == ["alice"]
    assert await kit.identity.accounts.all(AccountKind.CLIENT) == []


async def test_users_and_clients_share_one_name_space(kit: Kit) -> None:
    await kit.add("alice")
    with pytest.raises(AccountError, match="there is an account `alice` already"):
        await kit.identity.accounts.add_client("alice")
    await kit.identity.accounts.add_client("billing")
    with pytest.raises(AccountError, match="there is an account `billing` already"):
        await kit.add("billing")


async def test_what_an_account_cannot_be_is_refused_and_nothing_is_kept(kit: Kit) -> None:
    accounts = kit.identity.accounts
    for refused in (
        accounts.add_user("no name", PASSWORD),
        accounts.add_user("gateway", PASSWORD),
        accounts.add_user("alice", "short"),
        accounts.add_user("alice", PASSWORD, roles=["emperor"]),
        accounts.add_user("alice", PASSWORD, tenant="a\nb"),
        accounts.add_user("alice", PASSWORD, claims={"sub": "root"}),
        accounts.add_client("billing", roles=["emperor"]),
        accounts.add_client("gateway"),
    ):
        with pytest.raises(AccountError):
            await refused
    assert await accounts.all(AccountKind.USER) == []
    assert await accounts.all(AccountKind.CLIENT) == []


async def test_commands_about_nobody_say_so(kit: Kit) -> None:
    accounts = kit.identity.accounts
    await accounts.add_client("billing")
    await kit.add("alice")
    for refused in (
        accounts.set_roles("nobody", ["member"]),
        accounts.set_roles("billing", ["member"]),
        accounts.set_password("nobody", PASSWORD),
        accounts.disable("nobody"),
        accounts.enable("nobody"),
        accounts.delete("nobody", AccountKind.USER),
        accounts.delete("billing", AccountKind.USER),
    ):
        with pytest.raises(AccountError, match=r"there is no user `.*`; see `gateway users list`"):
            await refused
    for refused in (accounts.rotate_secret("nobody"), accounts.rotate_secret("alice")):
        with pytest.raises(AccountError, match=r"there is no client `.*`; see `gateway clients list`"):
            await refused


async def test_roles_that_a_policy_no_longer_defines_can_be_taken_away(kit: Kit) -> None:
    await kit.add("alice")
    assert await kit.identity.accounts.set_roles("alice", []) == ()


async def test_a_secret_is_random_shown_once_and_kept_only_as_a_hash(kit: Kit) -> None:
    first = await kit.identity.accounts.add_client("billing", roles=["publisher"])
    second = await kit.identity.accounts.rotate_secret("billing")
    assert len(first.client_secret) == len(second.client_secret) == 43
    assert first.client_secret != second.client_secret
    assert (first.previous_until, second.previous_until) == (0.0, kit.clock.now + 86_400)
    account = await kit.identity.accounts.find("billing")
    assert account is not None
    assert first.client_secret not in f"{account.secret_hash} {account.previous_secret_hash} {account!r} {first!r}"


async def issued(kit: Kit, name: str, *roles: str, ttl_s: int | None = None) -> dict[str, object]:
    identity = kit.identity
    access = await issue_for(
        identity.accounts, identity.tokens, identity.terms, name, roles=roles, ttl_s=ttl_s, now=kit.clock.now
    )
    verified = await identity.credentials.verify_token(access.access_token, kit.clock.now)
    assert verified.signing_key == access.signing_key
    return {
        "expires_in": access.expires_in,
        "scope": access.scope,
        "roles": verified.principal.roles,
        "left_s": verified.principal.expires_at - int(kit.clock.now),
        "narrowed_to": verified.principal.token.narrowed_to,
        "client_id": verified.principal.token.client_id,
        "issuer": verified.principal.token.issuer,
    }


async def test_an_operator_issues_a_token_for_an_existing_account(kit: Kit) -> None:
    await kit.add("alice")
    await kit.identity.accounts.add_client("billing", roles=["publisher"])
    assert await issued(kit, "alice") == {
        "expires_in": 900,
        "scope": "member viewer",
        "roles": ("member", "viewer"),
        "left_s": 900.0,
        "narrowed_to": None,
        "client_id": "gateway",
        "issuer": ISSUER,
    }
    narrowed = await issued(kit, "alice", "viewer", ttl_s=5)
    assert (narrowed["scope"], narrowed["narrowed_to"], narrowed["left_s"]) == ("viewer", ("viewer",), 5.0)
    assert (await issued(kit, "alice", "viewer", "member"))["narrowed_to"] is None
    assert (await issued(kit, "billing"))["client_id"] == "billing"


async def test_a_token_is_issued_for_no_other_account_role_or_life(kit: Kit) -> None:
    await kit.add("alice")
    for name, roles, ttl_s, problem in (
        ("nobody", (), None, "no account `nobody`"),
        ("alice", ("admin",), None, "does not have role `admin`"),
        ("alice", (), 0, "lives from 1 to"),
        ("alice", (), 10**12, "lives from 1 to"),
    ):
        with pytest.raises(AccountError, match=problem):
            await issued(kit, name, *roles, ttl_s=ttl_s)
    await kit.identity.accounts.disable("alice")
    with pytest.raises(AccountError, match="`alice` is disabled"):
        await issued(kit, "alice")


# ---------------------------------------------------------------------------------------------- demo users


async def test_demo_users_are_made_once_marked_and_can_log_in(kit: Kit) -> None:
    accounts = kit.identity.accounts
    made = await ensure_development_users(accounts, ROLES, {})
    assert set(made) == set(USERS)
    assert len(set(made.values())) == len(made)
    assert await accounts.development_users() == sorted(USERS)
    alice, ada = await accounts.find("alice"), await accounts.find("ada")
    assert alice is not None
    assert ada is not None
    assert (alice.roles, alice.tenant) == (("member",), "acme")
    assert ada.roles == (), "this policy defines no admin"
    assert await ensure_development_users(accounts, ROLES, made) == made


async def test_a_demo_user_whose_password_was_lost_gets_a_new_one(kit: Kit) -> None:
    accounts = kit.identity.accounts
    made = await ensure_development_users(accounts, ROLES, {})
    kept = {name: password for name, password in made.items() if name != "bob"}
    again = await ensure_development_users(accounts, ROLES, kept)
    assert again["bob"] != made["bob"]
    assert {**again, "bob": ""} == {**made, "bob": ""}


async def test_an_account_of_ones_own_is_no_demo_user_whatever_its_name(kit: Kit) -> None:
    await kit.add("alice")
    made = await ensure_development_users(kit.identity.accounts, ROLES, {"alice": "kept from before"})
    assert "alice" not in made
    assert "alice" not in await kit.identity.accounts.development_users()


# ---------------------------------------------------------------------------------------------- attempts


class CountedThrottle:
    """Lets every attempt through, and notes how each ended."""

    def __init__(self) -> None:
        self.ended: list[str] = []

    async def begin(self, name: str, address: str) -> Attempt:
        return Attempt(name, address, spared=False, lease_until=0.0)

    async def failed(self, attempt: Attempt) -> None:
        self.ended.append(f"failed {attempt.address}")

    async def succeeded(self, attempt: Attempt) -> None:
        self.ended.append(f"succeeded {attempt.address}")

    async def abandoned(self, attempt: Attempt) -> None:
        self.ended.append(f"abandoned {attempt.address}")


async def test_an_attempt_is_ended_exactly_once_however_it_goes() -> None:
    throttle = CountedThrottle()
    logins = Logins(throttle)

    async def outcome(*, proven: bool) -> bool:
        return proven

    async def breaks() -> bool:
        raise HashingBusyError(1.0)

    assert await logins.attempt("alice", "192.0.2.1", lambda: outcome(proven=True))
    assert not await logins.attempt("alice", "2001:db8::1", lambda: outcome(proven=False))
    with pytest.raises(HashingBusyError):
        await logins.attempt("alice", "192.0.2.1", breaks)
    assert throttle.ended == ["succeeded 192.0.2.1", "failed 2001:db8::/64", "abandoned 192.0.2.1"]
