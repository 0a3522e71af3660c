"""Every example of the page about policies is read, linted, tested and run as the page has it."""

from __future__ import annotations

import re
import shlex
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
from policy_texts import conditions, written

from gateway.adapters.policy_files import load_policy
from gateway.adapters.yaml_documents import read_yaml
from gateway.cli.app import run
from gateway.core import bound_policy, rules
from gateway.core import conditions as core_conditions
from gateway.core.commands import BUILT_IN_ACTIONS, ActionRegistry
from gateway.core.decision import Reason
from gateway.core.documents import DocumentFile
from gateway.core.policy_lint import lint
from gateway.core.policy_questions import read_policy_tests, run_policy_tests
from gateway.settings import shipped_policy_dir

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "policies.md").read_text("utf-8")
ACTIONS = ActionRegistry()
TESTS_NAME = re.compile(r"# policies/tests/(\S+)\n")


@dataclass(frozen=True)
class Example:
    """A policy of the page with the tests that the page has for it."""

    place: int
    policy: str
    tests: tuple[str, ...]


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def examples() -> list[Example]:
    """Pair each policy with the tests that follow it; those of the chapter on tests are about the first policy."""
    policies: list[str] = []
    tests: dict[int, list[str]] = {}
    for block in blocks("yaml"):
        name = TESTS_NAME.match(block)
        if name is None:
            policies.append(block)
        else:
            tests.setdefault(0 if name[1] == "rooms.yaml" else len(policies) - 1, []).append(block)
    return [Example(place, text, tuple(tests.get(place, ()))) for place, text in enumerate(policies)]


@pytest.mark.parametrize("example", examples(), ids=lambda example: f"policy {example.place}")
def test_every_policy_of_the_page_is_good_and_its_tests_hold(example: Example, tmp_path: Path) -> None:
    (tmp_path / "policy.yaml").write_text(example.policy)
    policy = load_policy(tmp_path, conditions())
    assert written(lint(policy, ACTIONS)) == []
    files = [DocumentFile("tests.yaml", read_yaml(text.encode())) for text in example.tests]
    tests, findings = read_policy_tests(files, ACTIONS)
    assert written(findings) == []
    assert written(run_policy_tests(policy, tests, ACTIONS, 1_800_000_000.0)) == []
    assert bool(tests) is bool(example.tests)


def test_no_example_was_overlooked() -> None:
    assert len(examples()) == 8
    assert sum(len(example.tests) for example in examples()) == 6
    assert len(blocks("yaml")) == 14
    assert len(re.findall(r"^```\w", PAGE, re.MULTILINE)) == 14 + len(blocks("console"))


@pytest.fixture
def chat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write what the first chapter writes, and the tests with the line that the page says does not hold."""
    monkeypatch.delenv("GATEWAY_POLICY_DIR", raising=False)
    monkeypatch.chdir(tmp_path)
    first = examples()[0]
    (tmp_path / "policies" / "tests").mkdir(parents=True)
    (tmp_path / "policies" / "chat.yaml").write_text(first.policy)
    (tmp_path / "policies" / "tests" / "rooms.yaml").write_text(first.tests[0].replace("expect: deny", "expect: allow"))
    return tmp_path


@pytest.mark.usefixtures("chat")
@pytest.mark.parametrize("block", blocks("console"))
def test_every_command_of_the_page_prints_what_the_page_shows(block: str, capfd: pytest.CaptureFixture[str]) -> None:
    for shown in block.split("$ ")[1:]:
        line, _, output = shown.partition("\n")
        program, *arguments = shlex.split(line)
        assert program == "gateway"
        run(arguments)
        printed = capfd.readouterr()
        assert printed.out + printed.err == output


def test_the_version_is_what_the_shell_says(chat: Path) -> None:
    line = "cat policies/*.yaml | sha256sum"
    assert f"`{line}`" in PAGE
    told = subprocess.run(["sh", "-c", line], cwd=chat, capture_output=True, text=True, check=True)
    assert told.stdout[:12] == load_policy(chat / "policies", conditions()).version


def test_the_page_names_what_the_code_has() -> None:
    for reason in Reason:
        assert f"| `{reason.value}` |" in PAGE
    for spec in BUILT_IN_ACTIONS:
        if not spec.permission:
            assert f"`{spec.name}`" in PAGE
    assert f"| {rules.MAX_RATE_BUCKETS:,} on a node" in PAGE
    assert f"over {core_conditions.MAX_DATA_VALUES} values or 8 KiB" in PAGE
    assert core_conditions.MAX_DATA_BYTES == 8 * 1024
    assert core_conditions.MAX_CONDITION_BYTES == 2 * 1024
    assert bound_policy.DEFAULT_DENY.reason is Reason.DEFAULT
    roles = load_policy(shipped_policy_dir(), conditions()).roles
    assert {role for role in roles if f"\n| {role} |" in PAGE} == roles
