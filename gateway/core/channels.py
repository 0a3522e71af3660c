"""The names of channels. Owns their grammar; what a pattern over them matches stands in `patterns`."""

from __future__ import annotations

import re
from typing import Final

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


def valid_channel(name: str) -> bool:
    """Tell whether `name` is a channel's name: 1 to 16 segments of 1 to 64 permitted characters, at most 255 bytes in all.

    The permitted characters are ASCII, so characters and bytes are the same count.
    """
    return len(name) <= MAX_CHANNEL_BYTES and _CHANNEL.fullmatch(name) is not None
