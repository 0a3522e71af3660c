"""`gateway db`: the tables of the database."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from gateway.adapters.identity import open_database
from gateway.cli import terminal
from gateway.cli.account_access import supported_settings
from gateway.cli.examples import examples

app = typer.Typer(help="Bring the database up to date.", no_args_is_help=True)
app.callback()(lambda: None)


@app.command(epilog=examples("gateway db upgrade"))
def upgrade(*, as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Bring the tables to this release's; running servers of the release before go on working."""
    url = supported_settings().database_url

    async def work() -> bool:
        async with open_database(url, migrate=False) as database:
            return await database.migrate()

    changed = asyncio.run(work())
    if as_json:
        terminal.write_json({"changed": changed})
    else:
        terminal.write_line("the database is up to date" if changed else "the database was up to date already")
