"""How a command says that it could not do what was asked."""

from __future__ import annotations

FAILED = 1
"""The exit code of a command that was understood and not carried out, or that found something."""

USAGE = 2
"""The exit code of a command that was not understood."""


class CommandFailure(Exception):  # noqa: N818 - it ends a command, no program is in error
    """A command that ends without success.

    Args:
        message: One line for standard error: what happened and, after a semicolon, what to do. Lower case, no secrets.
        exit_code: `FAILED` or `USAGE`.
    """

    def __init__(self, message: str, exit_code: int = FAILED) -> None:
        super().__init__(message)
        self.exit_code = exit_code
