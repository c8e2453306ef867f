"""The outbox of facts for a memory server: derived from the records, so that nothing is told that is not on file."""

from __future__ import annotations

from dataclasses import asdict, replace
from datetime import datetime

from sqlalchemy import func
from sqlmodel import col, select, update

from fleetssd.adapters.store import tables
from fleetssd.adapters.store.engine import Database, add_missing
from fleetssd.adapters.store.filing import _record
from fleetssd.facts import Entry
from fleetssd.records import Record

NOTED = 5_000
"""Records noted at once: the first look at a large database holds the write lock only for moments."""
TOLD = ("train", "held_out")


class Facts(Database):
    """What the memory server is to be told, and what it was told."""

    def note_facts(self, now: datetime) -> int:
        """Put records that are not in the outbox into it, and mark what was told of records refused since."""
        records, table = tables.Records, tables.Facts
        missing = (
            select(records.id)
            .outerjoin(table, col(table.record) == col(records.id))
            .where(col(records.state).in_(TOLD), col(table.record).is_(None))
            .limit(NOTED)
        )
        refused = (
            select(table)
            .join(records, col(records.id) == col(table.record))
            .where(records.state == "refused", col(table.state).in_(("pending", "written")))
            .limit(NOTED)
        )
        with self.reading() as session:
            rows = [{**asdict(Entry(found, "pending", now)), "changed_at": now} for found in session.exec(missing)]
            gone = [_withdrawn(_entry(row), now) for row in session.exec(refused)]
        if not rows and not gone:
            return 0  # the write lock is for those who have something to write
        with self.writing() as session:
            for entry in gone:
                session.merge(tables.Facts(**asdict(entry), changed_at=now))
            return add_missing(session, table, rows)

    def due_facts(self, now: datetime, limit: int) -> list[tuple[Entry, Record]]:
        """Return what is to be told now with its records, longest due first."""
        table = tables.Facts
        query = (
            select(table, tables.Records)
            .join(tables.Records, col(tables.Records.id) == col(table.record))
            .where(col(table.state).in_(("pending", "withdraw")), col(table.due_at) <= now)
            .order_by(col(table.due_at), col(table.record))
            .limit(limit)
        )
        with self.reading() as session:
            return [(_entry(row), _record(record)) for row, record in session.exec(query)]

    def save_fact(self, entry: Entry, now: datetime) -> None:
        """Keep how far an entry got."""
        with self.writing() as session:
            session.merge(tables.Facts(**asdict(entry), changed_at=now))

    def facts(self, state: str | None = None) -> list[Entry]:
        """Return the entries in a state, or all."""
        table = tables.Facts
        query = select(table).order_by(col(table.due_at), col(table.record))
        if state is not None:
            query = query.where(table.state == state)
        with self.reading() as session:
            return [_entry(row) for row in session.exec(query)]

    def fact_counts(self) -> dict[str, int]:
        """Return how many entries are in each state."""
        query = select(tables.Facts.state, func.count()).group_by(tables.Facts.state)
        with self.reading() as session:
            return dict(session.exec(query).all())

    def retry_facts(self, now: datetime) -> int:
        """Make what the server refused pending again; return how many that were."""
        table = tables.Facts
        again = {"state": "pending", "due_at": now, "attempts": 0, "error": "", "changed_at": now}
        with self.writing() as session:
            return int(session.exec(update(table).where(col(table.state) == "refused").values(**again)).rowcount)


def _withdrawn(entry: Entry, now: datetime) -> Entry:
    """Return the entry of a record that was refused: what may have been told is to be taken back."""
    if entry.memory:
        return replace(entry, state="withdraw", due_at=now, attempts=0)
    # After a lost answer nobody knows the memory's id: the same write, sent again, tells it.
    return entry if entry.attempts else replace(entry, state="withdrawn")


def _entry(row: tables.Facts) -> Entry:
    values = row.model_dump(exclude={"changed_at"})
    return Entry(**values)
