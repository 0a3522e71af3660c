"""What docs/operations.md tells an operator to run works, and every name on it is one that exists."""

from __future__ import annotations

import asyncio
import re
import shutil
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from running_gateway import RunningGateway, run_gateway
from secret_watch import SecretWatch

from gateway.adapters.prometheus_metrics import PrometheusMetrics
from gateway.cli.app import run as run_gateway_command
from gateway.core.events import Event

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "operations.md").read_text()
BLOCKS = re.findall(r"^ *```sh\n(.*?)^ *```", PAGE, re.MULTILINE | re.DOTALL)


@pytest.fixture
async def gateway(tmp_path: Path, secret_watch: SecretWatch) -> AsyncIterator[RunningGateway]:
    async with run_gateway(tmp_path, secret_watch) as running:
        yield running


async def run(script: str, folder: Path) -> str:
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec("/bin/sh", "-ec", script, cwd=folder, stdout=pipe, stderr=pipe)
    out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    return out.decode()


async def test_the_backup_of_a_running_gateway_is_whole(gateway: RunningGateway, tmp_path: Path) -> None:
    await gateway.peer("alice")
    (tmp_path / ".gateway").symlink_to(tmp_path / "data")
    [script] = [block for block in BLOCKS if "backup" in block]
    await run(script, tmp_path)

    with sqlite3.connect(tmp_path / "backup.db") as backup:
        assert backup.execute("pragma integrity_check").fetchall() == [("ok",)]
        assert backup.execute("select name from accounts").fetchall() == [("alice",)]
    backup.close()


async def test_the_log_tells_who_attacks_and_whom(gateway: RunningGateway, tmp_path: Path) -> None:
    if shutil.which("jq") is None:
        pytest.skip("`jq` is not on the PATH")
    await gateway.add_user("alice", "member")
    wrong = {"grant_type": "password", "username": "alice", "password": "not her password"}
    for _ in range(2):
        await gateway.http.post("/token", data=wrong)
    await gateway.event("token.refused")
    shutil.copy(gateway.log_path, tmp_path / "recent.log")
    [script] = [block for block in BLOCKS if "jq" in block]
    said = await run("\n".join(line for line in script.splitlines() if "kubectl" not in line), tmp_path)

    assert [line.split() for line in said.splitlines()] == [["2", "127.0.0.1"], ["2", "alice"]]


def commands() -> set[tuple[str, str]]:
    return set(re.findall(r"`gateway (\w+) ([a-z-]+)", PAGE))


def test_the_page_names_commands() -> None:
    assert {("keys", "rotate"), ("policy", "lint"), ("users", "disable")} <= commands()


@pytest.mark.parametrize("command", sorted(commands()), ids=" ".join)
def test_every_command_on_the_page_exists(command: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run_gateway_command([*command, "--help"]) == 0
    assert command[1] in capsys.readouterr().out


def test_every_setting_metric_and_event_on_the_page_exists() -> None:
    settings = set(re.findall(r"^\| `(GATEWAY_\w+)`", (ROOT / "docs" / "settings.md").read_text(), re.MULTILINE))
    metrics = {sample for family in PrometheusMetrics().collect() for sample in (family.name, f"{family.name}_total")}
    events = {event.value for event in Event}
    nouns = {event.split(".")[0] for event in events}

    assert set(re.findall(r"GATEWAY_\w+", PAGE)) <= settings
    assert set(re.findall(r"\bgateway_\w+", PAGE)) <= metrics
    named = {name for name in re.findall(r"`([a-z]+\.[a-z]+)`", PAGE) if name.split(".")[0] in nouns}
    assert named <= events
    assert named
