"""The first schema."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create every table."""
    _ingestion()
    _nights()
    _verdicts()
    _serving()


def _ingestion() -> None:
    op.create_table(
        "deliveries",
        sa.Column("sequence", sa.Integer(), nullable=False),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("body_sha256", sa.Text(), nullable=False),
        sa.Column("payload", sa.JSON(), nullable=False),
        sa.Column("received_at", sa.DateTime(), nullable=False),
        sa.Column("closed_at", sa.DateTime(), nullable=True),
        sa.Column("outcome", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("sequence", name="pk_deliveries"),
        sa.UniqueConstraint("body_sha256", name="uq_deliveries_body_sha256"),
    )
    op.create_index("ix_deliveries_closed_at", "deliveries", ["closed_at"], unique=False)
    op.create_index("ix_deliveries_id", "deliveries", ["id"], unique=False)
    op.create_table(
        "cursors",
        sa.Column("instance", sa.Text(), nullable=False),
        sa.Column("cursor", sa.DateTime(), nullable=False),
        sa.PrimaryKeyConstraint("instance", name="pk_cursors"),
    )
    op.create_table(
        "pull_requests",
        sa.Column("instance", sa.Text(), nullable=False),
        sa.Column("repository_id", sa.BigInteger(), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("updated_at", sa.Text(), nullable=False),
        sa.Column("read_at", sa.DateTime(), nullable=False),
        sa.PrimaryKeyConstraint("instance", "repository_id", "number", name="pk_pull_requests"),
    )
    op.create_table(
        "records",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("instance", sa.Text(), nullable=False),
        sa.Column("repository_id", sa.BigInteger(), nullable=False),
        sa.Column("pull", sa.BigInteger(), nullable=False),
        sa.Column("repository", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("merged_at", sa.DateTime(), nullable=False),
        sa.Column("payload", sa.JSON(), nullable=False),
        sa.Column("filed_at", sa.DateTime(), nullable=False),
        sa.Column("changed_at", sa.DateTime(), nullable=False),
        sa.ForeignKeyConstraint(
            ["instance", "repository_id", "pull"],
            ["pull_requests.instance", "pull_requests.repository_id", "pull_requests.number"],
            name="fk_records_instance_pull_requests",
        ),
        sa.PrimaryKeyConstraint("id", name="pk_records"),
    )
    op.create_index("ix_records_merged_at", "records", ["merged_at"], unique=False)
    op.create_index("ix_records_state", "records", ["state"], unique=False)


def _nights() -> None:
    op.create_table(
        "nights",
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("arm", sa.Text(), nullable=False),
        sa.Column("plan", sa.JSON(), nullable=False),
        sa.Column("started_at", sa.DateTime(), nullable=False),
        sa.Column("finished_at", sa.DateTime(), nullable=True),
        sa.Column("failure", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("number", name="pk_nights"),
    )
    op.create_table(
        "stages",
        sa.Column("night", sa.Integer(), nullable=False),
        sa.Column("stage", sa.Text(), nullable=False),
        sa.Column("result", sa.JSON(), nullable=False),
        sa.Column("started_at", sa.DateTime(), nullable=False),
        sa.Column("finished_at", sa.DateTime(), nullable=False),
        sa.ForeignKeyConstraint(["night"], ["nights.number"], name="fk_stages_night_nights"),
        sa.PrimaryKeyConstraint("night", "stage", name="pk_stages"),
    )
    op.create_table(
        "samples",
        sa.Column("night", sa.Integer(), nullable=False),
        sa.Column("record", sa.Text(), nullable=False),
        sa.Column("prompt", sa.Text(), nullable=False),
        sa.Column("completion", sa.Text(), nullable=False),
        sa.Column("seed", sa.BigInteger(), nullable=False),
        sa.Column("finish", sa.Text(), nullable=False),
        sa.Column("engine", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["night"], ["nights.number"], name="fk_samples_night_nights"),
        sa.ForeignKeyConstraint(["record"], ["records.id"], name="fk_samples_record_records"),
        sa.PrimaryKeyConstraint("night", "record", name="pk_samples"),
    )
    op.create_table(
        "evaluations",
        sa.Column("night", sa.Integer(), nullable=False),
        sa.Column("arm", sa.Text(), nullable=False),
        sa.Column("problem", sa.Text(), nullable=False),
        sa.Column("index", sa.Integer(), nullable=False),
        sa.Column("seed", sa.BigInteger(), nullable=False),
        sa.Column("completion", sa.Text(), nullable=False),
        sa.Column("finish", sa.Text(), nullable=False),
        sa.Column("passed", sa.Boolean(), nullable=False),
        sa.Column("fault", sa.Boolean(), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["night"], ["nights.number"], name="fk_evaluations_night_nights"),
        sa.PrimaryKeyConstraint("night", "arm", "problem", "index", name="pk_evaluations"),
    )


def _verdicts() -> None:
    op.create_table(
        "verdicts",
        sa.Column("night", sa.Integer(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("artefact", sa.Text(), nullable=False),
        sa.Column("evidence", sa.JSON(), nullable=False),
        sa.Column("decided_at", sa.DateTime(), nullable=False),
        sa.ForeignKeyConstraint(["night"], ["nights.number"], name="fk_verdicts_night_nights"),
        sa.PrimaryKeyConstraint("night", name="pk_verdicts"),
    )
    op.create_table(
        "record_uses",
        sa.Column("record", sa.Text(), nullable=False),
        sa.Column("night", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["night"], ["nights.number"], name="fk_record_uses_night_nights"),
        sa.ForeignKeyConstraint(["record"], ["records.id"], name="fk_record_uses_record_records"),
        sa.PrimaryKeyConstraint("record", "night", name="pk_record_uses"),
    )


def _serving() -> None:
    op.create_table(
        "artefacts",
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("served_digest", sa.Text(), nullable=False),
        sa.Column("night", sa.Integer(), nullable=True),
        sa.Column("road", sa.Text(), nullable=False),
        sa.Column("tau", sa.Float(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.DateTime(), nullable=False),
        sa.PrimaryKeyConstraint("digest", name="pk_artefacts"),
    )
    op.create_table(
        "swaps",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("from_digest", sa.Text(), nullable=False),
        sa.Column("to_digest", sa.Text(), nullable=False),
        sa.Column("to_model", sa.Text(), nullable=False),
        sa.Column("night", sa.Integer(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("evidence", sa.JSON(), nullable=False),
        sa.Column("at", sa.DateTime(), nullable=False),
        sa.Column("done", sa.Boolean(), nullable=False),
        sa.Column("proven_at", sa.DateTime(), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_swaps"),
    )
    op.create_table(
        "leases",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("until", sa.DateTime(), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_leases"),
    )
