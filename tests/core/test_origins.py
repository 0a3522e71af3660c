"""Which web origins may talk to the gateway."""

from __future__ import annotations

import pytest

from gateway.core.origins import OriginRule, is_loopback, parse_origin, url_origin


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("https://app.example", "https://app.example"),
        ("HTTPS://App.Example", "https://app.example"),
        ("https://app.example:443", "https://app.example"),
        ("http://app.example:80", "http://app.example"),
        ("http://app.example:8080", "http://app.example:8080"),
        ("http://[::1]:3000", "http://[::1]:3000"),
    ],
)
def test_origin_is_written_as_browsers_do(text: str, expected: str) -> None:
    assert parse_origin(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "app.example",
        "ftp://app.example",
        "https://",
        "https://app.example/",
        "https://app.example/path",
        "https://app.example?x",
        "https://app.example?",
        "https://app.example#f",
        "https://app.example#",
        "https://app.example:",
        "https://app.example:99999",
        "https://app.example:x",
        "https://user@app.example",
        "https://[::1",
        "https://app.example\t",
        "https://app.example\nx",
        "https://app.exa mple",
        "https://evil.example\\@app.example",
        "https://äpp.example",
        "https://a.example,https://b.example",
    ],
)
def test_what_is_no_origin_of_the_web_is_none(text: str) -> None:
    assert parse_origin(text) is None


def test_url_gives_its_origin() -> None:
    assert url_origin("https://Gate.Example:443/base") == "https://gate.example"
    assert url_origin("ws://gate.example") is None
    assert url_origin("https://[bad") is None


@pytest.mark.parametrize(
    "host", ["localhost", "localhost:3000", "app.localhost", "127.0.0.1", "127.9.9.9:1", "[::1]:5173"]
)
def test_loopback_hosts_are_known(host: str) -> None:
    assert is_loopback(f"http://{host}")


@pytest.mark.parametrize("host", ["app.example", "notlocalhost", "localhost.example", "192.0.2.1", "127.0.0.1.example"])
def test_other_hosts_are_not_loopback(host: str) -> None:
    assert not is_loopback(f"http://{host}")


RULE = OriginRule.build("https://gate.example/", ["https://app.example", "nonsense"], loopback=False)


def test_same_origin_as_the_public_url_is_allowed() -> None:
    assert RULE.allows("https://gate.example")


def test_listed_origin_is_allowed_and_another_refused() -> None:
    assert RULE.allows("https://app.example")
    assert not RULE.allows("http://app.example")
    assert not RULE.allows("https://app.example:8443")
    assert not RULE.allows("https://app.example.evil.example")


def test_same_origin_as_the_request_is_allowed() -> None:
    assert RULE.allows("http://127.0.0.1:8000", "http://127.0.0.1:8000")
    assert not RULE.allows("http://127.0.0.1:8000", "http://127.0.0.1:9000")
    assert not RULE.allows("http://127.0.0.1:8000", "nonsense")


def test_null_is_refused_even_where_all_are_allowed() -> None:
    rule = OriginRule.build("https://gate.example", ["*"], loopback=True)
    assert rule.allows("https://anyone.example")
    assert not rule.allows("null")
    assert not rule.allows("null", "null")


def test_loopback_origins_are_allowed_in_development_only() -> None:
    assert OriginRule(loopback=True).allows("http://localhost:5173")
    assert not OriginRule(loopback=True).allows("http://app.example")
    assert not OriginRule().allows("http://localhost:5173")
