"""`gateway clients`: the services that authenticate with a secret."""

from __future__ import annotations

import datetime as dt
from typing import Annotated

import typer

from gateway.adapters.identity import AccountServices
from gateway.cli import terminal
from gateway.cli.account_access import with_accounts
from gateway.cli.examples import examples
from gateway.core.accounts import Account, AccountKind
from gateway.runtime.accounts import ClientSecret

app = typer.Typer(help="Add, list, change and delete service accounts.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(metavar="NAME", help="The client.", show_default=False)]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command(epilog=examples("gateway clients add billing --role publisher --tenant acme"))
def add(
    name: Name,
    *,
    role: Annotated[
        list[str] | None, typer.Option("--role", metavar="ROLE", help="A role of the policy; may be repeated.")
    ] = None,
    tenant: Annotated[str, typer.Option(metavar="TENANT", help="The tenant; none is a tenant of its own.")] = "",
    as_json: Json = False,
) -> None:
    """Add a service account, and print its secret this once."""

    async def work(services: AccountServices) -> ClientSecret:
        return await services.accounts.add_client(name, roles=role or (), tenant=tenant)

    _show(with_accounts(work), as_json=as_json)


@app.command("list", epilog=examples("gateway clients list", "gateway clients list --json"))
def list_clients(*, as_json: Json = False) -> None:
    """List all service accounts; secrets are not kept, so none is shown."""

    async def work(services: AccountServices) -> list[Account]:
        return await services.accounts.all(AccountKind.CLIENT)

    accounts = with_accounts(work)
    if as_json:
        terminal.write_json(
            [
                {
                    "client_id": account.name,
                    "tenant": account.tenant,
                    "roles": list(account.roles),
                    "created_at": account.created_at,
                }
                for account in accounts
            ]
        )
        return
    rows = [(account.name, account.tenant or "-", ", ".join(account.roles) or "-") for account in accounts]
    terminal.write_table(("CLIENT", "TENANT", "ROLES"), rows)


@app.command(
    "rotate-secret",
    epilog=examples("gateway clients rotate-secret billing", "gateway clients rotate-secret billing --now"),
)
def rotate_secret(
    name: Name,
    *,
    now: Annotated[
        bool, typer.Option("--now", help="End the old secret at once, with all tokens and connections of the client.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Give a client a new secret, printed this once; the old one counts for a day more."""

    async def work(services: AccountServices) -> ClientSecret:
        return await services.accounts.rotate_secret(name, now=now)

    _show(with_accounts(work), as_json=as_json)


@app.command(epilog=examples("gateway clients delete billing"))
def delete(name: Name, *, as_json: Json = False) -> None:
    """Delete a service account; all its tokens and connections end."""

    async def work(services: AccountServices) -> None:
        await services.accounts.delete(name, AccountKind.CLIENT)

    with_accounts(work)
    if as_json:
        terminal.write_json({"client_id": name, "deleted": True})
    else:
        terminal.write_line(terminal.printable(f"`{name}` is deleted; all tokens and connections end"))


def _show(secret: ClientSecret, *, as_json: bool) -> None:
    data: dict[str, object] = {"client_id": secret.client_id, "client_secret": secret.client_secret}
    if secret.previous_until:
        data["previous_secret_until"] = secret.previous_until
    if as_json:
        terminal.write_json(data)
        return
    terminal.write_line(f"client_id: {secret.client_id}")
    terminal.write_line(f"client_secret: {secret.client_secret}")
    if secret.previous_until:
        until = dt.datetime.fromtimestamp(secret.previous_until, dt.UTC).isoformat(timespec="seconds")
        terminal.note(f"the old secret counts until {until}")
    terminal.note("keep the secret now: it is not shown again")
