"""`gateway keys`: the keys that sign access tokens."""

from __future__ import annotations

import datetime as dt
from typing import Annotated

import typer

from gateway.adapters.identity import TokenServices
from gateway.adapters.key_store import SigningKey
from gateway.cli import terminal
from gateway.cli.account_access import with_tokens
from gateway.cli.examples import examples

app = typer.Typer(help="List and rotate the keys that sign tokens.", no_args_is_help=True)

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command("list", epilog=examples("gateway keys list", "gateway keys list --json"))
def list_keys(*, as_json: Json = False) -> None:
    """List the keys; never the secret half of one."""

    async def work(services: TokenServices) -> list[SigningKey]:
        return await services.keys.all()

    keys = with_tokens(work)
    if as_json:
        terminal.write_json([_shown(key) for key in keys])
        return
    rows = [
        (key.kid, "active" if key.active else "retired", _time(key.created_at), _time(key.kept_until)) for key in keys
    ]
    terminal.write_table(("KEY", "STATE", "CREATED", "KEPT UNTIL"), rows)


@app.command(epilog=examples("gateway keys rotate", "gateway keys rotate --now"))
def rotate(
    *,
    now: Annotated[
        bool, typer.Option("--now", help="Drop all keys before at once, with the tokens and connections they signed.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Sign with a new key; the old one is kept until its tokens have ended. Running servers follow within a second."""

    async def work(services: TokenServices) -> list[SigningKey]:
        await services.keys.rotate(now=now)
        return await services.keys.all()

    keys = with_tokens(work)
    if as_json:
        terminal.write_json([_shown(key) for key in keys])
        return
    kid = next(key.kid for key in keys if key.active)
    kept = max((key.kept_until for key in keys if key.kept_until is not None), default=None)
    rest = (
        "all keys before are dropped, and all that they signed"
        if kept is None
        else f"the old one is kept until {_time(kept)}"
    )
    terminal.write_line(f"`{kid}` signs from now on; {rest}")


def _shown(key: SigningKey) -> dict[str, object]:
    return {
        "kid": key.kid,
        "active": key.active,
        "created_at": key.created_at,
        "retired_at": key.retired_at,
        "kept_until": key.kept_until,
    }


def _time(at: float | None) -> str:
    return "-" if at is None else dt.datetime.fromtimestamp(at, dt.UTC).isoformat(timespec="seconds")
