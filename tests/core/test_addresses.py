"""Who a request comes from, behind proxies or not."""

from __future__ import annotations

import ipaddress

import pytest

from gateway.core.addresses import Network, address_key, client_address, client_scheme, is_trusted, parse_address

PROXIES: tuple[Network, ...] = (ipaddress.ip_network("10.0.0.0/8"), ipaddress.ip_network("fd00::/8"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("192.0.2.1", "192.0.2.1"),
        (" 192.0.2.1 ", "192.0.2.1"),
        ("192.0.2.1:4711", "192.0.2.1"),
        ("2001:DB8::1", "2001:db8::1"),
        ("[2001:db8::1]", "2001:db8::1"),
        ("[2001:db8::1]:4711", "2001:db8::1"),
        ("fe80::1%eth0", "fe80::1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("[::ffff:192.0.2.1]:80", "192.0.2.1"),
    ],
)
def test_address_is_read_in_every_form_that_proxies_write(text: str, expected: str) -> None:
    assert str(parse_address(text)) == expected


@pytest.mark.parametrize(
    "text", ["", "unknown", "_hidden", "192.0.2.1:http", "[2001:db8::1", "[2001:db8::1]x", "192.0.2.256", "1.2.3.4:٣"]
)
def test_what_is_no_address_is_none(text: str) -> None:
    assert parse_address(text) is None


def test_untrusted_peer_is_the_client_whatever_it_claims() -> None:
    assert client_address("192.0.2.1", ["198.51.100.7"], PROXIES) == "192.0.2.1"


def test_trusted_peer_names_the_client() -> None:
    assert client_address("10.0.0.1", ["198.51.100.7"], PROXIES) == "198.51.100.7"


def test_client_is_the_last_entry_that_is_no_trusted_proxy() -> None:
    assert client_address("10.0.0.1", ["203.0.113.9, 198.51.100.7, 10.2.3.4"], PROXIES) == "198.51.100.7"


def test_repeated_header_reads_as_one_list() -> None:
    assert client_address("10.0.0.1", ["203.0.113.9", "198.51.100.7", "10.2.3.4"], PROXIES) == "198.51.100.7"


def test_entry_that_is_no_address_ends_the_walk() -> None:
    assert client_address("10.0.0.1", ["203.0.113.9, unknown, 10.2.3.4"], PROXIES) == "10.2.3.4"


def test_trusted_proxy_without_the_header_is_itself_the_client() -> None:
    assert client_address("10.0.0.1", [], PROXIES) == "10.0.0.1"


def test_where_all_entries_are_proxies_the_first_is_the_client() -> None:
    assert client_address("10.0.0.1", ["10.9.9.9, 10.8.8.8"], PROXIES) == "10.9.9.9"


def test_peer_without_an_address_stays_as_it_is() -> None:
    assert client_address("", ["198.51.100.7"], PROXIES) == ""


def test_ipv4_peer_on_an_ipv6_socket_is_matched_as_ipv4() -> None:
    assert client_address("::ffff:10.0.0.1", ["2001:db8::7"], PROXIES) == "2001:db8::7"
    assert is_trusted("::ffff:10.0.0.1", PROXIES)


def test_no_network_is_trusted_by_default() -> None:
    assert not is_trusted("127.0.0.1", ())
    assert not is_trusted("nonsense", PROXIES)


@pytest.mark.parametrize(
    ("peer", "scheme", "forwarded", "expected"),
    [
        ("10.0.0.1", "ws", ["https"], "https"),
        ("10.0.0.1", "http", ["WSS"], "https"),
        ("10.0.0.1", "https", ["http"], "http"),
        ("10.0.0.1", "http", ["https, http"], "http"),
        ("10.0.0.1", "http", ["http", "https"], "https"),
        ("10.0.0.1", "wss", ["gopher"], "https"),
        ("10.0.0.1", "wss", [], "https"),
        ("192.0.2.1", "http", ["https"], "http"),
        ("192.0.2.1", "strange", [], "http"),
    ],
)
def test_scheme_is_the_trusted_proxys_last_word(peer: str, scheme: str, forwarded: list[str], expected: str) -> None:
    assert client_scheme(peer, scheme, forwarded, PROXIES) == expected


@pytest.mark.parametrize(
    ("address", "key"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", ""),
    ],
)
def test_limits_count_ipv6_by_its_64_bit_network(address: str, key: str) -> None:
    assert address_key(address) == key
