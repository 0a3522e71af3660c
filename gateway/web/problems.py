"""Errors of HTTP as RFC 9457 has them. Owns their shape; what went wrong is told by the caller, and never in more detail."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from http import HTTPStatus

import msgspec
from fastapi import Response

PROBLEM_JSON = "application/problem+json"


def problem_body(status: int, detail: str = "") -> bytes:
    """Write a problem of no special type: its title is the status's own phrase (RFC 9457, section 4.2.1).

    Args:
        status: The HTTP status.
        detail: What this occurrence is about, in lower case; empty to leave it out.
    """
    problem: dict[str, object] = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status}
    if detail:
        problem["detail"] = detail
    return msgspec.json.encode(problem)


def problem_response(status: int, detail: str = "", headers: Mapping[str, str] | None = None) -> Response:
    """Make the response of a problem.

    Args:
        status: The HTTP status.
        detail: What this occurrence is about, in lower case.
        headers: Further fields, such as `Retry-After`.
    """
    return Response(problem_body(status, detail), status, dict(headers or {}), PROBLEM_JSON)


def http_answer(
    status: int, fields: Iterable[tuple[bytes, bytes]], body: bytes, content_type: str | None = PROBLEM_JSON
) -> bytes:
    """Write a whole response that ends its connection: for the protocol classes, which answer before there is an application.

    Args:
        status: The HTTP status.
        fields: Its fields.
        body: The content.
        content_type: What the content is; None where `fields` say it, and its length.
    """
    lines = [*fields, (b"connection", b"close")]
    if content_type is not None:
        lines += [(b"content-type", content_type.encode()), (b"content-length", str(len(body)).encode())]
    head = f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n".encode()
    return head + b"".join(b"%s: %s\r\n" % line for line in lines) + b"\r\n" + body
