"""Fuzzed streams of octets through an open wire: `make wirefuzz` has a million of them, this the first few thousand."""

from __future__ import annotations

from wire_under_fire import BLOCKS_MAY_GROW, FAULTS, UnderFire

STREAMS = 2000


async def test_fuzzed_streams_end_as_documented_and_leave_nothing() -> None:
    under_fire = UnderFire(1)
    await under_fire.run(STREAMS)
    warm = under_fire.held()
    for _ in range(3):
        await under_fire.run(STREAMS)
    assert under_fire.held() - warm < BLOCKS_MAY_GROW

    seen = under_fire.codes
    assert all(seen[code] > STREAMS // 100 for code in (*FAULTS, 1000, 1001, 1005, 1006)), "every way out is taken"
    assert seen.total() == 4 * STREAMS
