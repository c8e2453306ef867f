"""What ties records together, what was ever held out, and the indexes that a window is read from."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the tables; the records on file are settled anew, and get their ties, by the next poll."""
    op.add_column("records", sa.Column("settled", sa.Boolean(), nullable=False, server_default=sa.false()))
    op.drop_index("ix_records_state", "records")
    op.create_index("ix_records_settled", "records", ["settled"])
    op.create_index("ix_records_newest", "records", ["state", "settled", "merged_at", "repository_id", "id"])
    op.create_index(
        "ix_records_newest_of_repository", "records", ["state", "settled", "repository_id", "merged_at", "id"]
    )
    _sides()


def _sides() -> None:
    op.create_table(
        "record_ties",
        sa.Column("tie", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("record", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["record"], ["records.id"], name="fk_record_ties_record_records"),
        sa.PrimaryKeyConstraint("tie", "record", name="pk_record_ties"),
    )
    op.create_index("ix_record_ties_record", "record_ties", ["record"])
    op.create_table(
        "held_out",
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("since", sa.DateTime(), nullable=False),
        sa.PrimaryKeyConstraint("key", name="pk_held_out"),
    )
    op.create_table(
        "held_out_freezes",
        sa.Column("at", sa.DateTime(), nullable=False),
        sa.Column("records", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("at", name="pk_held_out_freezes"),
    )
