"""A million random and mutated frames through the parser and a session: nothing comes out but what is documented."""

from __future__ import annotations

import json
import random

import msgspec
import pytest
from conversation import UnderFire, seeds
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.frames import Encoding

FRAMES = 125_000
"""For each of eight ways to feed them: a million in all."""

INTERESTING = [b"", b"{", b"}", b"[", b"]", b'"', b":", b",", b"\\", b"\\ud800", b"\\u0000", b"NaN", b"1e400", b"-0",
               b"9223372036854775808", b"null", b"true", b"\xff", b"\x00", b"\xc1", b"\xd9", b"\xdf\xff\xff\xff\xff",
               b"\xdd\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff", b"\xcb\x7f\xf8\x00\x00\x00\x00\x00\x00", b'"id":', b"id",
               b"[" * 40, b'{"a":' * 40, b"s1.", b"\x01"]  # fmt: skip


def mutate(seed: bytes, rng: random.Random) -> bytes:
    """Change a frame in a few places."""
    frame = bytearray(seed)
    for _ in range(rng.randint(0, 4)):
        at = rng.randrange(len(frame) + 1)
        match rng.randrange(6):
            case 0 if at < len(frame):
                frame[at] = rng.randrange(256)
            case 1 if at < len(frame):
                frame[at] ^= 1 << rng.randrange(8)
            case 2:
                frame[at:at] = rng.choice(INTERESTING)
            case 3:
                del frame[at : at + rng.randint(1, 8)]
            case 4:
                frame[at : at + rng.randint(0, 8)] = rng.choice(INTERESTING)
            case _:
                frame[at:at] = frame[rng.randrange(len(frame) + 1) :][:16]
    return bytes(frame)


@pytest.mark.slow
@pytest.mark.parametrize("raw", [False, True], ids=["properly sent", "as they are"])
@pytest.mark.parametrize("signed", [False, True], ids=["unsigned", "signed"])
@pytest.mark.parametrize("encoding", list(Encoding), ids=lambda encoding: encoding.value)
def test_mutated_frames_have_documented_outcomes_only(encoding: Encoding, *, signed: bool, raw: bool) -> None:
    rng = random.Random(f"{encoding.value} {signed} {raw}")  # noqa: S311 - a test repeats itself
    corpus = seeds(encoding)
    session = UnderFire(encoding, signed=signed)
    for _ in range(FRAMES):
        seed = rng.choice(corpus) if rng.random() < 0.95 else rng.randbytes(rng.randrange(40))
        session.feed(mutate(seed, rng), raw=raw)
    if not (signed and raw):
        assert session.outcomes["ok"] > FRAMES // 50
        assert session.outcomes["bad_frame"] > FRAMES // 50
        assert session.outcomes["invalid_data"] > FRAMES // 1000
        assert session.outcomes["unknown_action"] > FRAMES // 1000


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=10), inner, max_size=5),
    max_leaves=20,
)
COMMANDS = st.fixed_dictionaries(
    {},
    optional={
        "id": st.integers(-3, 20) | JSON_VALUES,
        "action": st.sampled_from(["ping", "channel.publish", "channel.subscribe", "user.send", "nosuch"])
        | JSON_VALUES,
        "channel": st.sampled_from(["room:acme:1", "room", "a:*", ""]) | JSON_VALUES,
        "data": JSON_VALUES,
        "extra": JSON_VALUES,
    },
)


@settings(deadline=None, max_examples=300)
@given(st.lists(COMMANDS | st.lists(COMMANDS, max_size=4), max_size=6), st.sampled_from(list(Encoding)), st.booleans())
def test_generated_commands_have_documented_outcomes_only(
    frames: list[object],
    encoding: Encoding,
    signed: bool,  # noqa: FBT001 - a given value
) -> None:
    session = UnderFire(encoding, signed=signed)
    for frame in frames:
        if encoding is Encoding.JSON:
            session.feed(json.dumps(frame).encode("utf-8", "surrogatepass"))
        else:
            try:
                session.feed(msgspec.msgpack.encode(frame))
            except (OverflowError, UnicodeEncodeError):  # what MessagePack itself cannot say
                continue


@settings(deadline=None, max_examples=300)
@given(st.binary(max_size=200), st.sampled_from(list(Encoding)), st.booleans())
def test_any_bytes_have_documented_outcomes_only(
    body: bytes,
    encoding: Encoding,
    signed: bool,  # noqa: FBT001 - a given value
) -> None:
    UnderFire(encoding, signed=signed).feed(body)
    UnderFire(encoding, signed=signed).feed(body, raw=True)
