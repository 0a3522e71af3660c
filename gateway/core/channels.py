"""The names of channels, and where a channel's history stands. Owns the grammar; what a pattern matches stands in `patterns`."""

from __future__ import annotations

import re
from typing import Final

import msgspec

MAX_CHANNEL_BYTES: Final = 255
MAX_CHANNEL_SEGMENTS: Final = 16
MAX_SEGMENT_BYTES: Final = 64
SEGMENT_SEPARATOR: Final = ":"
SEGMENT_CHARACTERS: Final = r"[A-Za-z0-9_.@|+=~-]"

# Linear: each segment ends at a character that no segment can hold, so nothing is ever tried twice.
_CHANNEL: Final = re.compile(
    rf"{SEGMENT_CHARACTERS}{{1,{MAX_SEGMENT_BYTES}}}"
    rf"(?::{SEGMENT_CHARACTERS}{{1,{MAX_SEGMENT_BYTES}}}){{0,{MAX_CHANNEL_SEGMENTS - 1}}}"
)


class Position(msgspec.Struct, frozen=True, gc=False):
    """Where a channel's history stands: the last offset (from 1; 0 before any) in an opaque epoch."""

    offset: int
    epoch: str


def valid_channel(name: str) -> bool:
    """Tell whether `name` is a channel's name: 1 to 16 segments of 1 to 64 permitted characters, at most 255 bytes in all.

    The permitted characters are ASCII, so characters and bytes are the same count.
    """
    return len(name) <= MAX_CHANNEL_BYTES and _CHANNEL.fullmatch(name) is not None
