"""What commands print: data as JSON or aligned columns, in colours where a person reads.

Owns streams, colours and the harmlessness of foreign text. Refuses to own what is printed. Data goes to standard output,
everything else to standard error.
"""

from __future__ import annotations

import enum
import json
import os
import sys
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import TextIO

_RESET = "\x1b[0m"
# Format characters that reorder or hide what stands beside them; other ones, such as joiners in emoji, may stay.
_DECEIVING = frozenset("\u061c\u200e\u200f\u2028\u2029\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\ufeff")


class Style(enum.Enum):
    """What a piece of text is, which decides its colour."""

    HEADING = "1"
    FAINT = "2"
    GOOD = "32"
    BAD = "31"
    NOTE = "33"
    NAME = "36"
    PLACE = "35"


def coloured(stream: TextIO, environ: Mapping[str, str] | None = None) -> bool:
    """Tell whether a stream takes colours: a terminal, unless `NO_COLOR` is set (https://no-color.org)."""
    environ = os.environ if environ is None else environ
    if environ.get("NO_COLOR") or environ.get("TERM") == "dumb":
        return False
    return stream.isatty()


def paint(text: str, style: Style, *, colours: bool) -> str:
    """Give text its colour, or leave it."""
    return f"\x1b[{style.value}m{text}{_RESET}" if colours and text else text


def printable(text: str) -> str:
    """Make foreign text harmless to a terminal: control and reordering characters become visible escapes.

    Whatever stands in a message may have been written to move the cursor, set a title or turn a line around.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(_visible(character) for character in text)


def _visible(character: str) -> str:
    if character in _DECEIVING or unicodedata.category(character) in {"Cc", "Cs"}:
        code = ord(character)
        return f"\\x{code:02x}" if code <= 0xFF else f"\\u{code:04x}"  # noqa: PLR2004 - what two digits can say
    return character


def to_json(value: object, *, indent: int | None = None) -> str:
    """Write JSON that is safe to print: text as it is, but for what a terminal would obey."""
    text = json.dumps(value, ensure_ascii=False, indent=indent, default=str)
    # Within JSON only strings can hold what is left to escape, and there an escape means the same character.
    return "".join(
        f"\\u{ord(character):04x}" if character != "\n" and _visible(character) != character else character
        for character in text
    )


def write_json(value: object) -> None:
    """Print data for programs: one document, indented where a person looks on."""
    print(to_json(value, indent=2 if sys.stdout.isatty() else None))  # noqa: T201 - this is the module that prints


def write_line(text: str = "") -> None:
    """Print one line of data."""
    print(text)  # noqa: T201 - as above


def note(text: str) -> None:
    """Say something to the person, on standard error, where it does not get in the way of data."""
    print(text, file=sys.stderr)  # noqa: T201 - as above


def write_table(headings: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print aligned columns under their headings."""
    cells = [[printable("" if cell is None else str(cell)) for cell in row] for row in rows]
    widths = [max(_columns(text) for text in column) for column in zip(*[list(headings), *cells], strict=True)]
    colours = coloured(sys.stdout)
    write_line(paint(_aligned(headings, widths), Style.HEADING, colours=colours))
    for row in cells:
        write_line(_aligned(row, widths))


def _aligned(row: Sequence[str], widths: Sequence[int]) -> str:
    padded = [text + " " * (width - _columns(text)) for text, width in zip(row, widths, strict=True)]
    return "  ".join(padded).rstrip()


def _columns(text: str) -> int:
    """Count the columns of a terminal that text takes."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(character) else 2 if unicodedata.east_asian_width(character) in "WF" else 1
        for character in text
    )
