"""What can go wrong for a client, told apart by what it can do about it."""

from __future__ import annotations

import os
import re
import socket
import ssl

from gateway.core.errors import GatewayError


class ClientError(GatewayError):
    """Any failure that the client names."""


class LoginRefusedError(ClientError):
    """The gateway gave no token.

    Args:
        error: The code of RFC 6749, such as `invalid_grant`.
        description: What the gateway says of it.
        status: The HTTP status.
        retry_after_s: Seconds after which another attempt may be made; None where it would not help.
    """

    def __init__(self, error: str, description: str, status: int, retry_after_s: float | None = None) -> None:
        super().__init__(f"{error}: {description}" if description else error)
        self.error = error
        self.description = description
        self.status = status
        self.retry_after_s = retry_after_s


class CommandRefusedError(ClientError):
    """A command was answered with an error; the connection goes on.

    Args:
        code: The error code, such as `permission_denied`.
        message: What the gateway says of it.
        retry_after_s: Seconds after which the same command may succeed; only with `rate_limited`.
    """

    def __init__(self, code: str, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.retry_after_s = retry_after_s


class UpgradeRefusedError(ClientError):
    """The gateway did not take the WebSocket handshake: it is draining (503), flooded (429), or is no gateway.

    Args:
        status: The HTTP status.
        retry_after_s: What `Retry-After` says, where it says something.
    """

    def __init__(self, status: int, retry_after_s: float | None = None) -> None:
        super().__init__(f"the gateway answered the handshake with HTTP {status}")
        self.status = status
        self.retry_after_s = retry_after_s


class UnreachableError(ClientError):
    """No connection to the gateway could be made, or no sensible answer came over it."""


class ConnectionEndedError(ClientError):
    """The connection is closed. A command that was in flight may or may not have been carried out.

    Args:
        code: The close code; 1006 where there was no close frame.
        reason: The close reason.
    """

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"closed with {code}{f' {reason}' if reason else ''}")
        self.code = code
        self.reason = reason


class ProtocolViolationError(ClientError):
    """The gateway, or something between, broke the protocol: a signature that does not hold, a welcome that is none."""


class PushesNotReadError(ClientError):
    """More pushes wait than the client keeps, since nobody iterates over `events()`."""


def network_reason(wrong: BaseException) -> str:
    """Say in a few words why the network failed, from the system's own error where libraries have wrapped it."""
    cause: BaseException | None = wrong
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"certificate verify failed: {cause.verify_message}"
        if isinstance(cause, ssl.SSLError):
            return f"tls failed: {cause.reason}".lower().replace("_", " ")
        if isinstance(cause, socket.gaierror):
            return str(cause.strerror).lower()
        if isinstance(cause, OSError) and cause.errno:
            return os.strerror(cause.errno).lower()
        if isinstance(cause, TimeoutError):
            return "it took too long"
        cause = cause.__cause__ or cause.__context__
    # Several addresses were tried, and their errors are one text by now.
    numbers = re.findall(r"\[Errno (\d+)\]", str(wrong))
    if numbers:
        return os.strerror(int(numbers[-1])).lower()
    return (str(wrong) or type(wrong).__name__).splitlines()[0].lower()
