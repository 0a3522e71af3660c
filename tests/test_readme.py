"""The README's tour works as it stands, line by line, against a gateway started as it says."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from secret_watch import SecretWatch

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Give a folder that looks like a clone after `make run`."""
    (tmp_path / ".venv").symlink_to(sys.prefix)
    (tmp_path / "policies").symlink_to(ROOT / "policies")
    return tmp_path


@pytest.fixture
def address(folder: Path, secret_watch: SecretWatch) -> Iterator[str]:
    """Start what `make run` starts, on a free port; give its URL. What it prints once it is up is a log without secrets."""
    command = [".venv/bin/gateway", "serve", "--dev", "--port", "0"]
    output = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    with subprocess.Popen(command, cwd=folder, **output) as server:
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
            secret_watch.log_file("readme").write_text(server.stdout.read())
    assert server.returncode == 0


def transcript() -> list[tuple[str, str]]:
    """Give the commands of the tour, each with the output that the README shows."""
    blocks = re.findall(r"^```console\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    steps = re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", "".join(blocks), re.MULTILINE)
    return [(command, output.rstrip("\n")) for command, output in steps]


def matches(shown: str, printed: str) -> bool:
    """Compare an output with what is shown of it, where `…` stands for anything."""
    pattern = ".*".join(re.escape(part) for part in shown.split("…"))
    return re.fullmatch(pattern, printed.rstrip("\n"), re.DOTALL) is not None


def test_the_tour_works_line_by_line(folder: Path, address: str) -> None:
    steps = transcript()
    marks = [f"--- {number} ---" for number in range(len(steps))]
    script = "".join(
        f"{command.replace('http://127.0.0.1:8000', address)}\necho '{mark}'\n"
        for (command, _), mark in zip(steps, marks, strict=True)
    )
    done = subprocess.run(["/bin/sh"], input=script, cwd=folder, capture_output=True, text=True, check=True)

    rest = done.stdout
    for (command, shown), mark in zip(steps, marks, strict=True):
        printed, _, rest = rest.partition(f"{mark}\n")
        assert matches(shown, printed), f"$ {command}\n{printed}{done.stderr}"


def test_the_readme_fits_a_screen_and_its_links_lead_somewhere() -> None:
    assert len(README.splitlines()) <= 65
    targets = re.findall(r"\]\(([^)#:]+)\)", README)

    assert [target for target in targets if not (ROOT / target).exists()] == []
