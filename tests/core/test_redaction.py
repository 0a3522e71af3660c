"""No secret passes, whatever it is wrapped in; and what is no secret stays readable."""

from __future__ import annotations

import base64
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.redaction import (
    MAX_DEPTH,
    MAX_ITEMS,
    MAX_TEXT_CHARS,
    REDACTED,
    clean_field,
    clean_text,
    clean_trace,
    clean_value,
    is_secret_name,
    redact_text,
)

HEADER = base64.urlsafe_b64encode(b'{"alg":"ES256","typ":"at+jwt","kid":"k1"}').rstrip(b"=").decode()
CLAIMS = base64.urlsafe_b64encode(b'{"sub":"alice","exp":1}').rstrip(b"=").decode()
TOKEN = f"{HEADER}.{CLAIMS}.c2lnbmF0dXJl"
RANDOM = "Zk3v9QxT1bN8sLw0PpR7mYc2-uHgJ4dE_6aFiVoKqXs"
PEM = "-----BEGIN EC PRIVATE KEY-----\nMHcCAQEEIBx\nAwEHoUQDQgAE\n-----END EC PRIVATE KEY-----"


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        (f'127.0.0.1:9 - "WebSocket /ws?token={TOKEN}" [accepted]', TOKEN),
        ("GET /ws?ticket=abc123&nonce=xyz HTTP/1.1", "abc123"),
        ("GET /ws?nonce=xyz&ticket=abc123 HTTP/1.1", "abc123"),
        ("GET /ws?TOKEN=abc123", "abc123"),
        ("GET /ws?t%6fken=abc123&x=1", "abc123"),
        ("GET /ws?a=1&%74icket=abc123#x", "abc123"),
        ("t%6Fken=abc123", "abc123"),
        ("token=abc123", "abc123"),
        (f"Sec-WebSocket-Protocol: gateway.v1.json, bearer.{TOKEN}", TOKEN),
        ("offered gateway.v1.json,bearer.opaque-thing", "opaque-thing"),
        ("Authorization: Bearer abcdefgh12345", "abcdefgh12345"),
        ("authorization: Basic YmlsbGluZzpzZWNyZXQ=", "YmlsbGluZzpzZWNyZXQ="),
        ("(b'authorization', b'Bearer short')", "short"),
        ("(b'cookie', b'session=1')", "session=1"),
        (f"invalid token {TOKEN} refused", TOKEN),
        (f"x-{TOKEN.rpartition('.')[0]}.", CLAIMS),
        (f"in parentheses ({TOKEN})", TOKEN),
        ('{"password": "correct horse"}', "correct horse"),
        ('{"client_secret":"a\\"b c"}', "b c"),
        ("{'signing_key': b'\\x01key'}", "x01key"),
        ("Form(username='alice', password='correct horse')", "correct horse"),
        ('password="never closed', "never closed"),
        ("password='never closed", "never closed"),
        ("grant_type=password&username=a&password=hunter2&scope=x", "hunter2"),
        ("refresh-token: hunter2", "hunter2"),
        ("GATEWAY_SECRET_KEY=hunter2", "hunter2"),
        ("secret_key_previous=hunter2", "hunter2"),
        ("postgresql+asyncpg://gw:hunter2@db:5432/gw", "hunter2"),
        ("redis://:hunter2@cache/0", "hunter2"),
        ("$argon2id$v=19$m=19456,t=2,p=1$c2FsdA$aGFzaA is the hash", "aGFzaA"),
        ("$2b$12$abcdefghijklmnopqrstuv", "abcdefghijklmnopqrstuv"),
        ("(IntegrityError) x\n[SQL: INSERT]\n[parameters: ('alice', 'the hash')]\n(Background)", "the hash"),
        (f"key\n{PEM}\nend", "MHcCAQEEIBx"),
        ("-----BEGIN PRIVATE KEY-----\nMHcCAQEEIBx", "MHcCAQEEIBx"),
        (f"found {RANDOM} there", RANDOM),
        (f"KeyError: '{RANDOM}'", RANDOM),
    ],
)
def test_a_secret_does_not_survive_the_text_around_it(text: str, secret: str) -> None:
    assert secret in text

    for cleaned in (redact_text(text), clean_text(text), clean_trace(text)):
        assert secret not in cleaned
        assert REDACTED in cleaned


@pytest.mark.parametrize(
    "text",
    [
        "room:acme:1",
        "ticket:42",
        "support:ticket:42:messages",
        "policies/10-members.yaml:12",
        "token.issued",
        "expired_token",
        "no such key",
        "https://gateway.example/ws?nonce=abc",
        "http://127.0.0.1:8000/path?next=%2Fhome",
        "50 % of secrets",
        "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
        "external_service_of_ours.something_else",
        "a-very-long-name-in-lower-case-with-digits-0123456789",
        "A_VERY_LONG_CONSTANT_NAME_IN_UPPER_CASE_0123456789",
        "aVeryLongNameInCamelCaseWithoutAnyDigitsWhatsoeverInIt",
        "3f2504e0-4f89-11d3-9a0c-0305e82c3301",
    ],
)
def test_what_is_no_secret_stays_as_it_was(text: str) -> None:
    assert clean_text(text) == text


@pytest.mark.parametrize(
    "name",
    ["password", "Authorization", "Sec-WebSocket-Protocol", "new_password", "x-api-token", "signing_key", "ticket"],
)
def test_a_field_with_a_secret_name_keeps_nothing(name: str) -> None:
    assert is_secret_name(name)
    assert clean_field(name, "anything") == REDACTED
    assert clean_field(name, b"anything") == REDACTED
    assert clean_field(name, ["anything"]) == REDACTED


def test_numbers_and_flags_under_a_secret_name_stay() -> None:
    assert [clean_field("token", value) for value in (None, True, 3, 0.5)] == [None, True, 3, 0.5]
    assert not is_secret_name("key")
    assert not is_secret_name("access_token_ttl_s")


def test_secrets_are_found_at_every_depth_of_a_value() -> None:
    value = {"headers": [("authorization", f"Bearer {TOKEN}")], "form": {"password": "p", "n": 1}, 7: {f"x {TOKEN}"}}

    assert clean_value(value) == {
        "headers": [["authorization", f"Bearer {REDACTED}"]],
        "form": {"password": REDACTED, "n": 1},
        "7": [f"x {REDACTED}"],
    }


def test_values_that_json_cannot_hold_are_told() -> None:
    class Strange:
        def __repr__(self) -> str:
            return f"Strange(password='{RANDOM}')"

    assert clean_value(2**63) == "[large integer]"
    assert clean_value(-(2**63) + 1) == -(2**63) + 1
    assert clean_value(b"\x00\x01") == "[2 bytes]"
    assert clean_value(bytearray(3)) == "[3 bytes]"
    assert clean_value(ValueError(f"token={TOKEN}")) == f"ValueError: token={REDACTED}"
    assert clean_value(Strange()) == f"Strange(password={REDACTED})"
    assert clean_value(math.inf) == math.inf


def test_every_value_is_bounded() -> None:
    nested: object = "core"
    for _ in range(MAX_DEPTH + 1):
        nested = [nested]

    assert "[nested too deep]" in repr(clean_value(nested))
    many = clean_value(list(range(MAX_ITEMS + 5)))
    assert isinstance(many, list)
    assert many[-2:] == [MAX_ITEMS - 1, "[5 more]"]
    table = clean_value({str(number): number for number in range(MAX_ITEMS + 5)})
    assert isinstance(table, dict)
    assert len(table) == MAX_ITEMS + 1
    assert table["…"] == "[5 more]"
    assert clean_text("x" * 5000) == "x" * MAX_TEXT_CHARS + "… [cut, 5000 characters in all]"


def test_a_secret_at_the_cut_leaves_no_half() -> None:
    shrinking = "[parameters: " + "x " * 32_000 + "]\n"
    text = shrinking + "y " * ((65_516 - len(shrinking)) // 2) + RANDOM + " z" * 100

    assert RANDOM[:16] in text[:65_536]
    assert RANDOM not in text[:65_536]
    assert RANDOM[:8] not in clean_trace(text)
    assert RANDOM[:8] not in clean_trace("q" * 65_520 + RANDOM + "q" * 100)


def test_control_characters_are_harmless() -> None:
    assert clean_text("a\x1b[31mb\x00c\nd\re\tf\x9bg\u2028h\u202ei\udfffj") == (
        "a\\u001b[31mb\\u0000c\\u000ad\\u000de\\u0009f\\u009bg\\u2028h\\u202ei\\udfffj"
    )
    assert clean_trace("a\x1b[31m\n\tb") == "a\\u001b[31m\n\tb"


@pytest.mark.parametrize(
    "unit",
    ["%", "&%", "e", "e-", "ey", "eyeyeyeyeyeyeyeyeyeyey.", "token ", "token=", "'", 'password="\\', "://a:", "bearer ", ".", "a.", "[parameters: ",
     "-----BEGIN PRIVATE KEY-----", "eyJhbGciOiJFUzI1NiIsInR5.", "$argon2", "=", "\\"],
)  # fmt: skip
def test_hostile_repetition_costs_linear_time(unit: str) -> None:
    text = unit * (65_000 // len(unit))

    assert len(clean_trace(f"password={text}")) < 40_000
    assert len(clean_trace(text)) < 120_000


@given(
    st.text(max_size=40),
    st.sampled_from(["token=", "?ticket=", "&access_token=", "Bearer ", "bearer.", "password: ", '"secret": "', "x "]),
    st.text(st.sampled_from(" &'\"\n,)"), max_size=1),
)
def test_our_tokens_never_survive_any_surroundings(before: str, label: str, after: str) -> None:
    assert CLAIMS not in clean_text(f"{before} {label}{TOKEN}{after}")
    assert CLAIMS not in str(clean_value({before: [f"{before} {label}{TOKEN}{after}"]}))


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text() | st.binary(), st.lists, max_leaves=20))
def test_cleaning_never_raises_and_leaves_nothing_unprintable(value: object) -> None:
    cleaned = clean_value(value)
    if isinstance(cleaned, str):
        assert not any(ord(char) < 32 or 0xD800 <= ord(char) <= 0xDFFF for char in cleaned)
