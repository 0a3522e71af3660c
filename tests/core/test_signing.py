"""Signed frames: what holds, and every way of not holding."""

from __future__ import annotations

import hashlib
import hmac

import pytest

from gateway.core.errors import SignatureError, SignatureFailure
from gateway.core.frames import Encoding
from gateway.core.signing import (
    Signer,
    Verifier,
    decode_base64url,
    derive_keys,
    derive_ticket_key,
    encode_base64url,
    hkdf_sha256,
)

KEY = bytes(range(32))
OTHER = bytes(32)
BODY = b'{"id":1,"action":"ping"}'
BOTH = pytest.mark.parametrize("encoding", list(Encoding))


def failure(verifier: Verifier, payload: bytes) -> SignatureFailure:
    with pytest.raises(SignatureError) as caught:
        verifier.verify(payload)
    return caught.value.failure


def test_hkdf_gives_the_first_block_of_rfc_5869_appendix_a() -> None:
    okm = hkdf_sha256(b"\x0b" * 22, bytes(range(13)), bytes(range(0xF0, 0xFA)))
    assert okm.hex() == "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf"
    no_salt = hkdf_sha256(b"\x0b" * 22, b"", b"")
    assert no_salt.hex() == "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d"


def test_the_keys_of_the_two_directions_differ_and_depend_on_every_input() -> None:
    keys = {*derive_keys(KEY, b"c" * 16, b"s" * 32), *derive_keys(KEY, b"C" * 16, b"s" * 32)}
    keys |= {*derive_keys(KEY, b"c" * 16, b"S" * 32), *derive_keys(OTHER, b"c" * 16, b"s" * 32)}
    keys |= {derive_ticket_key(KEY, "ticket"), derive_ticket_key(KEY, "other"), derive_ticket_key(OTHER, "ticket")}
    assert len(keys) == 11


def test_a_text_frame_has_the_layout_that_clients_expect() -> None:
    signer = Signer(KEY, Encoding.JSON)
    for count in range(3):
        digits = hmac.new(KEY, b"%d." % count + BODY, hashlib.sha256).hexdigest().encode()
        assert signer.sign(BODY) == b"s1." + digits + b"." + BODY


def test_a_binary_frame_has_the_layout_that_clients_expect() -> None:
    signer = Signer(KEY, Encoding.MSGPACK)
    for count in range(3):
        mac = hmac.digest(KEY, count.to_bytes(8, "big") + BODY, "sha256")
        assert signer.sign(BODY) == b"\x01" + mac + BODY


@BOTH
def test_frames_hold_in_their_order(encoding: Encoding) -> None:
    signer, verifier = Signer(KEY, encoding), Verifier(KEY, encoding)
    assert [verifier.verify(signer.sign(b"%d" % n)) for n in range(5)] == [b"%d" % n for n in range(5)]


@BOTH
def test_an_empty_body_holds(encoding: Encoding) -> None:
    assert Verifier(KEY, encoding).verify(Signer(KEY, encoding).sign(b"")) == b""


@BOTH
def test_an_altered_replayed_dropped_reordered_or_foreign_frame_fails(encoding: Encoding) -> None:
    signer = Signer(KEY, encoding)
    first, second = signer.sign(BODY), signer.sign(BODY)
    altered = first[:-1] + bytes([first[-1] ^ 1])
    assert failure(Verifier(KEY, encoding), altered) is SignatureFailure.MISMATCH
    assert failure(Verifier(KEY, encoding), second) is SignatureFailure.MISMATCH
    assert failure(Verifier(OTHER, encoding), first) is SignatureFailure.MISMATCH
    verifier = Verifier(KEY, encoding)
    verifier.verify(first)
    assert failure(verifier, first) is SignatureFailure.MISMATCH


@BOTH
def test_a_frame_that_fails_does_not_count(encoding: Encoding) -> None:
    frame = Signer(KEY, encoding).sign(BODY)
    verifier = Verifier(KEY, encoding)
    failure(verifier, frame + b"x")
    assert verifier.verify(frame) == BODY


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        (b"", SignatureFailure.MISSING),
        (BODY, SignatureFailure.MISSING),
        (b"[]", SignatureFailure.MISSING),
        (b"s2." + b"0" * 64 + b"." + BODY, SignatureFailure.MALFORMED),
        (b"s1.", SignatureFailure.MALFORMED),
        (b"s1." + b"0" * 63 + b"." + BODY, SignatureFailure.MALFORMED),
        (b"s1." + b"0" * 64 + BODY, SignatureFailure.MALFORMED),
        (b"s1." + b"Z" * 64 + b"." + BODY, SignatureFailure.MALFORMED),
        (b"s1." + b"\xff" * 64 + b"." + BODY, SignatureFailure.MALFORMED),
        (b"s1." + b"0" * 64 + b"." + BODY, SignatureFailure.MISMATCH),
    ],
)
def test_text_that_does_not_hold_says_how(payload: bytes, expected: SignatureFailure) -> None:
    assert failure(Verifier(KEY, Encoding.JSON), payload) is expected


def test_upper_case_digits_do_not_hold() -> None:
    frame = Signer(KEY, Encoding.JSON).sign(BODY)
    assert (
        failure(Verifier(KEY, Encoding.JSON), frame[:3] + frame[3:67].upper() + frame[67:])
        is SignatureFailure.MALFORMED
    )


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        (b"", SignatureFailure.MISSING),
        (b"\x82\xa2id\x01", SignatureFailure.MISSING),
        (b"\x91\x80", SignatureFailure.MISSING),
        (b"\xdc\x00\x01\x80", SignatureFailure.MISSING),
        (b"\x02" + bytes(32) + b"x", SignatureFailure.MALFORMED),
        (b"\x01" + bytes(31), SignatureFailure.MALFORMED),
        (b"\x01" + bytes(32), SignatureFailure.MISMATCH),
    ],
)
def test_octets_that_do_not_hold_say_how(payload: bytes, expected: SignatureFailure) -> None:
    assert failure(Verifier(KEY, Encoding.MSGPACK), payload) is expected


def test_base64url_is_read_back_and_only_as_it_is_written() -> None:
    for length in range(40):
        data = bytes(range(length))
        assert decode_base64url(encode_base64url(data)) == data
    for text in ("A", "AB", "AAA=", "AA==", "A A", "A+/A", "é", "AAAAA", "\ud800AAA"):
        assert decode_base64url(text) is None
