"""`POST /token` over a real socket: grants, clients, scopes, and every way in which a request can be wrong."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from identity_kit import ACCESS_TTL_S, ISSUER, PASSWORD, REFRESH_TTL_S, Kit, served
from passlib.hash import bcrypt

from gateway.adapters.account_store import DatabaseAccounts
from gateway.adapters.passwords import MAX_QUEUED
from gateway.core.accounts import Account, AccountKind

FORM = "application/x-www-form-urlencoded"
WRONG_LOGIN = {"error": "invalid_grant", "error_description": "the name or the password is wrong"}


@pytest.fixture
async def kit(tmp_path: Path) -> AsyncIterator[Kit]:
    async with served(tmp_path) as kit:
        await kit.add("alice", claims={"department": "sales"})
        yield kit


def claims_of(answer: httpx.Response) -> dict[str, object]:
    part = answer.json()["access_token"].split(".")[1]
    return dict(json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))))


def refused(answer: httpx.Response) -> tuple[int, str]:
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["cache-control"] == "no-store"
    assert set(answer.json()) == {"error", "error_description"}
    return answer.status_code, answer.json()["error"]


async def client_secret(kit: Kit, name: str = "billing") -> str:
    return (await kit.identity.accounts.add_client(name, roles=("publisher",), tenant="acme")).client_secret


# ---------------------------------------------------------------------------------------------- grants


async def test_a_password_gets_tokens_and_a_signing_key(kit: Kit) -> None:
    answer = await kit.login()
    body = answer.json()
    assert answer.status_code == 200
    assert (answer.headers["cache-control"], answer.headers["pragma"]) == ("no-store", "no-cache")
    assert set(body) == {"access_token", "token_type", "expires_in", "refresh_token", "scope", "signing_key"}
    assert (body["token_type"], body["expires_in"], body["scope"]) == ("bearer", ACCESS_TTL_S, "member viewer")
    assert len(base64.urlsafe_b64decode(body["signing_key"] + "=")) == 32
    claims = claims_of(answer)
    now = int(kit.clock.now)
    assert {name: claims[name] for name in claims if name not in {"jti", "fam", "gen"}} == {
        "iss": ISSUER,
        "aud": ISSUER,
        "sub": "alice",
        "iat": now,
        "nbf": now,
        "exp": now + ACCESS_TTL_S,
        "client_id": "gateway",
        "scope": "member viewer",
        "roles": ["member", "viewer"],
        "tenant": "acme",
        "department": "sales",
    }
    assert kit.metrics.issued == ["password"]


async def test_the_access_token_of_a_login_is_good_and_yields_the_same_signing_key(kit: Kit) -> None:
    body = (await kit.login()).json()
    verified = await kit.identity.credentials.verify_token(body["access_token"], kit.clock.now)
    assert verified.principal.roles == ("member", "viewer")
    assert verified.principal.claims == {"department": "sales"}
    assert base64.urlsafe_b64encode(verified.signing_key or b"").rstrip(b"=").decode() == body["signing_key"]


async def test_a_refresh_token_gets_new_tokens_of_the_same_family(kit: Kit) -> None:
    first = await kit.login()
    second = await kit.refresh(first.json()["refresh_token"])
    assert second.status_code == 200
    assert second.json()["refresh_token"] != first.json()["refresh_token"]
    assert claims_of(second)["fam"] == claims_of(first)["fam"]
    assert claims_of(second)["jti"] != claims_of(first)["jti"]
    assert second.json()["signing_key"] != first.json()["signing_key"]


async def test_client_credentials_by_basic_get_a_token_without_a_refresh_token(kit: Kit) -> None:
    secret = await client_secret(kit)
    answer = await kit.token(grant_type="client_credentials", auth=("billing", secret))
    assert answer.status_code == 200
    assert set(answer.json()) == {"access_token", "token_type", "expires_in", "scope", "signing_key"}
    claims = claims_of(answer)
    assert (claims["sub"], claims["client_id"], claims["roles"]) == ("billing", "billing", ["publisher"])
    assert "fam" not in claims


async def test_client_credentials_in_the_form_get_the_same(kit: Kit) -> None:
    secret = await client_secret(kit)
    answer = await kit.token(grant_type="client_credentials", client_id="billing", client_secret=secret)
    assert (answer.status_code, claims_of(answer)["sub"]) == (200, "billing")


async def test_a_client_whose_name_has_a_plus_sign_authenticates_encoded_and_plain(kit: Kit) -> None:
    secret = await client_secret(kit, "a+b")
    for name in ("a+b", "a%2Bb"):
        answer = await kit.token(grant_type="client_credentials", auth=(name, secret))
        assert answer.status_code == 200, name


async def test_an_unknown_grant_is_unsupported(kit: Kit) -> None:
    assert refused(await kit.token(grant_type="authorization_code")) == (400, "unsupported_grant_type")
    assert kit.metrics.failures == [("unknown", "unsupported_grant_type")]


async def test_the_password_grant_can_be_switched_off(tmp_path: Path) -> None:
    async with served(tmp_path, password_grant=False) as kit:
        await kit.add("alice")
        assert refused(await kit.login()) == (400, "unsupported_grant_type")


# ---------------------------------------------------------------------------------------------- scopes


async def test_a_requested_subset_narrows_the_token_and_says_so(kit: Kit) -> None:
    answer = await kit.login(scope="viewer")
    assert answer.json()["scope"] == "viewer"
    claims = claims_of(answer)
    assert (claims["roles"], claims["scope"], claims["narrowed"]) == (["viewer"], "viewer", True)


async def test_all_roles_requested_by_name_narrow_nothing(kit: Kit) -> None:
    answer = await kit.login(scope="viewer member")
    assert answer.json()["scope"] == "member viewer"
    assert "narrowed" not in claims_of(answer)


async def test_a_scope_with_more_or_written_badly_is_invalid(kit: Kit) -> None:
    for scope in ("admin", "member admin", "member  viewer", 'mem"ber', "ä"):
        assert refused(await kit.login(scope=scope)) == (400, "invalid_scope")


async def test_a_narrowed_family_stays_narrowed_and_can_be_narrowed_once_but_not_widened(kit: Kit) -> None:
    await kit.identity.accounts.set_roles("alice", ["member", "moderator", "viewer"])
    first = (await kit.login(scope="member viewer")).json()["refresh_token"]
    second = await kit.refresh(first, scope="viewer")
    assert (second.json()["scope"], claims_of(second)["narrowed"]) == ("viewer", True)
    third = await kit.refresh(second.json()["refresh_token"])
    assert (third.json()["scope"], claims_of(third)["narrowed"]) == ("member viewer", True)
    assert refused(await kit.refresh(third.json()["refresh_token"], scope="moderator")) == (400, "invalid_scope")


async def test_a_scope_that_is_refused_spends_no_refresh_token(kit: Kit) -> None:
    token = (await kit.login()).json()["refresh_token"]
    assert refused(await kit.refresh(token, scope="admin")) == (400, "invalid_scope")
    assert (await kit.refresh(token)).status_code == 200


async def test_roles_given_after_the_login_stand_in_the_next_token(kit: Kit) -> None:
    token = (await kit.login()).json()["refresh_token"]
    await kit.identity.accounts.set_roles("alice", ["moderator"])
    assert (await kit.refresh(token)).json()["scope"] == "moderator"


async def test_a_user_without_roles_gets_an_empty_scope(kit: Kit) -> None:
    await kit.add("bare", roles=())
    answer = await kit.login("bare")
    assert (answer.status_code, answer.json()["scope"], claims_of(answer)["roles"]) == (200, "", [])


# ---------------------------------------------------------------------------------------------- wrong logins


async def test_a_wrong_password_and_an_unknown_user_get_the_same_answer(kit: Kit) -> None:
    await client_secret(kit)
    await kit.add("disabled")
    await kit.identity.accounts.disable("disabled")
    answers = [
        await kit.login("alice", "wrong password"),
        await kit.login("nobody", PASSWORD),
        await kit.login("billing", PASSWORD),
        await kit.login("disabled", PASSWORD),
        await kit.login("no such name!", PASSWORD),
        await kit.login("a\x00b", PASSWORD),
        await kit.login("alice", "x" * 10_000),
    ]
    for answer in answers:
        assert refused(answer) == (400, "invalid_grant")
        assert answer.json() == WRONG_LOGIN
    length = {answer.headers["content-length"] for answer in answers}
    assert len(length) == 1


async def test_the_log_names_the_account_that_was_tried_but_no_unknown_name_which_may_be_a_password(kit: Kit) -> None:
    await kit.login("alice", "wrong password")
    await kit.login("hunter2-typed-into-the-name")
    await kit.login()
    first, second = kit.log.named("token.refused")
    assert first == {
        "grant": "password",
        "reason": "invalid_grant",
        "detail": WRONG_LOGIN["error_description"],
        "remote_addr": "192.0.2.1",
        "subject": "alice",
    }
    assert "subject" not in second
    (issued,) = kit.log.named("token.issued")
    assert {name: issued[name] for name in issued if name != "jti"} == {
        "grant": "password",
        "subject": "alice",
        "tenant": "acme",
        "client_id": "gateway",
        "remote_addr": "192.0.2.1",
    }
    assert kit.metrics.failures == [("password", "invalid_grant")] * 2


async def test_no_secret_stands_in_any_event(kit: Kit) -> None:
    secret = await client_secret(kit)
    body = (await kit.login()).json()
    await kit.refresh(body["refresh_token"])
    await kit.login("alice", "a wrong password")
    await kit.token(grant_type="client_credentials", auth=("billing", secret))
    await kit.token(grant_type="client_credentials", auth=("billing", "a wrong secret"))
    text = repr(kit.log.events)
    for word in (PASSWORD, "a wrong password", secret, "a wrong secret", *map(str, body.values())):
        assert word not in text or len(word) < 20


# ---------------------------------------------------------------------------------------------- clients


async def test_a_wrong_client_gets_401_with_a_challenge(kit: Kit) -> None:
    secret = await client_secret(kit)
    wrong = [
        await kit.token(grant_type="client_credentials", auth=("billing", "wrong")),
        await kit.token(grant_type="client_credentials", auth=("nobody", secret)),
        await kit.token(grant_type="client_credentials", auth=("alice", PASSWORD)),
        await kit.token(grant_type="client_credentials", client_id="billing", client_secret="wrong"),
        await kit.token(grant_type="client_credentials", client_id="billing"),
        await kit.token(grant_type="client_credentials", client_id="gateway"),
        await kit.token(grant_type="client_credentials", client_id="gateway", client_secret="x", address="192.0.2.2"),
        await kit.token(grant_type="client_credentials"),
        await kit.token(grant_type="password", username="alice", password=PASSWORD, client_id="nobody"),
        await kit.token(grant_type="password", username="alice", password=PASSWORD, auth=("nobody", "x")),
    ]
    for answer in wrong:
        assert refused(answer) == (401, "invalid_client")
        assert answer.headers["www-authenticate"] == 'Basic realm="gateway", charset="UTF-8"'


async def test_a_client_that_was_deleted_is_wrong(kit: Kit) -> None:
    secret = await client_secret(kit)
    await kit.identity.accounts.delete("billing", AccountKind.CLIENT)
    answer = await kit.token(grant_type="client_credentials", auth=("billing", secret))
    assert refused(answer) == (401, "invalid_client")


async def test_a_service_client_cannot_use_the_grants_of_people(kit: Kit) -> None:
    secret = await client_secret(kit)
    answer = await kit.token(grant_type="password", username="alice", password=PASSWORD, auth=("billing", secret))
    assert refused(answer) == (400, "unauthorized_client")


async def test_the_public_client_may_name_itself(kit: Kit) -> None:
    assert (await kit.login(client_id="gateway")).status_code == 200


async def test_a_rotated_secret_leaves_the_old_one_a_day_and_now_ends_it(kit: Kit) -> None:
    old = await client_secret(kit)
    new = (await kit.identity.accounts.rotate_secret("billing")).client_secret
    for secret in (old, new):
        assert (await kit.token(grant_type="client_credentials", auth=("billing", secret))).status_code == 200
    kit.clock.now += 86_401
    assert refused(await kit.token(grant_type="client_credentials", auth=("billing", old))) == (401, "invalid_client")
    token = (await kit.token(grant_type="client_credentials", auth=("billing", new))).json()["access_token"]
    last = (await kit.identity.accounts.rotate_secret("billing", now=True)).client_secret
    assert refused(await kit.token(grant_type="client_credentials", auth=("billing", new))) == (401, "invalid_client")
    assert (await kit.token(grant_type="client_credentials", auth=("billing", last))).status_code == 200
    ticket = await kit.http.post("/ws/ticket", headers={"authorization": f"Bearer {token}"})
    assert (ticket.status_code, ticket.json()["error_description"]) == (401, "the access token has been revoked")


async def test_two_client_authentications_at_once_are_an_invalid_request(kit: Kit) -> None:
    basic, form = ("authorization", "Basic YmlsbGluZzpz"), ("content-type", FORM)
    for headers, body in (
        ([basic], "client_id=billing&client_secret=s"),
        ([basic], "client_id=other"),
        ([basic, basic], ""),
        ([], "client_secret=s"),
    ):
        content = f"grant_type=client_credentials&{body}"
        answer = await kit.http.post("/token", content=content, headers=[*headers, form])
        assert refused(answer) == (400, "invalid_request")


async def test_an_authorization_that_is_no_basic_is_a_wrong_client(kit: Kit) -> None:
    for authorization in ("Bearer abc", "Basic", "Basic !!", "Basic YmlsbGluZw==", "Negotiate x"):
        answer = await kit.http.post(
            "/token", data={"grant_type": "client_credentials"}, headers={"authorization": authorization}
        )
        assert refused(answer) == (401, "invalid_client")


# ---------------------------------------------------------------------------------------------- forms

LOGIN = f"grant_type=password&username=alice&password={PASSWORD.replace(' ', '+')}"


WRONG_FORMS = [
    (None, LOGIN),
    ("application/json", '{"grant_type":"password"}'),
    (
        "multipart/form-data; boundary=x",
        '--x\r\nContent-Disposition: form-data; name="grant_type"\r\n\r\nx\r\n--x--',
    ),
    ("text/plain", LOGIN),
    (FORM, ""),
    (FORM, "grant_type="),
    (FORM, "grant_type=password"),
    (FORM, "grant_type=password&username=alice"),
    (FORM, "grant_type=password&username=alice&password="),
    (FORM, "grant_type=password&password=x"),
    (FORM, "grant_type=refresh_token"),
    (FORM, f"{LOGIN}&username=bob"),
    (FORM, f"{LOGIN}&unknown=1&unknown=1"),
    (FORM, f"{LOGIN}&grant_type=password"),
    (FORM, "grant_type=password&username=%ff&password=x"),
    (FORM, "grant_type=password&username=%zz&password=x"),
    (FORM, f"{LOGIN}&x=" + "y" * 20_000),
    (FORM, "&".join(f"p{n}=1" for n in range(100))),
]


async def test_whatever_is_wrong_with_the_form_is_400_invalid_request(kit: Kit) -> None:
    for content_type, body in WRONG_FORMS:
        headers = {} if content_type is None else {"content-type": content_type}
        answer = await kit.http.post("/token", content=body, headers=headers)
        assert refused(answer) == (400, "invalid_request"), body[:100]


async def test_a_body_that_never_ends_is_refused_at_its_limit(kit: Kit) -> None:
    async def endless() -> AsyncIterator[bytes]:
        for _ in range(1000):
            yield b"x" * 1024

    answer = await kit.http.post("/token", content=endless(), headers={"content-type": FORM})
    assert refused(answer) == (400, "invalid_request")


async def test_unknown_parameters_are_ignored(kit: Kit) -> None:
    assert (await kit.login(audience="x", **{"": "y"})).status_code == 200


async def test_only_post_is_taken(kit: Kit) -> None:
    assert (await kit.http.get("/token")).status_code == 405


# ---------------------------------------------------------------------------------------------- refresh tokens


async def test_reuse_of_a_refresh_token_revokes_the_family_and_its_access_tokens(kit: Kit) -> None:
    first = (await kit.login()).json()
    second = (await kit.refresh(first["refresh_token"])).json()
    kit.clock.now += 11
    assert refused(await kit.refresh(first["refresh_token"])) == (400, "invalid_grant")
    assert refused(await kit.refresh(second["refresh_token"])) == (400, "invalid_grant")
    for access_token in (first["access_token"], second["access_token"]):
        ticket = await kit.http.post("/ws/ticket", headers={"authorization": f"Bearer {access_token}"})
        assert (ticket.status_code, ticket.json()["error_description"]) == (401, "the access token has been revoked")
    (told,) = kit.log.named("token.revoked")
    assert (told["reason"], told["subject"]) == ("refresh_token_reused", "alice")


async def test_another_login_of_the_user_outlives_a_revoked_family(kit: Kit) -> None:
    first, other = (await kit.login()).json(), (await kit.login()).json()
    await kit.refresh(first["refresh_token"])
    kit.clock.now += 11
    await kit.refresh(first["refresh_token"])
    assert (await kit.refresh(other["refresh_token"])).status_code == 200


async def test_a_lost_answer_is_given_again_within_ten_seconds_and_the_lost_one_is_refused(kit: Kit) -> None:
    first = (await kit.login()).json()["refresh_token"]
    lost = (await kit.refresh(first)).json()["refresh_token"]
    kit.clock.now += 10
    again = await kit.refresh(first)
    assert again.status_code == 200
    assert refused(await kit.refresh(lost)) == (400, "invalid_grant")
    assert (await kit.refresh(again.json()["refresh_token"])).status_code == 200


async def test_a_lost_answer_is_given_again_only_once(kit: Kit) -> None:
    first = (await kit.login()).json()["refresh_token"]
    await kit.refresh(first)
    again = (await kit.refresh(first)).json()["refresh_token"]
    assert refused(await kit.refresh(first)) == (400, "invalid_grant")
    assert refused(await kit.refresh(again)) == (400, "invalid_grant")


async def test_an_old_token_whose_successor_was_used_is_a_reuse_even_within_ten_seconds(kit: Kit) -> None:
    first = (await kit.login()).json()["refresh_token"]
    second = (await kit.refresh(first)).json()["refresh_token"]
    third = (await kit.refresh(second)).json()["refresh_token"]
    assert refused(await kit.refresh(first)) == (400, "invalid_grant")
    assert refused(await kit.refresh(third)) == (400, "invalid_grant")


async def test_parallel_refreshes_leave_one_live_token_at_most(kit: Kit) -> None:
    for _ in range(5):
        first = (await kit.login()).json()["refresh_token"]
        answers = await asyncio.gather(*(kit.refresh(first) for _ in range(2)))
        assert [answer.status_code for answer in answers] == [200, 200]
        again = [await kit.refresh(answer.json()["refresh_token"]) for answer in answers]
        assert sorted(answer.status_code for answer in again) == [200, 400]


async def test_three_parallel_uses_of_one_token_are_a_reuse(kit: Kit) -> None:
    first = (await kit.login()).json()["refresh_token"]
    answers = await asyncio.gather(*(kit.refresh(first) for _ in range(3)))
    assert sorted(answer.status_code for answer in answers) == [200, 200, 400]
    for answer in answers:
        if answer.status_code == 200:
            assert refused(await kit.refresh(answer.json()["refresh_token"])) == (400, "invalid_grant")


async def test_the_life_of_a_family_counts_from_the_login(kit: Kit) -> None:
    token = (await kit.login()).json()["refresh_token"]
    kit.clock.now += REFRESH_TTL_S / 2
    token = (await kit.refresh(token)).json()["refresh_token"]
    kit.clock.now += REFRESH_TTL_S / 2 - 1
    token = (await kit.refresh(token)).json()["refresh_token"]
    kit.clock.now += 1
    assert refused(await kit.refresh(token)) == (400, "invalid_grant")


async def test_an_unknown_refresh_token_is_an_invalid_grant(kit: Kit) -> None:
    for token in ("x", "A" * 43, "\x00", "ä"):
        assert refused(await kit.refresh(token)) == (400, "invalid_grant")


async def test_whatever_ends_the_tokens_of_an_account_ends_its_families(kit: Kit) -> None:
    accounts = kit.identity.accounts
    token = (await kit.login()).json()["refresh_token"]
    await accounts.set_password("alice", "another good password")
    assert refused(await kit.refresh(token)) == (400, "invalid_grant")
    token = (await kit.login("alice", "another good password")).json()["refresh_token"]
    await accounts.disable("alice")
    assert refused(await kit.refresh(token)) == (400, "invalid_grant")
    await accounts.enable("alice")
    assert refused(await kit.refresh(token)) == (400, "invalid_grant")
    token = (await kit.login("alice", "another good password")).json()["refresh_token"]
    await accounts.delete("alice", AccountKind.USER)
    assert refused(await kit.refresh(token)) == (400, "invalid_grant")
    await kit.add("alice")
    assert refused(await kit.refresh(token)) == (400, "invalid_grant")


# ---------------------------------------------------------------------------------------------- what is not there


async def test_a_full_hashing_queue_is_503_with_retry_after(kit: Kit) -> None:
    room = kit.identity.accounts._passwords._room  # type: ignore[attr-defined]
    taken = 0
    while room.acquire(blocking=False):
        taken += 1
    assert taken > MAX_QUEUED
    answer = await kit.login()
    assert refused(answer) == (503, "temporarily_unavailable")
    assert int(answer.headers["retry-after"]) >= 1
    assert kit.metrics.failures == [("password", "temporarily_unavailable")]
    room.release()
    assert (await kit.login()).status_code == 200
    assert (await kit.login()).status_code == 200, "what was refused for want of room was not counted"


async def test_a_database_that_is_away_is_503_with_retry_after(kit: Kit, tmp_path: Path) -> None:
    body = (await kit.login()).json()
    with contextlib.closing(sqlite3.connect(tmp_path / "gateway.db")) as other:
        other.execute("ALTER TABLE accounts RENAME TO elsewhere")
    for answer in (
        await kit.login(),
        await kit.refresh(body["refresh_token"]),
        await kit.http.post("/ws/ticket", headers={"authorization": f"Bearer {body['access_token']}"}),
    ):
        assert refused(answer) == (503, "temporarily_unavailable")
        assert answer.headers["retry-after"] == "5"
    assert kit.metrics.failures[-1] == ("refresh_token", "temporarily_unavailable")


async def test_a_password_that_was_hashed_otherwise_is_hashed_anew_at_the_login(kit: Kit) -> None:
    imported = bcrypt.using(rounds=4).hash(PASSWORD)
    account = Account("imported", AccountKind.USER, "g1", password_hash=imported)
    store = DatabaseAccounts(kit.identity.database)
    assert await store.add(account)
    assert refused(await kit.login("imported", "a wrong password")) == (400, "invalid_grant")
    assert (await store.find("imported")) == account
    assert (await kit.login("imported")).status_code == 200
    rehashed = await store.find("imported")
    assert rehashed is not None
    assert str(rehashed.password_hash).startswith("$argon2id$v=19$m=19456,t=2,p=1$")
    assert (await kit.login("imported")).status_code == 200


# ---------------------------------------------------------------------------------------------- keys


async def test_the_key_set_is_public_and_has_no_private_part(kit: Kit) -> None:
    answer = await kit.http.get("/.well-known/jwks.json")
    assert (answer.status_code, answer.headers["cache-control"]) == (200, "public, max-age=300")
    (key,) = answer.json()["keys"]
    assert (key["kty"], key["crv"], key["alg"], key["use"]) == ("EC", "P-256", "ES256", "sig")
    assert set(key) == {"kty", "crv", "alg", "use", "kid", "x", "y"}
