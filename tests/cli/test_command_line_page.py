"""The page on the command line says what the command line has."""

from __future__ import annotations

from pathlib import Path

import typer

from gateway.cli.app import COMMANDS
from gateway.cli.connect import connect
from gateway.cli.connect_lines import VERBS

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "command-line.md").read_text(encoding="utf-8")


def command_rows() -> list[str]:
    return [f"| `gateway {name}` | {summary} |" for name, summary in COMMANDS.items()]


def verb_rows() -> list[str]:
    return [f"| `{verb.usage}` | {verb.summary} |" for verb in VERBS.values()]


def test_page_has_the_row_of_every_command_and_every_line() -> None:
    rows = [*command_rows(), *verb_rows()]
    assert [row for row in rows if row not in PAGE.splitlines()] == []


def test_page_names_every_option_of_connect() -> None:
    app = typer.Typer(add_completion=False)
    app.command()(connect)
    options = [option for param in typer.main.get_command(app).params for option in param.opts if option[:2] == "--"]
    assert [option for option in options if option not in PAGE and option.replace("--", "--no-") not in PAGE] == []
