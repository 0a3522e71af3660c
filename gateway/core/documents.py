"""Documents as trees that remember their lines, and the strict reading of them.

Owns what a reader of policies and of policy tests share: nodes, members, scalars, and errors that name file and line. Refuses to
own any syntax: an adapter makes the tree from YAML.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias

from gateway.core.errors import GatewayError

JsonScalar: TypeAlias = str | int | float | bool | None

_QUOTED_CHARACTERS: Final = 80


@dataclass(frozen=True, slots=True)
class Scalar:
    """A string, a number, a boolean or null.

    Args:
        line: The line that it begins on, counted from 1.
        value: The value.
    """

    line: int
    value: JsonScalar


@dataclass(frozen=True, slots=True)
class Items:
    """A sequence of nodes.

    Args:
        line: The line that it begins on, counted from 1.
        nodes: The nodes in their order.
    """

    line: int
    nodes: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Members:
    """A mapping, as written: keys may be of any kind, and doubled.

    Args:
        line: The line that it begins on, counted from 1.
        pairs: Keys and values in their order.
    """

    line: int
    pairs: tuple[tuple[Node, Node], ...]


@dataclass(frozen=True, slots=True)
class TextScalar:
    """A scalar that has been read as a string."""

    line: int
    value: str


Node: TypeAlias = Scalar | Items | Members


@dataclass(frozen=True, slots=True)
class DocumentFile:
    """One file: its name as findings shall show it, and its tree; None for a file of nothing but comments."""

    name: str
    root: Node | None


@dataclass(frozen=True, slots=True)
class Finding:
    """What is wrong, and where.

    Args:
        file: The name of the file; empty where the matter is no file's.
        line: The line, counted from 1; 0 where the matter is no line's.
        reason: What is wrong, in lower case, without a full stop.
    """

    file: str
    line: int
    reason: str

    def __str__(self) -> str:
        """Write it as compilers do, for editors to find the place."""
        place = f"{self.file}:{self.line}" if self.line else self.file
        return f"{place}: {self.reason}" if place else self.reason


class DocumentError(GatewayError):
    """A node that is not what it has to be.

    Args:
        line: The line, counted from 1.
        reason: What is wrong with it.
    """

    def __init__(self, line: int, reason: str) -> None:
        super().__init__(reason)
        self.line = line
        self.reason = reason


def quoted(value: object) -> str:
    """Quote input for a message: in backticks, cut, and without control characters or a backtick."""
    text = value if isinstance(value, str) else repr(value)
    shown = "".join(character if character.isprintable() and character != "`" else "?" for character in text)
    return f"`{shown[:_QUOTED_CHARACTERS]}…`" if len(shown) > _QUOTED_CHARACTERS else f"`{shown}`"


def members(node: Node, what: str) -> dict[str, tuple[int, Node]]:
    """Read a mapping with string keys: key → (the key's line, the value).

    Raises:
        DocumentError: It is no mapping, a key is no string, or a key stands twice.
    """
    if not isinstance(node, Members):
        raise DocumentError(node.line, f"{what} must be a mapping")
    found: dict[str, tuple[int, Node]] = {}
    for key, value in node.pairs:
        if not isinstance(key, Scalar) or not isinstance(key.value, str):
            raise DocumentError(key.line, f"a key of {what} must be a string")
        if key.value in found:
            raise DocumentError(key.line, f"duplicate key {quoted(key.value)} in {what}")
        found[key.value] = (key.line, value)
    return found


def known_members(node: Node, what: str, known: tuple[str, ...], required: tuple[str, ...] = ()) -> dict[str, Node]:
    """Read a mapping whose keys are all `known`, with all those `required`.

    Raises:
        DocumentError: As `members`, or a key is unknown or missing.
    """
    found = members(node, what)
    for key, (line, _) in found.items():
        check_known(key, line, what, known)
    for key in required:
        if key not in found:
            raise DocumentError(node.line, f"{what} needs {quoted(key)}")
    return {key: value for key, (_, value) in found.items()}


def check_known(key: str, line: int, what: str, known: tuple[str, ...]) -> None:
    """Refuse a key that is not `known`.

    Raises:
        DocumentError: It is unknown.
    """
    if key not in known:
        raise DocumentError(line, f"unknown member {quoted(key)} in {what}; known are {', '.join(known)}")


def nodes(node: Node, what: str) -> tuple[Node, ...]:
    """Read a sequence.

    Raises:
        DocumentError: It is none.
    """
    if not isinstance(node, Items):
        raise DocumentError(node.line, f"{what} must be a list")
    return node.nodes


def text_scalar(node: Node, what: str) -> TextScalar:
    """Read a string with its line.

    Raises:
        DocumentError: It is none.
    """
    if not isinstance(node, Scalar) or not isinstance(node.value, str):
        raise DocumentError(node.line, f"{what} must be a string")
    return TextScalar(node.line, node.value)


def text(node: Node, what: str) -> str:
    """Read a string.

    Raises:
        DocumentError: It is none.
    """
    return text_scalar(node, what).value


def texts(node: Node, what: str) -> tuple[TextScalar, ...]:
    """Read a list of at least one string, each with its line.

    Raises:
        DocumentError: It is no list, is empty, or holds anything else.
    """
    listed = nodes(node, what)
    if not listed:
        raise DocumentError(node.line, f"{what} must not be empty")
    return tuple(text_scalar(entry, f"an entry of {what}") for entry in listed)


def flag(node: Node, what: str) -> bool:
    """Read true or false.

    Raises:
        DocumentError: It is neither.
    """
    if not isinstance(node, Scalar) or not isinstance(node.value, bool):
        raise DocumentError(node.line, f"{what} must be true or false")
    return node.value


def number(node: Node, what: str, least: float, most: float) -> float:
    """Read a number from `least` to `most`.

    Raises:
        DocumentError: It is no number, or out of the range.
    """
    value = node.value if isinstance(node, Scalar) else None
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        raise DocumentError(node.line, f"{what} must be a number")
    if not least <= value <= most:
        raise DocumentError(node.line, f"{what} must be from {least:g} to {most:g}")
    return value


def whole_number(node: Node, what: str, least: int, most: int) -> int:
    """Read a whole number from `least` to `most`.

    Raises:
        DocumentError: It is no whole number, or out of the range.
    """
    value = number(node, what, least, most)
    if not isinstance(value, int):
        raise DocumentError(node.line, f"{what} must be a whole number")
    return value


def plain(node: Node) -> object:
    """Give the plain value of a tree, as JSON's model has it.

    Raises:
        DocumentError: A key is no string or stands twice.
    """
    if isinstance(node, Scalar):
        return node.value
    if isinstance(node, Items):
        return [plain(entry) for entry in node.nodes]
    return {key: plain(value) for key, (_, value) in members(node, "a value").items()}


def plain_members(node: Node, what: str) -> Mapping[str, object]:
    """Give the plain value of a mapping.

    Raises:
        DocumentError: It is no mapping, or as `plain`.
    """
    return {key: plain(value) for key, (_, value) in members(node, what).items()}
