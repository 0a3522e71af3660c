"""Who asks for more handshakes than an address may."""

from __future__ import annotations

from gateway.core.floods import FloodGate


def test_burst_is_ten_times_the_rate() -> None:
    gate = FloodGate(2.0)
    assert [gate.take("a", 0.0) for _ in range(20)] == [0.0] * 20
    assert gate.take("a", 0.0) == 0.5


def test_wait_is_over_when_it_was_said_to_be() -> None:
    gate = FloodGate(0.1)
    assert gate.take("a", 0.0) == 0.0
    assert gate.take("a", 0.0) == 10.0
    assert gate.take("a", 10.0) == 0.0


def test_addresses_do_not_share_a_bucket() -> None:
    gate = FloodGate(0.1)
    gate.take("a", 0.0)
    assert gate.take("b", 0.0) == 0.0


def test_zero_lets_all_pass() -> None:
    gate = FloodGate(0.0)
    assert [gate.take("a", 0.0) for _ in range(1000)] == [0.0] * 1000


def test_longest_quiet_address_is_forgotten_first() -> None:
    gate = FloodGate(0.1, max_addresses=2)
    gate.take("a", 0.0)
    gate.take("b", 0.0)
    gate.take("a", 0.0)
    gate.take("c", 0.0)
    assert gate.take("a", 0.0) > 0.0
    assert gate.take("b", 0.0) == 0.0
