"""Keys of a signed connection, and the MAC of each of its frames (HMAC-SHA-256, RFC 2104; HKDF, RFC 5869).

Owns key derivation, the layout of a signed frame and the counters. Refuses to own where keys come from. The MAC covers the
received bytes and is verified before anything parses them.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from typing import Protocol

from gateway.core.errors import SignatureError, SignatureFailure
from gateway.core.frames import Encoding

KEY_BYTES = 32
SERVER_NONCE_BYTES = 32
MIN_CLIENT_NONCE_BYTES, MAX_CLIENT_NONCE_BYTES = 16, 32

_CLIENT_INFO = b"gateway.v1 client"
_SERVER_INFO = b"gateway.v1 server"
_TICKET_INFO = b"gateway.v1 ticket"

_TEXT_HEAD = 3 + 64 + 1  # "s1.", the digits, "."
_BINARY_HEAD = 1 + 32  # the version, the MAC
_BLOCK_BYTES = 64  # of SHA-256


def hkdf_sha256(ikm: bytes, salt: bytes, info: bytes) -> bytes:
    """Derive 32 bytes: extract, then the one block of expand that 32 bytes take (RFC 5869 section 2)."""
    pseudo_random_key = hmac.digest(salt or bytes(KEY_BYTES), ikm, "sha256")
    return hmac.digest(pseudo_random_key, info + b"\x01", "sha256")


def derive_keys(signing_key: bytes, client_nonce: bytes, server_nonce: bytes) -> tuple[bytes, bytes]:
    """Derive the keys of one connection: (what the client signs with, what the server signs with), 32 bytes each."""
    salt = client_nonce + server_nonce
    return hkdf_sha256(signing_key, salt, _CLIENT_INFO), hkdf_sha256(signing_key, salt, _SERVER_INFO)


def derive_ticket_key(signing_key: bytes, ticket: str) -> bytes:
    """Derive the signing key of a ticket from that of the token that took it, so that a stolen token yields none."""
    return hkdf_sha256(signing_key, ticket.encode("ascii"), _TICKET_INFO)


def encode_base64url(data: bytes) -> str:
    """Write base64url without padding (RFC 4648 section 5)."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def decode_base64url(text: str) -> bytes | None:
    """Read unpadded base64url; None for anything that `encode_base64url` would not have written."""
    try:
        data = base64.b64decode(text.encode("ascii") + b"=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, UnicodeEncodeError):
        return None
    return data if encode_base64url(data) == text else None


class _Mac:
    """HMAC-SHA-256 with both key blocks hashed beforehand: half the cost of the obvious call.

    Args:
        key: 32 bytes.
    """

    __slots__ = ("_inner", "_outer")

    def __init__(self, key: bytes) -> None:
        block = key.ljust(_BLOCK_BYTES, b"\0")
        self._inner = hashlib.sha256(bytes(octet ^ 0x36 for octet in block))
        self._outer = hashlib.sha256(bytes(octet ^ 0x5C for octet in block))

    def hexdigest(self, message: bytes) -> str:
        inner, outer = self._inner.copy(), self._outer.copy()
        inner.update(message)
        outer.update(inner.digest())
        return outer.hexdigest()

    def digest(self, message: bytes) -> bytes:
        inner, outer = self._inner.copy(), self._outer.copy()
        inner.update(message)
        outer.update(inner.digest())
        return outer.digest()


class Signer:
    """Signs the frames of one direction, in their order.

    Args:
        key: 32 bytes, for this direction of this connection.
        encoding: JSON gives text frames, MessagePack binary ones.
    """

    __slots__ = ("_mac", "_text", "count")

    def __init__(self, key: bytes, encoding: Encoding) -> None:
        self._mac = _Mac(key)
        self._text = encoding is Encoding.JSON
        self.count = 0

    def sign(self, body: bytes) -> bytes:
        """Put the signature before `body` and count it."""
        count = self.count
        self.count = count + 1
        if self._text:
            return b"s1.%b.%b" % (self._mac.hexdigest(b"%d.%b" % (count, body)).encode("ascii"), body)
        return b"\x01%b%b" % (self._mac.digest(count.to_bytes(8, "big") + body), body)


class Verifier:
    """Verifies the frames of one direction, in their order.

    Args:
        key: 32 bytes, for this direction of this connection.
        encoding: JSON takes text frames, MessagePack binary ones.
    """

    __slots__ = ("_mac", "_text", "count")

    def __init__(self, key: bytes, encoding: Encoding) -> None:
        self._mac = _Mac(key)
        self._text = encoding is Encoding.JSON
        self.count = 0

    def verify(self, payload: bytes) -> bytes:
        """Take the signature off, or raise; the count goes on with each frame that holds.

        Raises:
            SignatureError: The frame is not signed, its signature is malformed, or it is not the one of these bytes at this
                place in this direction of this connection.
        """
        if self._text:
            if payload[:3] != b"s1.":
                raise SignatureError(_unsigned_text(payload))
            if payload[67:68] != b".":
                raise SignatureError(SignatureFailure.MALFORMED)
            given, body = payload[3:67], payload[_TEXT_HEAD:]
            wanted = self._mac.hexdigest(b"%d.%b" % (self.count, body)).encode("ascii")
            if not hmac.compare_digest(given, wanted):
                raise SignatureError(SignatureFailure.MISMATCH if _is_lower_hex(given) else SignatureFailure.MALFORMED)
        else:
            if payload[:1] != b"\x01":
                raise SignatureError(_unsigned_binary(payload))
            if len(payload) < _BINARY_HEAD:
                raise SignatureError(SignatureFailure.MALFORMED)
            given, body = payload[1:_BINARY_HEAD], payload[_BINARY_HEAD:]
            if not hmac.compare_digest(given, self._mac.digest(self.count.to_bytes(8, "big") + body)):
                raise SignatureError(SignatureFailure.MISMATCH)
        self.count += 1
        return body


class FrameSigner(Protocol):
    """What signs outgoing frames, or leaves them as they are."""

    def sign(self, body: bytes) -> bytes:
        """Give the payload of a data frame for `body`."""
        ...


class FrameVerifier(Protocol):
    """What verifies incoming frames, or takes them as they are."""

    def verify(self, payload: bytes) -> bytes:
        """Give the body of a data frame's payload, or raise SignatureError."""
        ...


def _is_lower_hex(digits: bytes) -> bool:
    return not digits.strip(b"0123456789abcdef")


def _unsigned_text(payload: bytes) -> SignatureFailure:
    """Tell a plain JSON frame, which misses its signature, from a broken attempt at one."""
    return SignatureFailure.MALFORMED if payload[:1] == b"s" else SignatureFailure.MISSING


def _unsigned_binary(payload: bytes) -> SignatureFailure:
    """Tell a plain MessagePack map or array, which misses its signature, from a broken attempt at one."""
    first = payload[:1]
    plain = not first or b"\x80" <= first < b"\xa0" or first in {b"\xdc", b"\xdd", b"\xde", b"\xdf"}
    return SignatureFailure.MISSING if plain else SignatureFailure.MALFORMED
