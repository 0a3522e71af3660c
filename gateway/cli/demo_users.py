"""The file with the passwords of the demo users, in the data directory of development mode: its owner's alone.

Owns the file. Refuses to own the accounts: see `gateway.runtime.development_users`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec

from gateway.settings.data_dir import is_private, keep_private

FILE_NAME = "demo-users.json"
_MAX_BYTES = 65_536


def read_demo_users(data_dir: Path) -> dict[str, str]:
    """Give name and password of each demo user; none where there is no such file, or anybody else could have written it."""
    path = data_dir / FILE_NAME
    try:
        if not is_private(path):
            return {}
        with path.open("rb") as file:
            return msgspec.json.decode(file.read(_MAX_BYTES), type=dict[str, str])
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
        return {}


def keep_demo_users(data_dir: Path, passwords: Mapping[str, str]) -> Path:
    """Write the file anew, with mode 0600; give its path.

    Raises:
        OSError: It cannot be written.
    """
    keep_private(data_dir / FILE_NAME, msgspec.json.format(msgspec.json.encode(passwords).decode()) + "\n")
    return data_dir / FILE_NAME
