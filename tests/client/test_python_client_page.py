"""The example of the page on the Python client is a program, and does what the page says."""

from __future__ import annotations

import asyncio
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from running_gateway import password

import gateway.client

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "python-client.md").read_text(encoding="utf-8")


async def test_example_prints_what_the_page_shows(start: Callable[..., Any], tmp_path: Path) -> None:
    running = await start()
    await running.add_user("alice", running.users.pop("alice"))
    (tmp_path / ".gateway").mkdir()
    (tmp_path / ".gateway" / "demo-users.json").write_text(json.dumps({"alice": password("alice")}))
    ((program, shown),) = re.findall(r"```python\n(.*?)```\n\n```text\n(.*?)```", PAGE, re.DOTALL)
    (tmp_path / "example.py").write_text(program.replace("http://127.0.0.1:8000", running.url))
    process = await asyncio.create_subprocess_exec(
        sys.executable, "example.py", cwd=tmp_path, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, err = await process.communicate()
    assert err.decode() == ""
    assert out.decode() == shown


def test_page_names_everything_public() -> None:
    silent = {"Authorization", "Connection", "Direction", "Event", "Login", "Ticket", "Welcome"}
    assert [name for name in gateway.client.__all__ if name not in PAGE and name not in silent] == []
