"""Asks for known vulnerabilities of a lock, and says plainly what was not answered.

Exits 0 when every release was looked up and none is vulnerable, 1 when one is, 3 when the service gave no answer: pip-audit itself
calls a release that it could not look up no finding, which would pass for a clean bill on a machine without the service.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

VULNERABLE = 1
UNANSWERED = 3


def ask(lock: str) -> list[dict[str, Any]] | None:
    """Give what pip-audit found of each release; None where it found out nothing."""
    pip_audit = Path(sys.executable).with_name("pip-audit")
    options = ["--disable-pip", "--require-hashes", "--progress-spinner", "off", "--format", "json"]
    done = subprocess.run(  # noqa: S603 - our own tool, with our own lock
        [pip_audit, *options, "-r", lock], check=False, capture_output=True, text=True
    )
    try:
        return list(json.loads(done.stdout)["dependencies"])
    except (ValueError, KeyError):
        print(done.stderr[-2000:], file=sys.stderr)
        return None


def verdict(found: list[dict[str, Any]] | None) -> tuple[int, list[str]]:
    """Turn what was found into an exit code and lines to print."""
    if not found:
        return UNANSWERED, ["audit: not done, the advisory service gave no answer"]
    lines = [
        f"{each['name']} {each['version']}: {issue['id']}, mended in {', '.join(issue['fix_versions']) or 'no release'}"
        for each in found
        for issue in each.get("vulns", ())
    ]
    skipped = [each["name"] for each in found if "skip_reason" in each]
    if lines:
        return VULNERABLE, [*lines, f"audit: {len(lines)} known vulnerabilities"]
    if skipped:
        return UNANSWERED, [
            f"audit: not done, the advisory service knew nothing of {len(skipped)} of {len(found)} releases"
        ]
    return 0, [f"audit: {len(found)} releases, no known vulnerability"]


if __name__ == "__main__":
    code, lines = verdict(ask(sys.argv[1]))
    print("\n".join(lines))
    sys.exit(code)
