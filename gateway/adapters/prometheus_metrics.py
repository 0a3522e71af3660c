"""Metrics for Prometheus: plain slots on the hot path, families made of them at each scrape.

Owns the names, labels and buckets of what `/metrics` shows. Refuses to own when something is counted, and to take a label value
that it does not know: an unknown outcome counts as `other`, an unknown action as `unknown`, so that no peer can make series.

All calls are made on the event loop's thread. A `prometheus_client` child costs 0.3 µs for an increment and twice that for an
observation, its lock included; a slot and a bisection cost a fraction of it, which is why that library only renders here.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping

from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from gateway.core.decision import Effect, Reason
from gateway.core.errors import ErrorCode, Refusal, SignatureFailure
from gateway.core.turn import Turn
from gateway.runtime.ports import Traffic

OTHER = "other"
UNKNOWN_ACTION = "unknown"

ATTEMPT_OUTCOMES = (
    "accepted",
    *(refusal.value for refusal in Refusal),
    "flood",
    "draining",
    "connection_limit",
    "unavailable",
)
COMMAND_OUTCOMES = ("ok", *(code.value for code in ErrorCode))
CLOSE_CODES = (1000, 1001, 1002, 1003, 1005, 1006, 1007, 1008, 1009, 1011, 1012, 1013)
GRANTS = ("password", "refresh_token", "client_credentials")
TOKEN_ERRORS = (
    "invalid_request",
    "invalid_client",
    "invalid_grant",
    "unauthorized_client",
    "unsupported_grant_type",
    "invalid_scope",
    "slow_down",
    "temporarily_unavailable",
    "server_error",
)
WATCHED_GAUGES: Mapping[str, str] = {
    "gateway_channels": "Channels with a subscriber on this node.",
    "gateway_subscriptions": "Subscriptions of this node's connections.",
}

# An action label comes from the registry of actions and the patterns of routes; this is the fuse behind both.
MAX_ACTIONS = 1000

_ALLOW = Effect.ALLOW

_CONNECTION_S = (1, 5, 15, 60, 300, 900, 3600, 14400, 86400)
_COMMAND_S = (
    25e-6,
    50e-6,
    100e-6,
    250e-6,
    500e-6,
    1e-3,
    2.5e-3,
    5e-3,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1,
    2.5,
    5,
    10,
)
_DECISION_S = (1e-6, 2.5e-6, 5e-6, 10e-6, 25e-6, 50e-6, 100e-6, 250e-6, 500e-6, 1e-3, 0.01, 0.1)
_REVOCATION_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 0.75, 1, 1.5, 2.5, 5, 10)
_PUBLISH_S = (10e-6, 25e-6, 50e-6, 100e-6, 250e-6, 500e-6, 1e-3, 2.5e-3, 5e-3, 0.01, 0.025, 0.1, 0.5, 1, 5)
_LOOP_LAG_S = (0.5e-3, 1e-3, 2.5e-3, 5e-3, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)


class _Histogram:
    """Counts by bucket, not yet cumulative, and the sum of what was observed.

    Args:
        bounds: The upper bounds of the buckets in seconds, ascending; one above them all is implied.
    """

    __slots__ = ("bounds", "counts", "total_s")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total_s = 0.0

    def observe(self, seconds: float, times: int = 1) -> None:
        """Count an observation, or several of one value; a bound belongs to the bucket below it, as `le` says."""
        self.counts[bisect_left(self.bounds, seconds)] += times
        self.total_s += seconds * times

    def add_to(self, family: HistogramMetricFamily, labels: tuple[str, ...] = ()) -> None:
        """Put the cumulative buckets into a family."""
        cumulative: list[tuple[str, float]] = []
        count = 0
        for bound, in_bucket in zip((*self.bounds, float("inf")), self.counts, strict=True):
            count += in_bucket
            cumulative.append((floatToGoString(bound), count))  # type: ignore[no-untyped-call] # the vendor left it so
        family.add_metric(labels, cumulative, self.total_s)

    def family(self, name: str, documentation: str) -> HistogramMetricFamily:
        """Give a family of this one histogram, without labels."""
        family = HistogramMetricFamily(name, documentation)
        self.add_to(family)
        return family


class _Action:
    """All that is counted of one action, in one object, so that a command costs one look-up by its name."""

    __slots__ = ("allowed", "counts", "denied", "outcomes", "total_s")

    def __init__(self) -> None:
        self.outcomes = {**dict.fromkeys(COMMAND_OUTCOMES, 0), OTHER: 0}
        self.counts = [0] * (len(_COMMAND_S) + 1)
        self.total_s = 0.0
        self.allowed = 0
        self.denied = {
            **dict.fromkeys((reason.value for reason in Reason if reason is not Reason.RULE), 0),
            Reason.RULE.value: 0,
        }


class PrometheusMetrics(Collector):
    """Implements the port `Metrics`, and gives what it has counted to a scrape.

    Args:
        actions: Registered actions, shown with 0 before their first command.
    """

    def __init__(self, actions: Iterable[str] = ()) -> None:
        self.traffic = Traffic()
        self._attempts = dict.fromkeys((*ATTEMPT_OUTCOMES, OTHER), 0)
        self._open = 0
        self._closed: dict[int | str, int] = dict.fromkeys((*CLOSE_CODES, OTHER), 0)
        self._connection_s = _Histogram(_CONNECTION_S)
        self._actions: dict[str, _Action] = {UNKNOWN_ACTION: _Action()}
        self._decision_s = _Histogram(_DECISION_S)
        self._signature_failures = dict.fromkeys((*(failure.value for failure in SignatureFailure), OTHER), 0)
        self._delivered = 0
        self._slow_consumers = 0
        self._revocation_s = _Histogram(_REVOCATION_S)
        self._tokens = dict.fromkeys((*GRANTS, OTHER), 0)
        self._token_failures: dict[tuple[str, str], int] = {}
        self._reloads = {"ok": 0, "error": 0}
        self._policy_version = ""
        self._broker_up = 0
        self._publish_s = _Histogram(_PUBLISH_S)
        self._loop_lag_s = _Histogram(_LOOP_LAG_S)
        self._watched: dict[str, Callable[[], float]] = {}
        for action in actions:
            self._register(action)
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)

    # ---- what the rest of the gateway calls

    def connection_attempt(self, outcome: str) -> None:
        """Count a handshake: accepted, a refusal, flood, draining, connection_limit or unavailable."""
        self._attempts[outcome if outcome in self._attempts else OTHER] += 1

    def connection_opened(self) -> None:
        """Raise the gauge of open connections."""
        self._open += 1

    def connection_closed(self, code: int, duration_s: float) -> None:
        """Lower the gauge, count the close code (unknown ones as `other`), observe the duration in seconds."""
        self._open -= 1
        self._closed[code if code in self._closed else OTHER] += 1
        self._connection_s.observe(duration_s)

    def command(self, action: str, outcome: str, duration_s: float) -> None:
        """Count a command and observe its duration. `action` is a registered one or `unknown`."""
        slot = self._actions.get(action) or self._register(action)
        try:
            slot.outcomes[outcome] += 1
        except KeyError:
            slot.outcomes[OTHER] += 1
        slot.counts[bisect_left(_COMMAND_S, duration_s)] += 1
        slot.total_s += duration_s

    def published(self, action: str, turn: Turn) -> None:
        """Count the commands of an action that were published at once in a turn; see the port."""
        slot = self._actions.get(action) or self._register(action)
        ends, began, count = turn.ends, turn.began, len(turn.ends)
        slot.allowed += count
        slot.outcomes["ok"] += count
        slot.total_s += sum(ends) - began * count
        below = 0
        for bucket, bound in enumerate(
            _COMMAND_S
        ):  # they ended one after the other, so each bucket is a part of the list
            upto = bisect_right(ends, began + bound, below)
            slot.counts[bucket] += upto - below
            below = upto
            if below == count:
                break
        else:
            slot.counts[-1] += count - below
        self._decision_s.observe(turn.decided_s, count)
        self._publish_s.observe(turn.published_s, count)

    def decision(self, action: str, effect: str, reason: str, duration_s: float) -> None:
        """Count a decision and observe how long it took; an allow has but one reason, its rule."""
        slot = self._actions.get(action) or self._register(action)
        if effect is _ALLOW or effect == "allow":  # to compare a string enum costs more than all the rest of it
            slot.allowed += 1
        else:
            try:
                slot.denied[reason] += 1
            except KeyError:
                slot.denied["error"] += 1
        histogram = self._decision_s
        histogram.counts[bisect_left(_DECISION_S, duration_s)] += 1
        histogram.total_s += duration_s

    def signature_failure(self, reason: str) -> None:
        """Count a frame whose signature did not hold: missing, malformed or mismatch."""
        self._signature_failures[reason if reason in self._signature_failures else OTHER] += 1

    def delivered(self, messages: int) -> None:
        """Count messages handed to connections."""
        self._delivered += messages

    def slow_consumer(self) -> None:
        """Count a connection cut off for its full send buffer."""
        self._slow_consumers += 1

    def revocation(self, seconds: float) -> None:
        """Observe how long a revocation took from its commit to the open connections."""
        self._revocation_s.observe(seconds)

    def token_issued(self, grant: str) -> None:
        """Count an issued access token."""
        self._tokens[grant if grant in self._tokens else OTHER] += 1

    def token_failure(self, grant: str, reason: str) -> None:
        """Count a refused token request: a grant that is none of ours counts as `unknown`."""
        key = (grant if grant in GRANTS else "unknown", reason if reason in TOKEN_ERRORS else OTHER)
        self._token_failures[key] = self._token_failures.get(key, 0) + 1

    def policy_reload(self, outcome: str) -> None:
        """Count a reload: ok or error."""
        self._reloads["ok" if outcome == "ok" else "error"] += 1

    def policy_version(self, version: str) -> None:
        """Set the one version that `gateway_policy_info` shows."""
        self._policy_version = version

    def broker_up(self, up: bool) -> None:  # noqa: FBT001 - a gauge of one bit
        """Set whether the broker can be reached."""
        self._broker_up = int(up)

    def broker_publish(self, seconds: float) -> None:
        """Observe how long the broker took to take a publication."""
        histogram = self._publish_s
        histogram.counts[bisect_left(_PUBLISH_S, seconds)] += 1
        histogram.total_s += seconds

    def loop_lag(self, seconds: float) -> None:
        """Observe by how much the event loop was late."""
        self._loop_lag_s.observe(seconds)

    def watch(self, gauge: str, read: Callable[[], float]) -> None:
        """Read a gauge from `read` at each scrape.

        Raises:
            ValueError: The gauge is none of `WATCHED_GAUGES`.
        """
        if gauge not in WATCHED_GAUGES:
            message = f"unknown gauge `{gauge}`"
            raise ValueError(message)
        self._watched[gauge] = read

    # ---- what a scrape calls

    def render(self, accept: str = "") -> tuple[bytes, str]:
        """Give the exposition and its content type: OpenMetrics 1.0 where `accept` names it, else text 0.0.4."""
        # The library's own negotiation echoes the version that the request names, and fails on one that is no number.
        if any(part.split(";")[0].strip().lower() == "application/openmetrics-text" for part in accept.split(",")):
            body = openmetrics.generate_latest(self._registry, version="1.0.0")  # type: ignore[no-untyped-call] # as above
            return body, openmetrics.CONTENT_TYPE_LATEST
        return generate_latest(self._registry), CONTENT_TYPE_PLAIN_0_0_4

    def collect(self) -> Iterator[Metric]:
        """Make the metric families of what has been counted until now."""
        yield from self._connection_families()
        yield from self._command_families()
        yield from self._traffic_families()
        yield from self._identity_families()
        yield from self._ground_families()

    def _register(self, action: str) -> _Action:
        """Give the slot of an action seen for the first time, that of `unknown` once there are too many."""
        slot = self._actions.get(action)
        if slot is not None:
            return slot
        if len(self._actions) >= MAX_ACTIONS:
            return self._actions[UNKNOWN_ACTION]
        slot = self._actions[action] = _Action()
        return slot

    def _connection_families(self) -> Iterator[Metric]:
        yield GaugeMetricFamily("gateway_connections", "Open connections.", value=self._open)
        yield _counter("gateway_connection_attempts", "Handshakes by how they ended.", "outcome", self._attempts)
        yield _counter("gateway_disconnections", "Connections that ended, by close code.", "code", self._closed)
        yield self._connection_s.family("gateway_connection_duration_seconds", "How long connections lasted.")
        yield CounterMetricFamily(
            "gateway_slow_consumers", "Connections cut off for a full send buffer.", value=self._slow_consumers
        )

    def _command_families(self) -> Iterator[Metric]:
        commands = CounterMetricFamily(
            "gateway_commands", "Commands by action and outcome.", labels=("action", "outcome")
        )
        durations = HistogramMetricFamily(
            "gateway_command_duration_seconds", "From a command's arrival to its reply.", labels=("action",)
        )
        decisions = CounterMetricFamily(
            "gateway_decisions", "Decisions of the policy.", labels=("action", "effect", "reason")
        )
        for action, slot in self._actions.items():
            for outcome, count in slot.outcomes.items():
                if count or outcome == "ok":  # thirteen outcomes of each action would be mostly noise
                    commands.add_metric((action, outcome), count)
            duration = _Histogram(_COMMAND_S)
            duration.counts, duration.total_s = slot.counts, slot.total_s
            duration.add_to(durations, (action,))
            if slot.allowed:
                decisions.add_metric((action, Effect.ALLOW.value, Reason.RULE.value), slot.allowed)
            for reason, count in slot.denied.items():
                if count:
                    decisions.add_metric((action, Effect.DENY.value, reason), count)
        yield commands
        yield durations
        yield decisions
        yield self._decision_s.family("gateway_decision_seconds", "How long decisions took.")

    def _traffic_families(self) -> Iterator[Metric]:
        yield _counter(
            "gateway_signature_failures", "Frames whose signature did not hold.", "reason", self._signature_failures
        )
        yield CounterMetricFamily(
            "gateway_messages_delivered", "Messages handed to connections.", value=self._delivered
        )
        yield _counter(
            "gateway_bytes",
            "Octets of WebSocket frames.",
            "direction",
            {"in": self.traffic.received, "out": self.traffic.sent},
        )
        for name, documentation in WATCHED_GAUGES.items():
            read = self._watched.get(name)
            yield GaugeMetricFamily(name, documentation, value=0.0 if read is None else read())

    def _identity_families(self) -> Iterator[Metric]:
        yield _counter("gateway_tokens_issued", "Access tokens issued.", "grant", self._tokens)
        failures = CounterMetricFamily("gateway_token_failures", "Refused token requests.", labels=("grant", "reason"))
        for labels, count in self._token_failures.items():
            failures.add_metric(labels, count)
        yield failures
        yield self._revocation_s.family("gateway_revocation_seconds", "From a revocation's commit to the connections.")

    def _ground_families(self) -> Iterator[Metric]:
        yield _counter("gateway_policy_reloads", "Reloads of the policy.", "outcome", self._reloads)
        info = GaugeMetricFamily("gateway_policy_info", "The policy that counts now.", labels=("version",))
        if self._policy_version:
            info.add_metric((self._policy_version,), 1)
        yield info
        yield GaugeMetricFamily("gateway_broker_up", "Whether the broker can be reached.", value=self._broker_up)
        yield self._publish_s.family(
            "gateway_broker_publish_seconds", "How long the broker took to take a publication."
        )
        yield self._loop_lag_s.family("gateway_event_loop_lag_seconds", "By how much the event loop was late.")


def _counter(name: str, documentation: str, label: str, counts: Mapping[str, int] | Mapping[int | str, int]) -> Metric:
    """Make a counter family of one label."""
    family = CounterMetricFamily(name, documentation, labels=(label,))
    for value, count in counts.items():
        family.add_metric((str(value),), count)
    return family
