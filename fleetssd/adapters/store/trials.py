"""The log of canaries."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime
from typing import Any

from sqlmodel import Session, col, select

from fleetssd.adapters.store import tables
from fleetssd.adapters.store.engine import Database
from fleetssd.canary import Canary
from fleetssd.errors import Corrupt
from fleetssd.trials import Hand, Outcome, Trial

_CANARY = ("digest", "model", "mode", "share", "started_at", "expires_at")


class Trials(Database):
    """Who met a share of the traffic."""

    def canary(self) -> Canary | None:
        """Return the canary that was started last and neither promoted nor aborted; it may have expired."""
        with self.reading() as session:
            row = _last(session)
            return _trial(row).canary if row is not None and not row.outcome else None

    def begin_trial(self, trial: Trial) -> Trial | None:
        """Write a canary and return it with its id; None where another one was not ended yet."""
        line = asdict(trial)
        with self.writing() as session:
            last = _last(session)
            if last is not None and not last.outcome:
                return None
            row = tables.Canaries(**{**line.pop("canary"), **line, "id": None})
            session.add(row)
            session.flush()
            return _trial(row)

    def end_trial(
        self, trial: int, outcome: Outcome, by: Hand, reason: str, now: datetime, evidence: Mapping[str, Any]
    ) -> Trial | None:
        """End a canary and return its line; None where it was ended before: nobody ends one twice."""
        with self.writing() as session:
            row = session.get(tables.Canaries, trial)
            if row is None:
                raise Corrupt(f"canary {trial} is not in the database", hint="Was the database replaced?")
            if row.outcome:
                return None
            row.outcome, row.ended_at, row.ended_by, row.reason = outcome, now, by, reason
            row.evidence = {**row.evidence, **evidence}
            session.flush()
            return _trial(row)

    def trials(self) -> list[Trial]:
        """Return the log, oldest first."""
        with self.reading() as session:
            return [_trial(row) for row in session.exec(select(tables.Canaries).order_by(col(tables.Canaries.id)))]


def _last(session: Session) -> tables.Canaries | None:
    return session.exec(select(tables.Canaries).order_by(col(tables.Canaries.id).desc()).limit(1)).first()


def _trial(row: tables.Canaries) -> Trial:
    line = row.model_dump()
    canary = Canary(**{name: line.pop(name) for name in _CANARY})
    return Trial(canary=canary, **line)
