"""The Atheris target: `python tests/fuzz/fuzz_frames.py -max_total_time=60`. The first byte chooses encoding and signing."""

from __future__ import annotations

import sys
from pathlib import Path

import atheris

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "core")]

with atheris.instrument_imports(include=["gateway.core"]):
    from conversation import UnderFire, seeds

    from gateway.core.frames import Encoding

MODES = [(encoding, signed, raw) for encoding in Encoding for signed in (False, True) for raw in (False, True)]
SESSIONS = [UnderFire(encoding, signed=signed) for encoding, signed, _ in MODES]


def test_one_input(data: bytes) -> None:
    """Feed one input to the session that its first byte names."""
    mode = (data[0] if data else 0) % len(MODES)
    SESSIONS[mode].feed(data[1:], raw=MODES[mode][2])


def main() -> None:
    """Run until told to stop; well-formed frames are the corpus."""
    corpus = Path(__file__).parents[2] / ".fuzz"
    corpus.mkdir(exist_ok=True)
    for mode, (encoding, _, _) in enumerate(MODES):
        for number, seed in enumerate(seeds(encoding)):
            (corpus / f"seed-{mode}-{number}").write_bytes(bytes([mode]) + seed)
    atheris.Setup([*sys.argv, str(corpus)], test_one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
