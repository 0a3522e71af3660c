"""What `/docs` tells of the OAuth endpoints: their forms, bodies and answers in OpenAPI's words.

Owns words only. The endpoints read and write octets themselves, since a framework's reading would answer a bad form with 422.
"""

from __future__ import annotations

from typing import Any, Final

from gateway.core.oauth import OAuthErrorCode

_TEXT: Final = {"type": "string"}


def _object(properties: dict[str, Any], *required: str) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(required)}


def _json(description: str, schema: dict[str, Any], **headers: str) -> dict[str, Any]:
    response: dict[str, Any] = {"description": description, "content": {"application/json": {"schema": schema}}}
    if headers:
        response["headers"] = {
            name.replace("_", "-"): {"description": meaning, "schema": _TEXT} for name, meaning in headers.items()
        }
    return response


def _error() -> dict[str, Any]:
    codes = [code.value for code in OAuthErrorCode]
    return _object({"error": {"type": "string", "enum": codes}, "error_description": _TEXT}, "error")


def _bearer_error() -> dict[str, Any]:
    codes = ["invalid_request", "invalid_token"]
    return _object({"error": {"type": "string", "enum": codes}, "error_description": _TEXT}, "error")


def describe_token() -> dict[str, Any]:
    """Describe `POST /token`."""
    form = _object(
        {
            "grant_type": {"type": "string", "enum": ["password", "refresh_token", "client_credentials"]},
            "username": {**_TEXT, "description": "For `password`."},
            "password": {**_TEXT, "format": "password", "description": "For `password`."},
            "refresh_token": {**_TEXT, "description": "For `refresh_token`: the newest one; each is good once."},
            "scope": {**_TEXT, "description": "Roles, space-separated, to narrow the token to; without it all."},
            "client_id": {**_TEXT, "description": "A service account, for `client_credentials`; or by HTTP Basic."},
            "client_secret": {**_TEXT, "format": "password", "description": "Its secret; or by HTTP Basic."},
        },
        "grant_type",
    )
    answer = _object(
        {
            "access_token": {**_TEXT, "description": "A JWT (RFC 9068)."},
            "token_type": {"type": "string", "enum": ["bearer"]},
            "expires_in": {"type": "integer", "description": "Seconds."},
            "refresh_token": {**_TEXT, "description": "Not for `client_credentials`."},
            "scope": {**_TEXT, "description": "The roles, space-separated."},
            "signing_key": {**_TEXT, "description": "32 bytes in base64url: the key behind signed frames."},
        },
        "access_token",
        "token_type",
        "expires_in",
        "scope",
        "signing_key",
    )
    return {
        "requestBody": {"required": True, "content": {"application/x-www-form-urlencoded": {"schema": form}}},
        "responses": {
            "200": _json("An access token.", answer),
            "400": _json("The request is refused (RFC 6749 section 5.2).", _error()),
            "401": _json("The client is refused.", _error(), WWW_Authenticate="How a client authenticates."),
            "429": _json("`slow_down`: too many failed logins.", _error(), Retry_After="Seconds to wait."),
            "503": _json("`temporarily_unavailable`.", _error(), Retry_After="Seconds to wait."),
        },
    }


def describe_ticket() -> dict[str, Any]:
    """Describe `POST /ws/ticket`."""
    origin: dict[str, Any] = {"type": ["string", "null"], "examples": ["https://app.example.com"]}
    origin["description"] = "The origin that alone may use the ticket."
    body = {**_object({"origin": origin}), "additionalProperties": False}
    answer = _object(
        {
            "ticket": {**_TEXT, "description": "For `?ticket=` of `/ws`; good once."},
            "expires_in": {"type": "integer", "description": "Seconds."},
        },
        "ticket",
        "expires_in",
    )
    return {
        "requestBody": {"required": False, "content": {"application/json": {"schema": body}}},
        "responses": {
            "200": _json("A ticket.", answer),
            "400": _json("The body is no object with an origin.", _bearer_error()),
            "401": _json("No access token that is good.", _bearer_error(), WWW_Authenticate="RFC 6750."),
            "503": _json("`temporarily_unavailable`.", _error(), Retry_After="Seconds to wait."),
        },
    }
