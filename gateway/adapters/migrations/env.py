"""Alembic's entry: runs the migrations on the connection that `migrating` hands over, within its transaction."""

from alembic import context

from gateway.adapters.schema import METADATA

context.configure(connection=context.config.attributes["connection"], target_metadata=METADATA)
with context.begin_transaction():
    context.run_migrations()
