"""The `gateway` program as a user starts it: a process of its own, seen from outside."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

WAIT_S = 60
PROGRAM = (sys.executable, "-m", "gateway")


def clean_environment(**more: str) -> dict[str, str]:
    """Give this environment without what would choose settings or colours, and with no home to write to but the test's."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("GATEWAY_", "NO_COLOR"))}
    return {**kept, "PYTHONUNBUFFERED": "1", **more}


def gateway(
    *arguments: str, cwd: Path, stdin: str | None = "", environ: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the program to its end."""
    return subprocess.run(
        [*PROGRAM, *arguments],
        cwd=cwd,
        input=stdin,
        env=clean_environment(**(environ or {})),
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        check=False,
    )
