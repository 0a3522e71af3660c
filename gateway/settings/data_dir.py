"""The data directory: its owner's alone, and what development mode keeps in it.

Owns modes, the generated secret and the address that development mode served last. Refuses to own the database in it.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from pathlib import Path

SECRET_NAME = "secret-key"  # noqa: S105 - the name of a file
ADDRESS_NAME = "address"
DATABASE_NAME = "gateway.db"
SECRET_BYTES = 48
_MAX_ADDRESS_BYTES = 512


def claim_data_dir(path: Path) -> None:
    """Make the directory, or take one that stands, as its owner's alone.

    A looser mode is mended where the directory is empty or the gateway's already, and refused where it is not: a slip such as
    `/var/lib` must not be closed to everybody else. A directory of somebody else is refused, since its owner could put other keys
    and users in our place.

    Args:
        path: The directory.

    Raises:
        PermissionError: It belongs to another user, or others may look into it and it holds other things.
        OSError: It cannot be made, or is no directory.
    """
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = path.stat()
    if found.st_uid != os.geteuid():
        raise PermissionError("belongs to another user; name a directory of your own, or a new one within it")
    if stat.S_IMODE(found.st_mode) & 0o077:
        if not _is_ours(path):
            raise PermissionError(
                "is open to others and holds other things; name a new directory, or set its mode to 0700"
            )
        path.chmod(0o700)


def _is_ours(path: Path) -> bool:
    names = {entry.name for entry in path.iterdir()}
    return not names or bool(names & {SECRET_NAME, ADDRESS_NAME, DATABASE_NAME})


def is_private(path: Path) -> bool:
    """Tell whether a file or directory is of this user, and of nobody else's reading or writing.

    Raises:
        OSError: There is none.
    """
    found = path.stat()
    return found.st_uid == os.geteuid() and not stat.S_IMODE(found.st_mode) & 0o077


def keep_private(path: Path, text: str) -> None:
    """Write a file that only its owner reads, whole or not at all."""
    waiting = path.with_name(f"{path.name}.{os.getpid()}.new")
    handle = os.open(waiting, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_TRUNC, 0o600)
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(text)
    waiting.replace(path)


def development_secret(data_dir: Path) -> str:
    """Give the secret that development mode made for itself; make it at the first call.

    Raises:
        OSError: It can be neither read nor written.
    """
    path = data_dir / SECRET_NAME
    with contextlib.suppress(FileNotFoundError):
        if stat.S_IMODE(path.stat().st_mode) & 0o077:
            path.chmod(0o600)
        return path.read_text(encoding="utf-8").strip()
    keep_private(path, secrets.token_urlsafe(SECRET_BYTES) + "\n")
    return path.read_text(encoding="utf-8").strip()


def remember_address(data_dir: Path, public_url: str) -> None:
    """Note the address that development mode serves, so that commands in the same directory find it."""
    keep_private(data_dir / ADDRESS_NAME, public_url + "\n")


def remembered_address(data_dir: Path) -> str | None:
    """Give the address that development mode served last in this directory; None where others could have written it."""
    try:
        if not is_private(data_dir):
            return None
        with (data_dir / ADDRESS_NAME).open(encoding="utf-8") as file:
            return file.read(_MAX_ADDRESS_BYTES).strip() or None
    except (OSError, UnicodeDecodeError):
        return None
