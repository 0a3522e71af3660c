"""The dashboard and the rules name metrics, labels and label values that exist, and PromQL that parses."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_server import DASHBOARD, RULES, program

from gateway.adapters.prometheus_metrics import (
    ATTEMPT_OUTCOMES,
    COMMAND_OUTCOMES,
    GRANTS,
    TOKEN_ERRORS,
    PrometheusMetrics,
)

BOARD = json.loads(DASHBOARD.read_text())

# What Prometheus, its client library and kube-state-metrics give.
FOREIGN = {
    "up": set(),
    "ALERTS": {"alertname", "alertstate"},
    "kube_pod_status_ready": {"condition"},
    "process_cpu_seconds_total": set(),
    "process_resident_memory_bytes": set(),
    "process_open_fds": set(),
    "process_max_fds": set(),
    "process_start_time_seconds": set(),
}
TARGET_LABELS = {"job", "namespace", "pod", "instance"}
VALUES = {
    "gateway_connection_attempts_total": {*ATTEMPT_OUTCOMES, "other"},
    "gateway_commands_total": {*COMMAND_OUTCOMES, "other"},
    "gateway_token_failures_total": {*GRANTS, "unknown", *TOKEN_ERRORS, "other"},
    "gateway_tokens_issued_total": {*GRANTS, "other"},
    "gateway_decisions_total": {"allow", "deny", "rule", "default", "condition", "error", "obligation"},
    "gateway_bytes_total": {"in", "out"},
    "gateway_policy_reloads_total": {"ok", "error"},
}


def panels() -> list[dict[str, Any]]:
    return [panel for panel in BOARD["panels"] if panel["type"] != "row"]


def board_expressions() -> Iterator[tuple[str, str]]:
    """Give each expression with the title of where it stands, with Grafana's variables filled in."""
    found = [(panel["title"], target["expr"]) for panel in panels() for target in panel["targets"]]
    found += [(each["name"], each["expr"]) for each in BOARD["annotations"]["list"] if "expr" in each]
    for title, expression in found:
        yield title, re.sub(r"\$(job|namespace|pod)\b", ".*", expression).replace("$__rate_interval", "10s")


def rule_expressions() -> Iterator[tuple[str, str]]:
    for group in yaml.safe_load(RULES.read_text())["groups"]:
        for rule in group["rules"]:
            yield rule["alert"], rule["expr"]


def variable_expressions() -> Iterator[tuple[str, str]]:
    for variable in BOARD["templating"]["list"]:
        if variable["type"] == "query":
            metric = re.fullmatch(r"label_values\((.*), \w+\)", variable["query"]["query"])
            assert metric is not None, variable
            yield variable["name"], metric[1]


EXPRESSIONS = [*board_expressions(), *rule_expressions(), *variable_expressions()]


def exposed() -> dict[str, set[str]]:
    """Give every series name of ours, with its labels."""
    metrics = PrometheusMetrics(("ping",))
    metrics.decision("ping", "allow", "rule", 0.1)
    metrics.token_failure("password", "invalid_grant")
    metrics.policy_version("0123456789ab")
    series: dict[str, set[str]] = {}
    for family in metrics.collect():
        for sample in family.samples:
            series.setdefault(sample.name, set()).update(sample.labels)
    return series


def selectors(expression: str) -> Iterator[tuple[str, dict[str, tuple[str, str]]]]:
    """Give each series that an expression selects, with its matchers."""
    for name, matchers in re.findall(r"\b((?:gateway|process|kube)_\w+|up|ALERTS)\b(?:\{([^}]*)\})?", expression):
        yield name, {label: (kind, value) for label, kind, value in re.findall(r'(\w+)(=~|!~|!=|=)"([^"]*)"', matchers)}


@pytest.mark.parametrize(("title", "expression"), EXPRESSIONS)
def test_every_expression_selects_what_exists(title: str, expression: str) -> None:
    known = {**FOREIGN, **exposed()}
    selected = list(selectors(expression))

    assert selected, title
    for name, matchers in selected:
        assert name in known, title
        assert set(matchers) <= known[name] | TARGET_LABELS, title
        for label, (kind, value) in matchers.items():
            if name in VALUES and label in known[name] - TARGET_LABELS:
                values = set(value.split("|")) if "~" in kind else {value}
                assert values <= VALUES[name], f"{title}: {label}"


def test_every_label_that_is_summed_by_exists() -> None:
    for title, expression in EXPRESSIONS:
        known = {label for name, _ in selectors(expression) for label in {**FOREIGN, **exposed()}[name]} | TARGET_LABELS
        for labels in re.findall(r"\b(?:by|on|ignoring) \(([^)]*)\)", expression):
            assert set(re.split(r", *", labels)) <= known, title


def test_the_dashboard_shows_every_metric() -> None:
    shown = {name for _, expression in board_expressions() for name, _ in selectors(expression)}

    families = {re.sub(r"_(bucket|count|sum)$", "", name) for name in shown}
    ours = {re.sub(r"_(bucket|count|sum)$", "", name) for name in exposed()}
    assert ours - families == set()


def test_every_expression_parses(tmp_path: Path) -> None:
    rules = [{"record": f"each:{number}", "expr": expression} for number, (_, expression) in enumerate(EXPRESSIONS)]
    file = tmp_path / "expressions.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "expressions", "rules": rules}]}))
    done = subprocess.run([program("promtool"), "check", "rules", file], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(EXPRESSIONS)} rules found" in done.stdout


def test_no_data_source_is_named_but_by_the_variable() -> None:
    sources = re.findall(r'"datasource": \{\s*"type": "\w+",\s*"uid": "(.*)"\s*\}', DASHBOARD.read_text())

    assert len(sources) == DASHBOARD.read_text().count('"datasource": {')
    assert set(sources) == {"${datasource}", "-- Grafana --"}
    assert BOARD["id"] is None
    assert [each["name"] for each in BOARD["templating"]["list"]] == ["datasource", "job", "namespace", "pod"]
    assert "__inputs" not in BOARD


def test_every_panel_has_a_unit_a_description_and_a_place_of_its_own() -> None:
    taken: set[tuple[int, int]] = set()
    ids = [panel["id"] for panel in BOARD["panels"]]
    assert len(ids) == len(set(ids))
    for panel in BOARD["panels"]:
        place = panel["gridPos"]
        cells = {(place["x"] + right, place["y"] + down) for right in range(place["w"]) for down in range(place["h"])}
        assert not cells & taken, panel["title"]
        assert place["x"] + place["w"] <= 24, panel["title"]
        taken |= cells
    for panel in panels():
        assert panel["description"].endswith("."), panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert panel["datasource"]["uid"] == "${datasource}", panel["title"]


def test_every_expression_of_the_dashboard_keeps_to_the_chosen_nodes() -> None:
    for panel in panels():
        for target in panel["targets"]:
            for name, matchers in selectors(target["expr"]):
                assert {"job", "namespace", "pod"} <= set(matchers), f"{panel['title']}: {name}"


def test_the_alerts_that_the_panels_speak_of_exist() -> None:
    alerts = {name for name, _ in rule_expressions()}

    assert set(re.findall(r"Portcullis[A-Z]\w+", DASHBOARD.read_text())) <= alerts
