"""Autobahn's fuzzing client against the echo server: `make autobahn`, or with CASES='12.1.* 13.*' a part of it.

Each part of the suite runs against every echo that it is for: a JSON connection and a MessagePack one, or one with permessage-deflate.
Results are kept in `.autobahn/`, with Autobahn's own pages, until the whole suite is run anew, so that it may be run in parts.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
KEPT = HERE.parents[1] / ".autobahn"

PARTS = "1.* 2.* 3.* 4.* 5.* 6.* 7.* 9.* 10.* 12.1.* 12.2.* 12.3.* 12.4.* 12.5.* 13.1.* 13.2.* 13.3.* 13.4.* 13.5.* 13.6.* 13.7.*"
"""All of it, but 8 and 11, which Autobahn left empty, and 9.9 and 9.10, which it switches off."""

SECTIONS = {
    1: "framing",
    2: "pings and pongs",
    3: "reserved bits",
    4: "opcodes",
    5: "fragmentation",
    6: "UTF-8",
    7: "closing",
    9: "limits and performance",
    10: "fragments made by the client's library",
    12: "permessage-deflate, 18 sizes of 5 payloads",
    13: "permessage-deflate, 7 offers",
}
DEFLATED = (12, 13)

WHOLE = 818
"""Results of the whole suite: 301 cases of 1 to 10 with each of two servers, 216 of 12 and 13 with one."""

MAY_BE_LAX = frozenset({"3.2", "3.3", "4.1.3", "4.1.4", "4.2.3", "4.2.4", "5.15"})
"""Cases where good messages stand before a bad frame, and a server may fail the connection before it has answered them."""

SERVERS = {"JSON": "/ws", "MessagePack": "/ws?msgpack"}
DEFLATING_SERVERS = {"JSON, deflate": "/ws"}

_CLIENT = "from autobahntestsuite.wstest import run; run()"

Case = Mapping[str, object]
Results = dict[str, dict[str, Case]]  # by server, then by case


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a run came to.

    Args:
        tally: How often each behaviour was seen.
        unmet: Cases that are not met, each with its server and behaviour.
    """

    tally: Counter[str]
    unmet: list[str]


def section_of(case: str) -> int:
    """Tell which section a case, or a pattern of cases, belongs to."""
    return int(case.partition(".")[0])


def number_of(case: str) -> list[int]:
    """Give what cases are sorted by."""
    return [int(part) for part in case.split(".")]


def judge(results: Results) -> Verdict:
    """Hold every result against what is wanted: OK, or where it may be, NON-STRICT; INFORMATIONAL says nothing either way."""
    tally: Counter[str] = Counter()
    unmet: list[str] = []
    for server, cases in results.items():
        for case in sorted(cases, key=number_of):
            behaviour, close = str(cases[case]["behavior"]), str(cases[case]["behaviorClose"])
            tally[behaviour] += 1
            met = behaviour in {"OK", "INFORMATIONAL"} or (behaviour == "NON-STRICT" and case in MAY_BE_LAX)
            if not met or close not in {"OK", "INFORMATIONAL"}:
                unmet.append(f"{case} ({server}): {behaviour}, closing {close}")
    return Verdict(tally, unmet)


def lacking(results: Results) -> list[str]:
    """Name the servers that have not gone through every case that another one has."""
    every = {case for cases in results.values() for case in cases}
    return [server for server, cases in results.items() if set(cases) != every]


def table(results: Results) -> str:
    """Write what has been seen in each section as a table in Markdown."""
    servers = list(results)
    lines = ["| section | " + " | ".join(servers) + " |", "|---|" + "---|" * len(servers)]
    for section, what in SECTIONS.items():
        cells = []
        for server in servers:
            seen = Counter(str(case["behavior"]) for key, case in results[server].items() if section_of(key) == section)
            cells.append(", ".join(f"{count} {behaviour}" for behaviour, count in sorted(seen.items(), reverse=True)))
        if any(cells):
            lines.append(f"| {section}: {what} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


@contextlib.contextmanager
def echoing(*, deflate: bool) -> Iterator[str]:
    """Run an echo server in a process of its own; give the address of it."""
    environment = {**os.environ, "PORT": "0", "DEFLATE": "on" if deflate else "off", "MAX_BYTES": ""}
    server = subprocess.Popen(
        [sys.executable, str(HERE / "echo_server.py")], env=environment, stdout=subprocess.PIPE, text=True
    )
    assert server.stdout is not None
    try:
        yield server.stdout.readline().split()[-1].removesuffix("/ws")
    finally:
        server.terminate()
        server.wait()
        server.stdout.close()


def run_part(pattern: str, python: str, site: Path) -> Results:
    """Run a part of the suite.

    Args:
        pattern: Which cases, as Autobahn has it.
        python: A CPython 2.7.
        site: Where the suite is installed for it.
    """
    deflate = section_of(pattern) in DEFLATED
    servers = DEFLATING_SERVERS if deflate else SERVERS
    reports = KEPT / "reports" / pattern.replace("*", "x")
    shutil.rmtree(reports, ignore_errors=True)
    reports.mkdir(parents=True)
    with echoing(deflate=deflate) as address:
        specification = {
            "outdir": str(reports),
            "cases": [pattern],
            "exclude-cases": [],
            "exclude-agent-cases": {},
            "servers": [{"agent": name, "url": address + path} for name, path in servers.items()],
        }
        (reports / "specification.json").write_text(json.dumps(specification))
        client = subprocess.run(
            [python, "-c", _CLIENT, "-m", "fuzzingclient", "-s", str(reports / "specification.json")],
            env={**os.environ, "PYTHONPATH": str(site)},
            cwd=reports,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
    if client.returncode or not (reports / "index.json").exists():
        sys.exit(f"the fuzzing client failed:\n{client.stdout[-2000:]}")
    found: Results = json.loads((reports / "index.json").read_text())
    results = {name: found.get(name, {}) for name in servers}
    if lacking(results):
        sys.exit(f"{pattern}: {', '.join(lacking(results))} went through fewer cases than another server")
    return results


def merge(into: Results, results: Results) -> None:
    """Add results, or put newer ones in their places."""
    for server, cases in results.items():
        into.setdefault(server, {}).update(cases)


def run(patterns: Sequence[str], python: str, site: Path) -> int:
    """Run parts of the suite, or all of it; tell how it went, and give the exit code."""
    kept_in = KEPT / "results.json"
    whole = not patterns
    kept: Results = {} if whole or not kept_in.exists() else json.loads(kept_in.read_text())
    ran: Results = {}
    for pattern in patterns or PARTS.split():
        results = run_part(pattern, python, site)
        merge(ran, results)
        merge(kept, results)
        kept_in.write_text(json.dumps(kept))
        tallies = ", ".join(f"{count} {name}" for name, count in sorted(judge(results).tally.items(), reverse=True))
        sys.stdout.write(f"{pattern}: {tallies or 'no such case'}\n")
        sys.stdout.flush()
    verdict = judge(ran)
    sys.stdout.write(f"\n{table(kept)}\n\n")
    if not verdict.tally:
        sys.stdout.write("no case was run\n")
        return 1
    if whole and verdict.tally.total() != WHOLE:
        sys.stdout.write(f"{verdict.tally.total()} results, and the whole suite has {WHOLE}\n")
        return 1
    for line in verdict.unmet:
        sys.stdout.write(f"unmet: {line}\n")
    sys.stdout.write(f"{verdict.tally.total()} results, {len(verdict.unmet)} unmet; all pages: {KEPT.name}/reports/\n")
    return 1 if verdict.unmet else 0


def main() -> int:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--python", required=True, help="a CPython 2.7")
    parser.add_argument("--site", required=True, type=Path, help="where the suite is installed for it")
    parser.add_argument("--cases", default="", help="which cases, separated by blanks; all where there are none")
    options = parser.parse_args()
    return run(options.cases.split(), options.python, options.site.absolute())


if __name__ == "__main__":
    sys.exit(main())
