"""Helm and what it renders: scenarios of the chart, as the objects that a cluster would get."""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
CHART = ROOT / "helm"
SCENARIOS = sorted(path.name.removesuffix("-values.yaml") for path in (CHART / "ci").glob("*-values.yaml"))
RELEASE = "gw"
NAMESPACE = "edge"
NAME = f"{RELEASE}-portcullis"
WAIT_S = 120

Object = dict[str, Any]


def helm_program() -> str:
    """Give the Helm that `HELM` names, else that of the test tools, else that of the PATH."""
    ours = Path(sysconfig.get_path("scripts"), "helm")
    found = os.environ.get("HELM") or (str(ours) if ours.is_file() else shutil.which("helm"))
    if not found:
        pytest.skip("no helm here: its wheel is for Linux on x86-64 only, and none is on the PATH")
    return found


def helm(*arguments: str, environ: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run Helm; no cluster of the caller's is ever asked."""
    return subprocess.run(
        [helm_program(), *arguments],
        env={**os.environ, "KUBECONFIG": os.devnull, **(environ or {})},
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        check=False,
    )


def arguments_of(scenario: str, values: tuple[str, ...]) -> list[str]:
    """Give the arguments for a scenario and values such as `settings.drain_s=2.5`, whose right side is JSON or else text."""
    given = ["--values", str(CHART / "ci" / f"{scenario}-values.yaml")]
    for one in values:
        given += ["--set-json" if _is_json(one.partition("=")[2]) else "--set-string", one]
    return given


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


@dataclass(frozen=True)
class Rendered:
    """The objects of a release."""

    objects: tuple[Object, ...]

    def all(self, kind: str) -> list[Object]:
        return [one for one in self.objects if one["kind"] == kind]

    def one(self, kind: str, name: str = NAME) -> Object:
        (found,) = [one for one in self.all(kind) if one["metadata"]["name"] == name]
        return found

    @property
    def pods(self) -> list[tuple[Object, Object]]:
        """Every pod that the release makes, with the object that makes it."""
        made = [(one, one["spec"]["template"]) for one in self.objects if one["kind"] in {"Deployment", "Job"}]
        return made + [(one, one) for one in self.all("Pod")]

    @property
    def node(self) -> Object:
        """The pod of a node."""
        return dict(self.one("Deployment")["spec"]["template"]["spec"])

    @property
    def gateway(self) -> Object:
        """The container that serves."""
        (container,) = self.node["containers"]
        return dict(container)

    @property
    def environment(self) -> dict[str, str]:
        return {one["name"]: one["value"] for one in self.gateway["env"]}


@functools.cache
def render(scenario: str = "default", *values: str) -> Rendered:
    """Render a scenario, with values as `--set` takes them."""
    made = helm("template", RELEASE, str(CHART), "--namespace", NAMESPACE, *arguments_of(scenario, values))
    assert made.returncode == 0, made.stderr
    return Rendered(tuple(one for one in yaml.safe_load_all(made.stdout) if one))


def refusal(scenario: str, *values: str) -> str:
    """Render what must be refused; give what is said."""
    made = helm("template", RELEASE, str(CHART), *arguments_of(scenario, values))
    assert made.returncode != 0, made.stdout
    assert made.stdout == ""
    return made.stderr
