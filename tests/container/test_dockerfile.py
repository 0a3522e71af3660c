"""What the Dockerfile says can be held against the rest of the project without building it."""

from __future__ import annotations

import fnmatch
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "Dockerfile").read_text()
HADOLINT = shutil.which("hadolint", path=str(Path(sys.executable).parent)) or shutil.which("hadolint")


def instructions() -> list[tuple[str, str]]:
    """Give each instruction and its arguments, continued lines joined."""
    joined = re.sub(r"\\\n", " ", re.sub(r"^\s*#.*\n", "", TEXT, flags=re.MULTILINE))
    found = []
    for line in filter(str.strip, joined.splitlines()):
        word, _, rest = line.strip().partition(" ")
        found.append((word, " ".join(rest.split())))
    return found


def of(word: str) -> list[str]:
    return [rest for found, rest in instructions() if found == word]


def final_stage() -> list[tuple[str, str]]:
    every = instructions()
    last = max(index for index, (word, _) in enumerate(every) if word == "FROM")
    return every[last:]


def copied() -> list[str]:
    sources = [rest.split()[:-1] for rest in of("COPY") if not rest.startswith("--from")]
    return [name for names in sources for name in names]


@pytest.mark.skipif(HADOLINT is None, reason="no hadolint: its wheel has no program for this platform")
def test_hadolint_finds_nothing() -> None:
    done = subprocess.run(
        [str(HADOLINT), "--no-color", ROOT / "Dockerfile"], check=False, capture_output=True, text=True
    )

    assert (done.returncode, done.stdout) == (0, "")
    assert "hadolint ignore" not in TEXT


def test_the_base_is_an_official_slim_python_of_a_supported_release_and_can_be_replaced() -> None:
    (base,) = [rest for rest in of("ARG") if rest.startswith("PYTHON_IMAGE=")]

    assert re.fullmatch(r"PYTHON_IMAGE=docker\.io/library/python:3\.1[1-9]-slim-[a-z]+", base)
    assert of("FROM") == ["${PYTHON_IMAGE} AS build", "${PYTHON_IMAGE}"]


def test_pip_installs_only_wheels_that_are_held_against_a_hash_or_were_so_before() -> None:
    runs = " && ".join(of("RUN"))
    calls = re.findall(r"/tools/bin/pip [^&]*\b(?:install|download|wheel)\b[^&]*", runs)

    assert len(calls) == 4
    for call in calls:
        assert {"--require-hashes", "--only-binary"} <= set(call.split()) or {"--no-index", "--no-deps"} <= set(
            call.split()
        )


def test_the_context_holds_what_is_copied_and_nothing_that_is_secret() -> None:
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]

    assert lines[0] == "*"
    assert sorted(copied()) == sorted(line[1:] for line in lines if line.startswith("!"))
    assert all((ROOT / name).exists() for name in copied())
    kept_out = [line for line in lines[1:] if not line.startswith("!")]
    for name in ("gateway/.env", "policies/.secret", "gateway/core/__pycache__"):
        assert any(fnmatch.fnmatch(name, pattern.replace("**/", "*/")) for pattern in kept_out), name


def test_the_process_has_a_number_for_a_user_and_gets_signals_itself() -> None:
    final = dict(final_stage())

    assert final["USER"] == "10001:10001"
    assert final["STOPSIGNAL"] == "SIGTERM"
    assert json.loads(final["ENTRYPOINT"]) == ["gateway"]
    assert json.loads(final["CMD"])[0] == "serve"
    assert json.loads(final["VOLUME"]) == ["/var/lib/portcullis"]
    assert final["EXPOSE"] == "8000"


def test_the_health_check_asks_the_port_that_is_exposed_with_what_is_inside() -> None:
    final = dict(final_stage())
    command = json.loads(final["HEALTHCHECK"].partition("CMD ")[2])

    assert command[:3] == ["/opt/portcullis/bin/python", "-I", "-c"]
    assert "'127.0.0.1', 8000" in command[3]
    assert "/healthz" in command[3]


def test_no_secret_and_no_address_of_an_index_stands_in_the_file() -> None:
    assert not re.search(r"index-url|trusted-host|PASSWORD|TOKEN|SECRET_KEY", TEXT)
    assert {name.partition("=")[0] for name in of("ARG")} == {"PYTHON_IMAGE", "VERSION", "REVISION", "SOURCE"}


def test_the_page_names_what_the_file_says() -> None:
    page = (ROOT / "docs" / "container.md").read_text()
    final = dict(final_stage())
    (data_dir,) = re.findall(r"GATEWAY_DATA_DIR=(\S+)", TEXT)

    assert f"`{json.loads(final['VOLUME'])[0]}`" in page
    assert f"`{data_dir.rpartition('/')[2]}` within it (`GATEWAY_DATA_DIR`)" in page
    assert f"port {final['EXPOSE']}" in page
    assert "user {}, group {}".format(*final["USER"].split(":")) in page
    settings = set(re.findall(r"^\| `(GATEWAY_\w+)`", (ROOT / "docs" / "settings.md").read_text(), re.MULTILINE))
    assert {name.removesuffix("_FILE") for name in re.findall(r"GATEWAY_[A-Z_]+", page)} <= settings


def test_the_chart_runs_the_image_as_it_was_made_to_run() -> None:
    values = yaml.safe_load((ROOT / "helm" / "values.yaml").read_text())
    templates = "".join(path.read_text() for path in (ROOT / "helm" / "templates").glob("*.tpl"))
    final = dict(final_stage())

    assert f"{values['runAsUser']}:{values['runAsUser']}" == final["USER"]
    assert str(values["server"]["port"]) == final["EXPOSE"]
    assert f"mountPath: {json.loads(final['VOLUME'])[0]}\n" in templates
