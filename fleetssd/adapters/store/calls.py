"""The calls of the gateway: kept in batches, read by whoever asks what answered."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import fields
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Table, and_, func, or_
from sqlalchemy import select as columns
from sqlmodel import Session, col, delete, select

from fleetssd.adapters.store import tables
from fleetssd.adapters.store.engine import Database, add_all, chunks
from fleetssd.calls import Call, Gap
from fleetssd.telemetry import CallEnd, Filter, Work

_CALLS: Table = tables.Calls.__table__  # type: ignore[attr-defined]
_C = _CALLS.c
_TEXTS = ("request", "reply")
_KEPT = tuple(field.name for field in fields(Call) if field.name not in _TEXTS)
_NAMED = ("header", "body")
LONGEST = timedelta(hours=6)
"""How long before a moment a call that was under way at it may have begun: it bounds what is looked through."""


class Calls(Database):
    """What the gateway passed on."""

    def add_calls(self, calls: Sequence[Call], gap: Gap | None) -> None:
        """Keep a batch of calls, and the gap before it; the same id twice is one row."""
        texts = [
            {"call": call.id, "request": call.request, "reply": call.reply}
            for call in calls
            if call.request is not None or call.reply is not None
        ]
        with self.writing() as session:
            add_all(session, tables.Calls, [{name: getattr(call, name) for name in _KEPT} for call in calls])
            add_all(session, tables.CallTexts, texts)
            if gap is not None:
                session.add(tables.CallGaps(calls=gap.calls, since=gap.since, until=gap.until))

    def calls(self, wanted: Filter, limit: int) -> list[Call]:
        """Return the newest calls of this kind, newest first, with their texts where there are any."""
        table, texts = tables.Calls, tables.CallTexts
        query = select(table, texts).join(texts, col(texts.call) == col(table.id), isouter=True)
        query = query.order_by(col(table.at).desc(), col(table.id)).limit(limit)
        with self.reading() as session:
            which = _conditions(wanted)
            if wanted.at is not None:
                which = [_C.id.in_(_under_way(session, which, wanted.at)[: min(limit, 500)])]
            return [_call(row, said) for row, said in session.exec(query.where(*which))]

    def gaps(self, since: datetime | None = None) -> list[Gap]:
        """Return the gaps that end after a moment, oldest first."""
        table = tables.CallGaps
        query = select(table).order_by(col(table.id))
        if since is not None:
            query = query.where(table.until > since)
        with self.reading() as session:
            return [Gap(row.calls, row.since, row.until) for row in session.exec(query)]

    def call_ends(self, checkpoint: str, since: datetime, until: datetime) -> list[CallEnd]:
        """Return how the calls that a checkpoint answered in [since, until) ended."""
        time = _C.total_ns - _C.held_ns
        query = columns(_C.path, _C.status, _C.fault, _C.finish, _C.empty, time).where(
            _C.checkpoint == checkpoint, _C.at >= since, _C.at < until
        )
        with self.reading() as session:
            return [CallEnd(*row) for row in session.connection().execute(query)]

    def answering(self, since: datetime, until: datetime) -> list[str]:
        """Return the checkpoints that were asked anything in [since, until)."""
        query = columns(_C.checkpoint).distinct().where(_C.checkpoint.is_not(None), _C.at >= since, _C.at < until)
        with self.reading() as session:
            return sorted(session.connection().execute(query).scalars())

    def works(
        self, since: datetime, until: datetime, *, tasks: Collection[str] | None = None, agent: str | None = None
    ) -> list[Work]:
        """Return what callers got answered in [since, until): of all tasks, of these, or by one agent (any case)."""
        named = _C.task_source.in_(_NAMED)
        first, last = func.min(_C.at, type_=_C.at.type), func.max(_C.at, type_=_C.at.type)
        parts = (_C.task, _C.agent, _C.checkpoint, named)
        query = (
            columns(*parts, func.count(), first, last)
            .where(_C.at >= since, _C.at < until, _C.fault == "", _C.checkpoint.is_not(None), _C.shadow.is_(False))
            .group_by(*parts)
        )
        some: list[ColumnElement[bool]] = [named] if tasks is None and agent is None else []
        if agent is not None:
            some = [_C.agent.in_(sorted({agent, agent.lower()}))]
        wanted = [None] if tasks is None else list(chunks(sorted(tasks)))
        found: list[Work] = []
        with self.reading() as session:
            for chunk in wanted:
                of_task = [] if chunk is None else [_C.task.in_(chunk), named]
                rows = session.connection().execute(query.where(*some, *of_task))
                found += [Work(row[0], row[1], row[2], bool(row[3]), *row[4:]) for row in rows]
        return found

    def prune_calls(self, before: datetime, limit: int) -> int:
        """Remove at most `limit` calls and gaps that are older, and return how many calls that were."""
        old = columns(_C.id).where(_C.at < before).order_by(_C.at).limit(limit).scalar_subquery()
        with self.reading() as session:
            if not session.connection().execute(columns(_C.id).where(_C.at < before).limit(1)).first():
                return 0  # the write lock is for those who have something to write
        with self.writing() as session:
            session.exec(delete(tables.CallTexts).where(col(tables.CallTexts.call).in_(old)))
            session.exec(delete(tables.CallGaps).where(col(tables.CallGaps.until) < before))
            return int(session.connection().execute(_CALLS.delete().where(_C.id.in_(old))).rowcount)


def _conditions(wanted: Filter) -> list[ColumnElement[bool]]:
    found: list[ColumnElement[bool]] = []
    if wanted.request:
        found.append(or_(_starts(_C.id, wanted.request), _starts(_C.of, wanted.request)))
    if wanted.agent:
        found.append(_C.agent == wanted.agent)
    if wanted.task:
        found.append(_C.task == wanted.task)
    if wanted.checkpoint:
        found.append(or_(_starts(_C.checkpoint, wanted.checkpoint), _C.model == wanted.checkpoint))
    if wanted.since is not None:
        found.append(_C.at >= wanted.since)
    if wanted.until is not None:
        found.append(_C.at < wanted.until)
    if wanted.at is not None:
        found.append(and_(_C.at <= wanted.at, _C.at > wanted.at - LONGEST))
    if wanted.errors:
        found.append(or_(_C.fault != "", _C.status < 200, _C.status >= 400))
    return found


def _under_way(session: Session, which: Sequence[ColumnElement[bool]], at: datetime) -> list[str]:
    """Return the ids of those of these calls that had not ended at a moment, newest first."""
    query = columns(_C.id, _C.at, _C.total_ns).where(*which).order_by(_C.at.desc(), _C.id)
    rows = session.connection().execute(query)
    return [row[0] for row in rows if row[1] + timedelta(microseconds=row[2] / 1000) > at]


def _starts(column: Any, prefix: str) -> ColumnElement[bool]:
    """Return a range that an index can walk, where LIKE could not."""
    return and_(column >= prefix, column < prefix + "\U0010ffff")


def _call(row: tables.Calls, said: tables.CallTexts | None) -> Call:
    texts = {name: getattr(said, name) for name in _TEXTS} if said else {}
    return Call(**row.model_dump(), **texts)
