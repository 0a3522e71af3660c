from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import typer
from program import PROGRAM, clean_environment, gateway

from gateway.cli import app, terminal
from gateway.cli.app import COMMANDS, run
from gateway.cli.failure import CommandFailure
from gateway.core.errors import StateUnavailableError


@pytest.fixture
def probe(monkeypatch: pytest.MonkeyPatch) -> dict[str, BaseException]:
    """Put a command `version` in place that raises what the test says."""
    raises: dict[str, BaseException] = {}
    module = ModuleType("gateway.cli.version")
    module.app = typer.Typer()  # type: ignore[attr-defined]

    def command() -> None:
        raise raises["error"]

    module.app.command()(command)
    monkeypatch.setitem(sys.modules, "gateway.cli.version", module)
    return raises


@pytest.mark.parametrize(
    ("error", "line", "code"),
    [
        (CommandFailure("no such user; add it first"), "gateway: no such user; add it first\n", 1),
        (CommandFailure("what?", 2), "gateway: what?\n", 2),
        (StateUnavailableError("database is away"), "gateway: database is away\n", 1),
        (CommandFailure("one\ntwo"), "gateway: one\ngateway: two\n", 1),
        (CommandFailure("\x1b[31mred\u202e"), "gateway: \\x1b[31mred\\u202e\n", 1),
        (
            FileNotFoundError(2, "No such file or directory", "x.yaml"),
            "gateway: `x.yaml`: no such file or directory\n",
            1,
        ),
        (PermissionError("a sentence"), "gateway: a sentence\n", 1),
        (KeyboardInterrupt(), "", 130),
        (EOFError(), "\n", 130),
    ],
)
def test_every_failure_is_one_line_and_an_exit_code(
    probe: dict[str, BaseException], capsys: pytest.CaptureFixture[str], error: BaseException, line: str, code: int
) -> None:
    probe["error"] = error
    assert run(["version"]) == code
    assert capsys.readouterr() == ("", line)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["nope"], "gateway: no such command `nope`; see `gateway --help`\n"),
        (["verson"], "gateway: no such command `verson`, did you mean `version`; see `gateway --help`\n"),
        (["version", "--foo"], "gateway: no such option: --foo; see `gateway version --help`\n"),
        (["version", "x"], "gateway: got unexpected extra argument (x); see `gateway version --help`\n"),
        (["config", "nope"], "gateway: no such command `nope`; see `gateway config --help`\n"),
        (
            ["serve", "--port", "x"],
            "gateway: invalid value for `--port`: `x` is not a valid int range; see `gateway serve --help`\n",
        ),
    ],
)
def test_usage_errors_are_one_line_that_names_the_help_and_exit_2(
    capsys: pytest.CaptureFixture[str], arguments: list[str], line: str
) -> None:
    assert run(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert "see `gateway" in err
    if "valid int" not in line:
        assert err == line


@pytest.mark.parametrize("arguments", [[], ["config"]])
def test_noun_without_a_verb_prints_its_help_on_standard_error(
    capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    assert run(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("Usage: gateway")


def test_root_help_lists_every_command_without_importing_any(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--help"]) == 0
    out, _ = capsys.readouterr()
    for name, summary in COMMANDS.items():
        assert f"  {name} " in out
        assert summary in out


def leaves(name: str) -> list[list[str]]:
    command = app._command(name)
    return [[name, verb] for verb in getattr(command, "commands", {})] or [[name]]


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_every_command_has_an_example_that_names_it(capsys: pytest.CaptureFixture[str], name: str) -> None:
    for path in leaves(name):
        assert run([*path, "--help"]) == 0
        out, _ = capsys.readouterr()
        if "not in this release" in out:
            continue
        assert "Examples:" in out or "Example:" in out, path
        assert f"gateway {' '.join(path)}" in out.partition("xample")[2], path


@pytest.mark.parametrize("name", [name for name in COMMANDS if len(leaves(name)[0]) > 1])
def test_list_of_verbs_is_cut_nowhere(capsys: pytest.CaptureFixture[str], name: str) -> None:
    assert run([name, "--help"]) == 0
    listed = capsys.readouterr().out.partition("Commands:\n")[2].splitlines()
    assert listed
    assert [line for line in listed if not line.endswith(".") or line.endswith("...")] == []


def test_light_commands_do_not_import_the_server(tmp_path: Path) -> None:
    code = (
        "import sys; from gateway.cli.app import run; run(['version']);"
        "heavy = {'fastapi', 'sqlalchemy', 'uvicorn', 'jose', 'websockets', 'gateway.compose'} & set(sys.modules);"
        "sys.exit(','.join(sorted(heavy)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_reader_that_has_seen_enough_ends_the_command_quietly(tmp_path: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    try:
        done = subprocess.run(
            [*PROGRAM, "config", "show", "--dev"],
            cwd=tmp_path, stdout=write, stderr=subprocess.PIPE, env=clean_environment(), check=False,
        )  # fmt: skip
    finally:
        os.close(write)
    assert (done.returncode, done.stderr) == (1, b"")


def test_colours_are_for_terminals_without_no_color() -> None:
    class Terminal:
        def isatty(self) -> bool:
            return True

    stream = Terminal()
    assert terminal.coloured(stream, {})  # type: ignore[arg-type]
    assert not terminal.coloured(stream, {"NO_COLOR": "1"})  # type: ignore[arg-type]
    assert not terminal.coloured(stream, {"TERM": "dumb"})  # type: ignore[arg-type]
    assert terminal.paint("x", terminal.Style.BAD, colours=True) == "\x1b[31mx\x1b[0m"
    assert terminal.paint("x", terminal.Style.BAD, colours=False) == "x"


def test_foreign_text_cannot_command_the_terminal() -> None:
    assert terminal.printable("a\x1b]0;title\x07\x9b1m\u202eb\n") == "a\\x1b]0;title\\x07\\x9b1m\\u202eb\\x0a"
    assert terminal.printable("ünïcödé 👩‍👩‍👧 日本") == "ünïcödé 👩‍👩‍👧 日本"
    assert terminal.to_json({"a": "\x1b\x9b\u202e\ud800 ü"}) == '{"a": "\\u001b\\u009b\\u202e\\ud800 ü"}'


def test_tables_align_wide_characters_and_harm_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.write_table(("NAME", "X"), [("日本", 1), ("e\u0301a", None), ("\x1b[31m", "y")])
    assert capsys.readouterr().out.splitlines() == ["NAME      X", "日本      1", "e\u0301a", "\\x1b[31m  y"]


def test_output_that_the_terminal_cannot_write_is_escaped(tmp_path: Path) -> None:
    done = gateway("config", "check", cwd=tmp_path, environ={"GATEWAY_ÜNKNOWN": "1", "PYTHONIOENCODING": "ascii"})
    assert done.returncode == 1
    assert "GATEWAY_\\xdcNKNOWN: is no setting" in done.stderr
