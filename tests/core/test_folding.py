"""Ten of a kind a second stand alone; the others become a count that nobody loses."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.core.folding import Fold, Folding


def test_the_first_ten_of_a_second_stand_alone_and_the_others_are_folded() -> None:
    folding = Folding()

    assert [folding.admit("command.denied", 5.0) for _ in range(12)] == [(True, None)] * 10 + [(False, None)] * 2


def test_the_first_event_of_the_next_second_brings_the_count() -> None:
    folding = Folding(limit=1)
    folding.admit("a", 5.0)
    folding.admit("a", 5.5)
    folding.admit("a", 5.9)

    assert folding.admit("a", 6.0) == (True, Fold("a", 2))
    assert folding.admit("a", 7.0) == (True, None)


def test_each_name_is_counted_for_itself() -> None:
    folding = Folding(limit=1)
    folding.admit("a", 5.0)

    assert folding.admit("b", 5.0) == (True, None)
    assert folding.admit("a", 5.0) == (False, None)


def test_counts_come_due_without_another_event() -> None:
    folding = Folding(limit=1)
    for now in (5.0, 5.0, 5.0):
        folding.admit("a", now)
    folding.admit("b", 5.0)
    folding.admit("c", 5.9)
    folding.admit("c", 5.9)

    assert folding.due(5.9) == []
    assert folding.due(6.0) == [Fold("a", 2)]
    assert folding.due(6.0) == []
    assert folding.rest() == [Fold("c", 1)]
    assert folding.rest() == []


@given(st.lists(st.tuples(st.sampled_from("ab"), st.floats(0, 2)), max_size=200), st.integers(1, 5))
def test_every_event_stands_alone_or_is_counted(events: list[tuple[str, float]], limit: int) -> None:
    folding = Folding(limit)
    now = 0.0
    alone = folded = 0
    for name, step in events:
        now += step
        passed, fold = folding.admit(name, now)
        alone += passed
        folded += fold.count if fold else 0
        folded += sum(each.count for each in folding.due(now - 0.5))
    folded += sum(each.count for each in folding.rest())

    assert alone + folded == len(events)
