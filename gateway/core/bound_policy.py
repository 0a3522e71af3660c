"""A policy as it stands for one principal: the answer to one question.

Owns what rules mean: default deny, deny wins, a rule that errs denies, and which of two allows counts. Unconditional answers are
kept by (action, channel), so that asking again costs one look into a dictionary.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from gateway.core.conditions import Ask, BoundCondition, ConditionError, PrincipalPart, data_fault
from gateway.core.decision import Decision, Effect, Permission, Reason
from gateway.core.errors import ErrorCode
from gateway.core.limits import TokenBucket
from gateway.core.patterns import SUBJECT
from gateway.core.principal import ConnectionFacts, Principal
from gateway.core.rules import RateTable, RoleSet, Rule

DEFAULT_DENY: Final = Decision(Effect.DENY, Reason.DEFAULT, code=ErrorCode.PERMISSION_DENIED)


@dataclass(frozen=True, slots=True)
class CacheLimits:
    """How much a compiled policy keeps at most; whatever is dropped is only worked out again.

    Args:
        bound_policies: Principals that differ in what rules read.
        role_sets: Sets of roles.
        channels: Channels whose options are kept.
        personal_answers: Answers of a policy that is bound to one subject, and so serves few connections.
        shared_answers: Answers of one that everybody of a tenant shares.
    """

    bound_policies: int = 16_384
    role_sets: int = 1_024
    channels: int = 16_384
    personal_answers: int = 128
    shared_answers: int = 4_096


@dataclass(frozen=True, slots=True)
class _Pending:
    """The rules of a question whose answer depends on more than action and channel.

    `when_signed` is the answer on a signed connection, where there it depends on nothing more.
    """

    denies: tuple[Rule, ...]
    allows: tuple[Rule, ...]
    reads_data: bool
    when_signed: Decision | None


class BoundRules:
    """A policy as it stands for one principal; see `gateway.core.decision.BoundPolicy`."""

    __slots__ = ("_answers", "_conditions", "_limit", "_principal", "_rates", "_rules", "_values")

    def __init__(
        self,
        rules: RoleSet,
        principal: Principal,
        values: Mapping[str, str | None],
        rates: RateTable,
        limits: CacheLimits,
    ) -> None:
        self._rules = rules
        self._principal = principal
        self._values = values
        self._rates = rates
        self._conditions: dict[int, BoundCondition] = {}
        personal = SUBJECT in rules.placeholders or bool(rules.reads & {PrincipalPart.SUBJECT, PrincipalPart.CLAIMS})
        self._limit = limits.personal_answers if personal else limits.shared_answers
        self._answers: dict[tuple[str, str | None], Decision | _Pending] = {}

    def decide(
        self, action: str, channel: str | None, data: object, connection: ConnectionFacts, now: float
    ) -> Decision:
        """Decide one command; see the protocol."""
        answer = self._answers.get((action, channel))
        if answer is None:
            answer = self._resolve(action, channel)
        if isinstance(answer, Decision):
            return answer
        if answer.when_signed is not None and connection.signed:
            return answer.when_signed
        return self._evaluate(answer, Ask(action, channel, data, connection, now))

    def stands(self, action: str, channel: str | None, *, signed: bool) -> bool:
        """Tell whether the answer is an allow that only another policy changes; see the protocol."""
        answer = self._answers.get((action, channel)) or self._resolve(action, channel)
        if isinstance(answer, Decision):
            return answer.allowed
        return signed and answer.when_signed is not None

    def matching(self, action: str, channel: str | None) -> tuple[Rule, ...]:
        """Give all rules whose patterns match, denies first, for a human who asks why."""
        denies = self._rules.denies.match(action, channel, self._values)
        return (*denies, *self._rules.allows.match(action, channel, self._values))

    def permissions(self, actions: tuple[str, ...], channel: str | None) -> list[Permission]:
        """List what may be done; see the protocol."""
        found = []
        for action in actions:
            denies = self._rules.denies.match(action, channel, self._values)
            allows = self._rules.allows.match(action, channel, self._values)
            if allows and all(rule.condition is not None for rule in denies):
                free = any(rule.condition is None for rule in allows)
                found.append(Permission(action, conditional=bool(denies) or not free))
        return found

    def _resolve(self, action: str, channel: str | None) -> Decision | _Pending:
        """Find the rules of a question, and its answer where that depends on nothing else."""
        denies = self._rules.denies.match(action, channel, self._values)
        allows = self._rules.allows.match(action, channel, self._values)
        answer: Decision | _Pending | None = _static_answer(denies, allows)
        if answer is None:
            reads_data = any(rule.condition is not None and rule.condition.reads_data for rule in (*denies, *allows))
            answer = _Pending(tuple(denies), tuple(allows), reads_data, _answer_when_signed(denies, allows))
        if len(self._answers) >= self._limit:
            self._answers.clear()
        self._answers[action, channel] = answer
        return answer

    def _holds(self, rule: Rule, ask: Ask, fault: str | None) -> bool:
        if rule.condition is None:
            return True
        if fault is not None and rule.condition.reads_data:
            raise ConditionError(fault)
        bound = self._conditions.get(rule.number)
        if bound is None:
            bound = self._conditions[rule.number] = rule.condition.bind(self._principal)
        return bound.holds(ask)

    def _evaluate(self, pending: _Pending, ask: Ask) -> Decision:
        """Ask the conditions: of denies until one holds, of allows all, for an error in any of them denies."""
        fault = data_fault(ask.data) if pending.reads_data else None
        failed: Rule | None = None
        candidates: list[Rule] = []
        rule: Rule
        try:
            for rule in pending.denies:
                if self._holds(rule, ask, fault):
                    return rule.refused
            for rule in pending.allows:
                if self._holds(rule, ask, fault):
                    candidates.append(rule)
                elif failed is None:
                    failed = rule
        except ConditionError as error:
            return rule.denial(Reason.ERROR, ErrorCode.PERMISSION_DENIED, str(error))
        if candidates:
            free = next((rule for rule in candidates if not rule.obliges), None)
            return self._oblige(candidates, ask) if free is None else free.granted
        if failed is not None:
            return failed.denial(Reason.CONDITION, ErrorCode.PERMISSION_DENIED, "the condition does not hold")
        return DEFAULT_DENY

    def _oblige(self, candidates: list[Rule], ask: Ask) -> Decision:
        """Let the allow with the fewest unmet obligations count, and take a token of its rate only where it is granted."""
        principal = self._principal
        unsigned: Rule | None = None
        limited: tuple[float, Rule] | None = None
        both: Rule | None = None
        spendable: tuple[Rule, TokenBucket] | None = None
        for rule in candidates:
            lacks_signature = rule.text.signed and not ask.connection.signed
            if rule.text.rate is None:
                if not lacks_signature:
                    return rule.granted
                unsigned = unsigned or rule
                continue
            bucket = self._rates.bucket((rule.number, principal.tenant, principal.subject), rule.text.rate, ask.now)
            wait_s = bucket.wait_s(ask.now)
            if not lacks_signature and wait_s == 0.0:
                spendable = spendable or (rule, bucket)
            elif not lacks_signature:
                limited = min(limited or (wait_s, rule), (wait_s, rule), key=_wait)
            elif wait_s == 0.0:
                unsigned = unsigned or rule
            else:
                both = both or rule
        if spendable is not None:
            spendable[1].take(ask.now)
            return spendable[0].granted
        if limited is not None:
            wait_s, rule = limited
            return rule.denial(Reason.OBLIGATION, ErrorCode.RATE_LIMITED, "rate", wait_s)
        rule = unsigned or both or candidates[0]
        return rule.denial(Reason.OBLIGATION, ErrorCode.SIGNATURE_REQUIRED, "signed")


def _wait(limited: tuple[float, Rule]) -> float:
    return limited[0]


def _static_answer(denies: list[Rule], allows: list[Rule]) -> Decision | None:
    """Answer a question by its matching rules alone, or None where conditions or obligations have a say."""
    for rule in denies:
        if rule.condition is None:
            return rule.refused
    if not denies and not allows:
        return DEFAULT_DENY
    if denies or any(rule.condition is not None for rule in allows):
        return None
    for rule in allows:
        if not rule.obliges:
            return rule.granted
    return None


def _answer_when_signed(denies: list[Rule], allows: list[Rule]) -> Decision | None:
    """Give the allow of a signed connection, where no condition and no rate has a say; all of `allows` oblige to something."""
    if denies or any(rule.condition is not None for rule in allows):
        return None
    return next((rule.granted for rule in allows if rule.text.rate is None), None)
