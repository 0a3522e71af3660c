"""First figures: CPU microseconds per message of a whole gateway, measured by an outside load generator.

    python benchmarks/figures.py --wsload PATH [--runs 5] [--only rpc16] [--json]

Each run is a fresh gateway in a fresh folder, pinned to core 0, with the load generator on core 1. Security is on: a token, a
policy, metrics, heartbeats; only rates and connection limits are raised. Medians are printed with their spread.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import secrets
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx

PASSWORD = "correct horse battery staple"  # noqa: S105 - of an account that lives for a minute
ROOM = "room:acme:1"
POLICY = """\
version: 1
roles:
  member:
    allow:
      - actions: [channel.subscribe, channel.publish]
        channels: ["room:{tenant}:*"]
      - actions: [channel.publish]
        channels: ["audited:{tenant}:*"]
        signed: true
    deny:
      - actions: [channel.publish]
        channels: ["room:*:announcements"]
"""
RAISED = {
    "GATEWAY_COMMANDS_PER_S": "1000000",
    "GATEWAY_MAX_CONNECTIONS": "100000",
    "GATEWAY_MAX_CONNECTIONS_PER_USER": "100000",
    "GATEWAY_MAX_CONNECTIONS_PER_ADDRESS": "100000",
    "GATEWAY_HANDSHAKES_PER_S": "0",
}
NONCE = "AAECAwQFBgcICQoLDA0ODw"
PAYLOAD = "x" * 106
SUBSCRIBE = json.dumps({"id": 1, "action": "channel.subscribe", "channel": ROOM}, separators=(",", ":"))


def fan_out(subscribers: int, outstanding: int = 1, rate: int | None = None) -> list[str]:
    template = f'{{"id":{{N}},"action":"channel.publish","channel":"{ROOM}","data":"@@{{TS}}@@{PAYLOAD}"}}'
    pace = ["-R", str(rate)] if rate else ["-W", str(outstanding)]
    return [
        *("-m", "fanout", "-u", "/ws", "-n", str(subscribers), *pace, "-M", "1000000", "-T", "5", "-X"),
        *("-w", '"welcome"', "-s", SUBSCRIBE, "-w", '"reply"', "-k", '"welcome"', "-t", template),
    ]


def request_reply(outstanding: int) -> list[str]:
    template = f'{{"id":{{N}},"action":"channel.publish","channel":"room:acme:empty","data":"{PAYLOAD}{PAYLOAD[:22]}"}}'
    return [
        *("-m", "rpc", "-P", "gateway.v1.json.signed", "-u", f"/ws?nonce={NONCE}", "-g", "SIGNING_KEY"),
        *("-n", "100", "-W", str(outstanding), "-M", "10000000", "-T", "5", "-X"),
        *("-w", '"welcome"', "-t", template, "-e", '"reply"'),
    ]


WORKLOADS = {
    "fan-out to 100, one at a time": (fan_out(100), "cpu_us", "µs a delivery"),
    "fan-out to 1,000, one at a time": (fan_out(1000), "cpu_us", "µs a delivery"),
    "fan-out to 1,000, 32 outstanding": (fan_out(1000, 32), "cpu_us", "µs a delivery"),
    "signed command and reply, 1 in flight, 100 connections": (request_reply(1), "cpu_us", "µs a reply"),
    "signed command and reply, 16 in flight, 100 connections": (request_reply(16), "cpu_us", "µs a reply"),
    "connect with a JWT": (
        ["-m", "connect", "-u", "/ws", "-n", "5000", "-c", "64", "-d", "2", "-w", '"welcome"'],
        "cpu_us_conn",
        "µs a connection",
    ),
    "memory of 5,000 idle connections": (
        ["-m", "connect", "-u", "/ws", "-n", "5000", "-c", "64", "-d", "2", "-w", '"welcome"'],
        "rss_per_conn_kb",
        "KB a connection",
    ),
}


@dataclass(frozen=True, slots=True)
class Server:
    """A gateway that runs: its process, its port and the answer of its token endpoint."""

    pid: int
    port: int
    token: str
    signing_key: str


def pinned(core: int, command: list[str]) -> list[str]:
    return ["taskset", "-c", str(core), *command]


@contextlib.contextmanager
def gateway() -> Iterator[Server]:
    """Start a fresh gateway in production mode on a free port."""
    with tempfile.TemporaryDirectory() as folder:
        policies = Path(folder, "policies")
        policies.mkdir()
        (policies / "policy.yaml").write_text(POLICY)
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("GATEWAY_")},
            **RAISED,
            "GATEWAY_SECRET_KEY": secrets.token_urlsafe(48),
            "GATEWAY_DATA_DIR": str(Path(folder, "data")),
            "GATEWAY_POLICY_DIR": str(policies),
            "GATEWAY_LOG_LEVEL": "error",
        }
        command = [sys.executable, "-m", "gateway"]
        subprocess.run(
            [*command, "users", "add", "alice", "--role", "member", "--tenant", "acme", "--password-stdin"],
            env=environment, input=PASSWORD, text=True, check=True, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        port = 20_000 + secrets.randbelow(10_000)
        process = subprocess.Popen(pinned(0, [*command, "serve", "--port", str(port)]), env=environment)
        try:
            yield log_in(process.pid, port)
        finally:
            process.terminate()
            process.wait(timeout=30)


def log_in(pid: int, port: int) -> Server:
    """Wait until the gateway answers, and get a token."""
    form = {"grant_type": "password", "username": "alice", "password": PASSWORD}
    deadline = time.monotonic() + 30
    while True:
        try:
            answer = httpx.post(f"http://127.0.0.1:{port}/token", data=form).raise_for_status().json()
            return Server(pid, port, answer["access_token"], answer["signing_key"])
        except httpx.TransportError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def measure(wsload: str, arguments: list[str]) -> dict[str, float]:
    """Run one workload against a fresh gateway."""
    with gateway() as server:
        filled = [server.signing_key if argument == "SIGNING_KEY" else argument for argument in arguments]
        common = ["-p", str(server.port), "-H", f"Authorization: Bearer {server.token}", "-i", str(server.pid)]
        run = subprocess.run(pinned(1, [wsload, *filled, *common]), capture_output=True, text=True, check=True)
        return dict(json.loads(run.stdout.strip().splitlines()[-1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wsload", required=True, help="the load generator's program")
    parser.add_argument("--runs", type=int, default=5, help="fresh gateways for each workload (5)")
    parser.add_argument("--only", default="", help="only workloads whose name holds this")
    parser.add_argument("--json", action="store_true", help="print every run")
    options = parser.parse_args()
    if not options.json:
        print("| workload | median | spread | unit |\n|---|---|---|---|")
    for name, (arguments, figure, unit) in WORKLOADS.items():
        if options.only not in name:
            continue
        runs = [measure(options.wsload, arguments) for _ in range(options.runs)]
        values = sorted(run[figure] for run in runs)
        if options.json:
            print(json.dumps({"workload": name, "figure": figure, "runs": runs}))
        else:
            print(
                f"| {name} | {statistics.median(values):.1f} | {values[0]:.1f} to {values[-1]:.1f} | {unit} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
