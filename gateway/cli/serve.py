"""`gateway serve`: starts the gateway, and in development mode tells how to try it."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer

from gateway.cli import terminal
from gateway.cli.demo_users import keep_demo_users, read_demo_users
from gateway.cli.examples import examples
from gateway.cli.failure import CommandFailure
from gateway.cli.terminal import Style, coloured, paint
from gateway.settings import Settings, load_settings, not_in_this_release
from gateway.settings.data_dir import remember_address

if TYPE_CHECKING:
    from gateway.compose import Gateway

app = typer.Typer()

DEFAULT_PORT = 8000


@app.command(
    epilog=examples(
        "gateway serve --dev                          a gateway to try, with demo users",
        "gateway serve --dev --port 9000              the same on another port",
        "GATEWAY_SECRET_KEY_FILE=/run/secrets/gateway-key \\",
        "GATEWAY_PUBLIC_URL=https://gateway.example.com gateway serve --host 0.0.0.0",
    )
)
def serve(
    *,
    host: Annotated[str, typer.Option(metavar="ADDRESS", help="Where to listen; `0.0.0.0` for every interface.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(min=0, max=65535, help="Where to listen; 0 for any free port.")] = DEFAULT_PORT,
    workers: Annotated[int, typer.Option(min=1, help="Processes; more than one needs a shared broker.")] = 1,
    dev: Annotated[bool, typer.Option("--dev", help="Development mode: a secret and demo users of its own.")] = False,
) -> int:
    """Start the gateway; SIGTERM or Ctrl-C drains and stops it."""
    # Until the server takes its signals: as the first process of a container, one without a handler would not hear SIGTERM.
    before = signal.signal(signal.SIGTERM, _stop_before_start)
    try:
        return _serve(host, port, workers, dev=dev)
    finally:
        signal.signal(signal.SIGTERM, before)


def _serve(host: str, port: int, workers: int, *, dev: bool) -> int:
    if workers > 1:
        raise CommandFailure(
            f"`--workers {workers}` needs a shared broker, which this release does not have yet; leave it at 1"
        )
    if port == 0:
        port = _free_port(host)
    settings = load_settings(os.environ, development=dev, address=(host, port))
    refused = not_in_this_release(settings)
    if refused:
        raise CommandFailure("\n".join(refused))
    from gateway.compose import run_server  # noqa: PLC0415 - half a second of imports that no refusal should wait for

    return run_server(settings, host, port, ready=_introduce if settings.development else None)


def _stop_before_start(_number: int, _frame: FrameType | None) -> None:
    """End with success: there is nothing to drain yet."""
    raise SystemExit(0)


def _free_port(host: str) -> int:
    """Find a port before the settings are read, since the issuer of all tokens names it."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


@contextlib.asynccontextmanager
async def _introduce(gateway: Gateway, _port: int) -> AsyncIterator[None]:
    """Make the demo users and say how to try the gateway."""
    from gateway.runtime.development_users import ensure_development_users  # noqa: PLC0415 - as above

    settings = gateway.settings
    policy = gateway.node.policy
    passwords = await ensure_development_users(
        gateway.identity.accounts, policy.roles, read_demo_users(settings.data_dir)
    )
    kept_in = keep_demo_users(settings.data_dir, passwords)
    remember_address(settings.data_dir, settings.public_url)
    # Standard error: what stands on standard output is the log, which no password may enter.
    terminal.note(introduction(settings, policy.version, passwords, kept_in, colours=coloured(sys.stderr)))
    yield


def introduction(
    settings: Settings, policy_version: str, passwords: dict[str, str], kept_in: Path, *, colours: bool
) -> str:
    """Write what a developer reads first: addresses, demo users, and one command to try.

    Args:
        settings: What is served.
        policy_version: The version of the policy.
        passwords: The demo users.
        kept_in: The file that keeps their passwords.
        colours: Whether the terminal takes colours.
    """
    from gateway.runtime.development_users import TENANT, USERS  # noqa: PLC0415 - as above

    url = settings.public_url
    width = max(map(len, [*USERS, *passwords]))
    roles = max(map(len, USERS.values()))
    users = [
        f"    {paint(name.ljust(width), Style.NAME, colours=colours)}  {USERS.get(name, '').ljust(roles)}  {password}"
        for name, password in passwords.items()
    ]
    command = f"{command_name()} connect --user {next(iter(passwords), 'NAME')}"
    places = {
        "Try it": f"{url}/",
        "WebSocket": f"ws{url.removeprefix('http')}/ws",
        "API docs": f"{url}/docs" if settings.docs else "",
        "Metrics": f"{url}/metrics",
        "Policy": f"{_short(settings.policy_dir)} (version {policy_version})",
    }
    return "\n".join(
        [
            "",
            f"  {paint('Portcullis', Style.HEADING, colours=colours)} in development mode; Ctrl-C stops it",
            "",
            *[f"  {name.ljust(11)}{place}" for name, place in places.items() if place],
            "",
            f"  Demo users of tenant `{TENANT}` (kept in {_short(kept_in)}):",
            *users,
            "",
            "  In another terminal:",
            f"    {paint(command, Style.GOOD, colours=colours)}",
            f"    subscribe room:{TENANT}:lobby",
            f'    publish room:{TENANT}:lobby {{"text": "hi"}}',
            "",
        ]
    )


def command_name() -> str:
    """Give what a person types to call this program from the present directory."""
    called = Path(sys.argv[0])
    if called.name == "__main__.py":
        return f"{_short(Path(sys.executable))} -m gateway"
    found = shutil.which(called.name)
    if found is not None and Path(found).resolve() == called.resolve():
        return called.name
    return _short(called)


def _short(path: Path) -> str:
    with contextlib.suppress(ValueError):
        return str(path.absolute().relative_to(Path.cwd()))
    return str(path)
