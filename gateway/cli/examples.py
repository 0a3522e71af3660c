"""How the help of a command shows its examples."""

from __future__ import annotations

_AS_WRITTEN = "\b"
"""Ahead of a paragraph, this keeps its lines as they are."""


def examples(*lines: str) -> str:
    """Give the epilogue of a command's help: lines that can be copied as they stand."""
    return "\n".join([_AS_WRITTEN, "Examples:", *(f"  {line}" for line in lines)])
