"""Conditions: what a `when` is to the core, and the caps on what it may read.

Owns the two small Protocols behind which an expression language stands, and the bound on `data`. Refuses to own the language.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final, Protocol

import msgspec

from gateway.core.errors import GatewayError
from gateway.core.principal import ConnectionFacts, Principal

MAX_CONDITION_BYTES: Final = 2048
MAX_DATA_VALUES: Final = 256
MAX_DATA_BYTES: Final = 8192


class PrincipalPart(enum.StrEnum):
    """A part of the principal that a rule can read."""

    SUBJECT = "subject"
    TENANT = "tenant"
    ROLES = "roles"
    CLAIMS = "claims"


class ConditionTextError(GatewayError):
    """Text that is no condition: the checker refused it, it is too long, or it yields no boolean."""


class ConditionError(GatewayError):
    """A condition that could not be answered with true or false; the command is denied."""


@dataclass(frozen=True, slots=True)
class Ask:
    """One command as a condition sees it.

    Args:
        action: The action.
        channel: The channel, or None.
        data: The command's data, JSON's model; None where absent.
        connection: Facts about the connection.
        now: Unix seconds.
    """

    action: str
    channel: str | None
    data: object
    connection: ConnectionFacts
    now: float


class BoundCondition(Protocol):
    """A condition as it stands for one principal."""

    def holds(self, ask: Ask) -> bool:
        """Evaluate.

        Raises:
            ConditionError: It has no answer; nothing else is ever raised.
        """
        ...


class Condition(Protocol):
    """A compiled, immutable condition."""

    @property
    def reads(self) -> frozenset[PrincipalPart]:
        """Give the parts of the principal that it reads."""
        ...

    @property
    def reads_data(self) -> bool:
        """Tell whether it reads the command's data."""
        ...

    def bind(self, principal: Principal) -> BoundCondition:
        """Prepare it for one principal. Never raises: what is wrong with the principal's values shows when it is asked."""
        ...


class ConditionCompiler(Protocol):
    """Turns text into conditions."""

    def compile(self, text: str) -> Condition:
        """Check and compile.

        Raises:
            ConditionTextError: The text is no condition.
        """
        ...


def data_fault(data: object) -> str | None:
    """Tell why `data` is too much for a condition to read, or None.

    A value is each scalar and each container, the outermost too; the size is that of its JSON text. The caps bound the time that
    a hostile command can make an expression take.
    """
    waiting = [data]
    values = 0
    while waiting:
        values += 1
        if values + len(waiting) - 1 > MAX_DATA_VALUES:
            return f"data has more than {MAX_DATA_VALUES} values"
        value = waiting.pop()
        if isinstance(value, dict):
            waiting.extend(value.values())
        elif isinstance(value, list):
            waiting.extend(value)
    try:
        size = len(msgspec.json.encode(data))
    except (TypeError, ValueError, RecursionError):
        return "data is not of JSON's model"
    return f"data is longer than {MAX_DATA_BYTES} bytes" if size > MAX_DATA_BYTES else None
