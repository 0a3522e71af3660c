"""When what lives long is looked through: with the real collector."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Iterator

import pytest

from gateway.runtime.garbage import COLLECT_AFTER, PIN_AFTER, Garbage


class Cycle:
    """What only the collector frees."""

    def __init__(self) -> None:
        self.me = self


@pytest.fixture(autouse=True)
def unpinned() -> Iterator[None]:
    """Leave the other tests a collector that sees everything."""
    yield
    gc.unfreeze()


class Node:
    """Counts what has come."""

    def __init__(self) -> None:
        self.opened = 0
        self.garbage = Garbage(lambda: self.opened)

    def pinned_after(self, more: int) -> bool:
        """Tell whether what is there once so many more have come is moved out of sight."""
        self.opened += more
        kept = [Cycle() for _ in range(1000)]
        before = gc.get_freeze_count()
        self.garbage.look()
        return gc.get_freeze_count() - before >= len(kept)


def test_who_has_come_is_moved_out_of_the_collectors_sight_many_at_a_time() -> None:
    node = Node()
    assert not node.pinned_after(PIN_AFTER - 1)
    assert node.pinned_after(1)
    assert not node.pinned_after(0)
    assert node.pinned_after(PIN_AFTER)


def test_what_is_garbage_by_then_is_freed_and_not_kept() -> None:
    node = Node()
    garbage = weakref.ref(Cycle())
    node.pinned_after(PIN_AFTER)
    assert garbage() is None


def test_what_became_garbage_out_of_sight_is_freed_after_very_many() -> None:
    node = Node()
    cycle = Cycle()
    garbage = weakref.ref(cycle)
    node.pinned_after(PIN_AFTER)
    del cycle
    gc.collect()
    assert garbage() is not None
    node.pinned_after(COLLECT_AFTER)
    assert garbage() is None


async def test_it_begins_with_what_is_there_and_leaves_the_collector_as_it_was() -> None:
    gc.unfreeze()
    running = asyncio.create_task(Garbage(lambda: 0).run())
    await asyncio.sleep(0)
    assert gc.get_freeze_count() > 1000
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert gc.get_freeze_count() == 0
