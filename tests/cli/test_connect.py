from __future__ import annotations

import asyncio
import json
import os
import pty
import stat
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from program import PROGRAM, WAIT_S, clean_environment
from running_gateway import RunningGateway, password

from gateway.cli.app import run
from gateway.cli.connect_input import history_path
from gateway.cli.demo_users import keep_demo_users
from gateway.settings.data_dir import remember_address

Start = Callable[..., Any]
ROOM = "room:acme:1"
PROMPT = "\x1b[?2004h"
"""What the prompt sends when it takes the keyboard; what is typed before goes to the terminal's own line editing."""


async def test_lines_are_carried_out_in_their_order_and_all_done_is_0(gateway: RunningGateway, program: Start) -> None:
    lines = [
        password("alice"),
        "# what a script says",
        f"subscribe {ROOM}",
        f'publish {ROOM} {{"text": "hi"}}',
        f"history {ROOM} limit=1",
        "",
        "ping",
    ]
    done = await program(
        "connect", gateway.url, "--user", "alice", "--password-stdin", "--signed", stdin="\n".join(lines)
    )
    assert (done.returncode, done.stderr) == (0, "")
    said = [line.split(" ", 1)[1] for line in done.stdout.splitlines()]
    assert said[0].startswith("← welcome alice of tenant acme as member, signed, until ")
    assert said[1] == f"→ #1 channel.subscribe {ROOM}"
    assert f'→ #2 channel.publish {ROOM} {{"text": "hi"}}' in said
    assert any(line.startswith(f"← message {ROOM} @1 alice: ") for line in said)
    assert said[-1].startswith("← #4 ok {} ")
    assert password("alice") not in done.stdout


async def test_json_prints_each_frame_of_the_gateway_on_a_line(gateway: RunningGateway, program: Start) -> None:
    done = await program(
        "connect", gateway.ws_url, "--user", "alice", "--password-stdin", "--msgpack", "--ticket", "--json",
        stdin=f'{password("alice")}\nping\nraw [{{"id": 70, "action": "ping"}}]\n',
    )  # fmt: skip
    frames = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0
    assert frames[0]["type"] == "welcome"
    assert frames[1] == {"type": "reply", "id": 1, "data": {}}


async def test_refusal_is_shown_with_its_meaning_and_exits_1(gateway: RunningGateway, program: Start) -> None:
    done = await program(
        "connect", gateway.url, "--user", "vera", "--password-stdin",
        stdin=f"{password('vera')}\npublish {ROOM} 1\nping\n",
    )  # fmt: skip
    assert done.returncode == 1
    assert "#1 permission_denied channel.publish" in done.stdout
    assert "no role of yours allows this here" in done.stdout
    assert "#2 ok {}" in done.stdout


async def test_line_that_cannot_be_read_ends_a_script_with_2(gateway: RunningGateway, program: Start) -> None:
    done = await program(
        "connect", gateway.url, "--user", "alice", "--password-stdin",
        stdin=f"{password('alice')}\nping\nfrobnicate\nping\n",
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr == "gateway: line 2: `frobnicate` is no command; `help` lists them\n"
    assert "#2" not in done.stdout


async def test_token_and_its_key_may_come_on_standard_input(gateway: RunningGateway, program: Start) -> None:
    answer = await gateway.token("alice")
    done = await program("connect", gateway.url, "--token-stdin", "--signed", stdin=json.dumps(answer) + "\nping\n")
    assert done.returncode == 0
    done = await program("connect", gateway.url, "--token-stdin", stdin=answer["access_token"] + "\nping\n")
    assert done.returncode == 0
    done = await program("connect", gateway.url, "--token-stdin", "--signed", stdin=answer["access_token"] + "\nping\n")
    assert (done.returncode, done.stdout) == (1, "")
    assert "need a signing key" in done.stderr


async def test_piped_input_may_end_while_pushes_go_on_until_the_gateway_ends_them(
    gateway: RunningGateway, program: Start
) -> None:
    bob = await gateway.peer("bob")
    await bob.do("channel.subscribe", ROOM)
    staying = asyncio.create_task(
        program(
            "connect", gateway.url, "--user", "alice", "--password-stdin", "--stay",
            stdin=f"{password('alice')}\nsubscribe {ROOM}\n",
        )
    )  # fmt: skip
    assert (await bob.push("presence"))["subject"] == "alice"
    await bob.do("channel.publish", ROOM, {"text": "\x1b[2J"})
    await gateway.gateway.identity.accounts.disable("alice")
    done = await staying
    assert done.returncode == 1
    assert f'← message {ROOM} @1 bob: {{"text": "\\u001b[2J"}}' in done.stdout
    assert "closed with 1008 session_revoked: the account was disabled" in done.stdout


async def test_login_that_is_refused_is_one_line(gateway: RunningGateway, program: Start) -> None:
    done = await program(
        "connect", gateway.url, "--user", "alice", "--password-stdin", stdin="not the password\nping\n"
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == ("gateway: the login was refused: wrong user or password, or the account is disabled\n")


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["ftp://x"], "`ftp://x` is no address of a gateway; give one such as `http://127.0.0.1:8000`"),
        ([], "who connects? name a user with `--user`, or start `gateway serve --dev` in this directory"),
        (["--user", "a", "--client", "b"], "give only one of `--user`, `--client` and `--token-stdin`"),
        (["--token-stdin", "--password-stdin"], "give only one of `--user`, `--client` and `--token-stdin`"),
    ],
)
def test_unusable_arguments_are_one_line_and_exit_2(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    line: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["connect", *arguments]) == 2
    assert capsys.readouterr().err == f"gateway: {line}\n"


async def test_demo_passwords_never_leave_for_another_machine(tmp_path: Path, program: Start) -> None:
    (tmp_path / ".gateway").mkdir(mode=0o700)
    keep_demo_users(tmp_path / ".gateway", {"alice": "x" * 16})
    done = await program("connect", "https://gateway.example", stdin="ping\n")
    assert done.returncode == 2
    assert done.stderr.startswith("gateway: who connects?")


async def test_directory_that_came_from_elsewhere_chooses_no_address(tmp_path: Path, program: Start) -> None:
    (tmp_path / ".gateway").mkdir(mode=0o700)
    remember_address(tmp_path / ".gateway", "https://evil.invalid")
    done = await program("connect", "--user", "alice", "--password-stdin", stdin="the password\n")
    assert "evil" not in done.stderr


async def test_nobody_there_is_one_line(program: Start, unused_tcp_port: int) -> None:
    done = await program(
        "connect", f"http://127.0.0.1:{unused_tcp_port}", "--user", "a", "--password-stdin", stdin="x\n"
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        f"gateway: no answer from `http://127.0.0.1:{unused_tcp_port}`: connection refused; is it running?\n"
    )


async def test_client_that_is_not_to_come_back_tells_the_close(gateway: RunningGateway, program: Start) -> None:
    bob = await gateway.peer("bob")
    await bob.do("channel.subscribe", ROOM)
    staying = asyncio.create_task(
        program(
            "connect", gateway.url, "--user", "alice", "--password-stdin", "--stay", "--no-reconnect",
            stdin=f"{password('alice')}\nsubscribe {ROOM}\n",
        )
    )  # fmt: skip
    await bob.push("presence")
    await gateway.stop()
    done = await staying
    assert done.returncode == 1
    assert "draining" in done.stdout
    assert "closed with 1001 draining: this node shuts down" in done.stdout


class Terminal:
    """A person at a terminal."""

    def __init__(self) -> None:
        self.master, self.slave = pty.openpty()
        self.seen = self.all = ""

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())

    async def until(self, text: str) -> None:
        """Read what comes onto the screen until it has a text, and forget all up to that; answer what the terminal is asked."""
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(WAIT_S / 3):
            while text not in self.seen:
                ready = asyncio.Event()
                loop.add_reader(self.master, ready.set)
                await ready.wait()
                loop.remove_reader(self.master)
                got = os.read(self.master, 65_536).decode(errors="replace")
                if "\x1b[6n" in got:  # where is the cursor?
                    self.type("\x1b[1;1R")
                self.seen += got
                self.all += got
        self.seen = self.seen.partition(text)[2]

    def close(self) -> None:
        os.close(self.master)
        os.close(self.slave)


@asynccontextmanager
async def at_a_terminal(*arguments: str, cwd: Path) -> AsyncIterator[tuple[Terminal, asyncio.subprocess.Process]]:
    terminal = Terminal()
    process = await asyncio.create_subprocess_exec(
        *PROGRAM, *arguments,
        cwd=cwd,
        env=clean_environment(TERM="xterm", XDG_STATE_HOME=str(cwd / "state")),
        stdin=terminal.slave, stdout=terminal.slave, stderr=terminal.slave, start_new_session=True,
    )  # fmt: skip
    try:
        yield terminal, process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        terminal.close()


async def test_person_at_a_terminal_is_asked_completes_lines_and_leaves_with_0(
    gateway: RunningGateway, tmp_path: Path
) -> None:
    async with at_a_terminal("connect", gateway.url, "--user", "alice", cwd=tmp_path) as (terminal, process):
        await terminal.until("Password of alice: ")
        terminal.type(password("alice") + "\n")
        await terminal.until("Ctrl-D leaves")
        await terminal.until(PROMPT)
        terminal.type("unsub\t")
        await terminal.until("unsubscribe")
        terminal.type(f"{ROOM}\r")
        await terminal.until("ok\x1b[0m {}")
        await terminal.until(PROMPT)
        terminal.type("nonsense\r")
        await terminal.until("is no command")
        await terminal.until(PROMPT)
        terminal.type("half a line")
        await terminal.until("half a line")
        terminal.type(f"\x03publish {ROOM} 1\r")
        await terminal.until('{"offset": 1')
        await terminal.until(PROMPT)
        terminal.type("\x04")
        async with asyncio.timeout(WAIT_S):
            assert await process.wait() == 0
    assert password("alice") not in terminal.all
    history = tmp_path / "state" / "portcullis" / "connect-history"
    assert stat.S_IMODE(history.stat().st_mode) == 0o600
    assert f"+unsubscribe {ROOM}" in history.read_text()


async def test_prompt_ends_with_the_session_and_says_why(gateway: RunningGateway, tmp_path: Path) -> None:
    async with at_a_terminal("connect", gateway.url, "--user", "alice", cwd=tmp_path) as (terminal, process):
        await terminal.until("Password of alice: ")
        terminal.type(password("alice") + "\n")
        await terminal.until(PROMPT)
        await gateway.gateway.identity.accounts.disable("alice")
        await terminal.until("closed with 1008 session_revoked: the account was disabled")
        async with asyncio.timeout(WAIT_S):
            assert await process.wait() == 1


def test_history_stands_among_the_users_state(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    assert history_path() == Path.home() / ".local" / "state" / "portcullis" / "connect-history"
