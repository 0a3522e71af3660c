"""The arithmetic of failed logins: windows, waits, attempts in flight."""

from __future__ import annotations

import pytest

from gateway.core.throttle import (
    RUN,
    WAIT,
    Admission,
    Counter,
    ThrottleKind,
    ThrottleRule,
    admit,
    current,
    failed,
    leased,
    released,
    retry_after,
    room,
    succeeded,
    wait_s,
)

NOW = 1_000_000.0
PAIR = ThrottleKind.PAIR.value


def after_failures(rule: ThrottleRule, count: int, at: float = NOW) -> Counter:
    counter = Counter()
    for _ in range(count):
        counter = failed(rule, counter, at)
    return counter


@pytest.mark.parametrize(
    ("kind", "limit", "window_s", "forget_s"),
    [
        (ThrottleKind.PAIR, 5, 60.0, 900.0),
        (ThrottleKind.ADDRESS, 50, 60.0, 900.0),
        (ThrottleKind.NAME, 100, 3600.0, 3600.0),
    ],
)
def test_each_counter_has_the_limit_the_window_and_the_memory_of_the_documentation(
    kind: ThrottleKind, limit: int, window_s: float, forget_s: float
) -> None:
    assert kind.value == ThrottleRule(limit, window_s, forget_s)


@pytest.mark.parametrize("kind", ThrottleKind)
def test_below_the_limit_there_is_no_wait_and_at_it_one_second(kind: ThrottleKind) -> None:
    rule = kind.value
    below = after_failures(rule, rule.limit - 1)
    assert wait_s(below, NOW) == 0.0
    assert admit([(rule, below)], NOW) == RUN
    at_limit = failed(rule, below, NOW)
    assert wait_s(at_limit, NOW) == 1.0
    assert admit([(rule, at_limit)], NOW) == Admission(runs=False, retry_after_s=1.0)


def test_each_further_failure_doubles_the_wait_up_to_fifteen_minutes() -> None:
    counter, now, waits = after_failures(PAIR, 5), NOW, []
    for _ in range(14):
        waits.append(wait_s(counter, now))
        now += waits[-1]
        counter = failed(PAIR, current(PAIR, counter, now - 0.001), now)
    assert waits == [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 900, 900, 900, 900]


def test_the_wait_runs_down_and_then_one_attempt_may_run() -> None:
    counter = after_failures(PAIR, 6)
    assert wait_s(counter, NOW + 0.5) == 1.5
    assert admit([(PAIR, counter)], NOW + 2.0) == RUN
    assert room(PAIR, counter) == 1
    assert admit([(PAIR, leased(counter, NOW + 30))], NOW + 2.0) == WAIT


def test_failures_that_have_left_the_window_do_not_count() -> None:
    counter = failed(PAIR, after_failures(PAIR, 3), NOW + 30)
    later = current(PAIR, counter, NOW + 60)
    assert later.failures == (NOW + 30,)
    assert room(PAIR, later) == 4


@pytest.mark.parametrize("kind", ThrottleKind)
def test_a_counter_is_forgotten_after_its_time_without_a_failure(kind: ThrottleKind) -> None:
    counter = after_failures(kind.value, kind.value.limit + 3)
    assert current(kind.value, counter, NOW + kind.value.forget_s - 0.001).strikes == 4
    assert current(kind.value, counter, NOW + kind.value.forget_s) == Counter()


def test_a_failure_while_the_limit_stands_keeps_it_from_being_forgotten() -> None:
    counter = failed(PAIR, after_failures(PAIR, 5), NOW + 899)
    assert current(PAIR, counter, NOW + 1700).strikes == 2


def test_no_more_attempts_run_at_once_than_may_still_fail() -> None:
    counter = after_failures(PAIR, 3)
    for lease in (NOW + 30, NOW + 31):
        assert admit([(PAIR, counter)], NOW) == RUN
        counter = leased(counter, lease)
    assert room(PAIR, counter) == 0
    assert admit([(PAIR, counter)], NOW) == WAIT


def test_an_attempt_that_ends_makes_room_for_one_that_waits() -> None:
    counter = leased(leased(after_failures(PAIR, 4), NOW + 30), NOW + 31)
    assert room(PAIR, released(counter, NOW + 31)) == 0
    assert room(PAIR, released(released(counter, NOW + 31), NOW + 30)) == 1
    assert released(counter, NOW + 99) == counter


def test_an_attempt_whose_process_died_makes_room_when_its_lease_ends() -> None:
    counter = leased(after_failures(PAIR, 4), NOW + 30)
    assert room(PAIR, current(PAIR, counter, NOW + 29)) == 0
    assert room(PAIR, current(PAIR, counter, NOW + 30)) == 1


def test_a_forgotten_counter_keeps_the_attempts_in_flight() -> None:
    counter = leased(after_failures(PAIR, 5), NOW + 1000)
    assert current(PAIR, counter, NOW + 900) == Counter(leases=(NOW + 1000,))


def test_a_success_starts_the_pair_anew_but_for_attempts_in_flight() -> None:
    assert succeeded(leased(after_failures(PAIR, 7), NOW + 30)) == Counter(leases=(NOW + 30,))


def test_the_longest_wait_of_all_counters_counts() -> None:
    address = ThrottleKind.ADDRESS.value
    counters = [(PAIR, after_failures(PAIR, 5)), (address, after_failures(address, 52))]
    assert admit(counters, NOW) == Admission(runs=False, retry_after_s=4.0)


def test_no_counter_is_no_limit() -> None:
    assert admit([], NOW) == RUN


@pytest.mark.parametrize(("seconds", "value"), [(0.001, 1), (1.0, 1), (1.01, 2), (900.0, 900)])
def test_retry_after_is_rounded_up_so_that_whoever_obeys_is_not_refused_again(seconds: float, value: int) -> None:
    assert retry_after(seconds) == value
