"""Metrics that nobody reads: the in-memory twin of the Prometheus adapter, for tools and tests."""

from __future__ import annotations

from collections.abc import Callable

from gateway.core.turn import Turn
from gateway.runtime.ports import Traffic


class NullMetrics:
    """Takes every observation and keeps none."""

    def __init__(self) -> None:
        self.traffic = Traffic()

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

    def published(self, action: str, turn: Turn) -> None:
        """Drop it."""

    def signature_failure(self, reason: str) -> None:
        """Drop it."""

    def delivered(self, messages: int) -> None:
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
