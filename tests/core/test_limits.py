"""Token buckets and sliding counts, as functions of a state and a time."""

from __future__ import annotations

import pytest

from gateway.core.limits import SlidingCount, TokenBucket


def test_a_bucket_gives_its_burst_then_its_rate() -> None:
    bucket = TokenBucket(2.0, 3.0, 100.0)
    assert [bucket.take(100.0) for _ in range(4)] == [0.0, 0.0, 0.0, 0.5]
    assert bucket.take(100.25) == 0.25
    assert bucket.take(100.5) == 0.0


def test_a_bucket_never_holds_more_than_its_burst() -> None:
    bucket = TokenBucket(2.0, 3.0, 100.0)
    assert [bucket.take(1000.0) for _ in range(4)] == [0.0, 0.0, 0.0, 0.5]


def test_a_clock_that_is_set_back_neither_takes_nor_gives_tokens() -> None:
    bucket = TokenBucket(1.0, 1.0, 100.0)
    assert bucket.take(100.0) == 0.0
    assert bucket.take(50.0) == 1.0
    assert bucket.take(50.5) == 0.5
    assert bucket.wait_s(10.0) == 0.5


def test_asking_for_the_wait_takes_nothing() -> None:
    bucket = TokenBucket(1.0, 1.0, 100.0)
    assert bucket.wait_s(100.0) == 0.0
    assert bucket.take(100.0) == 0.0
    assert bucket.wait_s(100.5) == 0.5


@pytest.mark.parametrize(("step", "too_many"), [(0.9, True), (2.0, False)])
def test_a_sliding_count_tells_when_the_window_is_full(step: float, too_many: bool) -> None:  # noqa: FBT001 - parametrized
    count = SlidingCount(5, 5.0)
    assert [count.add(100.0 + n * step) for n in range(4)] == [False] * 4
    assert count.add(100.0 + 4 * step) is too_many
