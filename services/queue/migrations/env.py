"""Alembic's entry point. It runs the steps on the connection that `inferd.services.queue.migrate` passes."""

from alembic import context

from inferd.services.queue.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    version_table="inferd_queue_version",
    # SQLite can alter a table only by creating a new one.
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()
