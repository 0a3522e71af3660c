"""The keys that sign tokens, sealed in the database. Owns their rows and the making of the first one.

A record holds an ES256 key and a random seed, from which the key behind signed frames is derived for each token: whoever can
sign tokens can derive it, on any node, and nothing about a token need be stored for it.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass, field

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

from gateway.adapters.database import Database
from gateway.adapters.schema import SIGNING_KEYS
from gateway.adapters.sealing import SealBrokenError, Sealer

_SEED_BYTES = 32
_KID_BYTES = 9
_ACTIVE = 1


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A key that has been opened.

    Args:
        kid: Its name in the header of tokens.
        private: The ES256 key.
        seed: What the signing keys of its tokens are derived from.
        active: Whether new tokens are signed with it.
    """

    kid: str
    private: ec.EllipticCurvePrivateKey = field(repr=False)
    seed: bytes = field(repr=False)
    active: bool = False


class _Record(msgspec.Struct, frozen=True):
    private: bytes
    seed: bytes


class KeyStore:
    """The table of signing keys.

    Args:
        database: Where.
        sealer: Opens and seals them.
        clock: Tells the time in Unix seconds.
    """

    def __init__(self, database: Database, sealer: Sealer, clock: Callable[[], float]) -> None:
        self._database = database
        self._sealer = sealer
        self._clock = clock

    async def load(self) -> list[SigningKey]:
        """Read all keys; make the first one where there is none. Several processes may do so at once.

        Raises:
            SealBrokenError: They were sealed with a secret that is not known.
        """
        keys = await self._read()
        if not any(key.active for key in keys):
            await self._make()
            keys = await self._read()
        return keys

    async def _read(self) -> list[SigningKey]:
        async with self._database.read() as connection:
            rows = (await connection.execute(sa.select(SIGNING_KEYS).order_by(SIGNING_KEYS.c.created_at))).all()
        keys = []
        for row in rows:
            plain, stale = self._sealer.open(row.sealed, row.kid)
            if stale:
                await self._seal_anew(row.kid, row.sealed, plain)
            keys.append(_opened(row.kid, plain, active=row.active == _ACTIVE))
        return keys

    async def _seal_anew(self, kid: str, sealed: bytes, plain: bytes) -> None:
        same = (SIGNING_KEYS.c.kid == kid, SIGNING_KEYS.c.sealed == sealed)
        async with self._database.write() as connection:
            await connection.execute(SIGNING_KEYS.update().where(*same).values(sealed=self._sealer.seal(plain, kid)))

    async def _make(self) -> None:
        private = ec.generate_private_key(ec.SECP256R1())
        record = _Record(
            private.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()), secrets.token_bytes(_SEED_BYTES)
        )
        kid = secrets.token_urlsafe(_KID_BYTES)
        values = {
            "kid": kid,
            "sealed": self._sealer.seal(msgspec.msgpack.encode(record), kid),
            "active": _ACTIVE,
            "created_at": self._clock(),
        }
        try:
            async with self._database.write() as connection:
                await connection.execute(SIGNING_KEYS.insert().values(values))
        except IntegrityError:
            return  # another process was first, and its key is as good


def _opened(kid: str, plain: bytes, *, active: bool) -> SigningKey:
    record = msgspec.msgpack.decode(plain, type=_Record)
    private = load_der_private_key(record.private, password=None)
    if not isinstance(private, ec.EllipticCurvePrivateKey):
        raise SealBrokenError(f"key `{kid}` in the database is no ES256 key")
    return SigningKey(kid, private, record.seed, active)
