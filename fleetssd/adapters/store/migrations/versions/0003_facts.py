"""The outbox of facts for a memory server."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the table; it is filled from the records once the mirror is switched on."""
    op.create_table(
        "facts",
        sa.Column("record", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("due_at", sa.DateTime(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("scope", sa.Text(), nullable=False),
        sa.Column("memory", sa.Text(), nullable=False),
        sa.Column("error", sa.Text(), nullable=False),
        sa.Column("changed_at", sa.DateTime(), nullable=False),
        sa.ForeignKeyConstraint(["record"], ["records.id"], name="fk_facts_record_records"),
        sa.PrimaryKeyConstraint("record", name="pk_facts"),
    )
    op.create_index("ix_facts_due_at", "facts", ["due_at"])
    op.create_index("ix_facts_state", "facts", ["state"])
