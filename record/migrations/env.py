"""Runs the migrations over the connection that `Store.open` passes."""

from alembic import context

from record.tables import metadata

connection = context.config.attributes["connection"]
context.configure(connection=connection, target_metadata=metadata, render_as_batch=True)
with context.begin_transaction():
    context.run_migrations()
