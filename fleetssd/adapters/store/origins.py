"""Whose work the records hold."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import asdict
from datetime import datetime

from sqlmodel import col, select

from fleetssd.adapters.store import tables
from fleetssd.adapters.store.engine import Database, add_all, chunks
from fleetssd.adapters.store.filing import _record
from fleetssd.origins import Origin
from fleetssd.records import Record

STANDING = ("train", "held_out")


class Origins(Database):
    """Which checkpoints answered what became a record."""

    def without_origin(self, limit: int) -> list[Record]:
        """Return records that teach or examine and whose origin nobody looked for yet, oldest merge first."""
        records, table = tables.Records, tables.Origins
        query = (
            select(records)
            .outerjoin(table, col(table.record) == col(records.id))
            .where(col(records.state).in_(STANDING), col(table.record).is_(None))
            .order_by(col(records.merged_at), col(records.id))
            .limit(limit)
        )
        with self.reading() as session:
            return [_record(row) for row in session.exec(query)]

    def put_origins(self, origins: Sequence[Origin]) -> None:
        """Keep origins; a later one replaces it."""
        rows = [{**asdict(origin), "checkpoints": list(origin.checkpoints)} for origin in origins]
        with self.writing() as session:
            add_all(session, tables.Origins, rows, ("round", "basis", "checkpoints", "calls"))

    def origins(self, records: Collection[str] | None = None) -> dict[str, Origin]:
        """Return the origins of these records, or all, by record id."""
        table, found = tables.Origins, dict[str, Origin]()
        parts = [None] if records is None else list(chunks(sorted(records)))
        with self.reading() as session:
            for some in parts:
                query = select(table) if some is None else select(table).where(col(table.record).in_(some))
                found |= {row.record: _origin(row) for row in session.exec(query)}
        return found

    def merged_since(self, since: datetime) -> list[Record]:
        """Return the records of any state that were closed at or after a moment, oldest first."""
        table = tables.Records
        query = select(table).where(table.merged_at >= since).order_by(col(table.merged_at), col(table.id))
        with self.reading() as session:
            return [_record(row) for row in session.exec(query)]


def _origin(row: tables.Origins) -> Origin:
    return Origin(**{**row.model_dump(), "checkpoints": tuple(row.checkpoints)})
