"""The names of the log events. Owns the vocabulary; where each is logged, and with which fields, is told in the documentation.

A name is `noun.past participle`, never a sentence and never made at run time, so that a search for it finds every line and the
one place in the code. Foreign records (uvicorn, SQLAlchemy) keep their own text as the event.
"""

from __future__ import annotations

import enum


class Event(enum.StrEnum):
    """Every event that the gateway itself logs."""

    CONNECTION_ACCEPTED = "connection.accepted"
    CONNECTION_REFUSED = "connection.refused"
    CONNECTION_CLOSED = "connection.closed"
    CONNECTION_FAILED = "connection.failed"

    COMMAND_DENIED = "command.denied"
    COMMAND_FAILED = "command.failed"
    SIGNATURE_INVALID = "signature.invalid"
    SESSION_REFRESHED = "session.refreshed"

    TOKEN_ISSUED = "token.issued"  # noqa: S105 - an event's name, not a secret
    TOKEN_REFUSED = "token.refused"  # noqa: S105 - as above
    TOKEN_REVOKED = "token.revoked"  # noqa: S105 - as above

    ACCOUNT_CHANGED = "account.changed"
    ACCOUNT_ENDED = "account.ended"
    KEYS_CHANGED = "keys.changed"

    POLICY_RELOADED = "policy.reloaded"
    POLICY_REFUSED = "policy.refused"

    BROKER_UP = "broker.up"
    BROKER_DOWN = "broker.down"
    DATABASE_UP = "database.up"
    DATABASE_DOWN = "database.down"

    HTTP_REQUEST = "http.request"
    REQUEST_FAILED = "request.failed"
    EVENTS_FOLDED = "events.folded"
    LOG_FAILED = "log.failed"

    SERVER_STARTED = "server.started"
    SERVER_DRAINING = "server.draining"
    SERVER_STOPPED = "server.stopped"
