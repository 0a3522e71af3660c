"""The pure half of a WebSocket handshake: from a request's fields to one credential, one subprotocol and one nonce, or a refusal.

Owns where credentials may stand, which subprotocols there are, and the order in which refusals count: origin, subprotocol,
ambiguous, missing, (the credential's own validity, which a port proves), signing. Refuses to own sockets, proofs and logs.
"""

from __future__ import annotations

import base64
import binascii
import enum
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from urllib.parse import parse_qsl

from gateway.core.errors import HandshakeRefusedError, Refusal
from gateway.core.frames import Encoding
from gateway.core.origins import OriginRule, parse_origin


@dataclass(frozen=True, slots=True)
class Subprotocol:
    """One of the four ways to talk to the gateway.

    Args:
        name: What stands in `Sec-WebSocket-Protocol`.
        encoding: JSON in text messages, or MessagePack in binary ones.
        signed: Whether every frame in both directions is signed.
    """

    name: str
    encoding: Encoding
    signed: bool


SUBPROTOCOLS: Mapping[str, Subprotocol] = MappingProxyType(
    {
        subprotocol.name: subprotocol
        for subprotocol in (
            Subprotocol("gateway.v1.json", Encoding.JSON, signed=False),
            Subprotocol("gateway.v1.msgpack", Encoding.MSGPACK, signed=False),
            Subprotocol("gateway.v1.json.signed", Encoding.JSON, signed=True),
            Subprotocol("gateway.v1.msgpack.signed", Encoding.MSGPACK, signed=True),
        )
    }
)
DEFAULT_SUBPROTOCOL = SUBPROTOCOLS["gateway.v1.json"]

_CREDENTIAL_PREFIX = "bearer."
_NONCE = re.compile(r"[A-Za-z0-9_-]{22,43}")  # 16 to 32 bytes


class CredentialKind(enum.Enum):
    """What a credential is, and so who proves it."""

    TOKEN = "token"  # noqa: S105 - a kind, not a secret
    TICKET = "ticket"


@dataclass(frozen=True, slots=True)
class Credential:
    """A credential as it came, unproven. Its value never shows in a representation.

    Args:
        kind: Token or ticket.
        value: The characters of it.
    """

    kind: CredentialKind
    value: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class HandshakeRequest:
    """The parts of an upgrade request that decide about it. Its query may hold secrets and never shows.

    Args:
        scheme: `http` or `https`, as the client used it.
        hosts: The values of all `Host` fields.
        origins: The values of all `Origin` fields.
        authorizations: The values of all `Authorization` fields.
        subprotocols: What `Sec-WebSocket-Protocol` offers, in order.
        query: The query string, undecoded.
    """

    scheme: str = "http"
    hosts: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()
    authorizations: tuple[str, ...] = field(default=(), repr=False)
    subprotocols: tuple[str, ...] = field(default=(), repr=False)
    query: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class HandshakeRules:
    """What the settings say about handshakes.

    Args:
        origins: Which origins may connect.
        query_token: Whether `?token=` is a carrier; when it is none, it is as if it were not there.
    """

    origins: OriginRule
    query_token: bool = True


@dataclass(frozen=True, slots=True)
class Handshake:
    """A request that may go on to have its credential proven.

    Args:
        subprotocol: What both sides are going to speak.
        credential: The one credential.
        origin: The normalized `Origin`, or None for what is no browser.
        nonces: The values of all `nonce` parameters; read by `client_nonce` once the credential stands.
    """

    subprotocol: Subprotocol
    credential: Credential
    origin: str | None = None
    nonces: tuple[str, ...] = ()


def read_handshake(request: HandshakeRequest, rules: HandshakeRules) -> Handshake:
    """Read a handshake up to the point where its credential has to be proven.

    Raises:
        HandshakeRefusedError: The first of `origin_not_allowed`, `unsupported_subprotocol`, `ambiguous_credentials` and
            `missing_credentials` that applies.
    """
    origin = _check_origin(request, rules.origins)
    subprotocol = negotiate(request.subprotocols)
    query = parse_qsl(request.query, keep_blank_values=True)
    credentials = set(_credentials(request, query, query_token=rules.query_token))
    if len(credentials) > 1:
        raise HandshakeRefusedError(Refusal.AMBIGUOUS_CREDENTIALS, f"{len(credentials)} different credentials")
    if not credentials:
        raise HandshakeRefusedError(Refusal.MISSING_CREDENTIALS)
    nonces = tuple(value for name, value in query if name == "nonce")
    return Handshake(subprotocol, credentials.pop(), origin, nonces)


def _check_origin(request: HandshakeRequest, rule: OriginRule) -> str | None:
    # RFC 6454, section 7.3: there is at most one; two are an attempt to be taken for somebody else.
    if not request.origins:
        return None
    own = f"{request.scheme}://{request.hosts[0]}" if len(request.hosts) == 1 else None
    if len(request.origins) > 1 or not rule.allows(request.origins[0], own):
        raise HandshakeRefusedError(Refusal.ORIGIN_NOT_ALLOWED)
    return parse_origin(request.origins[0])


def negotiate(offered: Sequence[str]) -> Subprotocol:
    """Choose the first offered subprotocol that the gateway speaks, the default where none is offered.

    Raises:
        HandshakeRefusedError: `unsupported_subprotocol`: something was offered (a credential alone, too), and none of it fits.
    """
    for name in offered:
        if name in SUBPROTOCOLS:
            return SUBPROTOCOLS[name]
    if any(offered):
        raise HandshakeRefusedError(Refusal.UNSUPPORTED_SUBPROTOCOL)
    return DEFAULT_SUBPROTOCOL


def echoed_subprotocol(offered: Sequence[str]) -> str | None:
    """Choose what the response echoes, so that a browser sees a close code even where the handshake is refused.

    The first that the gateway speaks, else the first that carries no credential, else none: a credential is never echoed.
    """
    plain = [name for name in offered if name and not _carries_credential(name)]
    spoken = [name for name in plain if name in SUBPROTOCOLS]
    return next(iter(spoken or plain), None)


def _carries_credential(subprotocol: str) -> bool:
    return subprotocol[: len(_CREDENTIAL_PREFIX)].lower() == _CREDENTIAL_PREFIX


def _credentials(
    request: HandshakeRequest, query: Sequence[tuple[str, str]], *, query_token: bool
) -> Iterable[Credential]:
    for value in request.authorizations:
        # RFC 9110, section 11.1: schemes know no case. Another scheme's credential is not ours to judge.
        scheme, _, token = value.strip().partition(" ")
        if scheme.lower() == "bearer":
            yield Credential(CredentialKind.TOKEN, token.strip())
    for name in request.subprotocols:
        if _carries_credential(name):
            yield Credential(CredentialKind.TOKEN, name[len(_CREDENTIAL_PREFIX) :])
    for name, value in query:
        if name == "ticket":
            yield Credential(CredentialKind.TICKET, value)
        elif name == "token" and query_token:
            yield Credential(CredentialKind.TOKEN, value)


def client_nonce(handshake: Handshake, signing_key: bytes | None) -> bytes | None:
    """Read what the client contributes to the signing keys, once its credential stands; None on an unsigned connection.

    Args:
        handshake: The handshake.
        signing_key: The key behind the proven credential, or None for a credential without one.

    Raises:
        HandshakeRefusedError: `no_signing_key`: the credential cannot sign; `invalid_nonce`: none, several, or not 16 to 32
            bytes in canonical unpadded base64url (RFC 4648, section 5).
    """
    if not handshake.subprotocol.signed:
        return None
    if signing_key is None:
        raise HandshakeRefusedError(Refusal.NO_SIGNING_KEY)
    if len(handshake.nonces) != 1:
        raise HandshakeRefusedError(Refusal.INVALID_NONCE, f"{len(handshake.nonces)} nonces")
    text = handshake.nonces[0]
    if _NONCE.fullmatch(text) is None:
        raise HandshakeRefusedError(Refusal.INVALID_NONCE)
    try:
        nonce = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except binascii.Error as error:
        raise HandshakeRefusedError(Refusal.INVALID_NONCE) from error
    if base64.urlsafe_b64encode(nonce).rstrip(b"=").decode() != text:
        raise HandshakeRefusedError(Refusal.INVALID_NONCE)
    return nonce
