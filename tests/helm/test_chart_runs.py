"""What the Deployment would run is run: with its settings and files a process starts, passes its probes, and `helm test` logs in."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from chart import NAME, SCENARIOS, Rendered, render
from pod_process import Ended, Pod, RunningNode, helm_test, start_node

from gateway.settings import load_settings, not_in_this_release

SECRET = "Kq8vT2mX5pRz7wYc4nB9sL3hJ6dF1gA0uE-mVxQy"
THEIRS: dict[str, Mapping[str, str]] = {
    "gateway_secrets": {
        "master": SECRET + "\n",
        "master-before": SECRET[::-1],
        "first-password": "a password of theirs\n",
        "scrape": "abcdefghijklmnop",
    },
    "our_policies": {
        "own.yaml": "version: 1\nroles:\n  admin:\n    allow:\n      - actions: [channel.publish]\n"
        '        channels: ["room:{tenant}:*"]\n'
    },
}

StartNode = Callable[..., Awaitable[RunningNode]]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
async def nodes(tmp_path: Path) -> AsyncIterator[StartNode]:
    """Give what starts the node of a scenario, each time as a new pod on the same volumes."""
    async with AsyncExitStack() as stack:
        started = 0

        async def start(rendered: Rendered, **elsewhere: Mapping[str, str]) -> RunningNode:
            nonlocal started
            started += 1
            node = await start_node(rendered, tmp_path / f"pod-{started}", tmp_path / "claims", **elsewhere)
            stack.push_async_callback(kill, node.process)
            return node

        yield start


async def kill(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.kill()
        await process.communicate()


def quick(scenario: str) -> Rendered:
    """Render a scenario for a port that is free here, and with no longer pauses than a test needs."""
    port = free_port()
    return render(scenario, f"server.port={port}", "settings.drain_s=1", "shutdown.preStopSeconds=1")


def last_json(said: str, event: str) -> dict[str, Any]:
    lines = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
    return dict([line for line in lines if line["event"] == event][-1])


@pytest.mark.parametrize("scenario", ["default", "gateway-api", "ingress", "existing-secrets"])
async def test_a_node_starts_passes_its_probes_and_the_chart_s_test_and_drains_in_time(
    scenario: str, nodes: StartNode, tmp_path: Path
) -> None:
    theirs = THEIRS if scenario == "existing-secrets" else {}
    node = await nodes(quick(scenario), **theirs)
    (first,) = node.init
    tested = await helm_test(node, tmp_path / "test", **theirs)
    stopped = await node.terminate()

    assert "added" in first.said
    assert (tested.code, "welcome" in tested.said) == (0, True), tested.said
    assert stopped.code == 0, stopped.said
    assert last_json(stopped.said, "server.started")["environment"] == "production"
    assert last_json(stopped.said, "server.stopped")


async def test_the_chart_s_test_fails_with_another_password(nodes: StartNode, tmp_path: Path) -> None:
    node = await nodes(quick("existing-secrets"), **THEIRS)
    wrong = {**THEIRS, "gateway_secrets": {**THEIRS["gateway_secrets"], "first-password": "not that password"}}
    tested = await helm_test(node, tmp_path / "test", **wrong)

    assert tested.code != 0
    assert "login was refused" in tested.said


async def test_an_upgrade_finds_the_users_and_keys_of_the_release_before(nodes: StartNode, tmp_path: Path) -> None:
    rendered = quick("default")
    before = await nodes(rendered)
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{before.port}") as client:
        keys = (await client.get("/.well-known/jwks.json")).json()
    await before.terminate()
    after = await nodes(rendered)
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{after.port}") as client:
        kept = (await client.get("/.well-known/jwks.json")).json()
    tested = await helm_test(after, tmp_path / "test")
    await after.terminate()

    assert kept == keys
    assert [one.said.strip() for one in after.init] == ["there are users already; none is added"]
    assert tested.code == 0, tested.said


async def test_a_changed_policy_counts_without_a_restart(nodes: StartNode) -> None:
    node = await nodes(quick("default"))
    log = asyncio.create_task(read_until(node.process, "policy.reloaded"))
    node.pod.swap_config_map("policies", {**THEIRS["our_policies"]})
    async with asyncio.timeout(10):
        event = await log

    assert event["roles"] == 1
    assert node.process.returncode is None


async def read_until(process: asyncio.subprocess.Process, event: str) -> dict[str, Any]:
    assert process.stdout is not None
    while line := await process.stdout.readline():
        if line.startswith(b"{") and json.loads(line)["event"] == event:
            return dict(json.loads(line))
    raise AssertionError(f"{event} never came")


async def test_two_first_administrators_at_once_make_one_and_both_succeed(tmp_path: Path) -> None:
    rendered = quick("default")
    (container,) = rendered.node["initContainers"]
    pods = []
    for name in ("one", "two"):
        pods.append(Pod(rendered.node, rendered, tmp_path / name, volumes=tmp_path / "claims"))
        pods[-1].mount()
    # The tables are there, as behind the migration Job; the two differ in nothing but the moment.
    upgraded = await pods[0].run({**container, "command": ["gateway", "db", "upgrade"], "args": []})
    both = await asyncio.gather(*(pod.run(container) for pod in pods))
    listed = await pods[0].run({**container, "command": ["gateway", "users", "list", "--json"], "args": []})

    assert upgraded.code == 0, upgraded.said
    assert [one.code for one in both] == [0, 0], both
    assert [user["name"] for user in json.loads(listed.said)] == ["admin"]
    assert sum("added `admin`" in one.said for one in both) == 1


async def test_a_deleted_first_administrator_stays_away_while_there_are_others(tmp_path: Path) -> None:
    rendered = quick("default")
    (container,) = rendered.node["initContainers"]
    pod = Pod(rendered.node, rendered, tmp_path / "pod", volumes=tmp_path / "claims")
    pod.mount()

    async def gateway(*words: str) -> Ended:
        return await pod.run({**container, "command": ["gateway", *words], "args": []})

    add_otto = "gateway users add otto --role admin --password-stdin </etc/portcullis/admin/password"
    said = [
        await pod.run(container),
        await pod.run({**container, "command": ["/bin/sh", "-c", add_otto], "args": []}),
        await gateway("users", "delete", "admin"),
        await pod.run(container),
    ]
    listed = await gateway("users", "list", "--json")

    assert [one.code for one in said] == [0, 0, 0, 0], said
    assert [user["name"] for user in json.loads(listed.said)] == ["otto"]


async def test_a_first_administrator_with_an_unknown_role_stops_the_start_with_the_reason(tmp_path: Path) -> None:
    rendered = render("existing-secrets", 'firstAdmin.roles=["nobody"]')
    (container,) = rendered.node["initContainers"]
    named = {name.replace("_", "-"): data for name, data in THEIRS.items()}
    pod = Pod(rendered.node, rendered, tmp_path / "pod", named, tmp_path / "claims")
    pod.mount()
    refused = await pod.run(container)

    assert refused.code == 1
    assert "`nobody`" in refused.said


async def test_two_migrations_at_once_both_succeed(tmp_path: Path) -> None:
    """The Job's own command, on the database that this release has; what it waits for is the database's lock."""
    job = render("external").one("Job", f"{NAME}-migration")
    (container,) = job["spec"]["template"]["spec"]["containers"]
    (tmp_path / "secret-key").write_text(SECRET)
    (tmp_path / "database-url").write_text(f"sqlite+aiosqlite:///{tmp_path}/shared.db")
    files = {"/etc/portcullis/secrets": str(tmp_path)}
    pod = Pod(job["spec"]["template"]["spec"], render("external"), tmp_path, replacements=files)
    bare = {**container, "volumeMounts": []}
    both = await asyncio.gather(pod.run(bare), pod.run(bare))

    assert [one.code for one in both] == [0, 0], both


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_the_environment_of_every_scenario_is_one_that_the_gateway_takes(scenario: str, tmp_path: Path) -> None:
    rendered = render(scenario)
    theirs = {name.replace("_", "-"): data for name, data in THEIRS.items()} | {
        NAME: {"secret-key": SECRET, "broker-url": "redis://broker:6379/0", "metrics-token": "abcdefghijklmnop"},
        "postgres-app": {"uri": "postgresql+asyncpg://u:p@db/gateway"},
    }
    pod = Pod(
        rendered.node, rendered, tmp_path, theirs | ({} if rendered.all("ExternalSecret") else {NAME: theirs[NAME]})
    )
    volumes = [volume for volume in rendered.node["volumes"] if volume["name"] not in {"data", "admin-password"}]
    wanted = {volume["name"] for volume in volumes}
    container = {
        **rendered.gateway,
        "volumeMounts": [mount for mount in rendered.gateway["volumeMounts"] if mount["name"] in wanted],
    }
    pod.spec = {"volumes": volumes, "containers": [container]}
    pod.mount()
    settings = load_settings(pod.environment(container), write=False)

    assert settings.environment == "production"
    assert settings.secret_key.get_secret_value() == SECRET
    assert bool(not_in_this_release(settings)) is (scenario == "external")
    if scenario == "ingress":
        assert settings.history_bytes == 536_870_912
        assert settings.drain_s == 2.5
        assert settings.allowed_origins == ("https://app.example.com",)
        assert [str(network) for network in settings.trusted_proxies] == ["10.0.0.0/8", "fd00::/8"]
    if scenario == "external":
        (issuer,) = settings.issuers
        assert issuer.roles_map == {"staff": ("member",), "leads": ("member", "moderator")}
        assert settings.database_url == "postgresql+asyncpg://u:p@db/gateway"
        assert settings.broker_url == "redis://broker:6379/0"
    if scenario == "network-restricted":
        assert settings.query_token is False


async def test_an_external_database_is_refused_by_a_release_that_cannot_use_one_yet(tmp_path: Path) -> None:
    """Goes away with the release that brings the adapters; until then the chart promises no more than the gateway does."""
    (tmp_path / "secret-key").write_text(SECRET)
    (tmp_path / "database-url").write_text("postgresql+asyncpg://u:p@db/gateway")
    job = render("external").one("Job", f"{NAME}-migration")["spec"]["template"]["spec"]
    pod = Pod(job, render("external"), tmp_path, replacements={"/etc/portcullis/secrets": str(tmp_path)})
    refused = await pod.run({**job["containers"][0], "volumeMounts": []})

    assert refused.code != 0
    assert "this release has no adapter yet" in refused.said
