"""The claims of access tokens: types, issuer, audience, times, and the principal they make."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest

from gateway.core.accounts import Account, AccountKind
from gateway.core.claims import AccessClaims, check_claims, principal_of, read_claims
from gateway.core.errors import HandshakeRefusedError, Refusal
from gateway.core.principal import Principal, TokenIdentity

NOW = 1_800_000_000.0
ISSUER = "https://gateway.example"
GOOD: dict[str, object] = {
    "iss": ISSUER,
    "sub": "alice",
    "aud": ISSUER,
    "exp": NOW + 900,
    "iat": NOW,
    "nbf": NOW,
    "jti": "j1",
    "client_id": "gateway",
    "scope": "member",
    "roles": ["member"],
    "tenant": "acme",
    "gen": "g1",
}
ALICE = Account(name="alice", kind=AccountKind.USER, generation="g1", tenant="acme", roles=("member", "viewer"))


def payload(**claims: object) -> bytes:
    everything = {**GOOD, **claims}
    return msgspec.json.encode({name: value for name, value in everything.items() if value is not ...})


def claims_of(**claims: object) -> AccessClaims:
    return read_claims(payload(**claims))[0]


def refusal_of(claims: AccessClaims, now: float = NOW) -> tuple[Refusal, str]:
    with pytest.raises(HandshakeRefusedError) as refused:
        check_claims(claims, ISSUER, ISSUER, now)
    return refused.value.refusal, refused.value.detail


def test_good_claims_pass_and_what_is_not_registered_is_the_tokens_own() -> None:
    claims, own = read_claims(payload(department="sales", fam="f1"))
    check_claims(claims, ISSUER, ISSUER, NOW)
    assert claims.fam == "f1"
    assert dict(own) == {"department": "sales"}


@pytest.mark.parametrize("name", sorted(set(GOOD) - {"gen"}))
def test_a_token_without_a_claim_that_it_needs_is_invalid(name: str) -> None:
    with pytest.raises(HandshakeRefusedError) as refused:
        read_claims(payload(**{name: ...}))
    assert refused.value.refusal is Refusal.INVALID_TOKEN


@pytest.mark.parametrize("name", ["exp", "iat", "nbf"])
@pytest.mark.parametrize("value", [True, "1800000000", None, [], {}])
def test_a_time_that_is_no_number_is_invalid(name: str, value: object) -> None:
    with pytest.raises(HandshakeRefusedError) as refused:
        read_claims(payload(**{name: value}))
    assert refused.value.refusal is Refusal.INVALID_TOKEN


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"[]",
        b"null",
        b"{",
        b'"alice"',
        b"\xff",
        b'{"a":"\xff"}',
        b'{"exp":NaN}',
        b'{"a":' + b"[" * 5000 + b"]" * 5000 + b"}",
        payload()[:-1] + b',"exp":' + b"9" * 400 + b"}",
        payload()[:-1] + b',"exp":1e400}',
        payload(roles="member"),
        payload(roles=["member", 1]),
        payload(aud=1),
        payload(sub=7),
        payload(narrowed="yes"),
    ],
)
def test_claims_that_cannot_be_read_strictly_are_invalid(raw: bytes) -> None:
    with pytest.raises(HandshakeRefusedError) as refused:
        read_claims(raw)
    assert refused.value.refusal is Refusal.INVALID_TOKEN


@pytest.mark.parametrize("name", ["exp", "iat", "nbf"])
@pytest.mark.parametrize("value", [-1, 2**53, 1e300])
def test_a_time_that_no_calendar_has_is_invalid(name: str, value: float) -> None:
    assert refusal_of(claims_of(**{name: value})) == (Refusal.INVALID_TOKEN, "a time out of range")


def test_a_token_of_another_issuer_is_invalid() -> None:
    assert refusal_of(claims_of(iss="https://evil.example")) == (Refusal.INVALID_TOKEN, "another issuer")


def test_a_token_for_another_audience_is_invalid_and_one_of_several_is_enough() -> None:
    assert refusal_of(claims_of(aud="https://api.example")) == (Refusal.INVALID_TOKEN, "another audience")
    assert refusal_of(claims_of(aud=[])) == (Refusal.INVALID_TOKEN, "another audience")
    check_claims(claims_of(aud=["https://api.example", ISSUER]), ISSUER, ISSUER, NOW)


@pytest.mark.parametrize("name", ["sub", "jti"])
def test_an_empty_subject_or_identity_is_invalid(name: str) -> None:
    assert refusal_of(claims_of(**{name: ""})) == (Refusal.INVALID_TOKEN, "an empty `sub` or `jti`")


def test_expiry_has_no_leeway() -> None:
    claims = claims_of()
    check_claims(claims, ISSUER, ISSUER, NOW + 899.999)
    assert refusal_of(claims, NOW + 900) == (Refusal.EXPIRED_TOKEN, "")


@pytest.mark.parametrize("name", ["nbf", "iat"])
def test_clocks_may_differ_by_ten_seconds_and_no_more(name: str) -> None:
    check_claims(claims_of(**{name: NOW + 10}), ISSUER, ISSUER, NOW)
    assert refusal_of(claims_of(**{name: NOW + 10.5})) == (Refusal.INVALID_TOKEN, f"`{name}` is in the future")


def test_whatever_else_is_wrong_comes_before_expiry() -> None:
    claims = claims_of(iss="https://evil.example", exp=NOW - 1)
    assert refusal_of(claims)[0] is Refusal.INVALID_TOKEN


def test_the_principal_has_the_stores_roles_and_the_tokens_own_claims() -> None:
    claims, own = read_claims(payload(department="sales", roles=["admin"], fam="f1"))
    assert principal_of(claims, own, ALICE) == Principal(
        subject="alice",
        tenant="acme",
        roles=("member", "viewer"),
        claims={"department": "sales"},
        expires_at=NOW + 900,
        token=TokenIdentity(ISSUER, "j1", "f1", NOW, "gateway", generation="g1"),
    )


def test_a_narrowed_token_has_only_the_roles_in_common_with_the_store() -> None:
    claims, own = read_claims(payload(narrowed=True, roles=["moderator", "viewer"]))
    principal = principal_of(claims, own, ALICE)
    assert principal.roles == ("viewer",)
    assert principal.token.narrowed_to == ("moderator", "viewer")


@pytest.mark.parametrize(
    "account",
    [replace(ALICE, disabled=True), replace(ALICE, generation="g2"), replace(ALICE, tenant="other")],
)
def test_a_token_that_its_account_has_ended_is_revoked(account: Account) -> None:
    claims, own = read_claims(payload())
    with pytest.raises(HandshakeRefusedError) as refused:
        principal_of(claims, own, account)
    assert refused.value.refusal is Refusal.REVOKED_TOKEN
    assert refused.value.subject == "alice"
