"""The tables, as SQLAlchemy sees them.

Owns names and types; the migrations bring a database to this shape, and a test holds the two against each other. Nothing here is
peculiar to one database.
"""

from __future__ import annotations

import sqlalchemy as sa

METADATA = sa.MetaData()

_HASH = sa.String(64)
_NAME = sa.String(255)
_ID = sa.String(64)

ACCOUNTS = sa.Table(
    "accounts",
    METADATA,
    sa.Column("name", _NAME, primary_key=True),
    sa.Column("kind", sa.String(16), nullable=False),
    sa.Column("generation", _ID, nullable=False),
    sa.Column("tenant", _NAME, nullable=False),
    sa.Column("roles", sa.JSON, nullable=False),
    sa.Column("claims", sa.JSON, nullable=False),
    sa.Column("disabled", sa.Boolean, nullable=False),
    sa.Column("development", sa.Boolean, nullable=False),
    sa.Column("password_hash", sa.Text),
    sa.Column("secret_hash", _HASH),
    sa.Column("previous_secret_hash", _HASH),
    sa.Column("previous_secret_until", sa.Double, nullable=False),
    sa.Column("created_at", sa.Double, nullable=False),
)

FAMILIES = sa.Table(
    "families",
    METADATA,
    sa.Column("id", _ID, primary_key=True),
    sa.Column("subject", _NAME, nullable=False),
    sa.Column("generation", _ID, nullable=False),
    sa.Column("client_id", _NAME, nullable=False),
    sa.Column("roles", sa.JSON(none_as_null=True)),
    sa.Column("created_at", sa.Double, nullable=False),
    sa.Column("expires_at", sa.Double, nullable=False, index=True),
    sa.Column("access_until", sa.Double, nullable=False),
    sa.Column("revoked", sa.Boolean, nullable=False),
)

REFRESH_TOKENS = sa.Table(
    "refresh_tokens",
    METADATA,
    sa.Column("hash", _HASH, primary_key=True),
    sa.Column("family", _ID, sa.ForeignKey("families.id", ondelete="CASCADE"), nullable=False, index=True),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("successor", _HASH),
    sa.Column("spent_at", sa.Double),
    sa.Column("repeated", sa.Boolean, nullable=False),
)

REVOCATIONS = sa.Table(
    "revocations",
    METADATA,
    sa.Column("kind", sa.String(32), primary_key=True),
    sa.Column("issuer", _NAME, primary_key=True),
    sa.Column("key", _NAME, primary_key=True),
    sa.Column("expires_at", sa.Double, nullable=False, index=True),
)

TICKETS = sa.Table(
    "tickets",
    METADATA,
    sa.Column("hash", _HASH, primary_key=True),
    sa.Column("payload", sa.LargeBinary, nullable=False),
    sa.Column("kid", _ID, nullable=False),
    sa.Column("origin", sa.Text),
    sa.Column("expires_at", sa.Double, nullable=False, index=True),
)

THROTTLES = sa.Table(
    "throttles",
    METADATA,
    sa.Column("key", _HASH, primary_key=True),
    sa.Column("failures", sa.JSON, nullable=False),
    sa.Column("strikes", sa.Integer, nullable=False),
    sa.Column("last_failure_at", sa.Double, nullable=False),
    sa.Column("leases", sa.JSON, nullable=False),
    sa.Column("idle_at", sa.Double, nullable=False, index=True),
)

FAMILIAR_ADDRESSES = sa.Table(
    "familiar_addresses",
    METADATA,
    sa.Column("key", _HASH, primary_key=True),
    sa.Column("logged_in_at", sa.Double, nullable=False, index=True),
)

SIGNING_KEYS = sa.Table(
    "signing_keys",
    METADATA,
    sa.Column("kid", _ID, primary_key=True),
    sa.Column("sealed", sa.LargeBinary, nullable=False),
    # 1 for the one key that signs, null for all others: the constraint lets several processes start at once.
    sa.Column("active", sa.Integer, unique=True),
    sa.Column("created_at", sa.Double, nullable=False),
    sa.Column("retired_at", sa.Double),
    # The longest life of a token that it may have signed: a retired key is kept for so long.
    sa.Column("longest_ttl_s", sa.Integer),
)

CHANGES = sa.Table(
    "changes",
    METADATA,
    sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True),
    sa.Column("kind", sa.String(32), nullable=False),
    sa.Column("subject", _NAME, nullable=False),
    sa.Column("key", _NAME, nullable=False),
    sa.Column("issuer", _NAME, nullable=False),
    sa.Column("roles", sa.JSON, nullable=False),
    sa.Column("at", sa.Double, nullable=False, index=True),
    sqlite_autoincrement=True,  # numbers are never used again, as everywhere else
)
