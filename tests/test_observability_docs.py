"""The documentation names every metric and every event, and nothing that is not there."""

from __future__ import annotations

import re
from pathlib import Path

from gateway.adapters.prometheus_metrics import ATTEMPT_OUTCOMES, PrometheusMetrics
from gateway.core.events import Event

PAGE_FOLDER = Path(__file__).parent.parent / "docs"
PAGE = (PAGE_FOLDER / "observability.md").read_text()


def rows(first_cell: str) -> list[tuple[str, ...]]:
    found = re.findall(rf"^\| `({first_cell})` \| (.*) \|$", PAGE, re.MULTILINE)
    return [(name, *(cell.strip() for cell in rest.split(" | "))) for name, rest in found]


def counted() -> PrometheusMetrics:
    """Give metrics in which every series that is made late has been made."""
    metrics = PrometheusMetrics(("ping",))
    metrics.decision("ping", "allow", "rule", 0.1)
    metrics.token_failure("password", "invalid_grant")
    metrics.policy_version("0123456789ab")
    return metrics


def test_the_page_lists_every_metric_with_its_type_and_labels() -> None:
    in_code = {}
    for family in counted().collect():
        name = f"{family.name}_total" if family.type == "counter" else family.name
        labels = {label for sample in family.samples for label in sample.labels} - {"le"}
        in_code[name] = (family.type, labels)

    on_page = {name: (kind, set(re.findall(r"`(\w+)`", labels))) for name, kind, labels, *_ in rows(r"gateway_\w+")}
    assert on_page == in_code


def test_the_page_lists_every_outcome_of_a_handshake() -> None:
    [meaning] = [row[-1] for row in rows("gateway_connection_attempts_total")]

    assert set(re.findall(r"`(\w+)`", meaning)) == {*ATTEMPT_OUTCOMES, "other"}


def test_the_page_lists_every_event_with_a_level() -> None:
    on_page = {name: level for name, level, *_ in rows(r"[a-z]+\.[a-z]+")}

    assert sorted(on_page) == sorted(event.value for event in Event)
    assert set(on_page.values()) <= {"debug", "info", "warning", "error"}


def test_every_event_is_logged_somewhere() -> None:
    package = PAGE_FOLDER.parent / "gateway"
    code = "".join(path.read_text() for path in package.rglob("*.py"))

    never = [event.name for event in Event if f"Event.{event.name}" not in code]
    # A broker in this process cannot be out of reach; the word is there for those that can.
    assert never == ["BROKER_DOWN"]
