"""The names of events are a vocabulary: one form, no doubles."""

from __future__ import annotations

import re

from gateway.core.events import Event


def test_every_event_is_a_noun_and_what_happened_to_it() -> None:
    assert [event.value for event in Event if not re.fullmatch(r"[a-z]+\.[a-z]+", event.value)] == []


def test_a_name_is_its_constant_in_lower_case_so_that_a_search_finds_both() -> None:
    assert {event.name.lower() for event in Event} == {event.value.replace(".", "_") for event in Event}
