"""Conditions in CEL, by the CEL project's own runtime.

Owns the names that a `when` may use and their types. Refuses to own when a condition is asked; that is the policy's matter.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Final

from cel_expr_python import cel

from gateway.core.conditions import (
    MAX_CONDITION_BYTES,
    Ask,
    ConditionError,
    ConditionTextError,
    PrincipalPart,
)
from gateway.core.principal import Principal

_SUBJECT: Final = "principal.subject"
_TENANT: Final = "principal.tenant"
_ROLES: Final = "principal.roles"
_CLAIMS: Final = "principal.claims"
_PRINCIPAL_PARTS: Final = {
    _SUBJECT: PrincipalPart.SUBJECT,
    _TENANT: PrincipalPart.TENANT,
    _ROLES: PrincipalPart.ROLES,
    _CLAIMS: PrincipalPart.CLAIMS,
}
_MAX_DETAIL_CHARACTERS: Final = 200

# What evaluation is known to raise rather than to return: an exhausted budget and strings that are no UTF-8 (RuntimeError), values
# that are no CEL value (TypeError, ValueError), a `now` out of the calendar (OverflowError, OSError).
_RAISED: Final = (RuntimeError, TypeError, ValueError, OverflowError, OSError)


def _variables(channel: Any) -> dict[str, Any]:  # noqa: ANN401 - the runtime's types are untyped
    kinds = cel.Type
    return {
        _SUBJECT: kinds.STRING,
        _TENANT: kinds.STRING,
        _ROLES: kinds.List(kinds.STRING),
        _CLAIMS: kinds.Map(kinds.STRING, kinds.DYN),
        "action": kinds.STRING,
        "channel": channel,
        "data": kinds.DYN,
        "connection.ip": kinds.STRING,
        "connection.origin": kinds.STRING,
        "connection.signed": kinds.BOOL,
        "now": kinds.TIMESTAMP,
    }


class CelConditions:
    """Compiles conditions; implements `gateway.core.conditions.ConditionCompiler`."""

    def __init__(self) -> None:
        # The checker knows `channel` as a string that may be null, which the runtime's converter does not take; so what
        # has passed the one is compiled once more for the other, where it is dynamic.
        nullable_text = cel.Type("google.protobuf.StringValue")
        self._checker = cel.NewEnv(variables=_variables(nullable_text))
        self._variables = _variables(cel.Type.DYN)
        self._runtime = cel.NewEnv(variables=self._variables)
        self._without = {
            name: cel.NewEnv(variables={other: kind for other, kind in self._variables.items() if other != name})
            for name in self._variables
        }

    def compile(self, text: str) -> CelCondition:
        """Check and compile; see the protocol."""
        try:
            size = len(text.encode())
        except UnicodeEncodeError as error:
            raise ConditionTextError("the text is no UTF-8") from error
        if size > MAX_CONDITION_BYTES:
            raise ConditionTextError(f"the text is longer than {MAX_CONDITION_BYTES} bytes")
        try:
            kind = self._checker.compile(text).return_type()
            expression = self._runtime.compile(text)
        except RuntimeError as error:
            raise ConditionTextError(_first_line(error)) from error
        if kind not in (cel.Type.BOOL, cel.Type.DYN):
            raise ConditionTextError(_no_boolean(kind))
        return CelCondition(self._runtime, expression, frozenset(filter(self._reader(text), self._variables)))

    def _reader(self, text: str) -> Any:  # noqa: ANN401 - a predicate
        """Tell which variables a text reads: just those without which it does not compile, shadowed names included."""

        def reads(name: str) -> bool:
            try:
                self._without[name].compile(text)
            except RuntimeError:
                return True
            return False

        return reads


class CelCondition:
    """A compiled expression with the variables that it reads; implements `gateway.core.conditions.Condition`."""

    __slots__ = ("_expression", "_names", "_runtime", "reads", "reads_data")

    def __init__(self, runtime: Any, expression: Any, names: frozenset[str]) -> None:  # noqa: ANN401 - untyped runtime
        self._runtime = runtime
        self._expression = expression
        self._names = names
        self.reads = frozenset(part for name, part in _PRINCIPAL_PARTS.items() if name in names)
        self.reads_data = "data" in names

    def bind(self, principal: Principal) -> BoundCelCondition:
        """Prepare the principal's values; see the protocol."""
        known: dict[str, object] = {
            _SUBJECT: principal.subject,
            _TENANT: principal.tenant,
            _ROLES: list(principal.roles),
            _CLAIMS: dict(principal.claims),
        }
        read = {name: value for name, value in known.items() if name in self._names}
        return BoundCelCondition(self._expression, read, self._names - known.keys())


class BoundCelCondition:
    """An expression with the values of one principal; implements `gateway.core.conditions.BoundCondition`."""

    __slots__ = ("_asked", "_expression", "_known")

    def __init__(self, expression: Any, known: dict[str, object], asked: frozenset[str]) -> None:  # noqa: ANN401 - untyped runtime
        self._expression = expression
        self._known = known
        self._asked = tuple(sorted(asked))

    def holds(self, ask: Ask) -> bool:
        """Evaluate with just the variables that the expression reads; see the protocol."""
        try:
            values = self._known.copy()
            for name in self._asked:
                values[name] = _READERS[name](ask)
            value = self._expression.eval(data=values)
            if value.type() != cel.Type.BOOL:
                raise ConditionError(_complaint(value))
            return bool(value.value())
        except _RAISED as error:
            raise ConditionError(_first_line(error)) from error


def _now(ask: Ask) -> datetime:
    return datetime.fromtimestamp(ask.now, UTC)


_READERS: Final[dict[str, Any]] = {
    "action": lambda ask: ask.action,
    "channel": lambda ask: ask.channel,
    "data": lambda ask: ask.data,
    "connection.ip": lambda ask: ask.connection.ip,
    "connection.origin": lambda ask: ask.connection.origin,
    "connection.signed": lambda ask: ask.connection.signed,
    "now": _now,
}


def _complaint(value: Any) -> str:  # noqa: ANN401 - untyped runtime
    if value.type() == cel.Type.ERROR:
        return _trimmed(str(value.value()))
    return _no_boolean(value.type())


def _no_boolean(kind: Any) -> str:  # noqa: ANN401 - untyped runtime
    name = str(kind.name()).partition("<")[0].removesuffix("_type").lower()
    return f"it yields {name}, not a boolean"


def _first_line(error: Exception) -> str:
    return _trimmed(str(error).partition("\n")[0])


def _trimmed(message: str) -> str:
    """Leave out the status that the runtime puts before and behind its messages, and any line break."""
    shown = " ".join(message.split())
    for status in ("INVALID_ARGUMENT", "NOT_FOUND", "UNKNOWN", "INTERNAL", "OUT_OF_RANGE", "UNIMPLEMENTED"):
        shown = shown.removeprefix(f"{status}: ").removesuffix(f" [{status}]")
    return shown.removeprefix("ERROR: <input>:")[:_MAX_DETAIL_CHARACTERS]
