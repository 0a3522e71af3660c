"""The files that a fresh clone stands on agree with each other."""

from __future__ import annotations

import os
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
RUNTIME = [Requirement(text) for text in PROJECT["dependencies"]]
DEVELOPMENT = [Requirement(text) for text in PROJECT["optional-dependencies"]["dev"]]
LOCKS = (
    "requirements.lock",
    "requirements-dev.lock",
    "requirements-build.lock",
    "requirements-fuzz.lock",
    "requirements-audit.lock",
    "requirements-bench.lock",
    "requirements-autobahn.lock",
)


def locked(name: str) -> dict[str, str]:
    found = re.findall(r"^([a-z0-9._-]+)(?:\[[a-z0-9,_-]+\])?==(\S+)", (ROOT / name).read_text(), re.MULTILINE)
    return dict(found)


@pytest.mark.parametrize(
    ("lock", "requirements"),
    [("requirements.lock", RUNTIME), ("requirements-dev.lock", [*RUNTIME, *DEVELOPMENT])],
)
def test_the_lock_holds_a_release_that_satisfies_each_requirement(lock: str, requirements: list[Requirement]) -> None:
    releases = locked(lock)

    missing = [each.name for each in requirements if canonicalize_name(each.name) not in releases]
    assert missing == []
    unmet = [str(each) for each in requirements if releases[canonicalize_name(each.name)] not in each.specifier]
    assert unmet == []


def test_the_tests_run_on_the_releases_that_are_shipped() -> None:
    shipped, tested = locked("requirements.lock"), locked("requirements-dev.lock")

    assert {name: tested.get(name) for name in shipped} == shipped


@pytest.mark.parametrize("lock", LOCKS)
def test_every_locked_file_has_a_hash_and_no_lock_names_an_index(lock: str) -> None:
    text = (ROOT / lock).read_text()
    blocks = re.split(r"^(?=[a-z0-9])", text, flags=re.MULTILINE)[1:]

    assert blocks
    assert all("--hash=sha256:" in block for block in blocks)
    assert not re.search(r"^--|https?://| @ ", text, re.MULTILINE)


def test_every_dependency_is_explained_and_nothing_else_is() -> None:
    page = (ROOT / "docs" / "dependencies.md").read_text()
    explained = re.findall(r"^\| `([a-z0-9-]+)` \|", page, re.MULTILINE)

    extras = [Requirement(text) for group in PROJECT["optional-dependencies"].values() for text in group]
    named = {canonicalize_name(each.name) for each in [*RUNTIME, *extras]} | {"hatchling", "editables"}
    assert sorted(explained) == sorted(named)


def make(*arguments: str) -> str:
    """Run make as from a shell, though the suite may run within another make."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    command = ["make", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True, text=True).stdout


def test_help_lists_every_target_that_people_call() -> None:
    shown = make("help")
    phony = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)

    assert phony is not None
    assert re.findall(r"^  make (\S+)", shown, re.MULTILINE) == phony[1].split()
    assert {"run", "test", "help"} <= set(phony[1].split())


@pytest.mark.parametrize("target", ["run", "types"])
def test_pip_is_called_when_a_lock_is_newer_than_the_environment_and_never_else(target: str, tmp_path: Path) -> None:
    def planned(*options: str) -> str:
        return make("--dry-run", target, f"VENV={tmp_path}", "PORT=9000", *options)

    for made in (".stamp-run", ".stamp-dev"):
        (tmp_path / made).touch()
    last_line = {"run": f"exec {tmp_path}/bin/gateway serve --dev --port 9000", "types": f"{tmp_path}/bin/mypy"}[target]
    lock = {"run": "requirements.lock", "types": "requirements-dev.lock"}[target]

    assert planned().splitlines() == [last_line]
    assert f"install --require-hashes -r {lock}" in planned(f"--assume-new={lock}")


def test_every_decision_is_a_page_with_the_same_parts() -> None:
    pages = sorted((ROOT / "docs" / "decisions").glob("*.md"))

    assert [page.name[:4] for page in pages] == [f"{number:04d}" for number in range(1, len(pages) + 1)]
    for page in pages:
        headings = re.findall(r"^## (.*)$", page.read_text(), re.MULTILINE)
        assert headings == ["Context", "Decision", "Alternatives", "Consequences"], page.name
