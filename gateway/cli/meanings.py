"""What error codes and closes mean to the person at the terminal, and what to do about them.

Owns sentences. They repeat what the protocol says; a test holds their tables against the codes.
"""

from __future__ import annotations

from gateway.core.errors import ErrorCode, Refusal

ERRORS = {
    ErrorCode.BAD_FRAME: "the frame is malformed; `help` shows how lines are written",
    ErrorCode.UNKNOWN_ACTION: "no such action; `permissions` lists those that you may do",
    ErrorCode.INVALID_DATA: "channel or data do not fit the action",
    ErrorCode.PERMISSION_DENIED: "no role of yours allows this here; `permissions CHANNEL` lists what you may do",
    ErrorCode.SIGNATURE_REQUIRED: "only signed connections may do this; start again with `--signed`",
    ErrorCode.RATE_LIMITED: "too many in too short a time; wait, then try again",
    ErrorCode.CHANNEL_LIMIT: "subscribed to as many channels as one connection may; unsubscribe from one",
    ErrorCode.UPSTREAM_UNAVAILABLE: "the backend of this action cannot be reached; try again later",
    ErrorCode.UPSTREAM_ERROR: "the backend of this action failed; ask those who run it",
    ErrorCode.TIMEOUT: "no answer came in time; it may have been done all the same",
    ErrorCode.UNAVAILABLE: "the gateway cannot do this just now; try again later",
    ErrorCode.INTERNAL: "the gateway failed; its log says why, under this session",
}

_REFUSALS = {
    Refusal.ORIGIN_NOT_ALLOWED: "pages of this origin may not connect; see `GATEWAY_ALLOWED_ORIGINS`",
    Refusal.UNSUPPORTED_SUBPROTOCOL: "the gateway speaks no subprotocol that was offered",
    Refusal.AMBIGUOUS_CREDENTIALS: "two different credentials stood in one request",
    Refusal.MISSING_CREDENTIALS: "no credential reached the gateway; does a proxy drop the header?",
    Refusal.INVALID_TICKET: "the ticket is spent, unknown or too old; take a new one",
    Refusal.INVALID_TOKEN: "the gateway did not issue this token for itself; log in at this gateway",
    Refusal.EXPIRED_TOKEN: "the token has ended; log in again",
    Refusal.REVOKED_TOKEN: "the token was revoked; log in again, if the account still may",
    Refusal.INVALID_NONCE: "the nonce is malformed; is the client older than the gateway?",
    Refusal.NO_SIGNING_KEY: "this token has no signing key; connect without `--signed`, or with a ticket",
}

_POLICY_CLOSES = {
    **{refusal.value: sentence for refusal, sentence in _REFUSALS.items()},
    "signature_invalid": "a signature did not hold; something between has altered, dropped or repeated a frame",
    "signature_required": "an unsigned frame came over a signed connection",
    "session_revoked": "the account was disabled, deleted or given a new password, or an operator ended the session",
    "protocol_abuse": "too many bad frames; `help` shows how lines are written",
    "rate_limited": "far too many commands in too short a time",
}

_CLOSES = {
    1000: "closed as asked",
    1001: "this node shuts down",
    1002: "the protocol was broken",
    1003: "text and binary were mixed up",
    1006: "the connection broke off",
    1007: "text that is not UTF-8",
    1009: "a frame was larger than the gateway takes",
    1011: "the gateway failed, or heard nothing for too long",
    1012: "the server restarts",
    1013: "the gateway is full, or this client read too slowly",
}


def of_close(code: int, reason: str) -> str:
    """Say what a close means; the empty string for one that is not ours."""
    if code == 1008:  # noqa: PLR2004 - RFC 6455 section 7.4.1
        return _POLICY_CLOSES.get(reason, "")
    return _CLOSES.get(code, "")


def of_error(code: str) -> str:
    """Say what an error code means; the empty string for one that is not ours."""
    return ERRORS[ErrorCode(code)] if code in set(ErrorCode) else ""
