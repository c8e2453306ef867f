"""Alembic: one revision a release that changes a table."""
