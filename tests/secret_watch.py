"""A pytest plugin that searches every log line of the suite for every secret that the suite used.

Fixtures that start a server take its log from `secret_watch.log_file(...)` or `secret_watch.open_log(...)`, and name each password,
token, ticket, key and client secret by `secret_watch.watch(...)`. When the session ends, after every server has stopped, a secret
found in any log fails the run. Under xdist each worker searches what its own servers wrote.
"""

from __future__ import annotations

import base64
import json
import re
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, TypeVar

import pytest

# What is shorter stands in innocent lines too.
MIN_SECRET_CHARS = 8
JWT_PARTS = 3

Secret = TypeVar("Secret", str, bytes)


class SecretWatch:
    """The secrets and the logs of one session.

    Args:
        directory: Where the logs are written.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._needles: dict[bytes, str] = {}
        self._streams: list[BinaryIO] = []
        self._files = 0

    def watch(self, secret: Secret, what: str) -> Secret:
        """Note a secret that no log may hold, in any of its spellings, and give it back.

        Args:
            secret: Text, or a key's bytes.
            what: What to call it in a failure; never the secret itself.
        """
        if len(secret) < MIN_SECRET_CHARS:
            message = f"a {what} of under {MIN_SECRET_CHARS} characters would be found in innocent lines"
            raise ValueError(message)
        for needle in _spellings(secret):
            self._needles.setdefault(needle, what)
        return secret

    def log_file(self, name: str) -> Path:
        """Give a new file for a server's output; everything written to it is searched."""
        self._files += 1
        return self.directory / f"{self._files:04d}-{re.sub(r'[^A-Za-z0-9_.-]', '_', name)}.log"

    def open_log(self, name: str) -> BinaryIO:
        """Give a new stream for a server within this process; it stays open until the session ends."""
        stream = self.log_file(name).open("ab", buffering=0)
        self._streams.append(stream)
        return stream

    def leaks(self) -> list[str]:
        """Search every line for every secret; give a place and a name for each leak, never the secret."""
        found = []
        for path in sorted(self.directory.iterdir()):
            content = path.read_bytes()
            for needle, what in self._needles.items():
                at = content.find(needle)
                if at >= 0:
                    number = content.count(b"\n", 0, at) + 1
                    line = content.splitlines()[number - 1].replace(needle, b"<LEAKED>")
                    found.append(f"{path.name}:{number}: {what}: {line[:300].decode(errors='replace')}")
        return found

    def close(self) -> None:
        """Close the streams that were given out."""
        for stream in self._streams:
            stream.close()


def _spellings(secret: str | bytes) -> set[bytes]:
    """Give the ways in which a log could hold a secret."""
    if isinstance(secret, bytes):
        encoded = {base64.b64encode(secret), base64.urlsafe_b64encode(secret)}
        shown = repr(secret)[2:-1].encode()
        return {secret, shown, secret.hex().encode(), *(each.rstrip(b"=") for each in encoded)}
    spellings = {
        secret.encode(),
        urllib.parse.quote(secret, safe="").encode(),
        urllib.parse.quote_plus(secret).encode(),
        json.dumps(secret)[1:-1].encode(),
        repr(secret)[1:-1].encode(),
    }
    parts = secret.split(".")
    if len(parts) == JWT_PARTS and len(parts[2]) >= MIN_SECRET_CHARS:
        spellings.add(parts[2].encode())
    return spellings


@pytest.fixture(scope="session")
def secret_watch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecretWatch]:
    """Give the session's watch. What depends on it is torn down first, so that the logs are whole when they are searched."""
    watch = SecretWatch(tmp_path_factory.mktemp("logs"))
    yield watch
    leaks = watch.leaks()
    watch.close()
    if leaks:
        pytest.fail("secrets in the log:\n" + "\n".join(leaks), pytrace=False)
