"""The keys that sign tokens, sealed in the database. Owns their rows and the making of the first one.

A record holds an ES256 key and a random seed, from which the key behind signed frames is derived for each token: whoever can
sign tokens can derive it, on any node, and nothing about a token need be stored for it.

A key that no longer signs is kept until the tokens that it signed have ended; `DatabaseChanges.prune` drops it then.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec
import sqlalchemy as sa
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_der_private_key,
)
from sqlalchemy.exc import IntegrityError

from gateway.adapters.change_log import KEY_GRACE_S, announce_change
from gateway.adapters.database import Database
from gateway.adapters.schema import SIGNING_KEYS
from gateway.adapters.sealing import SealBrokenError, Sealer
from gateway.core.errors import GatewayError
from gateway.runtime.ports import Change, ChangeKind

_SEED_BYTES = 32
_KID_BYTES = 9
_ACTIVE = 1


class RotationConflictError(GatewayError):
    """Another rotation came between; nothing has been changed by this one."""


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A key that has been opened.

    Args:
        kid: Its name in the header of tokens.
        private: The ES256 key.
        seed: What the signing keys of its tokens are derived from.
        active: Whether new tokens are signed with it.
        created_at: Unix seconds.
        retired_at: Unix seconds from which on it signs no more; None for the active one.
        kept_until: Unix seconds until which it still proves tokens; None for the active one.
    """

    kid: str
    private: ec.EllipticCurvePrivateKey = field(repr=False)
    seed: bytes = field(repr=False)
    active: bool = False
    created_at: float = 0.0
    retired_at: float | None = None
    kept_until: float | None = None


class _Record(msgspec.Struct, frozen=True):
    private: bytes
    seed: bytes


class KeyStore:
    """The table of signing keys.

    Args:
        database: Where.
        sealer: Opens and seals them.
        clock: Tells the time in Unix seconds.
        ttl_s: The life of the tokens that this process signs, in seconds.
    """

    def __init__(self, database: Database, sealer: Sealer, clock: Callable[[], float], ttl_s: int) -> None:
        self._database = database
        self._sealer = sealer
        self._clock = clock
        self._ttl_s = ttl_s

    async def load(self) -> list[SigningKey]:
        """Read all keys; make the first one where there is none. Several processes may do so at once.

        Raises:
            SealBrokenError: They were sealed with a secret that is not known.
        """
        keys = await self._read()
        if not any(key.active for key in keys):
            await self._make()
            keys = await self._read()
        await self.keep_for(self._ttl_s)
        return keys

    async def keep_for(self, ttl_s: int) -> None:
        """Have the active key kept, once it is retired, for as long as a token of that life needs it. Before such a token is signed."""
        column = SIGNING_KEYS.c.longest_ttl_s
        short = (SIGNING_KEYS.c.active == _ACTIVE, sa.func.coalesce(column, 0) < ttl_s)
        async with self._database.read() as connection:
            if (await connection.execute(sa.select(SIGNING_KEYS.c.kid).where(*short))).first() is None:
                return
        async with self._database.write() as connection:
            await connection.execute(SIGNING_KEYS.update().where(*short).values(longest_ttl_s=ttl_s))

    async def rotate(self, *, now: bool = False) -> str:
        """Sign with a new key from now on, and tell every node; give its `kid`.

        Args:
            now: Drop every key before, and so all that they signed; else each is kept until its tokens have ended.

        Raises:
            RotationConflictError: Another process rotates at the same time.
            StateUnavailableError: The database cannot be reached.
        """
        kid, sealed = self._new()
        at = self._clock()
        retire = SIGNING_KEYS.update().where(SIGNING_KEYS.c.active == _ACTIVE).values(active=None, retired_at=at)
        values = {"kid": kid, "sealed": sealed, "active": _ACTIVE, "created_at": at, "longest_ttl_s": self._ttl_s}
        try:
            async with self._database.write() as connection:
                await connection.execute(SIGNING_KEYS.delete() if now else retire)
                await connection.execute(SIGNING_KEYS.insert().values(values))
                await announce_change(connection, Change(ChangeKind.KEYS, key=kid, at=at))
        except IntegrityError:
            raise RotationConflictError(
                "the keys are being rotated by another command; look at `gateway keys list`"
            ) from None
        return kid

    async def all(self) -> list[SigningKey]:
        """Read all keys, the oldest first.

        Raises:
            SealBrokenError: As for `load`.
        """
        return await self._read()

    async def longest_ttl_s(self) -> int:
        """Give the longest life that a token of any key may have, in seconds."""
        query = sa.select(sa.func.coalesce(sa.func.max(SIGNING_KEYS.c.longest_ttl_s), 0))
        async with self._database.read() as connection:
            return max(self._ttl_s, int((await connection.execute(query)).scalar_one()))

    async def _read(self) -> list[SigningKey]:
        async with self._database.read() as connection:
            rows = (await connection.execute(sa.select(SIGNING_KEYS).order_by(SIGNING_KEYS.c.created_at))).all()
        keys = []
        for row in rows:
            plain, stale = self._sealer.open(row.sealed, row.kid)
            if stale:
                await self._seal_anew(row.kid, row.sealed, plain)
            keys.append(_opened(row, plain))
        return keys

    async def _seal_anew(self, kid: str, sealed: bytes, plain: bytes) -> None:
        same = (SIGNING_KEYS.c.kid == kid, SIGNING_KEYS.c.sealed == sealed)
        async with self._database.write() as connection:
            await connection.execute(SIGNING_KEYS.update().where(*same).values(sealed=self._sealer.seal(plain, kid)))

    def _new(self) -> tuple[str, bytes]:
        """Make a key; give its `kid` and its sealed record."""
        private = ec.generate_private_key(ec.SECP256R1())
        record = _Record(
            private.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()), secrets.token_bytes(_SEED_BYTES)
        )
        kid = secrets.token_urlsafe(_KID_BYTES)
        return kid, self._sealer.seal(msgspec.msgpack.encode(record), kid)

    async def _make(self) -> None:
        kid, sealed = self._new()
        values = {"kid": kid, "sealed": sealed, "active": _ACTIVE, "created_at": self._clock()}
        try:
            async with self._database.write() as connection:
                await connection.execute(SIGNING_KEYS.insert().values(values))
        except IntegrityError:
            return  # another process was first, and its key is as good


def _opened(row: sa.Row[Any], plain: bytes) -> SigningKey:
    record = msgspec.msgpack.decode(plain, type=_Record)
    private = load_der_private_key(record.private, password=None)
    if not isinstance(private, ec.EllipticCurvePrivateKey):
        raise SealBrokenError(f"key `{row.kid}` in the database is no ES256 key")
    return SigningKey(
        kid=row.kid,
        private=private,
        seed=record.seed,
        active=row.active == _ACTIVE,
        created_at=row.created_at,
        retired_at=row.retired_at,
        kept_until=None if row.retired_at is None else row.retired_at + (row.longest_ttl_s or 0) + KEY_GRACE_S,
    )
