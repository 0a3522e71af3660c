"""Keys of a signed connection, and the MAC of each of its frames (HMAC-SHA-256, RFC 2104; HKDF, RFC 5869).

Owns key derivation, the layout of a signed frame and the counters. Refuses to own where keys come from. The MAC covers the
received bytes and is verified before anything parses them.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from binascii import hexlify
from collections.abc import Iterable
from hmac import compare_digest
from typing import TYPE_CHECKING, TypeVar

from gateway.core.errors import SignatureError, SignatureFailure
from gateway.core.frames import Encoding

if TYPE_CHECKING:
    from _hashlib import HASH

KEY_BYTES = 32
SERVER_NONCE_BYTES = 32
MIN_CLIENT_NONCE_BYTES, MAX_CLIENT_NONCE_BYTES = 16, 32

_CLIENT_INFO = b"gateway.v1 client"
_SERVER_INFO = b"gateway.v1 server"
_TICKET_INFO = b"gateway.v1 ticket"

_TEXT_HEAD = 3 + 64 + 1  # "s1.", the digits, "."
_BINARY_HEAD = 1 + 32  # the version, the MAC
# Made once, for each frame is cut twice.
_TEXT_GIVEN, _TEXT_BODY = slice(_TEXT_HEAD), slice(_TEXT_HEAD, None)
_BINARY_GIVEN, _BINARY_BODY = slice(_BINARY_HEAD), slice(_BINARY_HEAD, None)
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


class Signer:
    """Signs the frames of one direction, in their order.

    Args:
        key: 32 bytes, for this direction of this connection.
        encoding: JSON gives text frames, MessagePack binary ones.
    """

    __slots__ = ("_inner", "_outer", "_text", "count")

    def __init__(self, key: bytes, encoding: Encoding) -> None:
        self._inner, self._outer = _prepared(key)
        self._text = encoding is Encoding.JSON
        self.count = 0

    def sign(self, body: bytes) -> bytes:
        """Put the signature before `body` and count it."""
        bodies = [body]
        sign_all([(self, bodies)])
        return bodies[0]


def sign_all(turn: Iterable[tuple[Signer, list[bytes]]]) -> None:
    """Sign what leaves over many connections: each body gives way to the payload of its data frame.

    One after the other in one place, for what a call takes, and what the machine does to come back to this code between two of them,
    is a good part of what the MAC takes.
    """
    for signer, bodies in turn:
        inner_state, outer_state, count, text = signer._inner, signer._outer, signer.count, signer._text  # noqa: SLF001 - this is its code
        for index, body in enumerate(bodies):
            inner, outer = inner_state.copy(), outer_state.copy()
            if text:
                inner.update(b"%d.%b" % (count, body))
                outer.update(inner.digest())
                bodies[index] = b"s1.%b.%b" % (hexlify(outer.digest()), body)
            else:
                inner.update(count.to_bytes(8, "big") + body)
                outer.update(inner.digest())
                bodies[index] = b"\x01%b%b" % (outer.digest(), body)
            count += 1
        signer.count = count


class Verifier:
    """Verifies the frames of one direction, in their order.

    Args:
        key: 32 bytes, for this direction of this connection.
        encoding: JSON takes text frames, MessagePack binary ones.
    """

    __slots__ = ("_inner", "_outer", "_text", "count")

    def __init__(self, key: bytes, encoding: Encoding) -> None:
        self._inner, self._outer = _prepared(key)
        self._text = encoding is Encoding.JSON
        self.count = 0

    def verify(self, payload: bytes) -> bytes:
        """Take the signature off, or raise; the count goes on with each frame that holds.

        Raises:
            SignatureError: The frame is not signed, its signature is malformed, or it is not the one of these bytes at this
                place in this direction of this connection.
        """
        payloads = [payload]
        for _, failure in verify_all([(self, payloads, None)]):
            raise SignatureError(failure)
        return payloads[0]


_Owner = TypeVar("_Owner")


def verify_all(turn: Iterable[tuple[Verifier, list[bytes], _Owner]]) -> list[tuple[_Owner, SignatureFailure]]:
    """Take the signatures off what has come over many connections; see `sign_all` for why all at once.

    Each payload gives way to its body, as long as they hold; the first one that does not, and all behind it, are dropped. The whole
    head is compared at once, in constant time; why it does not hold is looked for only then.

    Args:
        turn: Verifiers, the payloads that came for them, and whose they are.

    Returns:
        Those of whom one did not hold, and why.
    """
    failures: list[tuple[_Owner, SignatureFailure]] = []
    for verifier, payloads, owner in turn:
        inner_state, outer_state, count, text = verifier._inner, verifier._outer, verifier.count, verifier._text  # noqa: SLF001 - this is its code
        for index, payload in enumerate(payloads):
            inner, outer = inner_state.copy(), outer_state.copy()
            if text:
                given, body = payload[_TEXT_GIVEN], payload[_TEXT_BODY]
                inner.update(b"%d.%b" % (count, body))
                outer.update(inner.digest())
                wanted = b"s1.%b." % hexlify(outer.digest())
            else:
                given, body = payload[_BINARY_GIVEN], payload[_BINARY_BODY]
                inner.update(count.to_bytes(8, "big") + body)
                outer.update(inner.digest())
                wanted = b"\x01%b" % outer.digest()
            if not compare_digest(given, wanted):
                failures.append((owner, _text_failure(payload) if text else _binary_failure(payload)))
                del payloads[index:]
                break
            payloads[index] = body
            count += 1
        verifier.count = count
    return failures


def _prepared(key: bytes) -> tuple[HASH, HASH]:
    """Hash both key blocks of HMAC-SHA-256 (RFC 2104) beforehand: half the cost of the obvious call for each frame."""
    block = key.ljust(_BLOCK_BYTES, b"\0")
    return hashlib.sha256(bytes(octet ^ 0x36 for octet in block)), hashlib.sha256(
        bytes(octet ^ 0x5C for octet in block)
    )


def _text_failure(payload: bytes) -> SignatureFailure:
    """Tell a plain JSON frame, which misses its signature, from a broken attempt at one, and that from a wrong one."""
    if payload[:3] != b"s1.":
        return SignatureFailure.MALFORMED if payload[:1] == b"s" else SignatureFailure.MISSING
    if payload[_TEXT_HEAD - 1 : _TEXT_HEAD] != b"." or payload[3 : _TEXT_HEAD - 1].strip(b"0123456789abcdef"):
        return SignatureFailure.MALFORMED
    return SignatureFailure.MISMATCH


def _binary_failure(payload: bytes) -> SignatureFailure:
    """Tell a plain MessagePack map or array, which misses its signature, from a broken attempt at one, and that from a wrong one."""
    first = payload[:1]
    if first != b"\x01":
        plain = not first or b"\x80" <= first < b"\xa0" or first in {b"\xdc", b"\xdd", b"\xde", b"\xdf"}
        return SignatureFailure.MISSING if plain else SignatureFailure.MALFORMED
    return SignatureFailure.MALFORMED if len(payload) < _BINARY_HEAD else SignatureFailure.MISMATCH
