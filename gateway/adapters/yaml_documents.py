"""YAML text as trees that remember their lines.

Owns the subset of YAML that policies are written in: YAML 1.2's core schema (so `on` and `no` are strings), aliases, one document;
no tags. The parser's events are read one by one with caps on depth and size, so neither nesting nor a bomb of aliases costs
anything. Refuses to own what a document means.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

import yaml

from gateway.core.documents import DocumentError, Items, JsonScalar, Members, Node, Scalar, quoted

MAX_DEPTH: Final = 32
MAX_NODES: Final = 100_000
MAX_NUMBER_CHARACTERS: Final = 32

_NULL: Final = frozenset({"", "~", "null", "Null", "NULL"})
_TRUE: Final = frozenset({"true", "True", "TRUE"})
_FALSE: Final = frozenset({"false", "False", "FALSE"})
_WHOLE: Final = re.compile(r"[-+]?[0-9]+")
_DECIMAL: Final = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_LARGEST_WHOLE: Final = 2**63 - 1

# libyaml where the wheel has it; the pure parser is the same, only slower.
_LOADER: Final = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def read_yaml(content: bytes) -> Node | None:
    """Read one document; None for nothing but comments.

    Raises:
        DocumentError: The content is no UTF-8, no YAML, or not of the subset; with its line.
    """
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DocumentError(content.count(b"\n", 0, error.start) + 1, "the file is not UTF-8") from error
    try:
        return _TreeBuilder().build(yaml.parse(text, Loader=_LOADER))
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise DocumentError(line, f"no YAML: {error.problem}") from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1 if isinstance(error.position, int) else 1
        raise DocumentError(line, "no YAML: a control character") from error


@dataclass(slots=True)
class _Built:
    """A finished node, with how many nodes it stands for where aliases are written out, and how deep they nest."""

    node: Node
    size: int = 1
    height: int = 0


@dataclass(slots=True)
class _Open:
    """A collection whose end has not come yet."""

    line: int
    anchor: str | None
    is_mapping: bool
    nodes: list[Node] = field(default_factory=list)
    size: int = 1
    height: int = 0

    def close(self) -> _Built:
        """Make the collection of what stands in it."""
        nodes = tuple(self.nodes)
        if self.is_mapping:
            return _Built(Members(self.line, tuple(zip(nodes[::2], nodes[1::2], strict=True))), self.size, self.height)
        return _Built(Items(self.line, nodes), self.size, self.height)


class _TreeBuilder:
    """Builds the tree of one document from the parser's events."""

    def __init__(self) -> None:
        self._open: list[_Open] = []
        self._anchors: dict[str, _Built] = {}
        self._root: Node | None = None
        self._documents = 0

    def build(self, events: Iterator[yaml.Event]) -> Node | None:
        """Read all events."""
        line = 1
        for event in events:
            line = event.start_mark.line + 1 if event.start_mark else line
            if isinstance(event, yaml.DocumentStartEvent):
                self._documents += 1
                if self._documents > 1:
                    raise DocumentError(line, "a second document in the file")
            elif isinstance(event, yaml.AliasEvent):
                self._alias(event.anchor, line)
            elif isinstance(event, yaml.ScalarEvent):
                _check_tag(event.tag, line)
                self._place(_Built(Scalar(line, _scalar(event, line))), event.anchor, line)
            elif isinstance(event, yaml.CollectionStartEvent):
                _check_tag(event.tag, line)
                if len(self._open) >= MAX_DEPTH:
                    raise DocumentError(line, f"nested deeper than {MAX_DEPTH}")
                is_mapping = isinstance(event, yaml.MappingStartEvent)
                self._open.append(_Open(line, event.anchor, is_mapping))
            elif isinstance(event, yaml.CollectionEndEvent):
                closed = self._open.pop()
                self._place(closed.close(), closed.anchor, closed.line)
        return self._root

    def _alias(self, anchor: str | None, line: int) -> None:
        built = self._anchors.get(anchor or "")
        if built is None:
            # An anchor counts from its node's end on, so a node that holds itself is unknown here too.
            raise DocumentError(line, f"unknown alias {quoted(anchor)}")
        self._place(built, None, line)

    def _place(self, built: _Built, anchor: str | None, line: int) -> None:
        if anchor is not None:
            self._anchors[anchor] = built
        if not self._open:
            self._root = built.node
            return
        parent = self._open[-1]
        parent.nodes.append(built.node)
        parent.size += built.size
        parent.height = max(parent.height, built.height + 1)
        if parent.size > MAX_NODES:
            raise DocumentError(line, f"more than {MAX_NODES} values, those of aliases counted each time")
        if len(self._open) + built.height > MAX_DEPTH:
            raise DocumentError(line, f"nested deeper than {MAX_DEPTH}")


def _check_tag(tag: str | None, line: int) -> None:
    if tag is not None:
        raise DocumentError(line, f"a tag ({quoted(tag)}); tags are not read")


def _scalar(event: yaml.ScalarEvent, line: int) -> JsonScalar:
    """Resolve a scalar by YAML 1.2's core schema (YAML 1.2.2 section 10.3.2), octal and hexadecimal numbers aside."""
    value: str = event.value
    if not event.implicit[0]:
        return value
    if value in _NULL:
        return None
    if value in _TRUE or value in _FALSE:
        return value in _TRUE
    is_whole = _WHOLE.fullmatch(value) is not None
    if not is_whole and _DECIMAL.fullmatch(value) is None:
        return value
    if len(value) > MAX_NUMBER_CHARACTERS:
        raise DocumentError(line, "a number of too many digits")
    number = int(value) if is_whole else float(value)
    if not -_LARGEST_WHOLE - 1 <= number <= _LARGEST_WHOLE:
        raise DocumentError(line, f"number {quoted(value)} is out of range")
    return number
