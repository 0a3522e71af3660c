"""Servers to measure: what one is, and how its process is started on a core and ended.

Owns processes. Refuses to own which servers there are (`gateway_server`, `peer_servers`) and what is measured (`workloads`).
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from orders import Conversation, Load

START_S = 30.0


class ContenderError(Exception):
    """A contender cannot be started; the message says why."""


@dataclass(frozen=True, slots=True)
class Served:
    """A server that runs, and how to talk to it."""

    pid: int
    port: int
    conversation: Conversation


class Contender(Protocol):
    """One server to measure."""

    @property
    def name(self) -> str:
        """What the report calls it."""
        ...

    @property
    def version(self) -> str:
        """What was measured, with what it stands on."""
        ...

    def plays(self, load: Load) -> bool:
        """Whether it has such a load at all."""
        ...

    def serving(self, load: Load, core: int | None) -> contextlib.AbstractContextManager[Served]:
        """Start a fresh process for one run, on that core, and end it afterwards.

        Raises:
            ContenderError: It does not start.
        """
        ...


def free_port() -> int:
    """Find a port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@contextlib.contextmanager
def pinned(core: int | None) -> Iterator[None]:
    """Let processes that are started inside run on one core: children take it over from their parent."""
    before = os.sched_getaffinity(0)
    if core is not None:
        os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextlib.contextmanager
def running(
    command: list[str], folder: Path, core: int | None, environment: Mapping[str, str]
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server, and leave nothing of it behind, whatever happens.

    It gets a session of its own, so that Ctrl-C reaches the bench alone, and ends by SIGKILL: it is a process of seconds, nothing of
    it is kept, and a drain would only take time.
    """
    with Path(folder, "output").open("wb") as output, pinned(core):
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def await_port(process: subprocess.Popen[bytes], port: int, folder: Path) -> None:
    """Wait until a server listens.

    Raises:
        ContenderError: It ended, or did not listen within `START_S`.
    """
    deadline = time.monotonic() + START_S
    while True:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        if process.poll() is not None or time.monotonic() > deadline:
            said = Path(folder, "output").read_text(errors="replace").strip().splitlines()
            raise ContenderError(f"did not start: {said[-1] if said else 'it said nothing'}")
        time.sleep(0.05)


def first_line(*command: str) -> str:
    """Give what a program says first, on either channel."""
    said = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, timeout=10)
    return (said.stdout.splitlines() or [""])[0]


def release(text: str) -> str:
    """Find the number of a release in what a program says of itself."""
    found = re.search(r"\d+(?:\.\d+)+", text)
    return found[0] if found else "of an unknown release"
