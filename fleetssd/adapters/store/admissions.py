"""What came of verifying the held-out records."""

from __future__ import annotations

from dataclasses import asdict

from pydantic import TypeAdapter
from sqlmodel import select

from fleetssd.adapters.store import tables
from fleetssd.adapters.store.engine import Database, read_payload
from fleetssd.admission import Admission

_ADMISSION = TypeAdapter(Admission)


class Admissions(Database):
    """Which held-out records examine, and why the others do not."""

    def put_admission(self, admission: Admission) -> None:
        """Keep what came of verifying a held-out record, in place of what came of it before."""
        with self.writing() as session:
            session.merge(tables.Admissions(**asdict(admission)))

    def admissions(self) -> dict[str, Admission]:
        """Return what came of verifying, by record id."""
        with self.reading() as session:
            rows = [row.model_dump() for row in session.exec(select(tables.Admissions))]
        return {row["record"]: read_payload(_ADMISSION, row, f"the admission of {row['record']}") for row in rows}
