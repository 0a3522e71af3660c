"""A million streams of octets at the open WebSocket: `make wirefuzz`, or with STREAMS and SEED others.

A run with the same seed is the same run. It fails with the stream at which anything happened but what is documented.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "web")]

from wire_under_fire import BLOCKS_MAY_GROW, UnderFire  # noqa: E402 - it is found on the path

from gateway.web.server import loop_factory  # noqa: E402

PARTS = 20


async def fuzz(streams: int, seed: int) -> None:
    """Deliver streams, and tell how far it is and how much memory is held."""
    begun = time.monotonic()
    under_fire = UnderFire(seed)
    warm = 0
    for part in range(1, PARTS + 1):
        await under_fire.run(streams // PARTS)
        held = under_fire.held()
        warm = warm or held
        sys.stdout.write(
            f"{part * (streams // PARTS):>9,} streams, {time.monotonic() - begun:.0f} s, {held:,} blocks\n"
        )
        sys.stdout.flush()
        assert held - warm < BLOCKS_MAY_GROW, f"{held - warm} blocks more than after the first part"
    codes = ", ".join(
        f"{code}: {count:,}" for code, count in sorted(under_fire.codes.items()) if count > streams // 1000
    )
    sys.stdout.write(f"seed {seed}: nothing but what is documented, and nothing stays\n{codes}\n")


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--streams", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(fuzz(options.streams, options.seed))


if __name__ == "__main__":
    main()
