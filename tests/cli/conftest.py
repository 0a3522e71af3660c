"""Gateways for the command line to talk to: one in this process, or one that was started as users start it."""

from __future__ import annotations

import asyncio
import re
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from program import PROGRAM, WAIT_S, clean_environment
from running_gateway import POLICY, RunningGateway, run_gateway
from secret_watch import SecretWatch


@dataclass
class Finished:
    """What a program has said, and how it ended."""

    returncode: int
    stdout: str
    stderr: str


async def call(
    *arguments: str,
    cwd: Path,
    stdin: str = "",
    environ: dict[str, str] | None = None,
    stay: asyncio.Event | None = None,
) -> Finished:
    """Run the program while the test's own loop goes on serving; with `stay`, send SIGINT once that is set."""
    process = await asyncio.create_subprocess_exec(
        *PROGRAM,
        *arguments,
        cwd=cwd,
        env=clean_environment(**(environ or {})),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(WAIT_S):
        if stay is not None:
            await stay.wait()
            process.send_signal(signal.SIGINT)
        out, err = await process.communicate(stdin.encode())
    assert process.returncode is not None
    return Finished(process.returncode, out.decode(), err.decode())


@pytest.fixture
def program(tmp_path: Path) -> Callable[..., Awaitable[Finished]]:
    async def start(*arguments: str, **options: Any) -> Finished:  # noqa: ANN401 - what `call` takes
        return await call(*arguments, **{"cwd": tmp_path, **options})

    return start


@pytest.fixture
async def gateway(tmp_path: Path, secret_watch: SecretWatch) -> AsyncIterator[RunningGateway]:
    (tmp_path / "server").mkdir()
    async with run_gateway(tmp_path / "server", secret_watch) as running:
        for name, role in running.users.copy().items():
            running.users.pop(name)
            await running.add_user(name, role)
        yield running


@dataclass
class DevelopmentServer:
    """`gateway serve --dev` in a directory."""

    process: asyncio.subprocess.Process
    introduction: str
    url: str
    passwords: dict[str, str]
    log: list[str] = field(default_factory=list)

    async def stop(self) -> tuple[int, str]:
        """Stop as Ctrl-C does; give the exit code and what was logged."""
        if self.process.returncode is None:
            self.process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(WAIT_S):
            out, err = await self.process.communicate()
        assert self.process.returncode is not None
        return self.process.returncode, "".join(self.log) + out.decode() + err.decode()


@pytest.fixture
async def development(tmp_path: Path, secret_watch: SecretWatch) -> AsyncIterator[Callable[..., Any]]:
    """Start `gateway serve --dev` in the test's directory and wait until it serves."""
    (tmp_path / "policies").mkdir()
    (tmp_path / "policies" / "policy.yaml").write_text(POLICY)
    async with AsyncExitStack() as stack:

        async def start(*arguments: str) -> DevelopmentServer:
            process = await asyncio.create_subprocess_exec(
                *PROGRAM, "serve", "--dev", "--port", "0", *arguments,
                cwd=tmp_path,
                env=clean_environment(GATEWAY_DRAIN_S="0"),
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
            )  # fmt: skip
            assert process.stdout is not None
            assert process.stderr is not None
            said = log = ""
            async with asyncio.timeout(WAIT_S):
                while "publish room:" not in said and (line := await process.stderr.readline()):
                    said += line.decode()
                while "server.started" not in log and (line := await process.stdout.readline()):
                    log += line.decode()
            url = re.search(r"http://127\.0\.0\.1:\d+", said)
            assert url is not None, said + log
            users = dict(re.findall(r"^    (\w+) +[a-z]+ +(\S{16,})$", said, re.MULTILINE))
            for name, password in users.items():
                secret_watch.watch(password, f"password of {name}")
            server = DevelopmentServer(process, said, url[0], users, [log])
            stack.push_async_callback(server.stop)
            return server

        yield start


__all__ = ["DevelopmentServer", "Finished"]
