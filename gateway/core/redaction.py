"""Takes secrets out of what is about to be logged. Owns what a secret looks like; refuses to own when and where something is logged.

Three nets, each for what slips through the one before: the names of fields that hold secrets; the shapes of our own and common
secrets anywhere in a text (a URL that another library logs, a traceback, the repr of a form); and runs of random-looking
characters as long as our keys, tickets and refresh tokens. A false alarm costs a word of a log line, a miss costs an account,
so what is in doubt goes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache

REDACTED = "[redacted]"

MAX_TEXT_CHARS = 2_048
MAX_TRACE_CHARS = 16_384
MAX_ITEMS = 64
MAX_DEPTH = 6
# What is longer is cut before anyone looks for secrets in it.
_MAX_SEARCHED_CHARS = 65_536
_MAX_NAME_CHARS = 64
_MAX_INTEGER = 2**63 - 1

_NAMES = (
    "password",
    "passwd",
    "passphrase",
    "secret",
    "client_secret",
    "secret_key",
    "secret_key_previous",
    "signing_key",
    "private_key",
    "api_key",
    "token",
    "access_token",
    "refresh_token",
    "id_token",
    "metrics_token",
    "ticket",
    "authorization",
    "proxy_authorization",
    "cookie",
    "set_cookie",
    "sec_websocket_protocol",
    "credential",
    "credentials",
    "assertion",
    "client_assertion",
    "seed",
)
_FIELD_NAMES = frozenset(_NAMES)
_FIELD_ENDINGS = ("_password", "_secret", "_token", "_ticket", "_signing_key", "_private_key", "_secret_key", "_seed")

# Longer names first, so that `secret_key_previous` is not taken for `secret` and left standing from there on.
_NAME = "(?:" + "|".join(name.replace("_", "[_-]") for name in sorted(_NAMES, key=len, reverse=True)) + ")"

# A short word without a dot, a space or an assignment can match no pattern below, nor can an IPv4 address: most fields are such.
_WORD = re.compile(r"[A-Za-z0-9_:/|+~-]{0,39}|[0-9.]{0,15}")

# One look tells for nearly every other text that there is nothing to do: each pattern below needs one of these.
_SUSPICIOUS = re.compile(
    r"(?i:passw|passph|secret|key|token|ticket|auth|cookie|sec-websocket|credential|assertion|seed|bearer|basic)"
    r"|://|%|\$argon2|\$2[abxy]\$|PRIVATE KEY|\[parameters|e[w-z0-9_-][A-Za-z0-9_-]{14}|[A-Za-z0-9_-]{40}"
)

# Hostile text reaches these (a request's path has up to 16 KiB), so each is linear: possessive where it could try again,
# bounded where it could start again within what it took.
_PATTERNS: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL), REDACTED),
    # SQLAlchemy prints a failed statement's values by position, so that no name tells the hash from the rest.
    (re.compile(r"\[parameters: [^\n]*"), f"[parameters: {REDACTED}]"),
    (re.compile(r"\$(?:argon2[a-z]*|2[abxy])\$[^\s'\"\]})]+"), REDACTED),
    # RFC 7515: the first two parts of a compact JWS are objects, and what an opening brace encodes to is known. A longer header
    # is caught by its end.
    (
        re.compile(r"e[w-z0-9_-][A-Za-z0-9_-]{14,512}+\.e[w-z0-9_-][A-Za-z0-9_=-]*+(?:\.[A-Za-z0-9_=-]*+)*+"),
        REDACTED,
    ),
    (re.compile(r"(?i)(bearer\.)[^\s,;\"']++"), rf"\1{REDACTED}"),
    (re.compile(r"(?i)\b(bearer\s++|basic\s++)[A-Za-z0-9._~+/=%-]{8,}+"), rf"\1{REDACTED}"),
    # A percent sign in a parameter's name spells it in a way that a server decodes and a filter overlooks.
    (re.compile(r"((?:\A|[?&;\s\"'])[^=&;%\s\"']*+%[^=&;\s\"']*+=)[^&;\s\"'#]*+"), rf"\1{REDACTED}"),
    (re.compile(r"(://[^\s/:@\"']*+:)[^\s/@\"']++@"), rf"\1{REDACTED}@"),
    # name=value, name: value, "name": "value", 'name': b'value', ('name', 'value'); but not `ticket:42`, which is a channel.
    (
        re.compile(
            rf"(?i)({_NAME}(?:[\"']\s*+[:,]\s*+|\s*+=\s*+|:\s++))"
            r"(?:b?\"(?:[^\"\\]|\\.)*+\"?|b?'(?:[^'\\]|\\.)*+'?|(?!\[redacted)[^\s,;&#)}\]\"'`]++)",
            re.DOTALL,
        ),
        rf"\1{REDACTED}",
    ),
)
_LONG_RUN = re.compile(r"[A-Za-z0-9_-]{40,}+")

# What a terminal obeys, what splits a line for some readers, what reorders text, and what is no character at all.
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")
_UNPRINTABLE_IN_TRACE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]"
)


def is_secret_name(name: str) -> bool:
    """Tell whether a field of this name holds a secret whatever its value looks like."""
    return _is_secret(name) if len(name) <= _MAX_NAME_CHARS else _is_secret.__wrapped__(name)


@lru_cache(1024)  # the same few names stand in every line
def _is_secret(name: str) -> bool:
    plain = name.lower().replace("-", "_")
    return plain in _FIELD_NAMES or plain.endswith(_FIELD_ENDINGS)


def redact_text(text: str) -> str:
    """Give the text without the secrets that its shape betrays."""
    if _SUSPICIOUS.search(text) is None:
        return text
    for pattern, replacement in _PATTERNS:
        text = pattern.sub(replacement, text)
    return _LONG_RUN.sub(_redact_random, text)


def clean_text(text: str, max_chars: int = MAX_TEXT_CHARS) -> str:
    """Give one line: redacted, without control characters, at most `max_chars` and a note of what was cut."""
    return _clean(text, max_chars, _UNPRINTABLE)


def clean_trace(text: str) -> str:
    """Give a traceback: redacted, with line ends and tabs but no other control character, bounded."""
    return _clean(text, MAX_TRACE_CHARS, _UNPRINTABLE_IN_TRACE)


def clean_value(value: object, depth: int = 0) -> object:
    """Give a value that JSON can hold and that holds no secret; anything else is told by its repr.

    Args:
        value: Any field of a log event.
        depth: How many containers are around it; beyond `MAX_DEPTH` it is left out.
    """
    if isinstance(value, str):
        return clean_text(value)
    if value is None or isinstance(value, bool | float):
        return value
    if isinstance(value, int):
        return value if -_MAX_INTEGER <= value <= _MAX_INTEGER else "[large integer]"
    if isinstance(value, bytes | bytearray | memoryview):
        return f"[{len(value)} bytes]"
    if depth >= MAX_DEPTH:
        return "[nested too deep]"
    if isinstance(value, Mapping):
        return _clean_mapping(value, depth + 1)
    if isinstance(value, list | tuple | set | frozenset):
        items = [clean_value(item, depth + 1) for _, item in zip(range(MAX_ITEMS), value, strict=False)]
        return items if len(value) <= MAX_ITEMS else [*items, f"[{len(value) - MAX_ITEMS} more]"]
    if isinstance(value, BaseException):
        return clean_text(f"{type(value).__name__}: {value}")
    return clean_text(repr(value))


def clean_field(name: str, value: object, depth: int = 0) -> object:
    """Give a named field's value: nothing of it where the name says that it is secret, save a number or a flag."""
    if is_secret_name(name) and not (value is None or isinstance(value, bool | int | float)):
        return REDACTED
    return clean_value(value, depth)


def _clean_mapping(mapping: Mapping[object, object], depth: int) -> dict[str, object]:
    cleaned: dict[str, object] = {}
    for number, (key, value) in enumerate(mapping.items()):
        if number == MAX_ITEMS:
            cleaned["…"] = f"[{len(mapping) - MAX_ITEMS} more]"
            break
        name = key if isinstance(key, str) else repr(key)
        cleaned[clean_text(name)] = clean_field(name, value, depth)
    return cleaned


def _clean(text: str, max_chars: int, unprintable: re.Pattern[str]) -> str:
    if _WORD.fullmatch(text) is not None:
        return str(text)
    searched = text
    if len(text) > _MAX_SEARCHED_CHARS:
        # The word at the cut goes too: half a secret has another shape than a whole one.
        searched = text[:_MAX_SEARCHED_CHARS]
        searched = searched[: max(searched.rfind(" "), searched.rfind("\n")) + 1]
    cleaned = redact_text(searched)
    if len(cleaned) > max_chars or searched is not text:
        cleaned = f"{cleaned[:max_chars]}… [cut, {len(text)} characters in all]"
    return unprintable.sub(_escape, cleaned)


def _escape(match: re.Match[str]) -> str:
    return f"\\u{ord(match[0]):04x}"


def _redact_random(match: re.Match[str]) -> str:
    """Redact a long run that mixes digits with both cases; words, hexadecimal digests and file names do not."""
    run = match[0]
    mixed = not run.islower() and not run.isupper() and any(char.isdigit() for char in run)
    return REDACTED if mixed else run
