"""What can go wrong, and what each failure means to every audience.

Owns the vocabulary of failures (error codes, refusals, close frames with their reasons) and the error tree: an error carries its
own code, which is what the wire, the metrics and the log call it. Refuses to own when an error happens: parsers and ports raise,
the session and the web edge turn what they raise into frames and closes.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass


class ErrorCode(enum.StrEnum):
    """The code of an error frame: it answers a command and leaves the connection usable."""

    BAD_FRAME = "bad_frame"
    UNKNOWN_ACTION = "unknown_action"
    INVALID_DATA = "invalid_data"
    PERMISSION_DENIED = "permission_denied"
    SIGNATURE_REQUIRED = "signature_required"
    RATE_LIMITED = "rate_limited"
    CHANNEL_LIMIT = "channel_limit"
    UPSTREAM_UNAVAILABLE = "upstream_unavailable"
    UPSTREAM_ERROR = "upstream_error"
    TIMEOUT = "timeout"
    UNAVAILABLE = "unavailable"
    INTERNAL = "internal"


class Refusal(enum.StrEnum):
    """Why a handshake was refused: the reason of a 1008 close that follows the accept at once."""

    ORIGIN_NOT_ALLOWED = "origin_not_allowed"
    UNSUPPORTED_SUBPROTOCOL = "unsupported_subprotocol"
    AMBIGUOUS_CREDENTIALS = "ambiguous_credentials"
    MISSING_CREDENTIALS = "missing_credentials"
    INVALID_TICKET = "invalid_ticket"
    INVALID_TOKEN = "invalid_token"  # noqa: S105 - a close reason, not a secret
    EXPIRED_TOKEN = "expired_token"  # noqa: S105 - as above
    REVOKED_TOKEN = "revoked_token"  # noqa: S105 - as above
    INVALID_NONCE = "invalid_nonce"
    NO_SIGNING_KEY = "no_signing_key"


@dataclass(frozen=True, slots=True)
class Close:
    """A close frame: its code (RFC 6455 section 7.4) and its reason, at most 123 bytes of UTF-8."""

    code: int
    reason: str


class Closes:
    """Every close that the gateway itself sends after the welcome."""

    NORMAL = Close(1000, "")
    DRAINING = Close(1001, "draining")
    PROTOCOL_ERROR = Close(1002, "protocol_error")
    UNSUPPORTED_DATA = Close(1003, "unsupported_data")
    INVALID_UTF8 = Close(1007, "invalid_utf8")
    SIGNATURE_INVALID = Close(1008, "signature_invalid")
    SIGNATURE_REQUIRED = Close(1008, "signature_required")
    REVOKED_TOKEN = Close(1008, "revoked_token")
    SESSION_REVOKED = Close(1008, "session_revoked")
    EXPIRED_TOKEN = Close(1008, "expired_token")
    PROTOCOL_ABUSE = Close(1008, "protocol_abuse")
    RATE_LIMITED = Close(1008, "rate_limited")
    FRAME_TOO_LARGE = Close(1009, "frame_too_large")
    INTERNAL = Close(1011, "internal")
    PING_TIMEOUT = Close(1011, "ping_timeout")
    CONNECTION_LIMIT = Close(1013, "connection_limit")
    SLOW_CONSUMER = Close(1013, "slow_consumer")


def refusal_close(refusal: Refusal) -> Close:
    """Give the close frame of a refused handshake."""
    return Close(1008, refusal.value)


class GatewayError(Exception):
    """Any failure that the gateway names."""


class CommandError(GatewayError):
    """A command that is answered with an error frame.

    Args:
        code: The wire code.
        message: What happened, in lower case, without secrets and without any word of the policy.
        retry_after_s: Seconds after which the same command may succeed; only with `RATE_LIMITED`.
    """

    def __init__(self, code: ErrorCode, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.retry_after_s = retry_after_s


class FrameError(CommandError):
    """Bytes that are no frame of ours; the one error that the frame parser raises.

    Args:
        message: What is wrong with them.
        command_id: The id, where it could be read all the same.
    """

    def __init__(self, message: str, command_id: int | None = None) -> None:
        super().__init__(ErrorCode.BAD_FRAME, message)
        self.command_id = command_id


class SignatureFailure(enum.StrEnum):
    """Why a signature was not accepted; the label of `gateway_signature_failures_total`."""

    MISSING = "missing"
    MALFORMED = "malformed"
    MISMATCH = "mismatch"


class SignatureError(GatewayError):
    """A frame on a signed connection whose signature does not hold; it ends the connection."""

    def __init__(self, failure: SignatureFailure) -> None:
        super().__init__(f"signature {failure.value}")
        self.failure = failure


class HandshakeRefusedError(GatewayError):
    """A WebSocket handshake that is accepted only to be closed with 1008.

    Args:
        refusal: The reason that the peer sees.
        detail: What the log says in addition; never a secret.
        subject: The subject, where the credential told it.
    """

    def __init__(self, refusal: Refusal, detail: str = "", subject: str | None = None) -> None:
        super().__init__(refusal.value)
        self.refusal = refusal
        self.detail = detail
        self.subject = subject


class StateUnavailableError(GatewayError):
    """The database or the broker cannot be reached now: new work is refused with 503 or `unavailable`."""
