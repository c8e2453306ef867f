"""The tables. Rows stay inside this package: only domain values go in and come out."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, ClassVar

from sqlalchemy import (
    JSON,
    BigInteger,
    DateTime,
    Dialect,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Text,
    false,
)
from sqlalchemy.types import TypeDecorator
from sqlmodel import Field, SQLModel


class Moment(TypeDecorator[datetime]):
    """An aware datetime, kept in UTC without its zone, so that text order is time order."""

    impl = DateTime
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Refuse a naive datetime and store the rest in UTC."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a datetime without a zone reached the database")
        return value.astimezone(UTC).replace(tzinfo=None)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Return the stored moment as aware UTC."""
        return None if value is None else value.replace(tzinfo=UTC)


class Row(SQLModel):
    """The base of every table, with constraint names that a migration can refer to."""

    metadata: ClassVar[MetaData] = MetaData(
        naming_convention={
            "pk": "pk_%(table_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
            "uq": "uq_%(table_name)s_%(column_0_name)s",
            "ix": "ix_%(table_name)s_%(column_0_name)s",
        }
    )


class Deliveries(Row, table=True):
    """A verified webhook delivery; the same bytes are one row."""

    __tablename__ = "deliveries"
    sequence: int | None = Field(default=None, primary_key=True)
    id: str = Field(sa_type=Text, index=True)
    body_sha256: str = Field(sa_type=Text, unique=True)
    payload: dict[str, Any] = Field(sa_type=JSON)
    received_at: datetime = Field(sa_type=Moment)
    closed_at: datetime | None = Field(default=None, sa_type=Moment, index=True)
    outcome: str = Field(default="", sa_type=Text)


class Cursors(Row, table=True):
    """How far the polling of a forge has come."""

    __tablename__ = "cursors"
    instance: str = Field(sa_type=Text, primary_key=True)
    cursor: datetime = Field(sa_type=Moment)


class PullRequests(Row, table=True):
    """A pull request that was read, and the forge's `updated_at` text at that time."""

    __tablename__ = "pull_requests"
    instance: str = Field(sa_type=Text, primary_key=True)
    repository_id: int = Field(sa_type=BigInteger, primary_key=True)
    number: int = Field(sa_type=BigInteger, primary_key=True)
    updated_at: str = Field(sa_type=Text, index=True)
    read_at: datetime = Field(sa_type=Moment)


class Records(Row, table=True):
    """A record: columns for what is asked for, `payload` for the whole of it."""

    __tablename__ = "records"
    __table_args__ = (
        ForeignKeyConstraint(
            ["instance", "repository_id", "pull"],
            ["pull_requests.instance", "pull_requests.repository_id", "pull_requests.number"],
        ),
        # A window is read from an index alone: newest first, or repository by repository.
        Index("ix_records_newest", "state", "settled", "merged_at", "repository_id", "id"),
        Index("ix_records_newest_of_repository", "state", "settled", "repository_id", "merged_at", "id"),
        Index("ix_records_pull", "repository_id", "pull"),
    )
    id: str = Field(sa_type=Text, primary_key=True)
    instance: str = Field(sa_type=Text)
    repository_id: int = Field(sa_type=BigInteger)
    pull: int = Field(sa_type=BigInteger)
    repository: str = Field(sa_type=Text)
    state: str = Field(sa_type=Text)
    merged_at: datetime = Field(sa_type=Moment, index=True)
    settled: bool = Field(default=False, index=True, sa_column_kwargs={"server_default": false()})
    payload: dict[str, Any] = Field(sa_type=JSON)
    filed_at: datetime = Field(sa_type=Moment)
    changed_at: datetime = Field(sa_type=Moment)


class Claims(Row, table=True):
    """What a merged pull request says it takes back: `#` and a number, or the first digits of a commit."""

    __tablename__ = "revert_claims"
    instance: str = Field(sa_type=Text, primary_key=True)
    repository_id: int = Field(sa_type=BigInteger, primary_key=True)
    says: str = Field(sa_type=Text, primary_key=True)


class Ties(Row, table=True):
    """A number that records which may have to stand on one side share."""

    __tablename__ = "record_ties"
    tie: int = Field(sa_type=BigInteger, primary_key=True, sa_column_kwargs={"autoincrement": False})
    record: str = Field(sa_type=Text, primary_key=True, foreign_key="records.id", index=True)


class HeldOut(Row, table=True):
    """An issue (a split key) that was held out, and so never teaches."""

    __tablename__ = "held_out"
    key: str = Field(sa_type=Text, primary_key=True)
    since: datetime = Field(sa_type=Moment)


class Freezes(Row, table=True):
    """The held-out set was closed, with these records in it."""

    __tablename__ = "held_out_freezes"
    at: datetime = Field(sa_type=Moment, primary_key=True)
    records: list[str] = Field(sa_type=JSON)


class Admissions(Row, table=True):
    """What came of verifying a held-out record on its own merged change."""

    __tablename__ = "admissions"
    record: str = Field(sa_type=Text, primary_key=True, foreign_key="records.id")
    kind: str = Field(sa_type=Text)
    code: str = Field(sa_type=Text)
    detail: str = Field(sa_type=Text)
    fingerprint: str = Field(sa_type=Text)
    seconds: float
    at: datetime = Field(sa_type=Moment)


class Nights(Row, table=True):
    """A night and its frozen plan."""

    __tablename__ = "nights"
    number: int = Field(sa_type=Integer, primary_key=True, sa_column_kwargs={"autoincrement": False})
    state: str = Field(sa_type=Text)
    arm: str = Field(sa_type=Text)
    plan: dict[str, Any] = Field(sa_type=JSON)
    started_at: datetime = Field(sa_type=Moment)
    finished_at: datetime | None = Field(default=None, sa_type=Moment)
    failure: str = Field(default="", sa_type=Text)


class Stages(Row, table=True):
    """A finished stage of a night."""

    __tablename__ = "stages"
    night: int = Field(sa_type=Integer, primary_key=True, foreign_key="nights.number")
    stage: str = Field(sa_type=Text, primary_key=True)
    result: dict[str, Any] = Field(sa_type=JSON)
    started_at: datetime = Field(sa_type=Moment)
    finished_at: datetime = Field(sa_type=Moment)


class Samples(Row, table=True):
    """A completion drawn for training."""

    __tablename__ = "samples"
    night: int = Field(sa_type=Integer, primary_key=True, foreign_key="nights.number")
    record: str = Field(sa_type=Text, primary_key=True, foreign_key="records.id")
    prompt: str = Field(sa_type=Text)
    completion: str = Field(sa_type=Text)
    seed: int = Field(sa_type=BigInteger)
    finish: str = Field(sa_type=Text)
    engine: str = Field(sa_type=Text)


class Evaluations(Row, table=True):
    """A graded completion of a held-out problem."""

    __tablename__ = "evaluations"
    night: int = Field(sa_type=Integer, primary_key=True, foreign_key="nights.number")
    arm: str = Field(sa_type=Text, primary_key=True)
    problem: str = Field(sa_type=Text, primary_key=True)
    index: int = Field(sa_type=Integer, primary_key=True)
    seed: int = Field(sa_type=BigInteger)
    completion: str = Field(sa_type=Text)
    finish: str = Field(sa_type=Text)
    passed: bool
    fault: bool
    detail: str = Field(sa_type=Text)


class Verdicts(Row, table=True):
    """What a night decided."""

    __tablename__ = "verdicts"
    night: int = Field(sa_type=Integer, primary_key=True, foreign_key="nights.number")
    kind: str = Field(sa_type=Text)
    reason: str = Field(sa_type=Text)
    artefact: str = Field(sa_type=Text)
    evidence: dict[str, Any] = Field(sa_type=JSON)
    decided_at: datetime = Field(sa_type=Moment)


class RecordUses(Row, table=True):
    """A decided night was trained on a record."""

    __tablename__ = "record_uses"
    record: str = Field(sa_type=Text, primary_key=True, foreign_key="records.id")
    night: int = Field(sa_type=Integer, primary_key=True, foreign_key="nights.number")


class Artefacts(Row, table=True):
    """A checkpoint that the engine can serve."""

    __tablename__ = "artefacts"
    digest: str = Field(sa_type=Text, primary_key=True)
    kind: str = Field(sa_type=Text)
    model: str = Field(sa_type=Text)
    served_digest: str = Field(sa_type=Text)
    night: int | None = Field(default=None, sa_type=Integer)
    road: str = Field(sa_type=Text)
    tau: float
    bytes: int = Field(sa_type=BigInteger)
    created_at: datetime = Field(sa_type=Moment)


class Swaps(Row, table=True):
    """A line of the swap log."""

    __tablename__ = "swaps"
    id: int | None = Field(default=None, primary_key=True)
    kind: str = Field(sa_type=Text)
    actor: str = Field(sa_type=Text)
    from_digest: str = Field(sa_type=Text)
    to_digest: str = Field(sa_type=Text)
    to_model: str = Field(sa_type=Text)
    night: int | None = Field(default=None, sa_type=Integer)
    reason: str = Field(sa_type=Text)
    evidence: dict[str, Any] = Field(sa_type=JSON)
    at: datetime = Field(sa_type=Moment)
    done: bool = False
    proven_at: datetime | None = Field(default=None, sa_type=Moment)


class Facts(Row, table=True):
    """What a memory server is told of a record, and how far that got."""

    __tablename__ = "facts"
    record: str = Field(sa_type=Text, primary_key=True, foreign_key="records.id")
    state: str = Field(sa_type=Text, index=True)
    due_at: datetime = Field(sa_type=Moment, index=True)
    attempts: int = Field(sa_type=Integer)
    scope: str = Field(sa_type=Text)
    memory: str = Field(sa_type=Text)
    error: str = Field(sa_type=Text)
    changed_at: datetime = Field(sa_type=Moment)


class Capabilities(Row, table=True):
    """What an engine of this version was seen to do with this base (its digest)."""

    __tablename__ = "capabilities"
    host: str = Field(sa_type=Text, primary_key=True)
    version: str = Field(sa_type=Text, primary_key=True)
    base: str = Field(sa_type=Text, primary_key=True)
    found: dict[str, Any] = Field(sa_type=JSON)
    at: datetime = Field(sa_type=Moment)


class Calls(Row, table=True):
    """A call that the gateway passed on, or refused; never what was said."""

    __tablename__ = "calls"
    __table_args__ = (
        # One checkpoint's window, one task's calls and one agent's are each read from an index.
        Index("ix_calls_checkpoint", "checkpoint", "at"),
        Index("ix_calls_task", "task", "at"),
        Index("ix_calls_agent", "agent", "at"),
    )
    id: str = Field(sa_type=Text, primary_key=True)
    at: datetime = Field(sa_type=Moment, index=True)
    agent: str = Field(sa_type=Text)
    task: str = Field(sa_type=Text)
    task_source: str = Field(sa_type=Text)
    path: str = Field(sa_type=Text)
    asked: str = Field(sa_type=Text)
    model: str = Field(sa_type=Text)
    checkpoint: str | None = Field(default=None, sa_type=Text)
    status: int = Field(sa_type=Integer)
    total_ns: int = Field(sa_type=BigInteger)
    fault: str = Field(sa_type=Text)
    finish: str = Field(sa_type=Text)
    prompt_tokens: int | None = Field(default=None, sa_type=BigInteger)
    answer_tokens: int | None = Field(default=None, sa_type=BigInteger)
    empty: bool | None = None
    streamed: bool
    held_ns: int = Field(sa_type=BigInteger)
    first_ns: int | None = Field(default=None, sa_type=BigInteger)
    load_ns: int | None = Field(default=None, sa_type=BigInteger)
    shadow: bool
    of: str = Field(sa_type=Text, index=True)


class CallTexts(Row, table=True):
    """What was said in a call; there is none unless texts are switched on."""

    __tablename__ = "call_texts"
    call: str = Field(sa_type=Text, primary_key=True, foreign_key="calls.id", ondelete="CASCADE")
    request: bytes | None = Field(default=None, sa_type=LargeBinary)
    reply: bytes | None = Field(default=None, sa_type=LargeBinary)


class CallGaps(Row, table=True):
    """Calls that are not on file: they came while the database was away and the queue was full."""

    __tablename__ = "call_gaps"
    id: int | None = Field(default=None, primary_key=True)
    calls: int = Field(sa_type=Integer)
    since: datetime = Field(sa_type=Moment)
    until: datetime = Field(sa_type=Moment, index=True)


class Canaries(Row, table=True):
    """A candidate's trial: whom it stands beside, how it ended, by whom and why."""

    __tablename__ = "canaries"
    id: int | None = Field(default=None, primary_key=True)
    digest: str = Field(sa_type=Text, foreign_key="artefacts.digest")
    model: str = Field(sa_type=Text)
    mode: str = Field(sa_type=Text)
    share: float
    incumbent: str = Field(sa_type=Text)
    started_at: datetime = Field(sa_type=Moment)
    expires_at: datetime = Field(sa_type=Moment)
    started_by: str = Field(sa_type=Text)
    outcome: str = Field(sa_type=Text)
    ended_at: datetime | None = Field(default=None, sa_type=Moment)
    ended_by: str = Field(sa_type=Text)
    reason: str = Field(sa_type=Text)
    evidence: dict[str, Any] = Field(sa_type=JSON)


class Origins(Row, table=True):
    """Which checkpoints wrote what a record holds; beside the record, because a poll may write that at any time."""

    __tablename__ = "record_origins"
    record: str = Field(sa_type=Text, primary_key=True, foreign_key="records.id")
    round: int | None = Field(default=None, sa_type=Integer)
    basis: str = Field(sa_type=Text)
    checkpoints: list[str] = Field(sa_type=JSON)
    calls: int = Field(sa_type=Integer)


class Leases(Row, table=True):
    """Who may do a thing that only one process may do."""

    __tablename__ = "leases"
    name: str = Field(sa_type=Text, primary_key=True)
    owner: str = Field(sa_type=Text)
    until: datetime = Field(sa_type=Moment)
