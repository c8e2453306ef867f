"""Run the revisions on the connection that the store hands over; there is no offline mode."""

from __future__ import annotations

from alembic import context

from fleetssd.adapters.store.tables import Row

# Batch mode, because SQLite cannot alter most things in place.
context.configure(
    connection=context.config.attributes["connection"], target_metadata=Row.metadata, render_as_batch=True
)
context.run_migrations()
