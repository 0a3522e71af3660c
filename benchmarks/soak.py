"""A soak with churn: does the gateway give everything back? `make soak`, or `.venv/bin/python benchmarks/soak.py --help`.

Some 300 clients come, subscribe, publish, receive and go again all the time; meanwhile the gateway's memory, open files, connections and
subscriptions are looked at. Its memory must be flat, and once the last client has gone, so must be all that was held for clients.

Owns the looking and the verdict. Refuses to own the clients' lives (`churn`) and the server (`gateway_server`).
"""

from __future__ import annotations

import argparse
import random
import re
import resource
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx
from churn import Churn
from gateway_server import PortcullisGateway, log_in
from process_figures import open_files, resident_kb
from servers import ContenderError

SECONDS, CLIENTS = 600.0, 300
MAX_GROWTH = 0.03
"""From the second fifth of the samples to the last: what a heap moves without a leak."""
SPARE_FILES = 5
"""Of the database's pool: one connection more than when the first clients had gone."""
WARM_UP_S = 5.0
"""The first clients come and go before anything is held against the gateway, so that its pools are as large as they get."""
SAMPLES = 300
LINE_EVERY_S = 10.0
LOG_IN_EVERY_S = 300.0
GONE_S = 30.0
"""Within this all that was held for clients must be given back."""
POLICY = """\
version: 1
roles:
  member:
    allow:
      - actions: [channel.subscribe, channel.publish, channel.presence, channel.history]
        channels: ["room:{tenant}:*"]
channels:
  - match: "room:*:*"
    history: {messages: 50, ttl_s: 60}
    presence: true
"""
SETTINGS = {"GATEWAY_HEARTBEAT_S": "5", "GATEWAY_SEND_BUFFER_BYTES": "262144"}
"""So that who does not read is found out while it stays: by its silence, or by what waits for it."""
FLAT, NOT_FLAT, UNUSABLE, INTERRUPTED = 0, 1, 2, 130
EXAMPLES = """\
examples:
  make soak                                 ten minutes
  make soak SECONDS=3600                    an hour
  .venv/bin/python benchmarks/soak.py --seconds 60    a minute, too short for a verdict about memory that one can trust

exit codes:
  0  memory flat, all given back    1  not so    2  asked wrongly, or the gateway does not start    130  interrupted
"""


@dataclass(frozen=True, slots=True)
class Sample:
    """What the gateway held at one moment."""

    resident_kb: int
    open_files: int
    connections: int
    subscriptions: int


def metric(text: str, name: str) -> dict[str, float]:
    """Read one metric in Prometheus' text format: its values by their labels, which may be none."""
    found = re.findall(rf"^{name}(?:\{{(.*)\}})? (\S+)$", text, re.MULTILINE)
    return {labels: float(value) for labels, value in found}


def look(port: int, pid: int) -> Sample:
    """Ask the kernel and the gateway itself."""
    text = httpx.get(f"http://127.0.0.1:{port}/metrics", timeout=GONE_S).raise_for_status().text
    return Sample(
        resident_kb=resident_kb(pid),
        open_files=open_files(pid),
        connections=int(metric(text, "gateway_connections").get("", 0)),
        subscriptions=int(metric(text, "gateway_subscriptions").get("", 0)),
    )


def growth(samples: Sequence[Sample]) -> float:
    """Give by which share memory grew from the second fifth of the samples to the last; in the first one it warms up.

    Args:
        samples: Five at least.
    """
    fifth = len(samples) // 5
    early, late = samples[fifth : 2 * fifth], samples[-fifth:]
    return (
        statistics.median(each.resident_kb for each in late) / statistics.median(each.resident_kb for each in early) - 1
    )


def faults(samples: Sequence[Sample], before: Sample, after: Sample) -> Iterator[str]:
    """Tell what the gateway did not give back; nothing where all is well."""
    if growth(samples) > MAX_GROWTH:
        yield f"memory grew by {growth(samples):.1%} from the second fifth of the time to the last"
    if after.open_files > before.open_files + SPARE_FILES:
        yield f"{after.open_files} files are open that were {before.open_files} before the first client"
    if after.connections:
        yield f"{after.connections} connections are counted without a client"
    if after.subscriptions:
        yield f"{after.subscriptions} subscriptions are counted without a client"


def line(at_s: float, sample: Sample, churn: Churn) -> str:
    """Say how it stands."""
    return (
        f"{at_s:6.0f} s  memory {sample.resident_kb:9,} KB  files {sample.open_files:5}  connections {sample.connections:5}"
        f"  subscriptions {sample.subscriptions:5}  arrived {churn.arrived:9,}  delivered {churn.delivered:12,}"
    )


def say(text: str) -> None:
    """Say it at once, for a pipe too."""
    print(text, flush=True)


def soak(port: int, pid: int, seconds: float, clients: int, seed: int) -> list[str]:
    """Let clients come and go for so long, and give what the gateway did not give back."""
    churn = Churn(port, log_in(port), clients, random.Random(seed))  # noqa: S311 - chance, no secret
    churn.go_on(min(WARM_UP_S, seconds))
    churn.stop()
    before = quiet(port, pid)
    began = time.monotonic()
    say(line(0, before, churn))
    samples: list[Sample] = []
    next_line_s, next_login_s = LINE_EVERY_S, LOG_IN_EVERY_S
    while (at_s := time.monotonic() - began) < seconds:
        if at_s >= next_login_s:
            churn.login, next_login_s = log_in(port), next_login_s + LOG_IN_EVERY_S
        churn.go_on(min(seconds / SAMPLES, LINE_EVERY_S))
        samples.append(look(port, pid))
        if time.monotonic() - began >= next_line_s:
            say(line(time.monotonic() - began, samples[-1], churn))
            next_line_s += LINE_EVERY_S
    churn.stop()
    after = quiet(port, pid, before.open_files + SPARE_FILES)
    say(line(time.monotonic() - began, after, churn))
    tell(port, churn)
    say(
        f"memory: {growth(samples):+.1%} from the second fifth of the time to the last, at most {MAX_GROWTH:+.0%} is flat"
    )
    return list(faults(samples, before, after))


def quiet(port: int, pid: int, most_files: float = float("inf")) -> Sample:
    """Look until nothing is counted and no more files are open than that, or `GONE_S` have passed."""
    deadline = time.monotonic() + GONE_S
    while True:
        sample = look(port, pid)
        given_back = not sample.connections and not sample.subscriptions and sample.open_files <= most_files
        if given_back or time.monotonic() > deadline:
            return sample
        time.sleep(0.25)


def tell(port: int, churn: Churn) -> None:
    """Tell how clients went, as they see it and as the gateway does."""
    text = httpx.get(f"http://127.0.0.1:{port}/metrics", timeout=GONE_S).raise_for_status().text
    for way, count in churn.left.items():
        say(f"went {way.value}: {count:,}")
    for why, count in churn.thrown_out.items():
        say(f"thrown out, {why}: {count:,}")
    for labels, value in metric(text, "gateway_disconnections_total").items():
        if value:
            say(f"gateway_disconnections_total {labels}: {value:,.0f}")
    for value in metric(text, "gateway_slow_consumers_total").values():
        say(f"gateway_slow_consumers_total: {value:,.0f}")


def main(given: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="soak.py",
        description="Let clients come and go, and see whether the gateway gives everything back.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--seconds", type=float, default=SECONDS, metavar="S", help=f"how long ({SECONDS:g})")
    parser.add_argument("--clients", type=int, default=CLIENTS, metavar="N", help=f"how many at any time ({CLIENTS})")
    parser.add_argument("--seed", type=int, default=7, metavar="N", help="of the chance that decides who does what (7)")
    options = parser.parse_args(given)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)  # ends like Ctrl-C: the gateway first
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        with (
            tempfile.TemporaryDirectory() as folder,
            PortcullisGateway(Path(folder), settings=SETTINGS, policy=POLICY).started(core=None) as (pid, port),
        ):
            found = soak(port, pid, options.seconds, options.clients, options.seed)
    except (ContenderError, httpx.HTTPError) as error:
        print(f"soak: the gateway failed: {error}", file=sys.stderr)
        return UNUSABLE
    except KeyboardInterrupt:
        print("soak: interrupted", file=sys.stderr)
        return INTERRUPTED
    for fault in found:
        print(f"soak: {fault}", file=sys.stderr)
    return NOT_FLAT if found else FLAT


if __name__ == "__main__":
    sys.exit(main())
