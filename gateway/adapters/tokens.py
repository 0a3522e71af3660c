"""Access tokens by python-jose, wrapped once.

Owns everything about a token's spelling, header and signature: what python-jose would let through is refused before it sees it
(RFC 8725). Refuses to own what the claims mean: see `core.claims`. Whatever is wrong with a token ends in one error, and the
token itself is never part of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Literal

import msgspec
from cachetools import LRUCache
from jose import jws
from jose.backends.cryptography_backend import CryptographyECKey
from jose.exceptions import JOSEError

from gateway.adapters.key_store import KeyStore, SigningKey
from gateway.adapters.sealing import SealBrokenError
from gateway.core.claims import AccessClaims, read_claims
from gateway.core.errors import HandshakeRefusedError, Refusal, StateUnavailableError
from gateway.core.signing import decode_base64url, hkdf_sha256
from gateway.runtime.identity_ports import MintedToken, ProvenToken, UnknownKeyError

MAX_TOKEN_BYTES = 8192
TOKEN_TYPE = "at+jwt"  # noqa: S105 - RFC 9068's media type, not a secret
ALGORITHM = "ES256"

LOOK_AGAIN_S = 0.1
# Clients that come back all at once find their tokens here, without 90 µs of curve arithmetic each; about 2 KB an entry.
MAX_PROVEN = 8192
_PARTS = 3
_KEY_INFO = "gateway.v1 token "


class _Header(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The header of a token of ours: these three and no other, so that no `crit`, `jku`, `jwk` or `x5u` is ever looked at."""

    alg: Literal["ES256"]
    typ: Literal["at+jwt"]
    kid: str


@dataclass(frozen=True, slots=True)
class _Key:
    """A key as python-jose wants it, built once: from PEM each time, verifying takes half as long again."""

    kid: str
    private: CryptographyECKey = field(repr=False)
    public: CryptographyECKey = field(repr=False)
    jwk: dict[str, str]
    seed: bytes = field(repr=False)


def _refuse(detail: str) -> HandshakeRefusedError:
    return HandshakeRefusedError(Refusal.INVALID_TOKEN, detail)


class JoseTokens:
    """`Tokens` by python-jose, with the keys of the key store.

    What was proven is kept by the digest of the token's exact octets: a signature that held once holds as long as its key counts,
    which is asked each time. Whatever else may have ended a token is not this one's to know. Refused tokens are not kept.

    Args:
        store: Where the keys are. `reload` reads them, once before anything else.
        max_proven: How many proven tokens are kept.
    """

    def __init__(self, store: KeyStore, max_proven: int = MAX_PROVEN) -> None:
        self._store = store
        self._proven: LRUCache[bytes, ProvenToken] = LRUCache(max_proven)
        self._keys: Mapping[str, _Key] = {}
        self._active = ""
        self._looked_at = float("-inf")
        self._reading = asyncio.Lock()

    async def reload(self) -> None:
        """Read the key store again.

        Raises:
            SealBrokenError: The keys were sealed with a secret that is not known; before any could be opened.
            StateUnavailableError: The database cannot be reached; the keys stay as they were. Or another process has sealed
                them with a secret that is not known here: then none counts any more, for any might have been dropped.
        """
        async with self._reading:  # or what was read first might be taken last, and bring a dropped key back
            try:
                opened = await self._store.load()
            except SealBrokenError:
                if not self._active:
                    raise
                self._keys = {}
                raise StateUnavailableError(
                    "the signing keys are sealed with another secret now; start this node again with it"
                ) from None
            self._keys = {key.kid: _prepared(key) for key in opened}
            self._active = next(key.kid for key in opened if key.active)

    async def look_again(self) -> None:
        """Read the key store for a key that another process may just have made, unless that was done just now.

        Whoever sends tokens with invented names of keys causes one reading in that time, not one each.

        Raises:
            SealBrokenError: As for `reload`.
            StateUnavailableError: The database cannot be reached.
        """
        now = asyncio.get_running_loop().time()
        if now - self._looked_at < LOOK_AGAIN_S:
            async with self._reading:  # what is being read now may have it
                return
        self._looked_at = now
        await self.reload()

    async def keep_for(self, ttl_s: int) -> None:
        """Have the active key kept, once it is retired, for as long as a token of that life needs it."""
        await self._store.keep_for(ttl_s)

    def knows(self, kid: str) -> bool:
        """Tell whether tokens with that `kid` are still good."""
        return kid in self._keys

    def mint(self, claims: AccessClaims, own: Mapping[str, str]) -> MintedToken:
        """Sign a token with the active key.

        Raises:
            StateUnavailableError: The keys cannot be opened any more.
        """
        key = self._keys.get(self._active)
        if key is None:
            raise StateUnavailableError("there is no key to sign with")
        payload = msgspec.json.encode({**own, **_written(claims)})
        token = jws.sign(payload, key.private, headers={"typ": TOKEN_TYPE, "kid": key.kid}, algorithm=ALGORITHM)
        return MintedToken(token, _derive(key, claims.jti))

    def prove(self, token: str) -> ProvenToken:
        """Prove a token's signature before anything believes its claims.

        Raises:
            UnknownKeyError: `invalid_token`, for no key of its `kid`.
            HandshakeRefusedError: `invalid_token`.
        """
        if len(token) > MAX_TOKEN_BYTES:
            raise _refuse("longer than a token may be")
        octets = sha256(token.encode("utf-8", "surrogatepass")).digest()
        proven = self._proven.get(octets)
        if proven is None or proven.kid not in self._keys:
            self._proven.pop(octets, None)
            proven = self._proven[octets] = self._verify(token)
        return proven

    def _verify(self, token: str) -> ProvenToken:
        header = _read_header(token)
        key = self._keys.get(header.kid)
        if key is None:
            raise UnknownKeyError
        try:
            payload: bytes = jws.verify(token, key.public, algorithms=[ALGORITHM])
        except (JOSEError, ValueError, TypeError, AttributeError, OverflowError, RecursionError) as error:
            raise _refuse(f"signature: {type(error).__name__}") from None
        claims, own = read_claims(payload)
        return ProvenToken(claims, own, payload, key.kid, _derive(key, claims.jti))

    def signing_key(self, kid: str, jti: str) -> bytes | None:
        """Derive the key behind signed frames; None where the key store no longer has `kid`."""
        key = self._keys.get(kid)
        return None if key is None else _derive(key, jti)

    def jwks(self) -> dict[str, list[dict[str, str]]]:
        """Give the public keys as a JWK set (RFC 7517)."""
        return {"keys": [key.jwk for key in self._keys.values()]}


def _read_header(token: str) -> _Header:
    """Read the header of a token that is spelled in the one canonical way.

    base64 has up to sixteen spellings of the same last octet, and python-jose takes them all, with padding and junk: two
    spellings of one token must not be two tokens to a cache, a log or a revocation.
    """
    parts = token.split(".")
    if len(parts) != _PARTS:
        raise _refuse("not three parts")
    decoded = [decode_base64url(part) for part in parts]
    if not all(decoded) or decoded[0] is None:
        raise _refuse("not canonical base64url")
    try:
        return msgspec.json.decode(decoded[0], type=_Header)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise _refuse(f"header: {type(error).__name__}") from None


def _prepared(key: SigningKey) -> _Key:
    public = CryptographyECKey(key.private.public_key(), ALGORITHM)
    jwk: dict[str, str] = public.to_dict()  # type: ignore[no-untyped-call]
    return _Key(
        kid=key.kid,
        private=CryptographyECKey(key.private, ALGORITHM),
        public=public,
        jwk={**jwk, "use": "sig", "kid": key.kid},
        seed=key.seed,
    )


def _derive(key: _Key, jti: str) -> bytes:
    return hkdf_sha256(key.seed, b"", f"{_KEY_INFO}{jti}".encode())


def _written(claims: AccessClaims) -> dict[str, object]:
    """Write the claims; times as whole seconds, as every reader expects them, and nothing that says nothing."""
    written = msgspec.structs.asdict(claims)
    for name in ("exp", "iat", "nbf"):
        written[name] = int(written[name])
    for name in ("narrowed", "fam", "gen"):
        if not written[name]:
            del written[name]
    return written
