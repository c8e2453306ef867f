"""Nights, stages, samples, answers and verdicts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any, cast

from sqlmodel import Session, col, func, select

from fleetssd.adapters.store import tables
from fleetssd.adapters.store.engine import Database, add_all, add_missing
from fleetssd.checkpoints import ORDER, Answer, Night, NightState, Sample, Stage, StageRow, VerdictRow
from fleetssd.errors import Corrupt


class Nights(Database):
    """What a night did and decided."""

    def open_night(self, plan: Mapping[str, Any], arm: str, now: datetime) -> Night:
        """Create tonight's row with its frozen plan and close stage `freeze`, in one transaction.

        The number of the new night is `plan["night"]`; where that night exists already it is returned unchanged.
        """
        number = int(plan["night"])
        row = {"number": number, "state": "running", "arm": arm, "plan": dict(plan), "started_at": now, "failure": ""}
        counts = {name: len(plan.get(name, ())) for name in ("train", "held_out", "tune")}
        with self.writing() as session:
            if add_missing(session, tables.Nights, [row]):
                _close_stage(session, StageRow(number, "freeze", counts, now, now))
            return _night(session, _must(session, number))

    def night(self, number: int) -> Night | None:
        """Return a night with its stages and verdict."""
        with self.reading() as session:
            row = session.get(tables.Nights, number)
            return _night(session, row) if row else None

    def nights(self) -> list[Night]:
        """Return all nights, oldest first."""
        with self.reading() as session:
            rows = session.exec(select(tables.Nights).order_by(col(tables.Nights.number))).all()
            return [_night(session, row) for row in rows]

    def finish_stage(self, row: StageRow) -> None:
        """Write a stage's row; a second write of the same stage is ignored."""
        with self.writing() as session:
            _close_stage(session, row)

    def fail_night(self, number: int, reason: str, now: datetime) -> None:
        """Close a night as failed, with the reason; a decided night stays decided."""
        with self.writing() as session:
            row = _must(session, number)
            if session.get(tables.Verdicts, number) is None:
                row.state, row.failure, row.finished_at = "failed", reason, now

    def add_samples(self, samples: Iterable[Sample]) -> None:
        """Keep training samples; one row a (night, record), and the first one stays."""
        with self.writing() as session:
            add_missing(session, tables.Samples, map(asdict, samples))

    def samples(self, night: int) -> list[Sample]:
        """Return the night's samples in the order of their records in the plan."""
        with self.reading() as session:
            row = session.get(tables.Nights, night)
            place = {record: index for index, record in enumerate(row.plan.get("train", ()))} if row else {}
            query = select(tables.Samples).where(tables.Samples.night == night).order_by(col(tables.Samples.record))
            found = [Sample(**sample.model_dump()) for sample in session.exec(query)]
        return sorted(found, key=lambda sample: place.get(sample.record, len(place)))

    def add_answers(self, answers: Iterable[Answer]) -> None:
        """Keep graded answers; one row a (night, arm, problem, index), and the first one stays."""
        with self.writing() as session:
            add_all(session, tables.Evaluations, [asdict(answer) for answer in answers])

    def answers(self, night: int, arm: str | None = None) -> list[Answer]:
        """Return graded answers ordered by (arm, problem, index)."""
        table = tables.Evaluations
        query = select(table).where(table.night == night).order_by(col(table.arm), col(table.problem), col(table.index))
        if arm is not None:
            query = query.where(table.arm == arm)
        with self.reading() as session:
            return [Answer(**row.model_dump()) for row in session.exec(query)]

    def decide(self, verdict: VerdictRow, used: Sequence[str], started_at: datetime) -> None:
        """Write the verdict, mark the records used, finish stage `decide` and close the night: one transaction.

        A night that is decided already is left alone.
        """
        night = verdict.night
        with self.writing() as session:
            row = _must(session, night)
            if not add_missing(session, tables.Verdicts, [asdict(verdict)]):
                return
            add_missing(session, tables.RecordUses, ({"record": record, "night": night} for record in used))
            result = {"verdict": verdict.kind, "reason": verdict.reason, "artefact": verdict.artefact}
            _close_stage(session, StageRow(night, "decide", result, started_at, verdict.decided_at))
            row.state, row.failure, row.finished_at = "done", "", verdict.decided_at

    def used_records(self) -> dict[str, int]:
        """Return the ids of the records that a decided night was trained on, with the first such night."""
        table = tables.RecordUses
        with self.reading() as session:
            return dict(session.exec(select(table.record, func.min(table.night)).group_by(table.record)).all())


def _must(session: Session, number: int) -> tables.Nights:
    row = session.get(tables.Nights, number)
    if row is None:
        raise Corrupt(f"night {number} is not in the database", hint="Was the database replaced?")
    return row


def _close_stage(session: Session, row: StageRow) -> None:
    add_missing(session, tables.Stages, [asdict(row)])


def _night(session: Session, row: tables.Nights) -> Night:
    stages = session.exec(select(tables.Stages).where(tables.Stages.night == row.number)).all()
    values = [StageRow(**{**stage.model_dump(), "stage": cast("Stage", stage.stage)}) for stage in stages]
    verdict = session.get(tables.Verdicts, row.number)
    return Night(
        number=row.number,
        state=cast("NightState", row.state),
        arm=row.arm,
        plan=row.plan,
        started_at=row.started_at,
        finished_at=row.finished_at,
        failure=row.failure,
        stages=tuple(sorted(values, key=lambda value: ORDER.index(value.stage))),
        verdict=VerdictRow(**verdict.model_dump()) if verdict else None,
    )
