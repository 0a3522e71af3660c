"""`gateway version`: which release this is and what it runs on."""

from __future__ import annotations

import platform
from importlib import metadata
from typing import Annotated

import typer

from gateway.cli import terminal
from gateway.cli.examples import examples

DISTRIBUTION = "portcullis-gateway"
app = typer.Typer()


@app.command(epilog=examples("gateway version", "gateway version --json"))
def version(*, as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Print the version."""
    release = current()
    if as_json:
        terminal.write_json({"version": release, "python": platform.python_version(), "platform": platform.platform()})
    else:
        terminal.write_line(f"portcullis {release} (Python {platform.python_version()})")


def current() -> str:
    """Give the version of the installed distribution."""
    try:
        return metadata.version(DISTRIBUTION)
    except metadata.PackageNotFoundError:  # a checkout that was never installed
        return "unknown"
