"""What is shipped can be accounted for: locks, actions, lint rules that are switched off, and the answers of the audit."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import tokenize
from pathlib import Path
from types import ModuleType

import pytest
import yaml

ROOT = Path(__file__).parent.parent
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
CYCLONEDX = ROOT / ".venv-audit" / "bin" / "cyclonedx-py"
SECURITY_RULE = re.compile(r"\bS\d{3}\b")


@pytest.fixture(scope="module")
def audit() -> ModuleType:
    spec = importlib.util.spec_from_file_location("audit", ROOT / ".ci" / "audit.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def release(name: str, *advisories: str, fixed: tuple[str, ...] = ()) -> dict[str, object]:
    return {"name": name, "version": "1.0", "vulns": [{"id": each, "fix_versions": list(fixed)} for each in advisories]}


def test_an_audit_that_looked_everything_up_and_found_nothing_passes(audit: ModuleType) -> None:
    assert audit.verdict([release("one"), release("two")]) == (0, ["audit: 2 releases, no known vulnerability"])


def test_an_audit_names_each_vulnerability_and_what_mends_it(audit: ModuleType) -> None:
    code, lines = audit.verdict([release("one", "CVE-1", fixed=("1.1",)), release("two", "CVE-2")])

    assert code == 1
    assert lines == [
        "one 1.0: CVE-1, mended in 1.1",
        "two 1.0: CVE-2, mended in no release",
        "audit: 2 known vulnerabilities",
    ]


def test_a_release_that_was_not_looked_up_is_no_clean_bill(audit: ModuleType) -> None:
    found = [release("one"), {"name": "two", "skip_reason": "not found"}]

    assert audit.verdict(found)[0] == 3
    assert audit.verdict([])[0] == 3
    assert audit.verdict(None)[0] == 3


@pytest.mark.skipif(not CYCLONEDX.exists(), reason="no bill of materials: `make sbom` installs what makes it")
def test_the_bill_of_materials_names_every_locked_release_with_its_hashes() -> None:
    alone = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    command = ["make", "--silent", "sbom"]
    made = subprocess.run(command, cwd=ROOT, env=alone, check=True, capture_output=True, text=True)
    bill = json.loads((ROOT / "dist" / "portcullis-gateway.cdx.json").read_text())
    lock = (ROOT / "requirements.lock").read_text()

    named = {part["name"]: part["version"] for part in bill["components"]}
    assert named == dict(re.findall(r"^([a-z0-9._-]+)(?:\[[a-z0-9,_-]+\])?==(\S+)", lock, re.MULTILINE)), made.stderr
    hashes = {each["content"] for part in bill["components"] for each in part["externalReferences"][0]["hashes"]}
    assert hashes == set(re.findall(r"sha256:([0-9a-f]{64})", lock))
    assert bill["metadata"]["component"]["name"] == "portcullis-gateway"


def test_every_security_rule_that_is_switched_off_on_a_line_has_its_reason_there() -> None:
    unexplained = []
    for folder in ("gateway", "tests", "benchmarks", ".ci"):
        for path in (ROOT / folder).rglob("*.py"):
            with tokenize.open(path) as source:
                comments = [
                    token for token in tokenize.generate_tokens(source.readline) if token.type == tokenize.COMMENT
                ]
            for comment in comments:
                found = re.match(r"#\s*noqa: ([A-Z0-9, ]+)(.*)", comment.string)
                if found and SECURITY_RULE.search(found[1]) and not re.match(r"\s*- \w", found[2]):
                    unexplained.append(f"{path.relative_to(ROOT)}:{comment.start[0]}")

    assert unexplained == []


def test_every_security_rule_that_is_switched_off_for_a_folder_has_its_reason_there() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    table = text.partition("[tool.ruff.lint.per-file-ignores]")[2].partition("\n[")[0]
    lines = [line for line in table.splitlines() if SECURITY_RULE.search(line)]

    assert lines
    assert [line for line in lines if not re.search(r"# \w", line)] == []
    assert not SECURITY_RULE.search(
        text.partition("[tool.ruff.lint]")[2].partition("[tool.ruff.lint.per-file-ignores]")[0]
    )


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.name)
def test_every_action_is_pinned_by_its_commit_and_says_which_release_that_is(workflow: Path) -> None:
    uses = re.findall(r"uses: (\S+)(.*)", workflow.read_text())

    assert uses
    for action, comment in uses:
        assert re.fullmatch(r"[\w.-]+/[\w./-]+@[0-9a-f]{40}", action), action
        assert re.fullmatch(r" # v\d+\.\d+\.\d+", comment), action


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_may_read_only_unless_a_job_says_otherwise(workflow: Path) -> None:
    document = yaml.safe_load(workflow.read_text())

    assert document["permissions"] == {"contents": "read"}
    steps = [step for job in document["jobs"].values() for step in job["steps"]]
    checkouts = [step for step in steps if step.get("uses", "").startswith("actions/checkout@")]
    assert checkouts
    assert all(step["with"]["persist-credentials"] is False for step in checkouts)
    # What others can write (a branch's name, a title) must not become a part of a shell script.
    assert [step["run"] for step in steps if "${{" in step.get("run", "")] == []


def test_there_are_workflows() -> None:
    assert {path.name for path in WORKFLOWS} >= {"ci.yml", "release.yml"}
