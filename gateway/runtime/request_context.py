"""The id of the request that the running task works for. Context variables are made per module: this is the one."""

from __future__ import annotations

from contextvars import ContextVar

# Set by the web edge, read by the log; the empty string outside any request.
REQUEST_ID: ContextVar[str] = ContextVar("gateway_request_id", default="")
