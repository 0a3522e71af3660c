"""Patterns over actions and channels: their grammar, and an index that finds the matching ones.

`*` matches one segment, `**` one or more to the end, `{subject}`, `{tenant}` and `{claims.NAME}` the principal's own value. Owns
how a pattern is written and matched; refuses to own what a match means.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, Generic, TypeVar

from gateway.core.channels import MAX_CHANNEL_SEGMENTS, MAX_SEGMENT_BYTES, SEGMENT_CHARACTERS, SEGMENT_SEPARATOR
from gateway.core.documents import quoted
from gateway.core.errors import GatewayError

ANY: Final = "*"
REST: Final = "**"
ACTION_SEPARATOR: Final = "."
MAX_ACTION_SEGMENTS: Final = 16
SUBJECT: Final = "{subject}"
TENANT: Final = "{tenant}"
CLAIM_PREFIX: Final = "{claims."

_ACTION_SEGMENT: Final = re.compile(rf"[A-Za-z0-9_-]{{1,{MAX_SEGMENT_BYTES}}}")
_CHANNEL_SEGMENT: Final = re.compile(rf"{SEGMENT_CHARACTERS}{{1,{MAX_SEGMENT_BYTES}}}")
_CLAIM: Final = re.compile(r"\{claims\.[A-Za-z0-9_-]{1,64}\}")

Value = TypeVar("Value")


class PatternError(GatewayError):
    """Text that is no pattern; the message says why."""


def parse_action_pattern(text: str) -> tuple[str, ...]:
    """Split the pattern of an action into its segments.

    Raises:
        PatternError: It is none.
    """
    segments = tuple(text.split(ACTION_SEPARATOR))
    if len(segments) > MAX_ACTION_SEGMENTS:
        raise PatternError(f"more than {MAX_ACTION_SEGMENTS} segments")
    for place, segment in enumerate(segments, start=1):
        if segment == ANY or (segment == REST and place == len(segments)):
            continue
        if "{" in segment:
            raise PatternError("placeholders stand in channels only")
        _check_segment(segment, _ACTION_SEGMENT)
    return segments


def parse_channel_pattern(text: str, *, placeholders: bool = True) -> tuple[str, ...]:
    """Split the pattern of a channel into its segments.

    Args:
        text: The pattern.
        placeholders: Whether `{…}` may stand in it.

    Raises:
        PatternError: It is none.
    """
    segments = tuple(text.split(SEGMENT_SEPARATOR))
    if len(segments) > MAX_CHANNEL_SEGMENTS:
        raise PatternError(f"more than {MAX_CHANNEL_SEGMENTS} segments")
    for place, segment in enumerate(segments, start=1):
        if segment == ANY or (segment == REST and place == len(segments)):
            continue
        if segment.startswith("{") and segment.endswith("}"):
            if not placeholders:
                raise PatternError("no placeholder may stand here, for a channel has no principal")
            if not is_placeholder(segment):
                raise PatternError(
                    f"unknown placeholder {quoted(segment)}; known are {SUBJECT}, {TENANT} and {{claims.NAME}}"
                )
            continue
        _check_segment(segment, _CHANNEL_SEGMENT)
    return segments


def _check_segment(segment: str, literal: re.Pattern[str]) -> None:
    if literal.fullmatch(segment) is not None:
        return
    if not segment:
        raise PatternError("a segment is empty")
    if segment == REST:
        raise PatternError("`**` may stand only at the end")
    if "*" in segment or "{" in segment or "}" in segment:
        raise PatternError("`*`, `**` and `{…}` stand for whole segments only")
    if len(segment) > MAX_SEGMENT_BYTES:
        raise PatternError(f"a segment is longer than {MAX_SEGMENT_BYTES} characters")
    raise PatternError("a segment has a character that no name may have")


def is_placeholder(segment: str) -> bool:
    """Tell whether a segment of a parsed pattern stands for a value of the principal."""
    return segment in {SUBJECT, TENANT} or _CLAIM.fullmatch(segment) is not None


def claim_name(placeholder: str) -> str:
    """Give the name of the claim that a `{claims.NAME}` stands for."""
    return placeholder[len(CLAIM_PREFIX) : -1]


def action_segments(action: str) -> list[str]:
    """Split an action's name."""
    return action.split(ACTION_SEPARATOR)


def channel_segments(channel: str) -> list[str]:
    """Split a channel's name."""
    return channel.split(SEGMENT_SEPARATOR)


def written_action(pattern: tuple[str, ...]) -> str:
    """Write a parsed pattern of actions."""
    return ACTION_SEPARATOR.join(pattern)


def written_channel(pattern: tuple[str, ...]) -> str:
    """Write a parsed pattern of channels."""
    return SEGMENT_SEPARATOR.join(pattern)


def action_matches(pattern: tuple[str, ...], action: str) -> bool:
    """Tell whether one pattern of actions matches; for many patterns there is the index."""
    segments = action_segments(action)
    if pattern[-1] == REST:
        if len(segments) < len(pattern):
            return False
    elif len(segments) != len(pattern):
        return False
    return all(part in (ANY, REST, segment) for part, segment in zip(pattern, segments, strict=False))


class _Branch(Generic[Value]):
    """One place in the index: what ends here, what takes all the rest, and the ways on."""

    __slots__ = ("any", "ending", "literals", "placeholders", "rest")

    def __init__(self) -> None:
        self.literals: dict[str, _Branch[Value]] = {}
        self.placeholders: dict[str, _Branch[Value]] = {}
        self.any: _Branch[Value] | None = None
        self.ending: list[Value] = []
        self.rest: list[Value] = []


class PatternIndex(Generic[Value]):
    """Finds the values whose pattern matches, in time that does not grow with the number of patterns that do not.

    A tree of segments: a look-up walks at most the literal, the `*` and the placeholders of each place, so patterns beside the
    way cost nothing.

    Args:
        missing_matches: Whether a placeholder without a usable value matches any segment (denies) or none (allows).
    """

    __slots__ = ("_missing_matches", "_root")

    def __init__(self, *, missing_matches: bool) -> None:
        self._root: _Branch[Value] = _Branch()
        self._missing_matches = missing_matches

    def add(self, pattern: tuple[str, ...], value: Value) -> None:
        """Enter a value under a parsed pattern."""
        branch = self._root
        for segment in pattern:
            if segment == REST:
                branch.rest.append(value)
                return
            if segment == ANY:
                if branch.any is None:
                    branch.any = _Branch()
                branch = branch.any
            elif is_placeholder(segment):
                branch = branch.placeholders.setdefault(segment, _Branch())
            else:
                branch = branch.literals.setdefault(segment, _Branch())
        branch.ending.append(value)

    def match(self, segments: list[str], values: Mapping[str, str | None]) -> list[Value]:
        """Give the values of all matching patterns, in no order; one under two matching patterns comes twice.

        Args:
            segments: The segments of a name.
            values: What each placeholder stands for; None where there is no usable value.
        """
        branches = [self._root]
        found: list[Value] = []
        for segment in segments:
            onward: list[_Branch[Value]] = []
            for branch in branches:
                found.extend(branch.rest)
                literal = branch.literals.get(segment)
                if literal is not None:
                    onward.append(literal)
                if branch.any is not None:
                    onward.append(branch.any)
                for placeholder, beyond in branch.placeholders.items():
                    value = values.get(placeholder)
                    if value == segment or (value is None and self._missing_matches):
                        onward.append(beyond)
            branches = onward
        for branch in branches:
            found.extend(branch.ending)
        return found
