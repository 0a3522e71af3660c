"""The strict reading of token requests, and the vocabulary of their refusals."""

from __future__ import annotations

import base64

import pytest

from gateway.core.oauth import (
    MAX_FORM_BYTES,
    STATUSES,
    ClientCredentials,
    OAuthError,
    OAuthErrorCode,
    client_of,
    narrow,
    parse_basic,
    parse_bearer,
    parse_form,
    parse_scope,
)

FORM = ["application/x-www-form-urlencoded"]


def code_of(call: object, *arguments: object) -> OAuthErrorCode:
    with pytest.raises(OAuthError) as refused:
        call(*arguments)  # type: ignore[operator]
    return refused.value.code


def basic(text: str | bytes) -> str:
    return "Basic " + base64.b64encode(text.encode() if isinstance(text, str) else text).decode()


def test_every_error_has_a_status() -> None:
    assert set(STATUSES) == set(OAuthErrorCode)
    error = OAuthError(OAuthErrorCode.SLOW_DOWN, "wait", 1.5, "alice")
    assert (error.status, error.retry_after_s, error.subject, str(error)) == (429, 1.5, "alice", "slow_down: wait")


def test_a_form_is_read_and_empty_fields_count_as_left_out() -> None:
    body = b"grant_type=password&username=al%69ce&password=a+b%2B%C3%A4%26%3D&scope=&flag&&x=1=2"
    assert parse_form(FORM, body) == {
        "grant_type": "password",
        "username": "alice",
        "password": "a b+ä&=",
        "x": "1=2",
    }


@pytest.mark.parametrize(
    "content_types",
    [["application/x-www-form-urlencoded; charset=utf-8"], ["Application/X-WWW-Form-URLEncoded ;charset=UTF-8"]],
)
def test_parameters_of_the_content_type_are_passed_over(content_types: list[str]) -> None:
    assert parse_form(content_types, b"a=b") == {"a": "b"}


@pytest.mark.parametrize("content_types", [[], ["application/json"], ["multipart/form-data"], [""], FORM * 2])
def test_another_missing_or_repeated_content_type_is_an_invalid_request(content_types: list[str]) -> None:
    assert code_of(parse_form, content_types, b"a=b") is OAuthErrorCode.INVALID_REQUEST


@pytest.mark.parametrize(
    "body",
    [
        b"a=1&a=1",
        b"a=1&%61=2",
        b"a=&a=1",
        b"a=%",
        b"a=%4",
        b"a=%zz",
        b"%=a",
        b"a=\xff",
        b"a=%ff",
        b"a=%c0%80",
        b"a=%ed%a0%80",
        b"&".join(b"%d=1" % n for n in range(65)),
        b"a=" + b"x" * MAX_FORM_BYTES,
    ],
)
def test_a_form_with_anything_wrong_is_an_invalid_request(body: bytes) -> None:
    assert code_of(parse_form, FORM, body) is OAuthErrorCode.INVALID_REQUEST


def test_a_client_names_itself_in_the_form_or_not_at_all() -> None:
    assert client_of([], {}) is None
    assert client_of([], {"client_id": "gateway"}) == ClientCredentials("gateway")
    assert client_of([], {"client_id": "billing", "client_secret": "s"}) == ClientCredentials("billing", "s")


def test_a_client_names_itself_by_basic_and_may_repeat_its_name_in_the_form() -> None:
    expected = ClientCredentials("billing", "s")
    assert client_of([basic("billing:s")], {}) == expected
    assert client_of([basic("billing:s")], {"client_id": "billing"}) == expected


@pytest.mark.parametrize(
    ("authorizations", "form"),
    [
        ([], {"client_secret": "s"}),
        ([basic("billing:s")], {"client_id": "other"}),
        ([basic("billing:s")], {"client_secret": "s"}),
        ([basic("billing:s")], {"client_id": "billing", "client_secret": "s"}),
        ([basic("billing:s"), basic("billing:s")], {}),
    ],
)
def test_two_ways_at_once_are_an_invalid_request(authorizations: list[str], form: dict[str, str]) -> None:
    assert code_of(client_of, authorizations, form) is OAuthErrorCode.INVALID_REQUEST


def test_both_halves_of_basic_are_form_encoded_and_a_plus_sign_stays() -> None:
    assert parse_basic(basic("a%2Bb:s%3Ac")) == ClientCredentials("a+b", "s:c")
    assert parse_basic("bAsIc  " + basic("a+b:s:c")[6:] + " ") == ClientCredentials("a+b", "s:c")


@pytest.mark.parametrize(
    "authorization",
    [
        "",
        "Basic",
        "Basic !!!",
        "Basic YQ",
        basic("no colon"),
        basic(b"\xff:s"),
        basic("a%zz:s"),
        "Bearer abc",
        "Basic ä",
    ],
)
def test_basic_that_cannot_be_read_is_an_invalid_client(authorization: str) -> None:
    assert code_of(parse_basic, authorization) is OAuthErrorCode.INVALID_CLIENT


@pytest.mark.parametrize(
    ("authorizations", "token"),
    [
        ([], None),
        (["Basic YTpi"], None),
        (["Bearer abc"], "abc"),
        (["bearer   abc "], "abc"),
        (["Bearer"], ""),
        (["Bearer "], ""),
        (["Bearer abc", "Bearer abc"], ""),
    ],
)
def test_a_bearer_token_is_found(authorizations: list[str], token: str | None) -> None:
    assert parse_bearer(authorizations) == token


def test_a_scope_is_a_set_of_roles() -> None:
    assert parse_scope(None) is None
    assert parse_scope("member viewer member") == {"member", "viewer"}


@pytest.mark.parametrize("scope", [" member", "member  viewer", "member\tviewer", 'mem"ber', "a\\b", "ä", ""])
def test_a_scope_that_is_written_otherwise_is_invalid(scope: str) -> None:
    assert code_of(parse_scope, scope) is OAuthErrorCode.INVALID_SCOPE


def test_a_scope_narrows_and_one_that_asks_for_all_does_not() -> None:
    roles = ("member", "viewer")
    assert narrow(roles, None) is None
    assert narrow(roles, frozenset({"viewer"})) == ("viewer",)
    assert narrow(roles, frozenset({"member", "viewer"})) is None


def test_a_scope_with_more_than_is_granted_is_invalid() -> None:
    assert code_of(narrow, ("member",), frozenset({"member", "admin"})) is OAuthErrorCode.INVALID_SCOPE


def test_a_clients_secret_never_shows() -> None:
    assert "hunter2" not in repr(ClientCredentials("billing", "hunter2"))
