"""Who watches the sessions of a node: decisions timed and counted, denials and bad signatures logged.

Owns what the log and the metrics are told of commands. Refuses to own any decision.
"""

from __future__ import annotations

from collections.abc import Callable

from gateway.core.decision import BoundPolicy, Decision
from gateway.core.errors import SignatureFailure
from gateway.core.events import Event
from gateway.core.principal import ConnectionFacts
from gateway.core.session_ports import Speaker
from gateway.runtime.ports import Log, Metrics


class Witness:
    """The observer of all sessions; see `gateway.core.session.Observer`.

    Args:
        metrics: Counts.
        log: Tells.
        timer: Seconds on a clock that only runs forward.
        policy_version: Gives the version of the policy that counts.
    """

    __slots__ = ("_log", "_metrics", "_policy_version", "timer")

    def __init__(
        self, metrics: Metrics, log: Log, timer: Callable[[], float], policy_version: Callable[[], str]
    ) -> None:
        self._metrics = metrics
        self._log = log
        self.timer = timer
        self._policy_version = policy_version

    def decide(
        self, policy: BoundPolicy, action: str, channel: str | None, data: object, facts: ConnectionFacts, now: float
    ) -> Decision:
        """Ask the policy for a command, timed and counted."""
        timer = self.timer
        started = timer()
        decision = policy.decide(action, channel, data, facts, now)
        self._metrics.decision(action, decision.effect, decision.reason, timer() - started)
        return decision

    def denied(self, session: Speaker, command_id: int, action: str, channel: str | None, decision: Decision) -> None:
        """Log a denial: all that the peer is not told."""
        self._log.info(
            Event.COMMAND_DENIED,
            session=session.session_id,
            subject=session.principal.subject,
            tenant=session.principal.tenant,
            remote_addr=session.facts.ip,
            id=command_id,
            action=action,
            channel=channel,
            code=decision.code,
            reason=decision.reason,
            detail=decision.detail,
            rule=decision.rule,
            policy=self._policy_version(),
        )

    def finished(self, action: str, outcome: str, duration_s: float) -> None:
        """Count a command."""
        self._metrics.command(action, outcome, duration_s)

    def signature_failed(self, session: Speaker, failure: SignatureFailure) -> None:
        """Log and count a frame whose signature did not hold."""
        self._metrics.signature_failure(failure)
        self._log.warning(
            Event.SIGNATURE_INVALID,
            session=session.session_id,
            subject=session.principal.subject,
            tenant=session.principal.tenant,
            remote_addr=session.facts.ip,
            reason=failure,
        )
