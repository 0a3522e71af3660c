"""`gateway users`: the people that log in with a name and a password."""

from __future__ import annotations

from typing import Annotated

import typer

from gateway.adapters.identity import AccountServices
from gateway.cli import terminal
from gateway.cli.account_access import ask_password, parse_claims, with_accounts
from gateway.cli.examples import examples
from gateway.cli.failure import USAGE, CommandFailure
from gateway.core.accounts import Account, AccountKind

app = typer.Typer(help="Add, list, change and delete users.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(metavar="NAME", help="The user.", show_default=False)]
Roles = Annotated[
    list[str] | None, typer.Option("--role", metavar="ROLE", help="A role of the policy; may be repeated.")
]
PasswordStdin = Annotated[
    bool, typer.Option("--password-stdin", help="Read the password from standard input instead of asking.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command(
    epilog=examples('printf %s "$PASSWORD" | gateway users add alice --role member --tenant acme --password-stdin')
)
def add(
    name: Name,
    *,
    role: Roles = None,
    tenant: Annotated[str, typer.Option(metavar="TENANT", help="The tenant; none is a tenant of its own.")] = "",
    claim: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="A claim of the user's tokens; may be repeated.")
    ] = None,
    password_stdin: PasswordStdin = False,
    as_json: Json = False,
) -> None:
    """Add a user, with a password of 12 to 128 characters."""
    claims = parse_claims(claim or ())
    password = ask_password(from_stdin=password_stdin)

    async def work(services: AccountServices) -> Account:
        return await services.accounts.add_user(name, password, roles=role or (), tenant=tenant, claims=claims)

    account = with_accounts(work)
    _tell(_shown(account), f"added `{name}` with {_listed(account.roles)}", as_json=as_json)


@app.command("list", epilog=examples("gateway users list", "gateway users list --json"))
def list_users(*, as_json: Json = False) -> None:
    """List all users."""

    async def work(services: AccountServices) -> list[Account]:
        return await services.accounts.all(AccountKind.USER)

    accounts = with_accounts(work)
    if as_json:
        terminal.write_json([_shown(account) for account in accounts])
        return
    rows = [
        (account.name, account.tenant or "-", ", ".join(account.roles) or "-", _state(account)) for account in accounts
    ]
    terminal.write_table(("NAME", "TENANT", "ROLES", "STATE"), rows)


@app.command("set-roles", epilog=examples("gateway users set-roles alice --role member --role moderator"))
def set_roles(
    name: Name,
    *,
    role: Roles = None,
    no_roles: Annotated[bool, typer.Option("--no-roles", help="Take all roles away.")] = False,
    as_json: Json = False,
) -> None:
    """Replace a user's roles; open connections go on with the new ones within a second."""
    if bool(role) == no_roles:
        raise CommandFailure("give `--role` once or more, or `--no-roles`", exit_code=USAGE)

    async def work(services: AccountServices) -> tuple[str, ...]:
        return await services.accounts.set_roles(name, role or ())

    roles = with_accounts(work)
    _tell({"name": name, "roles": list(roles)}, f"`{name}` now has {_listed(roles)}", as_json=as_json)


@app.command(
    "set-password", epilog=examples('printf %s "$PASSWORD" | gateway users set-password alice --password-stdin')
)
def set_password(name: Name, *, password_stdin: PasswordStdin = False, as_json: Json = False) -> None:
    """Replace a user's password; all tokens and connections of the user end."""
    password = ask_password(from_stdin=password_stdin)

    async def work(services: AccountServices) -> None:
        await services.accounts.set_password(name, password)

    with_accounts(work)
    _tell({"name": name}, f"`{name}` has a new password; all tokens and connections end", as_json=as_json)


@app.command(epilog=examples("gateway users disable alice"))
def disable(name: Name, *, as_json: Json = False) -> None:
    """Keep a user out; all tokens and connections of the user end."""

    async def work(services: AccountServices) -> None:
        await services.accounts.disable(name)

    with_accounts(work)
    _tell({"name": name, "disabled": True}, f"`{name}` is disabled; all tokens and connections end", as_json=as_json)


@app.command(epilog=examples("gateway users enable alice"))
def enable(name: Name, *, as_json: Json = False) -> None:
    """Let a disabled user log in again; tokens issued before stay ended."""

    async def work(services: AccountServices) -> None:
        await services.accounts.enable(name)

    with_accounts(work)
    _tell({"name": name, "disabled": False}, f"`{name}` is enabled", as_json=as_json)


@app.command(epilog=examples("gateway users delete alice"))
def delete(name: Name, *, as_json: Json = False) -> None:
    """Delete a user; all tokens and connections end, and a new user of that name revives none."""

    async def work(services: AccountServices) -> None:
        await services.accounts.delete(name, AccountKind.USER)

    with_accounts(work)
    _tell({"name": name, "deleted": True}, f"`{name}` is deleted; all tokens and connections end", as_json=as_json)


def _tell(data: dict[str, object], sentence: str, *, as_json: bool) -> None:
    if as_json:
        terminal.write_json(data)
    else:
        terminal.write_line(terminal.printable(sentence))


def _shown(account: Account) -> dict[str, object]:
    return {
        "name": account.name,
        "tenant": account.tenant,
        "roles": list(account.roles),
        "claims": dict(account.claims),
        "disabled": account.disabled,
        "development": account.development,
        "created_at": account.created_at,
    }


def _state(account: Account) -> str:
    states = ["disabled" if account.disabled else "enabled"]
    if account.development:
        states.append("development")
    return ", ".join(states)


def _listed(roles: tuple[str, ...]) -> str:
    if not roles:
        return "no role"
    return f"role{'s' if len(roles) > 1 else ''} {', '.join(f'`{role}`' for role in roles)}"
