"""The rules of accounts: names, passwords, tenants, roles, claims, secrets."""

from __future__ import annotations

import pytest

from gateway.core.accounts import (
    RESERVED_CLAIMS,
    Account,
    AccountError,
    AccountKind,
    check_claims,
    check_name,
    check_password,
    check_roles,
    check_tenant,
    fingerprint,
    is_name,
    read_password,
    roles_in_force,
    secret_matches,
)

KNOWN = frozenset({"member", "moderator", "viewer"})


@pytest.mark.parametrize("name", ["a", "alice", "A.b_c@d+e-f", "0" * 64])
def test_a_name_of_the_documented_characters_is_taken(name: str) -> None:
    assert is_name(name)
    assert check_name(name) == name


@pytest.mark.parametrize("name", ["", "a" * 65, "a b", "a\n", "a|b", "a:b", "*", "ä", "\u0430lice", "a\x00", "a/b"])
def test_any_other_name_is_refused(name: str) -> None:
    assert not is_name(name)
    with pytest.raises(AccountError, match="1 to 64 characters"):
        check_name(name)


def test_the_name_of_the_public_client_is_nobodys() -> None:
    with pytest.raises(AccountError, match="public client"):
        check_name("gateway")


@pytest.mark.parametrize("password", ["x" * 12, "x" * 128, "pässwörter sind ok"])
def test_a_password_of_12_to_128_characters_is_taken(password: str) -> None:
    assert check_password(password) == password


@pytest.mark.parametrize("password", ["", "x" * 11, "x" * 129])
def test_a_shorter_or_longer_password_is_refused(password: str) -> None:
    with pytest.raises(AccountError, match="12 to 128 characters") as refused:
        check_password(password)
    assert not password or password not in str(refused.value)


@pytest.mark.parametrize("password", ["twelve chars\n", "twelve\x00chars", "twelve chars\x7f", "twelve chars\ud800"])
def test_a_password_that_cannot_be_typed_is_refused(password: str) -> None:
    with pytest.raises(AccountError, match="control characters"):
        check_password(password)


@pytest.mark.parametrize(
    ("line", "password"),
    [
        ("secret", "secret"),
        ("secret\n", "secret"),
        ("secret\r\n", "secret"),
        ("secret\n\n", "secret\n"),
        ("a\r", "a\r"),
    ],
)
def test_exactly_one_trailing_newline_is_stripped(line: str, password: str) -> None:
    assert read_password(line) == password


@pytest.mark.parametrize("tenant", ["", "acme", "Ünïted: 1", "x" * 255])
def test_a_tenant_without_control_characters_is_taken(tenant: str) -> None:
    assert check_tenant(tenant) == tenant


@pytest.mark.parametrize("tenant", ["x" * 256, "a\nb", "a\x7f"])
def test_any_other_tenant_is_refused(tenant: str) -> None:
    with pytest.raises(AccountError, match="at most 255 characters"):
        check_tenant(tenant)


def test_roles_are_sorted_and_each_counts_once() -> None:
    assert check_roles(["viewer", "member", "viewer"], KNOWN) == ("member", "viewer")


def test_an_unknown_role_is_refused_with_those_there_are() -> None:
    with pytest.raises(AccountError, match="no role `admin`; it defines `member`, `moderator`, `viewer`"):
        check_roles(["admin"], KNOWN)
    with pytest.raises(AccountError, match="it defines none"):
        check_roles(["admin"], frozenset())


def test_a_role_that_cannot_stand_in_a_scope_is_refused() -> None:
    with pytest.raises(AccountError, match="cannot stand in a scope"):
        check_roles(["two words"], frozenset({"two words"}))


def test_claims_of_ones_own_are_taken() -> None:
    assert check_claims({"department": "sales", "https://x.example/y": ""}) == {
        "department": "sales",
        "https://x.example/y": "",
    }


@pytest.mark.parametrize("name", sorted(RESERVED_CLAIMS))
def test_a_claim_of_the_token_itself_is_refused(name: str) -> None:
    with pytest.raises(AccountError, match="belongs to the token itself"):
        check_claims({name: "root"})


@pytest.mark.parametrize("name", ["", "a b", "a" * 65, "ä"])
def test_a_claim_name_of_other_characters_is_refused(name: str) -> None:
    with pytest.raises(AccountError, match="a claim's name"):
        check_claims({name: "x"})


@pytest.mark.parametrize("value", ["x" * 1025, "\ud800"])
def test_a_claim_that_is_too_long_or_no_text_is_refused(value: str) -> None:
    with pytest.raises(AccountError, match="the value of claim `department`"):
        check_claims({"department": value})


def test_too_many_claims_are_refused() -> None:
    assert len(check_claims({f"c{n}": "" for n in range(32)})) == 32
    with pytest.raises(AccountError, match="at most 32 claims"):
        check_claims({f"c{n}": "" for n in range(33)})


def test_the_stores_roles_rule_and_a_narrowed_token_has_only_those_in_common() -> None:
    assert roles_in_force(("member", "viewer"), None) == ("member", "viewer")
    assert roles_in_force(("member", "viewer"), ("moderator", "viewer")) == ("viewer",)
    assert roles_in_force(("member",), ()) == ()


def client(**members: object) -> Account:
    return Account(name="billing", kind=AccountKind.CLIENT, generation="g", **members)  # type: ignore[arg-type]


def test_the_present_secret_matches_and_any_other_does_not() -> None:
    account = client(secret_hash=fingerprint("s3cret"))
    assert secret_matches(account, "s3cret", 0.0)
    assert not secret_matches(account, "S3cret", 0.0)
    assert not secret_matches(account, "", 0.0)
    assert not secret_matches(account, "\ud800", 0.0)


def test_the_secret_before_matches_until_its_day_is_over() -> None:
    account = client(
        secret_hash=fingerprint("new"), previous_secret_hash=fingerprint("old"), previous_secret_until=1000.0
    )
    assert secret_matches(account, "old", 999.9)
    assert not secret_matches(account, "old", 1000.0)
    assert secret_matches(account, "new", 1000.0)


def test_no_client_and_a_user_have_no_secret_that_matches() -> None:
    user = Account(name="alice", kind=AccountKind.USER, generation="g", secret_hash=fingerprint("s3cret"))
    assert not secret_matches(None, "s3cret", 0.0)
    assert not secret_matches(user, "s3cret", 0.0)
    assert not secret_matches(client(), "", 0.0)


def test_an_account_never_shows_its_hashes() -> None:
    account = client(
        password_hash="$argon2id$hash", secret_hash="f" * 64, previous_secret_hash="e" * 64, previous_secret_until=1.0
    )
    assert not any(secret in repr(account) for secret in ("$argon2id$hash", "f" * 64, "e" * 64))
