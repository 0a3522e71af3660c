"""Writes `docs/vectors/signing.json`: every input and every output of frame signing, for authors of clients.

Run it as `python tests/vectors/generate.py`; a test holds the committed file against what this prints. HKDF and HMAC come from
`cryptography` here, while the tests recompute everything with `hmac` and `hashlib`, WebCrypto and the `openssl` command line.
"""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import msgspec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.hmac import HMAC
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

OUTPUT = Path(__file__).resolve().parents[2] / "docs" / "vectors" / "signing.json"

# Fixed, patterned bytes: a reader can tell at a glance which input stands where in a dump, and nobody takes them for real keys.
TOKEN_SIGNING_KEY = bytes(range(0x20))
CLIENT_NONCE = bytes(range(0x20, 0x40))
SHORT_CLIENT_NONCE = bytes(range(0xE0, 0xF0))  # 16 bytes, the shortest that is allowed
SERVER_NONCE = bytes(range(0x40, 0x60))
OTHER_SERVER_NONCE = bytes(range(0x60, 0x80))
TICKETS = ("tk_3fQ9vZ0a-Example_Ticket", "0")

WELCOME = {
    "type": "welcome",
    "session": "ses_example",
    "subject": "alice",
    "roles": ["member"],
    "tenant": "acme",
    "expires_at": 1767226500.0,
    "server_time": 1767225600.5,
    "heartbeat_s": 25,
    "signing": {"nonce": ""},  # the server's nonce is filled in for each connection
    "limits": {"frame_bytes": 65536, "commands_per_s": 50, "channels": 128},
}
CLIENT_FRAMES: tuple[tuple[str, int, Any], ...] = (
    ("first command", 0, {"id": 1, "action": "channel.subscribe", "channel": "room:acme:1"}),
    (
        "second command, UTF-8 of one to four bytes",
        1,
        {"id": 2, "action": "channel.publish", "channel": "room:acme:1", "data": {"text": "héllo, 世界 🏰 \u2028"}},
    ),
    ("a batch is one frame and takes one n", 2, [{"id": 3, "action": "ping"}, {"id": 4, "action": "session.describe"}]),
    ("n of two digits", 10, {"id": 11, "action": "ping"}),
    ("n beyond 32 bits", 2**32, {"id": 12, "action": "ping"}),
    ("the largest n that every JSON reader keeps exact", 2**53 - 1, {"id": 2**53 - 1, "action": "ping"}),
)
SERVER_FRAMES: tuple[tuple[str, int, Any], ...] = (
    ("reply", 1, {"type": "reply", "id": 1, "data": {}}),
    (
        "push",
        2,
        {
            "type": "message",
            "channel": "room:acme:1",
            "data": {"text": "grüezi 🐉"},
            "sender": "bob",
            "offset": 7,
            "epoch": "e1",
            "at": 1767225601.25,
        },
    ),
    ("a batch of replies", 3, [{"type": "reply", "id": 3, "data": {}}, {"type": "reply", "id": 4, "data": {}}]),
    ("n beyond 32 bits", 2**32, {"type": "reply", "id": 12, "data": {}}),
)


def base64url(octets: bytes) -> str:
    """Give the unpadded base64url form (RFC 4648 section 5)."""
    return base64.urlsafe_b64encode(octets).rstrip(b"=").decode()


def hkdf(key: bytes, salt: bytes, info: str) -> bytes:
    """Derive 32 bytes (RFC 5869, SHA-256)."""
    return HKDF(SHA256(), 32, salt, info.encode()).derive(key)


def mac(key: bytes, message: bytes) -> bytes:
    """Compute HMAC-SHA-256 (RFC 2104)."""
    hmac = HMAC(key, SHA256())
    hmac.update(message)
    return hmac.finalize()


def encoded(frame: object, encoding: str) -> bytes:
    """Encode one frame as a sender might; signing covers the bytes, however they were spaced or ordered."""
    if encoding == "msgpack":
        return msgspec.msgpack.encode(frame)
    return json.dumps(frame, ensure_ascii=False, separators=(",", ":")).encode()


def mac_input(n: int, body: bytes, encoding: str) -> bytes:
    """Put the counter before the body: decimal and a dot for text, eight big-endian bytes for binary."""
    return n.to_bytes(8, "big") + body if encoding == "msgpack" else f"{n}.".encode() + body


def payload(signature: bytes, body: bytes, encoding: str) -> bytes:
    """Put signature and body together as they travel in one WebSocket data message."""
    return b"\x01" + signature + body if encoding == "msgpack" else b"s1." + signature.hex().encode() + b"." + body


def shown(name: str, octets: bytes, encoding: str) -> dict[str, str]:
    """Give bytes in hex, and for the text encoding as text too."""
    hexadecimal = {f"{name}_hex": octets.hex()}
    return {name: octets.decode(), **hexadecimal} if encoding == "json" else hexadecimal


def frame_vector(label: str, direction: str, n: int, key: bytes, body: bytes, encoding: str) -> dict[str, Any]:
    """Describe one signed frame with everything that goes into it."""
    signed = mac_input(n, body, encoding)
    signature = mac(key, signed)
    return {
        "name": label,
        "direction": direction,
        "n": n,
        **shown("body", body, encoding),
        "mac_input_hex": signed.hex(),
        "mac_hex": signature.hex(),
        **shown("payload", payload(signature, body, encoding), encoding),
    }


def connection_vector(name: str, encoding: str, keys: dict[str, bytes], via: dict[str, str]) -> dict[str, Any]:
    """Describe one connection: nonces, keys, and frames in both directions."""
    salt = keys["client_nonce"] + keys["server_nonce"]
    client_key = hkdf(keys["signing_key"], salt, "gateway.v1 client")
    server_key = hkdf(keys["signing_key"], salt, "gateway.v1 server")
    welcome = {**WELCOME, "signing": {"nonce": base64url(keys["server_nonce"])}}
    frames = [("the welcome is the server's first frame", 0, welcome), *SERVER_FRAMES]
    vectors = [
        frame_vector(label, "client", n, client_key, encoded(frame, encoding), encoding)
        for label, n, frame in CLIENT_FRAMES
    ]
    vectors += [
        frame_vector(label, "server", n, server_key, encoded(frame, encoding), encoding) for label, n, frame in frames
    ]
    vectors.append(frame_vector("an empty body is signed like any other", "client", 5, client_key, b"", encoding))
    return {
        "name": name,
        "subprotocol": f"gateway.v1.{encoding}.signed",
        **via,
        **{label: base64url(octets) for label, octets in keys.items()},
        **{f"{label}_hex": octets.hex() for label, octets in keys.items()},
        "salt_hex": salt.hex(),
        "client_info": "gateway.v1 client",
        "server_info": "gateway.v1 server",
        "client_key_hex": client_key.hex(),
        "server_key_hex": server_key.hex(),
        "frames": vectors,
    }


def refusals(connection: dict[str, Any], other: dict[str, Any]) -> list[dict[str, Any]]:
    """Give payloads that must not pass: what the receiver expects next, what comes, and how it ends."""
    encoding = "msgpack" if "msgpack" in connection["subprotocol"] else "json"
    by_key = {(frame["direction"], frame["n"]): frame for frame in connection["frames"]}
    raw = {key: bytes.fromhex(frame["payload_hex"]) for key, frame in by_key.items()}
    first, second, reply = raw["client", 0], raw["client", 1], raw["server", 1]
    body = bytes.fromhex(by_key["client", 0]["body_hex"])
    signature = bytes.fromhex(by_key["client", 0]["mac_hex"])
    flipped = bytes([signature[0] ^ 0x01]) + signature[1:]
    elsewhere = next(
        bytes.fromhex(f["payload_hex"]) for f in other["frames"] if (f["direction"], f["n"]) == ("client", 0)
    )
    cases: list[tuple[str, str, int, bytes, str, str]] = [
        (
            "one bit of the body altered",
            "client",
            0,
            first[:-2] + bytes([first[-2] ^ 0x01]) + first[-1:],
            "invalid",
            "mismatch",
        ),
        ("one bit of the signature altered", "client", 0, payload(flipped, body, encoding), "invalid", "mismatch"),
        ("one byte appended", "client", 0, first + b" ", "invalid", "mismatch"),
        ("the last byte cut", "client", 0, first[:-1], "invalid", "mismatch"),
        ("the body cut off", "client", 0, payload(signature, b"", encoding), "invalid", "mismatch"),
        ("replayed: n has moved on", "client", 1, first, "invalid", "mismatch"),
        ("reordered or dropped: n = 1 arrives where n = 0 is due", "client", 0, second, "invalid", "mismatch"),
        ("reflected: the server's own frame sent back to it", "client", 1, reply, "invalid", "mismatch"),
        ("reflected: a client's frame sent back to the client", "server", 1, second, "invalid", "mismatch"),
        ("carried over from another connection", "client", 0, elsewhere, "invalid", "mismatch"),
        (
            "signed with the signing key itself instead of the derived one",
            "client",
            0,
            payload(mac(TOKEN_SIGNING_KEY, mac_input(0, body, encoding)), body, encoding),
            "invalid",
            "mismatch",
        ),
        (
            "signed without the counter",
            "client",
            0,
            payload(mac(bytes.fromhex(connection["client_key_hex"]), body), body, encoding),
            "invalid",
            "mismatch",
        ),
        ("not signed at all", "client", 0, body, "required", "missing"),
        ("an empty message", "client", 0, b"", "required", "missing"),
    ]
    cases += _malformed_text(signature, body) if encoding == "json" else _malformed_binary(signature)
    return [
        {
            "name": name,
            "connection": connection["name"],
            "direction": direction,
            "expected_n": n,
            **shown("payload", octets, encoding),
            "close": f"signature_{outcome}",
            "failure": failure,
        }
        for name, direction, n, octets, outcome, failure in cases
    ]


def _malformed_text(signature: bytes, body: bytes) -> list[tuple[str, str, int, bytes, str, str]]:
    digits = signature.hex().encode()
    forms = {
        "upper-case hex digits": b"s1." + digits.upper() + b"." + body,
        "63 digits": b"s1." + digits[:-1] + b"." + body,
        "65 digits": b"s1." + digits + b"0." + body,
        "a character that is no hex digit": b"s1.g" + digits[1:] + b"." + body,
        "no dot after the signature": b"s1." + digits + body,
        "the signature in base64url": b"s1." + base64url(signature).encode() + b"." + body,
        "cut within the signature": b"s1." + digits[:20],
        "the prefix alone": b"s1.",
    }
    return [(name, "client", 0, octets, "invalid", "malformed") for name, octets in forms.items()]


def _malformed_binary(signature: bytes) -> list[tuple[str, str, int, bytes, str, str]]:
    forms = {"cut within the signature": b"\x01" + signature[:31], "the leading byte alone": b"\x01"}
    return [(name, "client", 0, octets, "invalid", "malformed") for name, octets in forms.items()]


def ticket_vector(ticket: str) -> dict[str, str]:
    """Describe how the signing key of a ticket follows from that of the token."""
    key = hkdf(TOKEN_SIGNING_KEY, ticket.encode("ascii"), "gateway.v1 ticket")
    return {
        "token_signing_key": base64url(TOKEN_SIGNING_KEY),
        "token_signing_key_hex": TOKEN_SIGNING_KEY.hex(),
        "ticket": ticket,
        "salt_hex": ticket.encode("ascii").hex(),
        "info": "gateway.v1 ticket",
        "signing_key": base64url(key),
        "signing_key_hex": key.hex(),
    }


def vectors() -> dict[str, Any]:
    """Assemble the whole file."""
    tickets = [ticket_vector(ticket) for ticket in TICKETS]
    ticket_key = bytes.fromhex(tickets[0]["signing_key_hex"])
    token = {"signing_key": TOKEN_SIGNING_KEY, "client_nonce": CLIENT_NONCE, "server_nonce": SERVER_NONCE}
    by_ticket = {"signing_key": ticket_key, "client_nonce": SHORT_CLIENT_NONCE, "server_nonce": OTHER_SERVER_NONCE}
    connections = [
        connection_vector("json, key of the token", "json", token, {"credential": "token"}),
        connection_vector("msgpack, key of the token", "msgpack", token, {"credential": "token"}),
        connection_vector(
            "json, key of a ticket, nonce of 16 bytes",
            "json",
            by_ticket,
            {"credential": "ticket", "ticket": TICKETS[0]},
        ),
        connection_vector(
            "msgpack, key of a ticket, nonce of 16 bytes",
            "msgpack",
            by_ticket,
            {"credential": "ticket", "ticket": TICKETS[0]},
        ),
    ]
    return {
        "description": "Test vectors of signed frames; docs/protocol.md says what each field means. All keys are examples.",
        "version": 1,
        "base64url": [
            {"hex": octets.hex(), "text": base64url(octets)}
            for octets in (b"", b"\x00", b"\xff\xef", b"\xfb\xff\xbf", TOKEN_SIGNING_KEY, SHORT_CLIENT_NONCE)
        ],
        "invalid_nonces": [
            {"nonce": "", "why": "empty"},
            {"nonce": base64url(bytes(15)), "why": "15 bytes, one too few"},
            {"nonce": base64url(bytes(33)), "why": "33 bytes, one too many"},
            {"nonce": base64url(CLIENT_NONCE) + "=", "why": "padded"},
            {"nonce": base64.b64encode(b"\xfb\xff" * 16).decode().rstrip("="), "why": "the alphabet of plain base64"},
            {"nonce": base64url(CLIENT_NONCE)[:-1] + "9", "why": "unused bits of the last character set"},
        ],
        "tickets": tickets,
        "connections": connections,
        "refused": refusals(connections[0], connections[2]) + refusals(connections[1], connections[3]),
    }


def rendered() -> str:
    """Give the text of the file."""
    return json.dumps(vectors(), ensure_ascii=False, indent=2) + "\n"


if __name__ == "__main__":
    OUTPUT.write_text(rendered(), encoding="utf-8")
