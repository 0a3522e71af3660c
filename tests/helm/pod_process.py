"""What a kubelet does with a rendered pod, done with processes: volumes become directories, containers processes, probes requests.

Paths of the pod are mapped into a directory of the test, and nothing else is changed: command, arguments and environment are those of
the manifest, and the environment holds nothing besides but the way to the programs.
"""

from __future__ import annotations

import asyncio
import base64
import os
import re
import signal
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from chart import NAME, NAMESPACE, Object, Rendered

WAIT_S = 60.0


@dataclass
class Ended:
    """How a container ended, and what it said."""

    code: int
    said: str


@dataclass
class Pod:
    """A pod's volumes and containers, below a directory.

    Args:
        spec: The pod's `spec`.
        objects: The release, with its ConfigMaps and Secrets.
        root: The directory.
        elsewhere: Data of Secrets and ConfigMaps that the operator made, by name.
        volumes: Directories of claims, which outlive a pod.
    """

    spec: Object
    objects: Rendered
    root: Path
    elsewhere: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    volumes: Path | None = None
    replacements: Mapping[str, str] = field(default_factory=dict)

    def mount(self) -> None:
        """Make every volume and every mount of every container."""
        self.root.mkdir(exist_ok=True)
        if self.volumes is not None:
            self.volumes.mkdir(exist_ok=True)
        volumes = {volume["name"]: self._volume(volume) for volume in self.spec["volumes"]}
        for container in [*self.spec.get("initContainers", []), *self.spec["containers"]]:
            for mount in container["volumeMounts"]:
                place = self.path(mount["mountPath"])
                if not place.is_symlink():
                    place.parent.mkdir(parents=True, exist_ok=True)
                    place.symlink_to(volumes[mount["name"]])

    def path(self, of_pod: str) -> Path:
        return self.root / "root" / of_pod.lstrip("/")

    def swap_config_map(self, volume: str, data: Mapping[str, str]) -> None:
        """Change a mounted ConfigMap as a kubelet does: a new directory, then one rename of the link to it."""
        home = self.root / "volumes" / volume
        fresh = home / f"..{len(list(home.iterdir()))}"
        fresh.mkdir()
        for name, text in data.items():
            (fresh / name).write_text(text)
            if not (home / name).is_symlink():
                (home / name).symlink_to(Path("..data") / name)
        (home / "..tmp").symlink_to(fresh.name)
        (home / "..tmp").rename(home / "..data")
        for link in home.iterdir():
            if not link.name.startswith("..") and link.name not in data:
                link.unlink()

    def _volume(self, volume: Object) -> Path:
        name = volume["name"]
        if "persistentVolumeClaim" in volume and self.volumes is not None:
            place = self.volumes / str(volume["persistentVolumeClaim"]["claimName"])
            place.mkdir(exist_ok=True)
            place.chmod(0o775)  # a fresh volume is its group's, and never the gateway's alone
            return place
        place = self.root / "volumes" / name
        place.mkdir(parents=True)
        match volume:
            case {"configMap": {"name": str(source)}}:
                self.swap_config_map(name, self._data("ConfigMap", source))
            case {"projected": {"sources": list(sources)}}:
                for source in sources:
                    self._secret(place, source["secret"]["name"], source["secret"]["items"])
            case {"secret": {"secretName": str(source), "items": list(items)}}:
                self._secret(place, source, items)
            case _:
                assert "emptyDir" in volume
        return place

    def _secret(self, place: Path, name: str, items: list[dict[str, str]]) -> None:
        data = self._data("Secret", name)
        for item in items:
            (place / item["path"]).write_text(data[item["key"]])
            (place / item["path"]).chmod(0o440)

    def _data(self, kind: str, name: str) -> Mapping[str, str]:
        if name in self.elsewhere:
            return self.elsewhere[name]
        data: Mapping[str, str] = self.objects.one(kind, name)["data"]
        if kind == "ConfigMap":
            return data
        return {key: base64.b64decode(value).decode() for key, value in data.items()}

    def mapped(self, container: Object, text: str) -> str:
        """Map the mounted paths in a text, each once: the directory of a test may itself lie in `/tmp`."""
        mapped = {str(mount["mountPath"]): str(self.path(mount["mountPath"])) for mount in container["volumeMounts"]}
        mapped |= self.replacements
        if not mapped:
            return text
        longest_first = sorted(mapped, key=len, reverse=True)
        return re.sub("|".join(map(re.escape, longest_first)), lambda found: mapped[found[0]], text)

    def environment(self, container: Object) -> dict[str, str]:
        stated = {one["name"]: self.mapped(container, one["value"]) for one in container.get("env", [])}
        path = os.pathsep.join([sysconfig.get_path("scripts"), os.environ["PATH"]])
        return {"PATH": path, "HOME": str(self.path("/tmp")), **stated}  # noqa: S108 - the pod's own

    async def start(self, container: Object) -> asyncio.subprocess.Process:
        words = [self.mapped(container, word) for word in [*container["command"], *container.get("args", [])]]
        return await asyncio.create_subprocess_exec(
            *words,
            cwd=self.root,
            env=self.environment(container),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )

    async def run(self, container: Object) -> Ended:
        """Run a container to its end."""
        return await ended(await self.start(container))


async def ended(process: asyncio.subprocess.Process, within_s: float = WAIT_S) -> Ended:
    async with asyncio.timeout(within_s):
        said, _ = await process.communicate()
    assert process.returncode is not None
    return Ended(process.returncode, said.decode())


async def passes(probe: Object, container: Object, within_s: float = WAIT_S) -> None:
    """Ask as a kubelet does until the answer is one of success."""
    (port,) = [one["containerPort"] for one in container["ports"] if one["name"] == probe["httpGet"]["port"]]
    url = f"http://127.0.0.1:{port}{probe['httpGet']['path']}"
    async with asyncio.timeout(within_s), httpx.AsyncClient(trust_env=False) as client:
        while True:
            try:
                if (await client.get(url, timeout=probe["timeoutSeconds"])).status_code < 400:
                    return
            except httpx.TransportError:
                pass
            await asyncio.sleep(0.02)


@dataclass
class RunningNode:
    """A node that was started as the Deployment says."""

    rendered: Rendered
    pod: Pod
    process: asyncio.subprocess.Process
    init: list[Ended]

    @property
    def port(self) -> int:
        return int(self.rendered.gateway["ports"][0]["containerPort"])

    async def terminate(self) -> Ended:
        """End the pod as a kubelet does: preStop, SIGTERM, and no longer than the grace period for both."""
        grace_s = float(self.rendered.node["terminationGracePeriodSeconds"])
        async with asyncio.timeout(grace_s):
            hook = self.rendered.gateway.get("lifecycle", {}).get("preStop", {}).get("exec", {}).get("command")
            if hook is not None:
                paused = await asyncio.create_subprocess_exec(*hook)
                assert await paused.wait() == 0
            self.process.send_signal(signal.SIGTERM)
            return await ended(self.process, grace_s)


async def start_node(rendered: Rendered, root: Path, volumes: Path, **elsewhere: Mapping[str, str]) -> RunningNode:
    """Start the Deployment's pod: init containers one after the other, then the gateway, until it is ready."""
    named = {name.replace("_", "-"): data for name, data in elsewhere.items()}
    pod = Pod(rendered.node, rendered, root, named, volumes)
    pod.mount()
    init = []
    for container in rendered.node.get("initContainers", []):
        init.append(await pod.run(container))
        assert init[-1].code == 0, init[-1].said
    process = await pod.start(rendered.gateway)
    node = RunningNode(rendered, pod, process, init)
    try:
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            await passes(rendered.gateway[probe], rendered.gateway)
    except TimeoutError:
        process.kill()
        raise AssertionError((await ended(process)).said) from None
    return node


async def helm_test(node: RunningNode, root: Path, **elsewhere: Mapping[str, str]) -> Ended:
    """Run the pod of `helm test` against a running node; the Service's name leads to it."""
    spec: dict[str, Any] = node.rendered.one("Pod", f"{NAME}-test")["spec"]
    named = {name.replace("_", "-"): data for name, data in elsewhere.items()}
    service = f"{NAME}.{NAMESPACE}.svc:{node.rendered.one('Service')['spec']['ports'][0]['port']}"
    pod = Pod(spec, node.rendered, root, named, replacements={service: f"127.0.0.1:{node.port}"})
    pod.mount()
    return await pod.run(spec["containers"][0])
