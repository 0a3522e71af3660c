from __future__ import annotations

import json
import re
import signal
import socket
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from program import PROGRAM, clean_environment

from gateway.cli.app import run
from gateway.cli.demo_users import keep_demo_users, read_demo_users
from gateway.cli.serve import introduction
from gateway.settings import load_settings

Start = Callable[..., Any]
SECRET = "k9QvX2mT7bLr4WzN8pYc3HsJ6dGf5AeU"


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("ENVIRONMENT", "SECRET_KEY", "CONFIG", "DATA_DIR"):
        monkeypatch.delenv(f"GATEWAY_{name}", raising=False)
    return tmp_path


async def test_development_server_introduces_itself_keeps_its_passwords_and_stops_with_0(
    development: Start, program: Start, tmp_path: Path
) -> None:
    server = await development()
    assert set(server.passwords) == {"alice", "bob", "mona", "victor", "ada"}
    for place in ("/", "/ws", "/docs", "/metrics"):
        assert re.search(rf"(http|ws)://127\.0\.0\.1:\d+{place}\n", server.introduction), place
    kept = tmp_path / ".gateway"
    assert stat.S_IMODE(kept.stat().st_mode) == 0o700
    assert {path.name: stat.S_IMODE(path.stat().st_mode) & 0o077 for path in kept.iterdir()} == dict.fromkeys(
        (path.name for path in kept.iterdir()), 0
    )
    assert json.loads((kept / "demo-users.json").read_text()) == server.passwords
    async with httpx.AsyncClient(base_url=server.url) as http:
        assert (await http.get("/healthz")).status_code == 200
        form = {"grant_type": "password", "username": "alice", "password": server.passwords["alice"]}
        assert (await http.post("/token", data=form)).status_code == 200

    connected = await program("connect", "--signed", stdin='publish room:acme:1 {"text": "hi"}\n')
    assert (connected.returncode, connected.stderr) == (
        0,
        "  as the demo user alice; `--user` takes another one: bob, mona, victor, ada\n",
    )
    assert '#1 ok {"offset": 1' in connected.stdout
    listed = await program("users", "list", "--json")
    assert {user["name"] for user in json.loads(listed.stdout)} == set(server.passwords)

    code, said = await server.stop()
    assert code == 0
    for password in (*server.passwords.values(), (kept / "secret-key").read_text().strip()):
        assert password not in said
    again = await development()
    assert again.passwords == server.passwords
    await again.stop()

    refused = await program("serve", "--port", "0", environ={"GATEWAY_SECRET_KEY": SECRET})
    assert refused.returncode == 1
    assert "gateway users delete" in refused.stderr.splitlines()[-1]


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc to see which signals are handled")
def test_a_server_that_is_stopped_before_it_serves_ends_with_0(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [*PROGRAM, "serve", "--dev", "--port", "0"], cwd=tmp_path, env=clean_environment(), stderr=subprocess.PIPE
    )
    try:
        status = Path(f"/proc/{process.pid}/status")
        bit = 1 << (signal.SIGTERM - 1)
        while not int(re.search(r"^SigCgt:\s*(\w+)", status.read_text(), re.MULTILINE)[1], 16) & bit:  # type: ignore[index]
            assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=60)
        assert (process.returncode, said) == (0, b"")
    finally:
        process.kill()


@pytest.mark.parametrize(
    ("arguments", "environ", "sentence"),
    [
        (["--workers", "2"], {}, "`--workers 2` needs a shared broker, which this release does not have yet"),
        ([], {}, "GATEWAY_SECRET_KEY: is not set; give at least 32 random bytes"),
        ([], {"SECRET_KEY": "x" * 40}, "GATEWAY_SECRET_KEY: has fewer than 10 distinct characters"),
        (["--dev"], {"ENVIRONMENT": "production"}, "says `production` and `--dev` says development"),
        ([], {"SECRET_KEY": SECRET, "BROKER_URL": "redis://cache"}, "no adapter yet; use `memory://` with one worker"),
        (["--dev"], {"DATABASE_URL": "postgresql+asyncpg://u:hunter2@db/x"}, "no adapter yet; use `sqlite+aiosqlite"),
        (["--dev"], {"POLICY_DIR": "nowhere"}, "nowhere"),
    ],
)
def test_serve_refuses_in_one_line_what_it_cannot_serve(
    directory: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    environ: dict[str, str],
    sentence: str,
) -> None:
    for name, value in environ.items():
        monkeypatch.setenv(f"GATEWAY_{name}", value)
    assert run(["serve", "--port", "0", *arguments]) == 1
    out, err = capsys.readouterr()
    assert sentence in err
    assert err.count("\n") == 1
    assert "hunter2" not in out + err
    assert directory.exists()


def test_port_that_is_taken_is_told_in_one_line(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert run(["serve", "--dev", "--port", str(port)]) == 1
    _, err = capsys.readouterr()
    assert str(port) in err
    assert err.count("\n") == 1
    assert directory.exists()


@pytest.mark.parametrize("arguments", [["--port", "70000"], ["--workers", "0"], ["--port", "http"]])
def test_unusable_options_exit_2(directory: Path, capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    assert run(["serve", *arguments]) == 2
    assert capsys.readouterr().err.endswith("see `gateway serve --help`\n")
    assert list(directory.iterdir()) == []


def test_introduction_names_only_what_there_is(directory: Path) -> None:
    settings = load_settings(
        {"GATEWAY_DOCS": "off", "GATEWAY_PUBLIC_URL": "https://dev.example"}, development=True, write=False
    )
    text = introduction(settings, "0123456789ab", {}, directory / "x", colours=False)
    assert "wss://dev.example/ws" in text
    assert "API docs" not in text
    assert "\x1b" not in text
    assert "\x1b[32m" in introduction(settings, "0123456789ab", {"zoe": "x" * 16}, directory / "x", colours=True)


def test_passwords_that_others_could_have_written_are_not_taken(directory: Path) -> None:
    path = keep_demo_users(directory, {"alice": "x" * 16})
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert read_demo_users(directory) == {"alice": "x" * 16}
    path.chmod(0o622)
    assert read_demo_users(directory) == {}
    path.chmod(0o600)
    for broken in ("[]", "{", '{"alice": 1}', "\udcff"):
        path.write_bytes(broken.encode("utf-8", "surrogateescape"))
        assert read_demo_users(directory) == {}
