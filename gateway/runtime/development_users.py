"""The demo users of development mode: who they are, and how they come to be. Owns no file: the caller keeps the passwords."""

from __future__ import annotations

import secrets
from collections.abc import Mapping

from gateway.runtime.accounts import Accounts

TENANT = "acme"
USERS = {
    "alice": "member",
    "bob": "member",
    "mona": "moderator",
    "victor": "viewer",
    "ada": "admin",
}

_PASSWORD_BYTES = 12


async def ensure_development_users(
    accounts: Accounts, roles: frozenset[str], passwords: Mapping[str, str]
) -> dict[str, str]:
    """Make the demo users that are missing, marked as such in the store.

    Args:
        accounts: The account commands.
        roles: The roles that the policy defines; a demo user whose role it does not define has none.
        passwords: The passwords of an earlier call, as the caller has kept them.

    Returns:
        The password of every demo user. An account of a demo user's name that somebody else has made is left alone and left out.

    Raises:
        StateUnavailableError: The database cannot be reached.
    """
    kept: dict[str, str] = {}
    for name, role in USERS.items():
        account = await accounts.find(name)
        if account is not None and not account.development:
            continue
        password = passwords.get(name)
        if account is not None and password is not None:
            kept[name] = password
            continue
        password = secrets.token_urlsafe(_PASSWORD_BYTES)
        if account is None:
            granted = (role,) if role in roles else ()
            await accounts.add_user(name, password, roles=granted, tenant=TENANT, development=True)
        else:
            await accounts.set_password(name, password)
        kept[name] = password
    return kept
