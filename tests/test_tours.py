"""The tours of the README and of Getting started work as they stand, line by line, against a gateway started as they say."""

from __future__ import annotations

import itertools
import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from secret_watch import SecretWatch

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
GETTING_STARTED = ROOT / "docs" / "getting-started.md"
RELOAD_S = 10.0


@dataclass(frozen=True)
class Command:
    """A line of a tour and the output that the page shows, where `…` stands for anything."""

    line: str
    shown: str

    def matches(self, printed: str) -> bool:
        pattern = ".*".join(re.escape(part) for part in self.shown.split("…"))
        return re.fullmatch(pattern, printed.rstrip("\n"), re.DOTALL) is not None


@dataclass(frozen=True)
class File:
    """A file that the page tells the reader to write."""

    path: str
    content: str


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Give a folder that looks like a clone after `make run`."""
    (tmp_path / ".venv").symlink_to(sys.prefix)
    shutil.copytree(ROOT / "policies", tmp_path / "policies")
    return tmp_path


@pytest.fixture
def address(folder: Path, secret_watch: SecretWatch) -> Iterator[str]:
    """Start what `make run` starts, on a free port; give its URL. What it prints once it is up is a log without secrets."""
    command = [".venv/bin/gateway", "serve", "--dev", "--port", "0"]
    log = secret_watch.log_file("tour")
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as server:
        assert server.stdout is not None
        introduction = ""
        for line in server.stdout:
            introduction += line
            if "server.started" in line:
                break
        found = re.search(r"http://127\.0\.0\.1:\d+", introduction)
        try:
            assert found is not None, introduction
            for name, password in json.loads((folder / ".gateway" / "demo-users.json").read_text()).items():
                secret_watch.watch(password, f"password of {name}")
            yield found[0]
        finally:
            server.terminate()
            log.write_text(server.stdout.read())
    assert server.returncode == 0


def steps(page: Path) -> Iterator[Command | File]:
    """Give what a page asks its reader to do, in order."""
    blocks = re.findall(r"^```(console|yaml)\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
    for language, text in blocks:
        if language == "console":
            for line, shown in re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", text, re.MULTILINE):
                yield Command(line, shown.rstrip("\n"))
        elif found := re.match(r"# (\S+)\n", text):
            yield File(found[1], text)


def policy_version(address: str) -> str:
    metrics = httpx.get(f"{address}/metrics").text
    found = re.search(r'gateway_policy_info\{version="(\w+)"\}', metrics)
    assert found is not None
    return found[1]


def write(file: File, folder: Path, address: str) -> None:
    """Write a policy file, and wait as long as a reader needs to reach for the other terminal."""
    before = policy_version(address)
    (folder / file.path).write_text(file.content)
    deadline = time.monotonic() + RELOAD_S
    while policy_version(address) == before:
        assert time.monotonic() < deadline, "the policy was not reloaded"
        time.sleep(0.05)


@pytest.mark.parametrize("page", [README, GETTING_STARTED], ids=lambda page: page.stem)
def test_the_tour_works_line_by_line(page: Path, folder: Path, address: str) -> None:
    shell = subprocess.Popen(
        ["/bin/sh"], cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    with shell:
        assert shell.stdin is not None
        assert shell.stdout is not None
        for step in steps(page):
            if isinstance(step, File):
                write(step, folder, address)
                continue
            line = step.line.replace("http://127.0.0.1:8000", address)
            shell.stdin.write(f"{line}\necho; echo '--- done ---'\n")
            shell.stdin.flush()
            printed = "".join(itertools.takewhile(lambda each: each != "--- done ---\n", shell.stdout))
            assert step.matches(printed), f"$ {line}\n{printed}"
        shell.stdin.close()


def test_the_readme_fits_a_screen() -> None:
    assert len(README.read_text().splitlines()) <= 65


@pytest.mark.parametrize("page", [README, *sorted((ROOT / "docs").rglob("*.md"))], ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text())

    assert [target for target in targets if not (page.parent / target).exists()] == []
