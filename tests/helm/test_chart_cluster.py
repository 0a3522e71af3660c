"""The chart on a real Kubernetes API server: admitted where the restricted standard is enforced, upgraded, rolled back, tested.

There is no kubelet: what would run in a pod is started by the test as a process, which then says to the API server how it ended. Runs by
`make cluster`, which builds API server and etcd; elsewhere these tests are skipped.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from chart import CHART, NAME, NAMESPACE, RELEASE, SCENARIOS, Rendered, arguments_of, helm_program, render
from pod_process import helm_test, start_node

PROGRAMS = os.environ.get("CLUSTER", "")
TOKEN = "a-token-of-this-test-alone"
START_S = 90.0

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not PROGRAMS, reason="no API server here: `make cluster` builds one and runs this"),
]


@dataclass
class Cluster:
    """A Kubernetes API server and who asks it."""

    http: httpx.Client
    kubeconfig: Path

    def helm(self, *arguments: str) -> str:
        return finish(self.start_helm(*arguments))

    def start_helm(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [helm_program(), *arguments, "--namespace", NAMESPACE],
            env={**os.environ, "KUBECONFIG": str(self.kubeconfig)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def get(self, path: str) -> dict[str, Any]:
        return dict(self.http.get(path).raise_for_status().json())

    def secret(self) -> dict[str, str]:
        data = self.get(f"/api/v1/namespaces/{NAMESPACE}/secrets/{NAME}")["data"]
        return {key: base64.b64decode(text).decode() for key, text in data.items()}


def finish(process: subprocess.Popen[str]) -> str:
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 0, said
    assert "PodSecurity" not in said, said
    return said


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    home = tmp_path_factory.mktemp("cluster")
    client, peer, secure = (f"http://127.0.0.1:{free_port()}" for _ in range(3))
    port = secure.rpartition(":")[2]
    subprocess.run(["openssl", "genrsa", "-out", str(home / "accounts.key"), "2048"], check=True, capture_output=True)
    (home / "tokens.csv").write_text(f"{TOKEN},admin,1,system:masters\n")
    etcd = [
        f"{PROGRAMS}/etcd", f"--data-dir={home}/etcd", f"--listen-client-urls={client}", f"--advertise-client-urls={client}",
        f"--listen-peer-urls={peer}", f"--initial-advertise-peer-urls={peer}", f"--initial-cluster=default={peer}",
    ]  # fmt: skip
    server = [
        f"{PROGRAMS}/kube-apiserver", f"--etcd-servers={client}", "--bind-address=127.0.0.1", f"--secure-port={port}",
        f"--cert-dir={home}/certificates", f"--token-auth-file={home}/tokens.csv", "--authorization-mode=RBAC",
        f"--service-account-key-file={home}/accounts.key", f"--service-account-signing-key-file={home}/accounts.key",
        "--service-account-issuer=https://kubernetes.default.svc", "--service-cluster-ip-range=10.96.0.0/16",
        # Accounts are made by a controller, and there is none here.
        "--disable-admission-plugins=ServiceAccount",
    ]  # fmt: skip
    with (home / "log").open("wb") as log:
        running = [subprocess.Popen(command, stdout=log, stderr=log) for command in (etcd, server)]
        try:
            cluster = connected(f"https://127.0.0.1:{port}", home)
            with contextlib.closing(cluster.http):
                yield cluster
        finally:
            for process in reversed(running):
                process.terminate()
                process.wait(30)


def connected(url: str, home: Path) -> Cluster:
    """Wait for the API server, and make the namespace that enforces the standard."""
    kubeconfig = home / "kubeconfig"
    kubeconfig.write_text(
        json.dumps(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "current-context": "test",
                "clusters": [{"name": "test", "cluster": {"server": url, "insecure-skip-tls-verify": True}}],
                "users": [{"name": "test", "user": {"token": TOKEN}}],
                "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
            }
        )
    )
    trusting = ssl.create_default_context()
    trusting.check_hostname = False
    trusting.verify_mode = ssl.CERT_NONE
    headers = {"Authorization": f"Bearer {TOKEN}"}
    http = httpx.Client(base_url=url, headers=headers, verify=trusting, trust_env=False)
    until = time.monotonic() + START_S
    while True:
        try:
            if http.get("/readyz").status_code == 200:
                break
        except httpx.TransportError:
            pass
        assert time.monotonic() < until, (home / "log").read_text()[-4000:]
        time.sleep(0.2)
    labels = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "warn")}
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE, "labels": labels}}
    http.post("/api/v1/namespaces", json=namespace).raise_for_status()
    return Cluster(http, kubeconfig)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_every_pod_is_admitted_where_the_restricted_standard_is_enforced(cluster: Cluster, scenario: str) -> None:
    for owner, pod in render(scenario).pods:
        # The priority class is the operator's, and does not exist on this server.
        spec = {key: value for key, value in pod["spec"].items() if key != "priorityClassName"}
        metadata = {"name": owner["metadata"]["name"], "labels": pod["metadata"]["labels"]}
        whole = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}
        answer = cluster.http.post(f"/api/v1/namespaces/{NAMESPACE}/pods", params={"dryRun": "All"}, json=whole)

        assert answer.status_code == 201, answer.text
        assert "warning" not in answer.headers, answer.headers


def test_a_pod_that_falls_short_of_the_standard_is_refused_there(cluster: Cluster) -> None:
    """Without this the test above would prove nothing."""
    (_, pod), *_ = render().pods
    (container,) = pod["spec"]["containers"]
    loose = {**container, "securityContext": {**container["securityContext"], "allowPrivilegeEscalation": True}}
    whole = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "loose"},
        "spec": {**pod["spec"], "containers": [loose]},
    }
    answer = cluster.http.post(f"/api/v1/namespaces/{NAMESPACE}/pods", params={"dryRun": "All"}, json=whole)

    assert answer.status_code == 403
    assert "PodSecurity" in answer.text


async def test_install_upgrade_rollback_and_the_chart_s_test(cluster: Cluster, tmp_path: Path) -> None:
    port = f"server.port={free_port()}"
    quick = [part for one in (port, "shutdown.preStopSeconds=0", "settings.drain_s=0") for part in ("--set", one)]
    cluster.helm("uninstall", RELEASE, "--ignore-not-found")
    cluster.helm("install", RELEASE, str(CHART), *quick)
    drawn = cluster.secret()
    cluster.helm("upgrade", RELEASE, str(CHART), *quick, "--set", "settings.max_channels=64")
    changed = deployment(cluster)
    cluster.helm("rollback", RELEASE, "1")

    assert "GATEWAY_MAX_CHANNELS" in changed
    assert "GATEWAY_MAX_CHANNELS" not in deployment(cluster)
    assert cluster.secret() == drawn
    assert [one["status"] for one in json.loads(cluster.helm("history", RELEASE, "--output", "json"))] == [
        "superseded", "superseded", "deployed",
    ]  # fmt: skip

    texts = cluster.helm("get", "manifest", RELEASE) + "\n---\n" + cluster.helm("get", "hooks", RELEASE)
    installed = Rendered(tuple(one for one in yaml.safe_load_all(texts) if one))
    node = await start_node(installed, tmp_path / "pod", tmp_path / "claims")
    testing = cluster.start_helm("test", RELEASE)
    path = f"/api/v1/namespaces/{NAMESPACE}/pods/{NAME}-test"
    async with asyncio.timeout(60):
        while cluster.http.get(path).status_code != 200:  # noqa: ASYNC110 - another process's doing, which nothing tells of
            await asyncio.sleep(0.1)
    ran = await helm_test(node, tmp_path / "test")
    phase = {"status": {"phase": "Succeeded" if ran.code == 0 else "Failed"}}
    patch = {"Content-Type": "application/merge-patch+json"}
    cluster.http.patch(f"{path}/status", json=phase, headers=patch).raise_for_status()
    said = await asyncio.to_thread(finish, testing)
    stopped = await node.terminate()

    assert ran.code == 0, ran.said
    assert "Succeeded" in said
    assert stopped.code == 0


def deployment(cluster: Cluster) -> str:
    return json.dumps(cluster.get(f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments/{NAME}"))


def test_an_uninstall_and_a_new_install_find_the_same_secrets(cluster: Cluster) -> None:
    cluster.helm("upgrade", "--install", RELEASE, str(CHART))
    drawn = cluster.secret()
    cluster.helm("uninstall", RELEASE)
    cluster.helm("install", RELEASE, str(CHART), *arguments_of("ingress", ()))

    assert cluster.secret() == drawn
