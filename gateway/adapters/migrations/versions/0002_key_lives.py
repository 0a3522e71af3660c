"""How long the tokens of a signing key may live, so that a retired one is kept for them and no longer."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("signing_keys", sa.Column("longest_ttl_s", sa.Integer))


def downgrade() -> None:
    op.drop_column("signing_keys", "longest_ttl_s")
