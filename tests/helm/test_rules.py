"""The alert rules: each is proven by promtool, none names what is not there, and each has its runbook."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_server import ROOT, RULES, program

CASES = sorted((Path(__file__).parent / "rules").glob("*.test.yaml"))
OPERATIONS = (ROOT / "docs" / "operations.md").read_text()


def alerts() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def names() -> list[str]:
    return [alert["alert"] for alert in alerts()]


@pytest.mark.parametrize("cases", CASES, ids=lambda path: path.name)
def test_each_alert_fires_on_its_case_and_stays_quiet_on_the_one_that_comes_near(cases: Path) -> None:
    done = subprocess.run([program("promtool"), "test", "rules", cases], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout + done.stderr


def test_promtool_finds_no_fault_in_the_rules() -> None:
    done = subprocess.run(
        [program("promtool"), "check", "rules", "--lint=all", "--lint-fatal", RULES],
        capture_output=True, text=True, check=False,
    )  # fmt: skip

    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_has_a_case_that_fires_it_and_a_quiet_one() -> None:
    told = [test["name"] for path in CASES for test in yaml.safe_load(path.read_text())["tests"]]

    assert [name for name in names() if not any(each.startswith(f"{name} fires") for each in told)] == []
    assert [name for name in names() if not any(each.startswith(f"quiet {name} ") for each in told)] == []


@pytest.mark.parametrize("alert", alerts(), ids=lambda alert: alert["alert"])
def test_every_alert_says_how_bad_it_is_and_where_its_runbook_stands(alert: dict[str, Any]) -> None:
    name = alert["alert"]

    assert alert["labels"]["severity"] in {"critical", "warning"}
    assert set(alert["annotations"]) == {"summary", "description", "runbook_url"}
    assert alert["annotations"]["runbook_url"] == f"docs/operations.md#{name.lower()}"


def test_every_alert_has_a_runbook_with_its_four_parts_and_no_runbook_is_left_over() -> None:
    runbooks = dict(re.findall(r"^### (Portcullis\w+)\n(.*?)(?=^##)", OPERATIONS, re.MULTILINE | re.DOTALL))

    assert list(runbooks) == names()
    for name, text in runbooks.items():
        parts = re.findall(r"^- \*\*(\w[\w ]+)\.\*\*", text, re.MULTILINE)
        assert parts == ["Means", "Causes", "Do", "Verify"], name


def test_the_page_tells_the_severity_of_each_alert() -> None:
    on_page = dict(re.findall(r"^\| \[(Portcullis\w+)\]\(#\w+\) \| (\w+) \|", OPERATIONS, re.MULTILINE))

    assert on_page == {alert["alert"]: alert["labels"]["severity"] for alert in alerts()}


def test_every_anchor_on_the_page_leads_to_a_heading() -> None:
    headings = re.findall(r"^#+ (.*)$", OPERATIONS, re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}

    assert set(re.findall(r"\]\(#([^)]+)\)", OPERATIONS)) <= anchors
