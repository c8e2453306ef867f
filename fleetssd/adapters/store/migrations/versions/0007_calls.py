"""Who answered what: calls, canaries, and the checkpoints that a record's work is from."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the tables; calls fill with the gateway, origins with the daemon's next look at the records on file."""
    _calls()
    op.create_table(
        "canaries",
        sa.Column("id", sa.Integer(), nullable=False),
        *(sa.Column(name, sa.Text(), nullable=False) for name in ("digest", "model", "mode")),
        sa.Column("share", sa.Float(), nullable=False),
        sa.Column("incumbent", sa.Text(), nullable=False),
        sa.Column("started_at", sa.DateTime(), nullable=False),
        sa.Column("expires_at", sa.DateTime(), nullable=False),
        sa.Column("started_by", sa.Text(), nullable=False),
        sa.Column("outcome", sa.Text(), nullable=False),
        sa.Column("ended_at", sa.DateTime(), nullable=True),
        sa.Column("ended_by", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("evidence", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(["digest"], ["artefacts.digest"], name="fk_canaries_digest_artefacts"),
        sa.PrimaryKeyConstraint("id", name="pk_canaries"),
    )
    op.create_table(
        "record_origins",
        sa.Column("record", sa.Text(), nullable=False),
        sa.Column("round", sa.Integer(), nullable=True),
        sa.Column("basis", sa.Text(), nullable=False),
        sa.Column("checkpoints", sa.JSON(), nullable=False),
        sa.Column("calls", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["record"], ["records.id"], name="fk_record_origins_record_records"),
        sa.PrimaryKeyConstraint("record", name="pk_record_origins"),
    )


def _calls() -> None:
    texts = ("agent", "task", "task_source", "path", "asked", "model", "fault", "finish", "of")
    op.create_table(
        "calls",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("at", sa.DateTime(), nullable=False),
        *(sa.Column(name, sa.Text(), nullable=False) for name in texts),
        sa.Column("checkpoint", sa.Text(), nullable=True),
        sa.Column("status", sa.Integer(), nullable=False),
        *(sa.Column(name, sa.BigInteger(), nullable=False) for name in ("total_ns", "held_ns")),
        *(sa.Column(name, sa.BigInteger(), nullable=True) for name in ("prompt_tokens", "answer_tokens")),
        *(sa.Column(name, sa.BigInteger(), nullable=True) for name in ("first_ns", "load_ns")),
        sa.Column("empty", sa.Boolean(), nullable=True),
        *(sa.Column(name, sa.Boolean(), nullable=False) for name in ("streamed", "shadow")),
        sa.PrimaryKeyConstraint("id", name="pk_calls"),
    )
    op.create_index("ix_calls_at", "calls", ["at"])
    for name in ("checkpoint", "task", "agent"):
        op.create_index(f"ix_calls_{name}", "calls", [name, "at"])
    op.create_index("ix_calls_of", "calls", ["of"])
    op.create_table(
        "call_texts",
        sa.Column("call", sa.Text(), nullable=False),
        sa.Column("request", sa.LargeBinary(), nullable=True),
        sa.Column("reply", sa.LargeBinary(), nullable=True),
        sa.ForeignKeyConstraint(["call"], ["calls.id"], name="fk_call_texts_call_calls", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("call", name="pk_call_texts"),
    )
    op.create_table(
        "call_gaps",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("calls", sa.Integer(), nullable=False),
        sa.Column("since", sa.DateTime(), nullable=False),
        sa.Column("until", sa.DateTime(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_call_gaps"),
    )
    op.create_index("ix_call_gaps_until", "call_gaps", ["until"])
