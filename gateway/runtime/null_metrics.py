"""Metrics that nobody reads: the in-memory twin of the Prometheus adapter, for tools and tests."""

from __future__ import annotations

from collections.abc import Callable


class NullMetrics:
    """Takes every observation and keeps none."""

    __slots__ = ()

    def connection_attempt(self, outcome: str) -> None:
        """Drop it."""

    def connection_opened(self) -> None:
        """Drop it."""

    def connection_closed(self, code: int, duration_s: float) -> None:
        """Drop it."""

    def command(self, action: str, outcome: str, duration_s: float) -> None:
        """Drop it."""

    def decision(self, action: str, effect: str, reason: str, duration_s: float) -> None:
        """Drop it."""

    def publication_meter(self, action: str) -> Callable[[float, float, float], None]:  # noqa: ARG002 - it makes no difference
        """Give what drops it."""
        return _drop

    def signature_failure(self, reason: str) -> None:
        """Drop it."""

    def delivered(self, messages: int) -> None:
        """Drop it."""

    def bytes_received(self, count: int) -> None:
        """Drop it."""

    def bytes_sent(self, count: int) -> None:
        """Drop it."""

    def answered(self, received: int, sent: int) -> None:
        """Drop it."""

    def slow_consumer(self) -> None:
        """Drop it."""

    def revocation(self, seconds: float) -> None:
        """Drop it."""

    def token_issued(self, grant: str) -> None:
        """Drop it."""

    def token_failure(self, grant: str, reason: str) -> None:
        """Drop it."""

    def policy_reload(self, outcome: str) -> None:
        """Drop it."""

    def policy_version(self, version: str) -> None:
        """Drop it."""

    def broker_up(self, up: bool) -> None:  # noqa: FBT001 - a gauge of one bit
        """Drop it."""

    def broker_publish(self, seconds: float) -> None:
        """Drop it."""

    def loop_lag(self, seconds: float) -> None:
        """Drop it."""

    def watch(self, gauge: str, read: Callable[[], float]) -> None:
        """Forget it."""


def _drop(decision_s: float, publish_s: float, duration_s: float) -> None:
    """Drop it."""
