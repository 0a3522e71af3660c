"""How account commands reach the accounts: settings, database, policy, and one event loop for one command.

Owns the opening and closing, and the asking for passwords. Refuses to own what a command does with the accounts.
"""

from __future__ import annotations

import asyncio
import getpass
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from typing import TypeVar

from gateway.adapters.identity import AccountServices, TokenServices, open_accounts, open_token_services
from gateway.cli.command_settings import command_settings
from gateway.cli.failure import USAGE, CommandFailure
from gateway.core.accounts import read_password
from gateway.runtime.token_issue import TokenTerms
from gateway.settings import Settings, not_in_this_release

# Far more than a password has, and little enough to read.
_MAX_STDIN_BYTES = 65_536

_Outcome = TypeVar("_Outcome")


def supported_settings() -> Settings:
    """Read the settings, and refuse what this release cannot do yet.

    Raises:
        SettingsError: With every finding.
        CommandFailure: They name what a later release brings.
    """
    settings = command_settings()
    missing = not_in_this_release(settings)
    if missing:
        raise CommandFailure("\n".join(missing))
    return settings


def with_accounts(work: Callable[[AccountServices], Awaitable[_Outcome]]) -> _Outcome:
    """Open the accounts that the settings name, do one thing, and close them."""
    settings = supported_settings()

    def known_roles() -> frozenset[str]:
        # Only some commands ask for roles, and the language of conditions takes a while to load.
        from gateway.adapters.cel import CelConditions  # noqa: PLC0415 - see above
        from gateway.adapters.policy_files import load_policy  # noqa: PLC0415 - see above

        return load_policy(settings.policy_dir, CelConditions()).roles

    async def run() -> _Outcome:
        async with open_accounts(settings.database_url, known_roles) as services:
            return await work(services)

    return asyncio.run(run())


def with_tokens(work: Callable[[TokenServices], Awaitable[_Outcome]]) -> _Outcome:
    """Open the accounts and the signing keys that the settings name, do one thing, and close them."""

    async def run() -> _Outcome:
        async with _token_services(supported_settings()) as services:
            return await work(services)

    return asyncio.run(run())


@asynccontextmanager
async def _token_services(settings: Settings) -> AsyncIterator[TokenServices]:
    previous = settings.secret_key_previous
    terms = TokenTerms(
        settings.public_url, settings.audience, settings.access_token_ttl_s, settings.refresh_token_ttl_s
    )
    async with open_token_services(
        settings.database_url,
        secret_key=settings.secret_key.get_secret_value(),
        secret_key_previous=None if previous is None else previous.get_secret_value(),
        terms=terms,
    ) as services:
        yield services


def ask_password(*, from_stdin: bool) -> str:
    """Read a new password: from standard input, or twice from a terminal that does not show it.

    Raises:
        CommandFailure: There is no terminal, the two differ, or the input is no UTF-8.
    """
    if from_stdin:
        return read_password(read_stdin())
    if not sys.stdin.isatty():
        raise CommandFailure(
            "no terminal to ask for the password; pipe it in and give `--password-stdin`", exit_code=USAGE
        )
    password = getpass.getpass("Password: ")
    if getpass.getpass("Once more: ") != password:
        raise CommandFailure("the two differ; nothing has been changed")
    return password


def read_stdin() -> str:
    """Read standard input to its end.

    Raises:
        CommandFailure: It is too long or no UTF-8.
    """
    content = sys.stdin.buffer.read(_MAX_STDIN_BYTES + 1)
    if len(content) > _MAX_STDIN_BYTES:
        raise CommandFailure(f"standard input has more than {_MAX_STDIN_BYTES} bytes")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        raise CommandFailure("standard input is not UTF-8") from None


def parse_claims(pairs: Iterable[str]) -> dict[str, str]:
    """Read `name=value` options.

    Raises:
        CommandFailure: One has no equals sign, or a name comes twice.
    """
    claims: dict[str, str] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals:
            raise CommandFailure("a claim is written `--claim name=value`", exit_code=USAGE)
        if name in claims:
            raise CommandFailure(f"claim `{name}` is given twice", exit_code=USAGE)
        claims[name] = value
    return claims
