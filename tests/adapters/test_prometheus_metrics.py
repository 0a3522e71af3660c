"""What a scrape shows of what was counted, read back by the parsers of prometheus_client."""

from __future__ import annotations

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from gateway.adapters.prometheus_metrics import MAX_ACTIONS, PrometheusMetrics
from gateway.core.decision import Effect, Reason
from gateway.core.errors import ErrorCode, Refusal, SignatureFailure
from gateway.core.turn import Turn
from gateway.runtime.null_metrics import NullMetrics
from gateway.runtime.ports import Metrics


@pytest.fixture
def metrics() -> PrometheusMetrics:
    return PrometheusMetrics(("ping", "channel.publish"))


def samples(metrics: PrometheusMetrics) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    body, _ = metrics.render()
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in parse_text(body.decode())
        for sample in family.samples
    }


def value(metrics: PrometheusMetrics, name: str, **labels: str) -> float | None:
    return samples(metrics).get((name, frozenset(labels.items())))


def test_both_implementations_have_every_method_of_the_port() -> None:
    methods = {name for name in vars(Metrics) if not name.startswith("_")}
    for implementation in (PrometheusMetrics(), NullMetrics()):
        assert {name for name in methods if callable(getattr(implementation, name, None))} == methods
        assert (implementation.traffic.received, implementation.traffic.sent) == (0, 0)


def test_the_null_twin_takes_everything() -> None:
    metrics: Metrics = NullMetrics()
    metrics.connection_attempt("accepted")
    metrics.connection_opened()
    metrics.connection_closed(1000, 1.0)
    metrics.command("ping", "ok", 0.1)
    metrics.decision("ping", "allow", "rule", 0.1)
    metrics.signature_failure("missing")
    metrics.delivered(1)
    metrics.traffic.received += 1
    metrics.traffic.sent += 1
    metrics.published("ping", Turn(5.0, 5.0))
    metrics.slow_consumer()
    metrics.revocation(0.1)
    metrics.token_issued("password")
    metrics.token_failure("password", "invalid_grant")
    metrics.policy_reload("ok")
    metrics.policy_version("abc")
    metrics.broker_up(True)
    metrics.broker_publish(0.1)
    metrics.loop_lag(0.1)
    metrics.watch("gateway_channels", lambda: 1.0)


def test_known_series_stand_at_zero_before_anything_happens(metrics: PrometheusMetrics) -> None:
    shown = samples(metrics)

    assert value(metrics, "gateway_connections") == 0
    for refusal in Refusal:
        assert shown["gateway_connection_attempts_total", frozenset({("outcome", refusal.value)})] == 0
    for outcome in ("accepted", "flood", "draining", "connection_limit"):
        assert shown["gateway_connection_attempts_total", frozenset({("outcome", outcome)})] == 0
    for code in ("1000", "1001", "1006", "1008", "1009", "1011", "1013", "other"):
        assert shown["gateway_disconnections_total", frozenset({("code", code)})] == 0
    for failure in SignatureFailure:
        assert shown["gateway_signature_failures_total", frozenset({("reason", failure.value)})] == 0
    for grant in ("password", "refresh_token", "client_credentials"):
        assert shown["gateway_tokens_issued_total", frozenset({("grant", grant)})] == 0
    for direction in ("in", "out"):
        assert shown["gateway_bytes_total", frozenset({("direction", direction)})] == 0
    for outcome in ("ok", "error"):
        assert shown["gateway_policy_reloads_total", frozenset({("outcome", outcome)})] == 0
    assert shown["gateway_commands_total", frozenset({("action", "ping"), ("outcome", "ok")})] == 0
    assert ("gateway_slow_consumers_total", frozenset()) in shown
    assert ("gateway_messages_delivered_total", frozenset()) in shown


def test_connections_are_counted_by_outcome_and_close_code(metrics: PrometheusMetrics) -> None:
    metrics.connection_attempt(Refusal.EXPIRED_TOKEN)
    metrics.connection_attempt("accepted")
    metrics.connection_attempt("accepted")
    metrics.connection_opened()
    metrics.connection_opened()
    metrics.connection_closed(1000, 3.0)

    assert value(metrics, "gateway_connection_attempts_total", outcome="expired_token") == 1
    assert value(metrics, "gateway_connection_attempts_total", outcome="accepted") == 2
    assert value(metrics, "gateway_connections") == 1
    assert value(metrics, "gateway_disconnections_total", code="1000") == 1
    assert value(metrics, "gateway_connection_duration_seconds_bucket", le="1.0") == 0
    assert value(metrics, "gateway_connection_duration_seconds_bucket", le="5.0") == 1
    assert value(metrics, "gateway_connection_duration_seconds_sum") == 3.0


def test_labels_that_nobody_knows_make_no_series(metrics: PrometheusMetrics) -> None:
    before = len(samples(metrics))
    metrics.connection_attempt("'; drop table --")
    metrics.connection_closed(4711, 0.1)
    metrics.command("ping", "surprise", 0.1)
    metrics.signature_failure("surprise")
    metrics.token_issued("magic")
    metrics.decision("ping", "deny", "surprise", 1e-6)
    metrics.policy_reload("surprise")

    assert value(metrics, "gateway_connection_attempts_total", outcome="other") == 1
    assert value(metrics, "gateway_disconnections_total", code="other") == 1
    assert value(metrics, "gateway_commands_total", action="ping", outcome="other") == 1
    assert value(metrics, "gateway_signature_failures_total", reason="other") == 1
    assert value(metrics, "gateway_tokens_issued_total", grant="other") == 1
    assert value(metrics, "gateway_decisions_total", action="ping", effect="deny", reason="error") == 1
    assert value(metrics, "gateway_policy_reloads_total", outcome="error") == 1
    assert len(samples(metrics)) == before + 2  # the command's and the decision's own series


def test_an_unknown_grant_or_oauth_error_counts_under_one_name_each(metrics: PrometheusMetrics) -> None:
    metrics.token_failure("password", "invalid_grant")
    metrics.token_failure("evil", "unsupported_grant_type")
    metrics.token_failure("password", "evil")

    assert value(metrics, "gateway_token_failures_total", grant="password", reason="invalid_grant") == 1
    assert value(metrics, "gateway_token_failures_total", grant="unknown", reason="unsupported_grant_type") == 1
    assert value(metrics, "gateway_token_failures_total", grant="password", reason="other") == 1


def test_actions_beyond_the_cap_count_as_unknown(metrics: PrometheusMetrics) -> None:
    for number in range(MAX_ACTIONS + 50):
        metrics.command(f"made.up.{number}", "ok", 0.001)

    [commands] = [family for family in metrics.collect() if family.name == "gateway_commands"]
    counted = {sample.labels["action"]: sample.value for sample in commands.samples}
    assert len(counted) == MAX_ACTIONS
    assert counted["unknown"] == 53


def test_commands_and_decisions_are_counted_with_their_enums_and_durations(metrics: PrometheusMetrics) -> None:
    metrics.command("channel.publish", "ok", 30e-6)
    metrics.command("channel.publish", ErrorCode.PERMISSION_DENIED, 0.5)
    metrics.decision("channel.publish", Effect.ALLOW, Reason.RULE, 2e-6)
    metrics.decision("channel.publish", "allow", "rule", 2e-6)
    metrics.decision("channel.publish", Effect.DENY, Reason.DEFAULT, 1.0)
    metrics.decision("channel.publish", Effect.DENY, Reason.RULE, 1.0)

    assert value(metrics, "gateway_commands_total", action="channel.publish", outcome="ok") == 1
    assert value(metrics, "gateway_commands_total", action="channel.publish", outcome="permission_denied") == 1
    assert value(metrics, "gateway_command_duration_seconds_bucket", action="channel.publish", le="2.5e-05") == 0
    assert value(metrics, "gateway_command_duration_seconds_bucket", action="channel.publish", le="5e-05") == 1
    assert value(metrics, "gateway_command_duration_seconds_count", action="channel.publish") == 2
    assert value(metrics, "gateway_decisions_total", action="channel.publish", effect="allow", reason="rule") == 2
    assert value(metrics, "gateway_decisions_total", action="channel.publish", effect="deny", reason="default") == 1
    assert value(metrics, "gateway_decisions_total", action="channel.publish", effect="deny", reason="rule") == 1
    assert value(metrics, "gateway_decision_seconds_bucket", le="2.5e-06") == 2
    assert value(metrics, "gateway_decision_seconds_count") == 4


def test_a_bound_belongs_to_its_own_bucket(metrics: PrometheusMetrics) -> None:
    metrics.revocation(1)

    assert value(metrics, "gateway_revocation_seconds_bucket", le="0.75") == 0
    assert value(metrics, "gateway_revocation_seconds_bucket", le="1.0") == 1
    assert value(metrics, "gateway_revocation_seconds_bucket", le="+Inf") == 1


def test_traffic_policy_and_broker_show_what_was_said(metrics: PrometheusMetrics) -> None:
    metrics.traffic.received += 10
    metrics.traffic.sent += 20
    metrics.delivered(3)
    metrics.slow_consumer()
    metrics.policy_reload("ok")
    metrics.policy_version("0123456789ab")
    metrics.policy_version("ba9876543210")
    metrics.broker_up(True)
    metrics.broker_publish(20e-6)
    metrics.loop_lag(0.002)
    metrics.token_issued("password")
    metrics.signature_failure(SignatureFailure.MISMATCH)

    assert value(metrics, "gateway_bytes_total", direction="in") == 10
    assert value(metrics, "gateway_bytes_total", direction="out") == 20
    assert value(metrics, "gateway_messages_delivered_total") == 3
    assert value(metrics, "gateway_slow_consumers_total") == 1
    assert value(metrics, "gateway_policy_reloads_total", outcome="ok") == 1
    assert value(metrics, "gateway_policy_info", version="0123456789ab") is None
    assert value(metrics, "gateway_policy_info", version="ba9876543210") == 1
    assert value(metrics, "gateway_broker_up") == 1
    assert value(metrics, "gateway_broker_publish_seconds_count") == 1
    assert value(metrics, "gateway_event_loop_lag_seconds_bucket", le="0.0025") == 1
    assert value(metrics, "gateway_tokens_issued_total", grant="password") == 1
    assert value(metrics, "gateway_signature_failures_total", reason="mismatch") == 1


def test_a_watched_gauge_is_read_at_each_scrape(metrics: PrometheusMetrics) -> None:
    channels = [1.0]
    metrics.watch("gateway_channels", lambda: channels[0])

    assert value(metrics, "gateway_channels") == 1
    channels[0] = 7.0
    assert value(metrics, "gateway_channels") == 7
    assert value(metrics, "gateway_subscriptions") == 0


def test_a_gauge_that_nobody_knows_is_refused(metrics: PrometheusMetrics) -> None:
    with pytest.raises(ValueError, match="unknown gauge `gateway_users`"):
        metrics.watch("gateway_users", lambda: 1.0)


@pytest.mark.parametrize(
    "accept",
    [
        "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
        "application/openmetrics-text",
        "text/plain, Application/OpenMetrics-Text; version=junk",
    ],
)
def test_openmetrics_is_given_where_the_request_accepts_it(metrics: PrometheusMetrics, accept: str) -> None:
    metrics.command("ping", "ok", 0.001)
    body, content_type = metrics.render(accept)

    assert content_type == "application/openmetrics-text; version=1.0.0; charset=utf-8"
    assert body.endswith(b"# EOF\n")
    names = {family.name for family in parse_openmetrics(body.decode())}
    assert {"gateway_commands", "gateway_policy_info", "process_cpu_seconds", "python_info"} <= names


@pytest.mark.parametrize("accept", ["", "*/*", "text/plain", "text/plain;version=99.x", ",;,"])
def test_plain_text_is_given_to_everyone_else(metrics: PrometheusMetrics, accept: str) -> None:
    _, content_type = metrics.render(accept)

    assert content_type == "text/plain; version=0.0.4; charset=utf-8"


def test_two_gateways_in_one_process_count_apart(metrics: PrometheusMetrics) -> None:
    other = PrometheusMetrics()
    metrics.connection_opened()

    assert value(other, "gateway_connections") == 0


def test_publications_of_a_turn_are_counted_each_with_its_own_wait(metrics: PrometheusMetrics) -> None:
    turn = Turn(1_800_000_000.0, 50.0)
    turn.ends = [50.0 + seconds for seconds in (10e-6, 20e-6, 0.0004, 0.0004, 30.0)]
    turn.decided_s, turn.published_s, turn.timed = 0.5e-6, 2e-6, True
    metrics.published("channel.publish", turn)

    publish = {"action": "channel.publish"}
    assert value(metrics, "gateway_commands_total", **publish, outcome="ok") == 5
    assert value(metrics, "gateway_decisions_total", **publish, effect="allow", reason="rule") == 5
    waits = {
        le: value(metrics, "gateway_command_duration_seconds_bucket", **publish, le=le)
        for le in ("2.5e-05", "5e-05", "0.00025", "0.0005", "10.0", "+Inf")
    }
    assert waits == {"2.5e-05": 2, "5e-05": 2, "0.00025": 2, "0.0005": 4, "10.0": 4, "+Inf": 5}
    assert value(metrics, "gateway_command_duration_seconds_sum", **publish) == pytest.approx(30.00083)
    assert value(metrics, "gateway_decision_seconds_bucket", le="1e-06") == 5
    assert value(metrics, "gateway_decision_seconds_sum") == pytest.approx(2.5e-6)
    assert value(metrics, "gateway_broker_publish_seconds_count") == 5
    assert value(metrics, "gateway_broker_publish_seconds_sum") == pytest.approx(10e-6)
