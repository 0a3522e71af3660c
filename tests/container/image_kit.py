"""Builds the image with buildah on a stand-in for its base, and runs it with what the kernel gives: no engine, no registry."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
WAIT_S = 60.0

SUITE = "trixie"
"""The Debian release of the base that the Dockerfile names; its Python has the same number."""

BASE = f"localhost/portcullis-stand-in:{SUITE}"
IMAGE = "localhost/portcullis:test"

NEEDED = ("buildah", "debootstrap", "unshare", "nsenter", "mount")

# What the official slim images leave out as well; else the sizes would say nothing.
_LEFT_OUT = (
    "usr/share/doc",
    "usr/share/man",
    "usr/share/locale",
    "usr/share/info",
    "var/cache/apt",
    "var/lib/apt/lists",
)


def missing() -> str:
    """Say what a build lacks here; empty where it can be done."""
    absent = [name for name in NEEDED if shutil.which(name) is None]
    if absent:
        return f"the image is not built here: no {', '.join(absent)} (`make image` installs them on Debian, as root)"
    if os.geteuid() != 0:
        return "the image is not built here: making its stand-in base, and mounting it, wants root"
    return ""


@dataclass(frozen=True)
class Builder:
    """buildah, with a store of its own so that it meets nobody's images.

    Args:
        store: A directory that survives: the stand-in base is made once.
    """

    store: Path

    def __call__(self, *arguments: str | Path) -> str:
        options = ["--root", self.store / "images", "--runroot", self.store / "run", "--storage-driver", "vfs"]
        command = ["buildah", *map(str, options), *map(str, arguments)]
        done = subprocess.run(
            command, env={**os.environ, "BUILDAH_ISOLATION": "chroot"}, check=False, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-4000:]}{done.stderr[-4000:]}"
        return done.stdout.strip()

    def ensure_base(self, work: Path) -> None:
        """Make a Debian with a Python under a name that the build can take as its base, unless it stands."""
        if BASE in self("images", "--format", "{{.Name}}:{{.Tag}}").split():
            return
        tree = work / "base"
        subprocess.run(
            ["debootstrap", "--variant=minbase", "--include=python3,python3-venv,ca-certificates", SUITE, tree],
            check=True,
            capture_output=True,
        )
        for name in _LEFT_OUT:
            shutil.rmtree(tree / name, ignore_errors=True)
        container = self("from", "scratch")
        self("add", "--quiet", container, tree, "/")
        self("config", "--env", "PATH=/usr/local/bin:/usr/local/sbin:/usr/bin:/usr/sbin:/bin:/sbin", container)
        self("commit", "--quiet", container, BASE)
        self("rm", container)
        shutil.rmtree(tree)

    def build(self, work: Path, **arguments: str) -> None:
        """Build as a user would, but with this machine's way to the package index."""
        secret = work / "pip.conf"
        secret.write_text(_pip_configuration())
        trust = "/etc/ssl/certs/ca-certificates.crt"
        self(
            "build-using-dockerfile",
            *("--format", "docker", "--pull-never", "--no-cache", "--layers=false", "--tag", IMAGE),
            *("--secret", f"id=pip,src={secret}"),
            *(("--volume", f"{trust}:{trust}:ro") if Path(trust).exists() else ()),
            *(word for name, value in arguments.items() for word in ("--build-arg", f"{name}={value}")),
            ROOT,
        )

    def forget_image(self) -> None:
        """Remove what was built; the stand-in base stays for the next time."""
        self("rmi", IMAGE)
        self("rmi", "--prune")

    @contextmanager
    def tree(self, image: str) -> Iterator[Path]:
        """Mount what an image holds."""
        container = self("from", "--pull-never", image)
        try:
            yield Path(self("mount", container))
        finally:
            self("rm", container)

    def configuration(self) -> dict[str, Any]:
        """Give what the image says of itself, as engines read it."""
        found = json.loads(self("inspect", "--type", "image", IMAGE))["Docker"]["config"]
        return dict(found)


def _pip_configuration() -> str:
    """Give the settings by which pip reaches its index here; none of them may end in the image."""
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], check=True, capture_output=True, text=True
    ).stdout
    wanted = ("cert", "index-url", "extra-index-url", "proxy", "trusted-host", "default-timeout")
    found = dict(re.findall(r"^(?:global|:env:)\.([a-z-]+)='(.*)'$", listed, re.MULTILINE))
    lines = [f"{name} = {value}" for name, value in found.items() if name in wanted]
    return "\n".join(["[global]", *lines, ""])


@dataclass
class Container:
    """An image's tree, ready to run programs in.

    Args:
        root: The tree.
        configuration: What the image says of itself.
        volume: What stands behind the volume of the image.
        environment: What the user sets.
        mounts: Further directories, by their place inside; read-only.
    """

    root: Path
    configuration: dict[str, Any]
    volume: Path
    environment: dict[str, str] = field(default_factory=dict)
    mounts: dict[str, Path] = field(default_factory=dict)
    process: subprocess.Popen[str] | None = None
    output: str = ""

    @property
    def _environment(self) -> dict[str, str]:
        given = dict(line.split("=", 1) for line in self.configuration["Env"])
        return {**given, **self.environment}

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start the entry point with these arguments, or those of the image, as process 1."""
        (volume,) = self.configuration["Volumes"]
        uid, gid = map(int, self.configuration["User"].split(":"))
        assert uid == gid
        asked = {
            "root": str(self.root),
            "mounts": {volume: str(self.volume), **{inside: str(path) for inside, path in self.mounts.items()}},
            "read_only": list(self.mounts),
            "uid": uid,
            "workdir": self.configuration["WorkingDir"],
            "environment": self._environment,
            "command": [*self.configuration["Entrypoint"], *(arguments or self.configuration["Cmd"])],
        }
        script = Path(__file__).with_name("contained.py")
        command = ["unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", sys.executable, str(script)]
        entered, tells = os.pipe()
        self.process = subprocess.Popen(
            [*command, json.dumps({**asked, "tell": tells})],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            pass_fds=[tells],
        )
        os.close(tells)
        with os.fdopen(entered, "rb") as told:
            assert told.read(1) == b".", self.process.communicate()
        return self.process

    def run(self, *arguments: str) -> tuple[int, str, str]:
        """Run the entry point with these arguments to its end; give its exit code and output."""
        process = self.start(*arguments)
        out, err = process.communicate(timeout=WAIT_S)
        return process.returncode, out, err

    def _inner_pid(self) -> int:
        """Find process 1 of the container as the machine knows it."""
        assert self.process is not None
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return int(children.read_text().split()[0])

    def execute(self, *command: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        """Run a program beside process 1, as `docker exec` does."""
        uid = self.configuration["User"].split(":")[0]
        nsenter = shutil.which("nsenter") or "nsenter"  # not by the PATH of the container
        entered = [nsenter, f"--target={self._inner_pid()}", "--mount", "--net", "--pid", "--root", "--wd"]
        return subprocess.run(
            [*entered, f"--setuid={uid}", f"--setgid={uid}", *command],
            env=self._environment,
            input=stdin,
            check=False,
            capture_output=True,
            text=True,
            timeout=WAIT_S,
        )

    def healthy(self) -> bool:
        """Ask the health check of the image, word for word."""
        how, *command = self.configuration["Healthcheck"]["Test"]
        assert how == "CMD"
        return self.execute(*command).returncode == 0

    def await_health(self) -> None:
        """Wait until it is healthy, as an engine does."""
        assert self.process is not None
        end = time.monotonic() + WAIT_S
        while not self.healthy():
            if self.process.poll() is not None or time.monotonic() > end:
                self.process.kill()
                raise AssertionError("".join(self.process.communicate()))
            time.sleep(0.1)

    def stop(self) -> int:
        """Stop it as an engine does; give the exit code."""
        assert self.process is not None
        os.kill(self._inner_pid(), getattr(signal, self.configuration["StopSignal"]))
        self.output = "".join(self.process.communicate(timeout=WAIT_S))
        return self.process.returncode
