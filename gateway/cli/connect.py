"""`gateway connect`: an interactive client that logs in, signs and prints frames.

Owns the options and where the login comes from. Refuses to own what is said then: see `connect_session`.
"""

from __future__ import annotations

import asyncio
import getpass
import os
import sys
from typing import Annotated

import msgspec
import typer

from gateway.cli import terminal
from gateway.cli.connect_input import first_line, piped_lines, prompted_lines
from gateway.cli.connect_session import Manner, Sitting, explain
from gateway.cli.connect_view import FrameView
from gateway.cli.demo_users import read_demo_users
from gateway.cli.examples import examples
from gateway.cli.failure import USAGE, CommandFailure
from gateway.client import (
    ClientError,
    GatewayClient,
    Login,
    LoginRefusedError,
    PasswordLogin,
    ServiceLogin,
    TokenLogin,
    Tokens,
    UnreachableError,
)
from gateway.client.authorization import http_url, is_loopback
from gateway.core.signing import decode_base64url
from gateway.settings import data_directory
from gateway.settings.data_dir import remembered_address

app = typer.Typer()

DEFAULT_URL = "http://127.0.0.1:8000"


@app.command(
    epilog=examples(
        "gateway connect                              as a demo user, beside `gateway serve --dev`",
        "gateway connect https://gateway.example.com --user alice --signed",
        "gateway token issue --subject alice --json | gateway connect --token-stdin --stay",
        'echo \'publish room:acme:1 {"text": "hi"}\' | gateway connect --user alice --json',
    )
)
def connect(
    url: Annotated[
        str | None,
        typer.Argument(
            metavar="[URL]", help="Where the gateway is; the one served from here if none.", show_default=False
        ),
    ] = None,
    *,
    user: Annotated[str | None, typer.Option(metavar="NAME", help="Log in as this user.")] = None,
    client: Annotated[str | None, typer.Option(metavar="ID", help="Log in as this service account.")] = None,
    role: Annotated[
        list[str] | None, typer.Option(metavar="ROLE", help="Ask for this role only; may be repeated.")
    ] = None,
    password_stdin: Annotated[
        bool, typer.Option("--password-stdin", help="Read password or secret from the first line of standard input.")
    ] = False,
    token_stdin: Annotated[
        bool,
        typer.Option(
            "--token-stdin", help="Read an access token, or the JSON answer of /token, from the first line instead."
        ),
    ] = False,
    signed: Annotated[bool, typer.Option("--signed", help="Sign every frame, and verify every answer.")] = False,
    msgpack: Annotated[bool, typer.Option("--msgpack", help="Speak MessagePack instead of JSON.")] = False,
    ticket: Annotated[bool, typer.Option("--ticket", help="Connect with a ticket in the URL, as browsers do.")] = False,
    stay: Annotated[bool, typer.Option("--stay", help="Go on listening when the piped input has ended.")] = False,
    reconnect: Annotated[bool, typer.Option(help="Come back after a close, by the rules of the protocol.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print the gateway's frames as JSON lines.")] = False,
) -> int:
    """Log in, connect, and talk to a gateway by hand; `help` at the prompt lists what can be said.

    Reads lines from standard input where that is no terminal, and then exits with 0 if all was done, 1 if something was
    refused, and 2 at a line that it does not understand.
    """
    address = _address(url)
    login = _login(address, user, client, tuple(role or ()), password_stdin=password_stdin, token_stdin=token_stdin)
    interactive = sys.stdin.isatty()
    manner = Manner(as_json=as_json, interactive=interactive, stay=stay)
    view = FrameView(colours=terminal.coloured(sys.stdout), arrows=_writes_arrows())
    sitting = Sitting(manner, view)
    gateway = GatewayClient(
        address,
        login,
        signed=signed,
        encoding="msgpack" if msgpack else "json",
        ticket=ticket,
        reconnect=reconnect,
        observe=sitting.observe,
    )
    try:
        asyncio.run(_sit(gateway, sitting, manner))
    except LoginRefusedError as refused:
        raise CommandFailure(f"the login was refused: {_advice(refused)}") from None
    except UnreachableError as wrong:
        raise CommandFailure(f"{wrong}; is it running?") from None
    except ClientError as wrong:
        raise CommandFailure(explain(wrong)) from None
    return sitting.exit_code


async def _sit(gateway: GatewayClient, sitting: Sitting, manner: Manner) -> None:
    async with gateway:
        if manner.interactive:
            terminal.note("  connected; `help` lists what can be said, Tab completes, Ctrl-D leaves")
            await sitting.run(gateway, prompted_lines(lambda: sitting.channels))
        else:
            await sitting.run(gateway, piped_lines())


def _address(url: str | None) -> str:
    remembered = remembered_address(data_directory(os.environ))
    if remembered is not None and not is_loopback(remembered):
        remembered = None  # a directory that came from elsewhere must not choose who gets the password
    try:
        return http_url(url or remembered or DEFAULT_URL)
    except ValueError as wrong:
        raise CommandFailure(f"{wrong}; give one such as `{DEFAULT_URL}`", USAGE) from None


def _login(
    address: str,
    user: str | None,
    client: str | None,
    roles: tuple[str, ...],
    *,
    password_stdin: bool,
    token_stdin: bool,
) -> Login:
    if sum([user is not None, client is not None, token_stdin]) > 1 or (password_stdin and token_stdin):
        raise CommandFailure("give only one of `--user`, `--client` and `--token-stdin`", USAGE)
    if token_stdin:
        return TokenLogin(_tokens(first_line()))
    # What development mode made here is no secret of anybody else's machine, and must not be sent to one.
    demo = read_demo_users(data_directory(os.environ)) if is_loopback(address) else {}
    if client is not None:
        return ServiceLogin(client, _password(client, from_stdin=password_stdin), roles)
    if user is None:
        if not demo:
            raise CommandFailure(
                "who connects? name a user with `--user`, or start `gateway serve --dev` in this directory", USAGE
            )
        user = next(iter(demo))
        others = ", ".join(name for name in demo if name != user)
        terminal.note(f"  as the demo user {user}; `--user` takes another one: {others}")
    if user in demo and not password_stdin:
        return PasswordLogin(user, demo[user], roles)
    return PasswordLogin(user, _password(user, from_stdin=password_stdin), roles)


def _password(name: str, *, from_stdin: bool) -> str:
    if from_stdin:
        return first_line()
    if not sys.stdin.isatty():
        raise CommandFailure(
            f"no terminal to ask for the password of `{name}`; make it the first line and give `--password-stdin`",
            USAGE,
        )
    return getpass.getpass(f"Password of {name}: ")


class _TokenAnswer(msgspec.Struct):
    access_token: str
    signing_key: str | None = None
    refresh_token: str | None = None


def _tokens(line: str) -> Tokens:
    """Read a token as it stands, or with its signing key in the answer of `/token`."""
    line = line.strip()
    if not line:
        raise CommandFailure("no token stood on standard input", USAGE)
    if not line.startswith("{"):
        return Tokens(line)
    try:
        answer = msgspec.json.decode(line, type=_TokenAnswer)
    except msgspec.MsgspecError:
        raise CommandFailure("the JSON on standard input is no answer of /token on one line", USAGE) from None
    key = None if answer.signing_key is None else decode_base64url(answer.signing_key)
    return Tokens(answer.access_token, key, answer.refresh_token)


def _advice(refused: LoginRefusedError) -> str:
    match refused.error:
        case "invalid_grant":
            return "wrong user or password, or the account is disabled"
        case "invalid_client":
            return "wrong service account or secret"
        case "slow_down":
            return f"too many failed logins; try again in {refused.retry_after_s or 1:.0f} s"
        case "invalid_scope":
            return "the account does not have the role that `--role` asks for"
        case _:
            return str(refused)


def _writes_arrows() -> bool:
    try:
        "→←".encode(sys.stdout.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True
