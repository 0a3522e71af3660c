"""The pure half of a handshake: every carrier, every refusal, and their order."""

from __future__ import annotations

import base64
from dataclasses import replace

import pytest

from gateway.core.errors import HandshakeRefusedError, Refusal
from gateway.core.frames import Encoding
from gateway.core.handshake import (
    DEFAULT_SUBPROTOCOL,
    SUBPROTOCOLS,
    Credential,
    CredentialKind,
    Handshake,
    HandshakeRequest,
    HandshakeRules,
    Subprotocol,
    client_nonce,
    echoed_subprotocol,
    negotiate,
    read_handshake,
)
from gateway.core.origins import OriginRule

RULES = HandshakeRules(OriginRule.build("https://gate.example", ["https://app.example"], loopback=False))
WITHOUT_QUERY_TOKEN = replace(RULES, query_token=False)
GOOD = HandshakeRequest(scheme="http", hosts=("127.0.0.1:8000",), authorizations=("Bearer abc",))
TOKEN = Credential(CredentialKind.TOKEN, "abc")
KEY = bytes(32)


def refusal_of(request: HandshakeRequest, rules: HandshakeRules = RULES) -> Refusal:
    with pytest.raises(HandshakeRefusedError) as caught:
        read_handshake(request, rules)
    return caught.value.refusal


def test_four_subprotocols_are_spoken() -> None:
    assert {(s.name, s.encoding, s.signed) for s in SUBPROTOCOLS.values()} == {
        ("gateway.v1.json", Encoding.JSON, False),
        ("gateway.v1.msgpack", Encoding.MSGPACK, False),
        ("gateway.v1.json.signed", Encoding.JSON, True),
        ("gateway.v1.msgpack.signed", Encoding.MSGPACK, True),
    }
    assert all(name == subprotocol.name for name, subprotocol in SUBPROTOCOLS.items())


# ------------------------------------------------------------------------------------------------- carriers


@pytest.mark.parametrize(
    "request_",
    [
        HandshakeRequest(authorizations=("Bearer abc",)),
        HandshakeRequest(authorizations=("bearer   abc ",)),
        HandshakeRequest(authorizations=("Basic Zm9v", "Bearer abc")),
        HandshakeRequest(subprotocols=("gateway.v1.json", "bearer.abc")),
        HandshakeRequest(subprotocols=("bearer.abc", "gateway.v1.json")),
        HandshakeRequest(query="token=abc"),
        HandshakeRequest(query="x=1&token=%61bc"),
    ],
)
def test_token_is_found_in_every_carrier(request_: HandshakeRequest) -> None:
    assert read_handshake(request_, RULES) == Handshake(DEFAULT_SUBPROTOCOL, TOKEN)


def test_ticket_is_found_in_the_query() -> None:
    assert read_handshake(HandshakeRequest(query="ticket=abc"), RULES) == Handshake(
        DEFAULT_SUBPROTOCOL, Credential(CredentialKind.TICKET, "abc")
    )


@pytest.mark.parametrize(
    "request_",
    [
        HandshakeRequest(authorizations=("Bearer abc", "Bearer abc")),
        HandshakeRequest(authorizations=("Bearer abc",), query="token=abc"),
        HandshakeRequest(query="token=abc&token=abc"),
        HandshakeRequest(
            authorizations=("Bearer abc",), subprotocols=("gateway.v1.json", "bearer.abc"), query="token=abc"
        ),
    ],
)
def test_same_token_twice_is_one_credential(request_: HandshakeRequest) -> None:
    assert read_handshake(request_, RULES).credential == TOKEN


@pytest.mark.parametrize(
    "request_",
    [
        HandshakeRequest(authorizations=("Bearer abc", "Bearer abd")),
        HandshakeRequest(authorizations=("Bearer abc",), query="token=abd"),
        HandshakeRequest(authorizations=("Bearer abc",), query="ticket=abc"),
        HandshakeRequest(authorizations=("Bearer",), query="token=abc"),
        HandshakeRequest(query="token=abc&token=abd"),
        HandshakeRequest(query="ticket=abc&ticket=abd"),
        HandshakeRequest(subprotocols=("gateway.v1.json", "bearer.abc", "bearer.abd")),
        HandshakeRequest(authorizations=("Bearer abc",), subprotocols=("gateway.v1.json", "bearer.abd")),
    ],
)
def test_two_different_credentials_are_ambiguous(request_: HandshakeRequest) -> None:
    assert refusal_of(request_) is Refusal.AMBIGUOUS_CREDENTIALS


@pytest.mark.parametrize(
    "request_",
    [
        HandshakeRequest(),
        HandshakeRequest(authorizations=("Basic Zm9vOmJhcg==",)),
        HandshakeRequest(authorizations=("",)),
        HandshakeRequest(query="Token=abc&nonce=x"),
    ],
)
def test_request_without_a_credential_of_ours_is_missing_one(request_: HandshakeRequest) -> None:
    assert refusal_of(request_) is Refusal.MISSING_CREDENTIALS


@pytest.mark.parametrize(
    "request_",
    [
        HandshakeRequest(authorizations=("Bearer",)),
        HandshakeRequest(authorizations=("Bearer ",)),
        HandshakeRequest(subprotocols=("gateway.v1.json", "bearer.")),
        HandshakeRequest(query="token="),
    ],
)
def test_empty_token_is_a_credential_that_the_verifier_refuses(request_: HandshakeRequest) -> None:
    assert read_handshake(request_, RULES).credential == Credential(CredentialKind.TOKEN, "")


def test_query_token_is_ignored_while_switched_off() -> None:
    assert refusal_of(HandshakeRequest(query="token=abc"), WITHOUT_QUERY_TOKEN) is Refusal.MISSING_CREDENTIALS
    request = HandshakeRequest(authorizations=("Bearer abc",), query="token=other")
    assert read_handshake(request, WITHOUT_QUERY_TOKEN).credential == TOKEN
    ticket = Credential(CredentialKind.TICKET, "abc")
    assert read_handshake(HandshakeRequest(query="ticket=abc"), WITHOUT_QUERY_TOKEN).credential == ticket


def test_no_secret_shows_in_a_representation() -> None:
    request = HandshakeRequest(
        authorizations=("Bearer s3cret",), subprotocols=("bearer.s3cret",), query="token=s3cret&ticket=s3cret"
    )
    assert "s3cret" not in repr(request)
    assert "s3cret" not in repr(read_handshake(HandshakeRequest(query="token=s3cret"), RULES))


# ------------------------------------------------------------------------------------------------- origins


def test_request_without_an_origin_is_no_browser_and_passes() -> None:
    assert read_handshake(GOOD, RULES).origin is None


@pytest.mark.parametrize("origin", ["https://gate.example", "https://app.example", "http://127.0.0.1:8000"])
def test_own_and_listed_origins_pass(origin: str) -> None:
    assert read_handshake(replace(GOOD, origins=(origin,)), RULES).origin == origin


def test_origin_is_handed_on_normalized() -> None:
    assert read_handshake(replace(GOOD, origins=("HTTPS://App.Example:443",)), RULES).origin == "https://app.example"


@pytest.mark.parametrize(
    "origins",
    [
        ("https://evil.example",),
        ("null",),
        ("",),
        ("http://127.0.0.1:8001",),
        ("https://127.0.0.1:8000",),
        ("https://app.example", "https://app.example"),
        ("https://app.example", "https://evil.example"),
    ],
)
def test_foreign_null_and_repeated_origins_are_refused(origins: tuple[str, ...]) -> None:
    assert refusal_of(replace(GOOD, origins=origins)) is Refusal.ORIGIN_NOT_ALLOWED


def test_two_hosts_make_no_origin() -> None:
    request = replace(GOOD, hosts=("a.example", "b.example"), origins=("http://a.example",))
    assert refusal_of(request) is Refusal.ORIGIN_NOT_ALLOWED


# ------------------------------------------------------------------------------------------------- subprotocols


@pytest.mark.parametrize(
    ("offered", "name"),
    [
        ((), "gateway.v1.json"),
        (("",), "gateway.v1.json"),
        (("gateway.v1.msgpack",), "gateway.v1.msgpack"),
        (("chat", "gateway.v1.json.signed", "gateway.v1.json"), "gateway.v1.json.signed"),
        (("bearer.abc", "gateway.v1.msgpack.signed"), "gateway.v1.msgpack.signed"),
    ],
)
def test_first_offered_subprotocol_that_is_spoken_counts(offered: tuple[str, ...], name: str) -> None:
    assert negotiate(offered) == SUBPROTOCOLS[name]


@pytest.mark.parametrize("offered", [("chat",), ("bearer.abc",), ("bearer.abc", "chat"), ("GATEWAY.V1.JSON",)])
def test_only_unknown_subprotocols_are_refused(offered: tuple[str, ...]) -> None:
    assert refusal_of(replace(GOOD, subprotocols=offered)) is Refusal.UNSUPPORTED_SUBPROTOCOL


@pytest.mark.parametrize(
    ("offered", "echoed"),
    [
        ((), None),
        (("",), None),
        (("bearer.abc",), None),
        (("Bearer.abc",), None),
        (("bearer.abc", "chat", "superchat"), "chat"),
        (("chat", "gateway.v1.json", "bearer.abc"), "gateway.v1.json"),
        (("gateway.v1.msgpack", "gateway.v1.json"), "gateway.v1.msgpack"),
    ],
)
def test_echo_is_the_first_spoken_else_the_first_that_is_no_credential(
    offered: tuple[str, ...], echoed: str | None
) -> None:
    assert echoed_subprotocol(offered) == echoed


# ------------------------------------------------------------------------------------------------- order


def test_refusals_count_in_the_order_of_the_checks() -> None:
    worst = HandshakeRequest(
        hosts=("gate.example",),
        origins=("https://evil.example",),
        subprotocols=("chat",),
        authorizations=("Bearer abc", "Bearer abd"),
    )
    assert refusal_of(worst) is Refusal.ORIGIN_NOT_ALLOWED
    assert refusal_of(replace(worst, origins=())) is Refusal.UNSUPPORTED_SUBPROTOCOL
    assert refusal_of(replace(worst, origins=(), subprotocols=())) is Refusal.AMBIGUOUS_CREDENTIALS
    assert refusal_of(replace(worst, origins=(), subprotocols=(), authorizations=())) is Refusal.MISSING_CREDENTIALS


# ------------------------------------------------------------------------------------------------- nonces


def signed(*nonces: str, subprotocol: Subprotocol = SUBPROTOCOLS["gateway.v1.json.signed"]) -> Handshake:
    query = "&".join(["token=abc", *(f"nonce={nonce}" for nonce in nonces)])
    return read_handshake(HandshakeRequest(subprotocols=(subprotocol.name,), query=query), RULES)


@pytest.mark.parametrize("size", range(16, 33))
def test_nonce_of_16_to_32_bytes_is_read(size: int) -> None:
    nonce = bytes(range(240, 240 + 16)) + bytes(size - 16)
    text = base64.urlsafe_b64encode(nonce).rstrip(b"=").decode()
    assert client_nonce(signed(text), KEY) == nonce


@pytest.mark.parametrize(
    "nonces",
    [
        (),
        ("",),
        ("A" * 22, "A" * 22),
        ("A" * 22, "B" + "A" * 21),
        ("A" * 20,),  # 15 bytes
        ("A" * 44,),  # 33 bytes
        ("A" * 25,),  # no length of base64
        ("A" * 21 + "B",),  # bits behind the last byte
        ("A" * 22 + "==",),
        ("A" * 21 + "%2F",),
        ("A" * 21 + "+",),
        ("A" * 21 + "%00",),
        ("A" * 21 + "%C3%A4",),
        ("A" * 22 + "%0A",),
    ],
)
def test_any_other_nonce_is_invalid(nonces: tuple[str, ...]) -> None:
    with pytest.raises(HandshakeRefusedError) as caught:
        client_nonce(signed(*nonces), KEY)
    assert caught.value.refusal is Refusal.INVALID_NONCE


def test_nonce_is_ignored_on_an_unsigned_connection() -> None:
    assert client_nonce(signed("x", "y", subprotocol=SUBPROTOCOLS["gateway.v1.json"]), None) is None


def test_credential_without_a_key_cannot_sign() -> None:
    with pytest.raises(HandshakeRefusedError) as caught:
        client_nonce(signed("A" * 22), None)
    assert caught.value.refusal is Refusal.NO_SIGNING_KEY
