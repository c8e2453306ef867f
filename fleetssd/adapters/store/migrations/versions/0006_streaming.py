"""What a poll asks of single pull requests, so that it need not hold them all; and claims that outlive their poll."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the indexes and the table; claims of earlier polls were applied to what was on file then."""
    op.create_index("ix_records_pull", "records", ["repository_id", "pull"])
    op.create_index("ix_pull_requests_updated_at", "pull_requests", ["updated_at"])
    op.create_table(
        "revert_claims",
        sa.Column("instance", sa.Text(), nullable=False),
        sa.Column("repository_id", sa.BigInteger(), nullable=False),
        sa.Column("says", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("instance", "repository_id", "says", name="pk_revert_claims"),
    )
