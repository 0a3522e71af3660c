"""A real Prometheus scrapes a real gateway, evaluates the rules, and fills the dashboard."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import re
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_server import DASHBOARD, RULES, WAIT_S, Prometheus, program, run_prometheus
from running_gateway import POLICY, RunningGateway, run_gateway
from secret_watch import SecretWatch
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

METRICS_TOKEN = "a-token-for-the-scraper-only"
OPENMETRICS = "application/openmetrics-text; version=1.0.0"
ROOM = "room:acme:1"


@pytest.fixture
async def gateway(tmp_path: Path, secret_watch: SecretWatch) -> AsyncIterator[RunningGateway]:
    async with run_gateway(tmp_path, secret_watch) as running:
        yield running


def scrape(job: str, port: int, **more: object) -> dict[str, object]:
    return {"job_name": job, "static_configs": [{"targets": [f"127.0.0.1:{port}"]}], **more}


@contextlib.asynccontextmanager
async def between(port: int, accept: str | None, seen: list[str]) -> AsyncIterator[int]:
    """Stand between a scraper and the gateway: ask for `accept` in its place, and note the content types of the answers."""

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError):
            while True:
                request = await reader.readuntil(b"\r\n\r\n")
                if accept is not None:
                    request = re.sub(rb"(?i)\r\naccept: [^\r]*", b"\r\nAccept: " + accept.encode(), request)
                there, here = await asyncio.open_connection("127.0.0.1", port)
                here.write(request)
                head = await there.readuntil(b"\r\n\r\n")
                seen.extend(value.decode() for value in re.findall(rb"(?i)\r\ncontent-type: ([^\r]*)", head))
                length = re.search(rb"(?i)\r\ncontent-length: (\d+)", head)
                assert length is not None, head
                writer.write(head + await there.readexactly(int(length[1])))
                here.close()
        writer.close()

    server = await asyncio.start_server(carry, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]
        server.close()


async def refused_handshake(gateway: RunningGateway) -> None:
    with contextlib.suppress(ConnectionClosed):
        async with connect(gateway.ws_url) as socket:
            await socket.recv()


async def make_traffic(gateway: RunningGateway) -> None:
    """Do once of everything that the dashboard has a panel for."""
    alice, bob = await gateway.peer("alice"), await gateway.peer("bob", signed=True)
    vera = await gateway.peer("vera")
    await bob.do("channel.subscribe", ROOM)
    await alice.do("channel.publish", ROOM, "x")
    assert await vera.refused("channel.publish", ROOM, "x") == "permission_denied"
    await bob.socket.send(f"s1.{'0' * 64}." + json.dumps({"id": 1, "action": "ping"}))
    await bob.socket.wait_closed()
    await refused_handshake(gateway)
    wrong = {"grant_type": "password", "username": "nobody", "password": "not a password"}
    for _ in range(8):
        await gateway.http.post("/token", data=wrong)
    gateway.policy_file.write_text(f"{POLICY}# {time.time_ns()}\n")
    accounts = gateway.gateway.identity.accounts
    await accounts.disable("vera")
    assert await vera.closed() == (1008, "session_revoked")
    await accounts.enable("vera")
    await alice.socket.close(1000)


def expressions() -> list[tuple[str, str]]:
    """Give what the panels ask, as Grafana would send it."""
    panels = [panel for panel in json.loads(DASHBOARD.read_text())["panels"] if panel["type"] != "row"]
    return [
        (
            panel["title"],
            re.sub(r"\$(job|namespace|pod)\b", ".*", target["expr"]).replace("$__rate_interval", "1m"),
        )
        for panel in panels
        for target in panel["targets"]
    ]


def is_full(samples: list[dict[str, Any]]) -> bool:
    values = [float(sample["value"][1]) for sample in samples]
    return bool(values) and not all(math.isnan(value) for value in values)


# Nobody is cut off, and no channel is left, when the traffic has ended.
ZERO = {
    "Slow consumers",
    "Channels and subscriptions",
    "Open connections",
    "Connections",
    "Latency by action, 99th percentile",
}


async def filled(prometheus: Prometheus) -> list[str]:
    """Give the panels that show nothing, or nothing but zero where there was traffic."""
    lacking = []
    for title, expression in expressions():
        samples = await prometheus.query(expression)
        moved = any(float(sample["value"][1]) > 0 for sample in samples)
        if not is_full(samples) or (title not in ZERO and not moved):
            lacking.append(title)
    return lacking


async def test_the_dashboard_shows_the_traffic_that_was_made(gateway: RunningGateway) -> None:
    async with run_prometheus([scrape("gateway", gateway.port)]) as prometheus:
        await prometheus.all_up(1)
        await make_traffic(gateway)
        # Series that come to be with their first event have a rate from their second scrape on.
        await asyncio.sleep(1.5)
        await make_traffic(gateway)
        lacking = ["all"]
        deadline = time.monotonic() + WAIT_S
        while lacking and time.monotonic() < deadline:
            await asyncio.sleep(0.5)
            lacking = await filled(prometheus)

        assert lacking == []


async def test_the_rules_are_loaded_and_evaluated_without_an_error_and_none_fires_on_a_quiet_gateway(
    gateway: RunningGateway,
) -> None:
    wanted = [rule["alert"] for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]
    async with run_prometheus([scrape("gateway", gateway.port)]) as prometheus:
        await prometheus.all_up(1)
        async with asyncio.timeout(WAIT_S):
            while True:
                groups = (await prometheus.get("rules"))["groups"]
                rules = [rule for group in groups for rule in group["rules"]]
                if all(rule["health"] == "ok" for rule in rules):
                    break
                assert not [rule["lastError"] for rule in rules if rule["health"] == "err"]
                await asyncio.sleep(0.1)
        assert sorted(rule["name"] for rule in rules) == sorted(wanted)
        assert await prometheus.query('ALERTS{alertstate="firing"}') == []


async def test_a_login_attack_and_a_broken_policy_reach_the_alerts_of_a_real_prometheus(
    gateway: RunningGateway, tmp_path: Path
) -> None:
    """The rules as they stand, but for the patience of their windows."""
    text = re.sub(r"for: \d+m", "for: 0s", RULES.read_text())
    hasty = tmp_path / "hasty.yaml"
    text = text.replace("300 + process_start_time_seconds", "0 * process_start_time_seconds")
    hasty.write_text(text.replace("[6h:1m]", "[2m:1s]"))
    async with run_prometheus([scrape("gateway", gateway.port)], hasty) as prometheus:
        await prometheus.all_up(1)
        wrong = {"grant_type": "password", "username": "alice", "password": "not her password"}
        gateway.policy_file.write_text("version: 1\nroles: [\n")
        await gateway.event("policy.refused")
        alerts: set[str] = set()
        async with asyncio.timeout(90):
            while not {"PortcullisLoginAttack", "PortcullisPolicyReloadFailed"} <= alerts:
                for _ in range(20):
                    await gateway.http.post("/token", data=wrong)
                samples = await prometheus.query('ALERTS{alertstate="firing"}')
                alerts = {sample["metric"]["alertname"] for sample in samples}
                await asyncio.sleep(0.2)


@pytest.mark.parametrize("token", [None, METRICS_TOKEN], ids=["open", "with a token"])
@pytest.mark.parametrize(
    ("accept", "content_type"),
    [(None, "application/openmetrics-text"), ("text/plain;version=0.0.4", "text/plain")],
    ids=["OpenMetrics", "text"],
)
async def test_a_prometheus_scrapes_either_format_with_a_token_and_without(
    tmp_path: Path, secret_watch: SecretWatch, token: str | None, accept: str | None, content_type: str
) -> None:
    settings = {} if token is None else {"metrics_token": secret_watch.watch(token, "metrics token")}
    authorization = {} if token is None else {"authorization": {"credentials": token}}
    seen: list[str] = []
    async with (
        run_gateway(tmp_path, secret_watch, **settings) as gateway,
        between(gateway.port, accept, seen) as port,
        run_prometheus([scrape("gateway", port, **authorization)]) as prometheus,
    ):
        await prometheus.all_up(1)
        [sample] = await prometheus.query("gateway_broker_up")
        assert sample["value"][1] == "1"
    assert {each.split(";")[0] for each in seen} == {content_type}


async def test_a_prometheus_without_the_token_sees_a_target_that_is_down(
    tmp_path: Path, secret_watch: SecretWatch
) -> None:
    secret_watch.watch(METRICS_TOKEN, "metrics token")
    async with run_gateway(tmp_path, secret_watch, metrics_token=METRICS_TOKEN) as gateway:
        jobs = [
            scrape("none", gateway.port),
            scrape("wrong", gateway.port, authorization={"credentials": "not-the-token"}),
        ]
        async with run_prometheus(jobs) as prometheus, asyncio.timeout(WAIT_S):
            targets: dict[str, dict[str, Any]] = {}
            # On a busy machine a scrape may have had no answer in its time.
            while len(targets) < len(jobs) or not all("401" in each["lastError"] for each in targets.values()):
                assert all(each["health"] != "up" for each in targets.values())
                await asyncio.sleep(0.05)
                targets = await prometheus.targets()
            assert {each["health"] for each in targets.values()} == {"down"}


async def test_promtool_finds_no_fault_in_the_metrics(gateway: RunningGateway) -> None:
    promtool = program("promtool")
    await make_traffic(gateway)
    text = (await gateway.http.get("/metrics", headers={"Accept": "text/plain"})).text
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(promtool, "check", "metrics", stdin=pipe, stdout=pipe, stderr=pipe)
    said = await process.communicate(text.encode())

    assert (process.returncode, *said) == (0, b"", b"")
