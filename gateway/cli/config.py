"""`gateway config`: what the settings are, and whether the gateway would start with them."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from gateway.cli import terminal
from gateway.cli.command_settings import command_reading
from gateway.cli.examples import examples
from gateway.cli.failure import CommandFailure
from gateway.settings import Reading, Settings, not_in_this_release, read_settings

app = typer.Typer(help="Check and show the settings.")

Dev = Annotated[bool, typer.Option("--dev", help="Read them as `gateway serve --dev` does.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command(epilog=examples("gateway config check", "GATEWAY_CONFIG=/etc/gateway.toml gateway config check"))
def check(*, dev: Dev = False, as_json: Json = False) -> None:
    """Tell whether the gateway would start with these settings; exit 1 with a line for each reason why not."""
    reading = _read(dev=dev)
    refused = not_in_this_release(reading.settings)
    if refused:
        raise CommandFailure("\n".join(refused))
    stated = sum(origin != "default" for origin in reading.origins.values())
    if as_json:
        terminal.write_json({"environment": reading.settings.environment, "stated": stated})
    else:
        terminal.write_line(
            f"the settings are good: {reading.settings.environment}, {stated} of {len(reading.origins)} stated"
        )


@app.command(epilog=examples("gateway config show", "gateway config show --json"))
def show(*, dev: Dev = False, as_json: Json = False) -> None:
    """Print every setting, its value and where that came from; secrets are masked."""
    reading = _read(dev=dev)
    settings = reading.settings
    if as_json:
        terminal.write_json(
            {
                name: {"value": settings.shown(name), "origin": str(reading.origins[name])}
                for name in Settings.model_fields
            }
        )
        return
    rows = [(name, _text(settings.shown(name)), str(reading.origins[name])) for name in Settings.model_fields]
    terminal.write_table(("SETTING", "VALUE", "FROM"), rows)


def _read(*, dev: bool) -> Reading:
    # Looking must not make a directory or a secret; what `serve` would make is shown as it would be.
    return read_settings(os.environ, development=True, write=False) if dev else command_reading(write=False)


def _text(value: object) -> str:
    match value:
        case None:
            return "-"
        case bool():
            return "on" if value else "off"
        case float():
            return f"{value:g}"
        case list():
            return ", ".join(str(item["name"]) if isinstance(item, dict) else str(item) for item in value) or "-"
        case _:
            return str(value)
