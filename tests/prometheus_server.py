"""A real Prometheus on a free port of loopback, and what it says. Skips, with the reason, where the programs are missing."""

from __future__ import annotations

import asyncio
import contextlib
import re
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

ROOT = Path(__file__).parent.parent
RULES = ROOT / "helm" / "rules" / "portcullis.yaml"
DASHBOARD = ROOT / "helm" / "dashboards" / "portcullis.json"
WAIT_S = 30.0
SCRAPE_S = "500ms"


def program(name: str) -> str:
    """Find `prometheus` or `promtool`."""
    found = shutil.which(name)
    if found is None:
        pytest.skip(
            f"`{name}` is not on the PATH: Debian's package `prometheus` has it, and `.ci/prometheus` installs it"
        )
    return found


@dataclass(frozen=True)
class Prometheus:
    """One that runs."""

    http: httpx.AsyncClient

    async def get(self, path: str, **parameters: str) -> Any:  # noqa: ANN401 - the data of an answer
        answer = (await self.http.get(f"/api/v1/{path}", params=parameters)).json()
        assert answer["status"] == "success", f"{parameters}: {answer}"
        return answer["data"]

    async def query(self, expression: str) -> list[dict[str, Any]]:
        """Evaluate an expression now; give its samples."""
        data = await self.get("query", query=expression)
        return list(data["result"])

    async def targets(self) -> dict[str, dict[str, Any]]:
        """Give the scraped targets by their job."""
        return {each["labels"]["job"]: each for each in (await self.get("targets"))["activeTargets"]}

    async def all_up(self, jobs: int) -> dict[str, dict[str, Any]]:
        """Wait until every target has been scraped well; on a busy machine a scrape may time out first."""
        targets: dict[str, dict[str, Any]] = {}
        deadline = time.monotonic() + WAIT_S
        while len(targets) < jobs or any(each["health"] != "up" for each in targets.values()):
            assert time.monotonic() < deadline, {job: each["lastError"] for job, each in targets.items()}
            await asyncio.sleep(0.05)
            targets = await self.targets()
        return targets


async def _listening(said_by_it: asyncio.StreamReader) -> str:
    """Give the address of one that is ready; which of the two it says first is up to it."""
    said = ""
    async with asyncio.timeout(WAIT_S):
        while True:
            line = await said_by_it.readline()
            assert line, said
            said += line.decode()
            found = re.search(r'msg="Listening on" address=(\S+)', said)
            if found is not None and "ready to receive web requests" in said:
                return found[1]


@contextlib.asynccontextmanager
async def run_prometheus(scrapes: Sequence[Mapping[str, object]], rules: Path = RULES) -> AsyncIterator[Prometheus]:
    """Run one that scrapes twice a second and evaluates the rules every second."""
    binary = program("prometheus")
    with tempfile.TemporaryDirectory() as directory:
        config = Path(directory) / "prometheus.yaml"
        every = {"scrape_interval": SCRAPE_S, "scrape_timeout": SCRAPE_S, "evaluation_interval": "1s"}
        config.write_text(
            yaml.safe_dump(
                {"global": every, "rule_files": [str(rules)], "scrape_configs": [dict(each) for each in scrapes]}
            )
        )
        process = await asyncio.create_subprocess_exec(
            binary,
            f"--config.file={config}",
            f"--storage.tsdb.path={directory}/data",
            "--web.listen-address=127.0.0.1:0",
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
        assert process.stderr is not None
        rest: asyncio.Task[bytes] | None = None
        try:
            address = await _listening(process.stderr)
            rest = asyncio.create_task(process.stderr.read())
            async with httpx.AsyncClient(base_url=f"http://{address}", timeout=WAIT_S) as http:
                yield Prometheus(http)
        finally:
            process.terminate()
            await process.wait()
            if rest is not None:
                await rest
