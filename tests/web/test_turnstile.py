"""A crowd before a door: who goes in when, counted in turns of the loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from loop_turns import Turns

from gateway.web.turnstile import Turnstile


class Street:
    """Notes in which turn of the loop who has gone in."""

    def __init__(self, turnstile: Turnstile, turns: Turns) -> None:
        self.turnstile = turnstile
        self.turns = turns
        self.order: list[int] = []

    def arrive(self, number: int) -> None:
        self.turnstile.enter(lambda: self._go_in(number))

    def _go_in(self, number: int) -> None:
        self.order.append(number)
        self.turns.note()

    async def empty(self) -> None:
        for _ in range(len(self.turnstile)):
            await asyncio.sleep(0)


@pytest.fixture
async def turns() -> AsyncIterator[Turns]:
    with Turns() as counted:
        yield counted


async def test_who_comes_while_there_is_room_goes_in_at_once(turns: Turns) -> None:
    street = Street(Turnstile(2), turns)
    street.arrive(1)
    street.arrive(2)
    assert street.order == [1, 2]


async def test_who_comes_behind_them_goes_in_later_so_many_in_a_turn(turns: Turns) -> None:
    street = Street(Turnstile(2), turns)
    for number in range(5):
        street.arrive(number)
    assert len(street.turnstile) == 3
    await street.empty()
    assert street.order == [0, 1, 2, 3, 4]
    assert list(turns.happened.values()) == [2, 2, 1]


async def test_there_is_room_again_behind_a_crowd(turns: Turns) -> None:
    street = Street(Turnstile(1), turns)
    for number in range(3):
        street.arrive(number)
    await street.empty()
    await asyncio.sleep(0)
    street.arrive(3)
    assert street.order == [0, 1, 2, 3]


async def test_one_that_fails_leaves_the_others_their_turns(turns: Turns) -> None:
    street = Street(Turnstile(1), turns)
    told: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context["exception"]))

    def fail() -> None:
        raise ZeroDivisionError

    street.arrive(0)
    street.turnstile.enter(fail)
    street.arrive(1)
    await street.empty()
    assert street.order == [0, 1]
    assert [type(error) for error in told] == [ZeroDivisionError]


async def test_one_that_fails_at_once_tells_whoever_came_with_it(turns: Turns) -> None:
    street = Street(Turnstile(1), turns)

    def fail() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        street.turnstile.enter(fail)
    street.arrive(0)
    await street.empty()
    assert street.order == [0]


@given(st.integers(1, 4), st.lists(st.integers(0, 9), max_size=20))
def test_whatever_comes_when_goes_in_in_its_order_and_never_more_than_so_many_in_a_turn(
    per_turn: int, arrivals: list[int]
) -> None:
    async def run() -> None:
        with Turns() as turns:
            street = Street(Turnstile(per_turn), turns)
            number = 0
            for many in arrivals:
                for _ in range(many):
                    street.arrive(number)
                    number += 1
                await asyncio.sleep(0)
            await street.empty()
        assert street.order == list(range(sum(arrivals)))
        assert all(many <= per_turn for many in turns.happened.values())

    asyncio.run(run())
