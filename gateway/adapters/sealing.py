"""Secrets at rest: AES-256-GCM under a key derived from the master secret. Owns the format of a sealed value.

A sealed value is 12 bytes of nonce, then the ciphertext with its tag. The context it is for is authenticated with it, so that one
sealed value cannot be put in the place of another.
"""

from __future__ import annotations

import secrets

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from gateway.core.errors import GatewayError
from gateway.core.signing import hkdf_sha256

_NONCE_BYTES = 12
_INFO = b"gateway.v1 key store"


class SealBrokenError(GatewayError):
    """A sealed value that neither the present secret nor the one before opens."""


class Sealer:
    """Seals with the present secret, opens with that and the one before.

    Args:
        secret: The master secret.
        previous: The one before, while a rotation lasts.
    """

    def __init__(self, secret: str, previous: str | None = None) -> None:
        self._present = _cipher(secret)
        self._previous = None if previous is None else _cipher(previous)

    def __repr__(self) -> str:
        """Leave the keys out."""
        return "Sealer()"

    def seal(self, plain: bytes, context: str) -> bytes:
        """Seal a value for a context."""
        nonce = secrets.token_bytes(_NONCE_BYTES)
        return nonce + self._present.encrypt(nonce, plain, context.encode())

    def open(self, sealed: bytes, context: str) -> tuple[bytes, bool]:
        """Open a sealed value; tell also whether it wants to be sealed anew, as it took the secret before.

        Raises:
            SealBrokenError: It was sealed with another secret, for another context, or altered.
        """
        nonce, ciphertext = sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:]
        for cipher in (self._present, self._previous):
            if cipher is None:
                continue
            try:
                return cipher.decrypt(nonce, ciphertext, context.encode()), cipher is not self._present
            except (InvalidTag, ValueError):
                continue
        raise SealBrokenError(
            "the keys in the database were sealed with another secret; set GATEWAY_SECRET_KEY to it, "
            "or GATEWAY_SECRET_KEY_PREVIOUS while you change secrets"
        )


def _cipher(secret: str) -> AESGCM:
    return AESGCM(hkdf_sha256(secret.encode("utf-8", "surrogatepass"), b"", _INFO))
