"""Records: how they are filed, and which of them stand where."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from typing import Any, TypeVar

from pydantic import TypeAdapter
from sqlmodel import Session, col, delete, select

from fleetssd.adapters.store import tables
from fleetssd.adapters.store.engine import Database, add_missing, read_payload
from fleetssd.adapters.store.window import newest
from fleetssd.errors import Corrupt
from fleetssd.gitea import PullKey
from fleetssd.records import Record
from fleetssd.split import filed
from fleetssd.twins import issue_tie

_RECORD = TypeAdapter(Record)
_VARIABLES = 500  # under SQLite's limit on bound variables
T = TypeVar("T")


class Filing(Database):
    """What the pull requests became.

    The issues of every record that was ever held out are on file, and a record of one is never written as `train`.
    """

    def put_pull(self, pull: PullKey, updated_at: str, record: Record | None, now: datetime) -> None:
        """File a pull request and its record in one transaction; a record that is on file stays as it is."""
        with self.writing() as session:
            session.merge(tables.PullRequests(**asdict(pull), updated_at=updated_at, read_at=now))
            session.flush()
            if record is not None and session.get(tables.Records, record.id) is None:
                kept = _kept_apart(session, record, member=False, now=now)
                add_missing(session, tables.Records, [{**_columns(kept, now), "settled": False, "filed_at": now}])

    def replace_record(self, record: Record, now: datetime) -> None:
        """Change what is known of a record, keeping its id; an unknown id raises Corrupt."""
        with self.writing() as session:
            _replace(session, record, now, settled=False)

    def records(self, state: str | None = None) -> list[Record]:
        """Return the records, newest merge first."""
        table = tables.Records
        query = select(table).order_by(col(table.merged_at).desc(), col(table.id))
        if state is not None:
            query = query.where(table.state == state)
        with self.reading() as session:
            return [_record(row) for row in session.exec(query)]

    def records_by_id(self, ids: Sequence[str]) -> list[Record]:
        """Return these records in the order asked; an unknown id raises Corrupt."""
        found: dict[str, Record] = {}
        with self.reading() as session:
            for some in _chunks(ids):
                query = select(tables.Records).where(col(tables.Records.id).in_(some))
                found.update((row.id, _record(row)) for row in session.exec(query))
        missing = [wanted for wanted in ids if wanted not in found]
        if missing:
            raise _unknown(missing)
        return [found[wanted] for wanted in ids]

    def window(self, size: int, per_repository: int) -> list[str]:
        """Return the ids of the newest training records, as `buffer.window` picks them; unsettled ones wait."""
        with self.reading() as session:
            return newest(session.connection(), size, per_repository)

    def unsettled(self, limit: int) -> list[Record]:
        """Return records whose side was not weighed against the others yet, oldest merge first."""
        table = tables.Records
        query = select(table).where(col(table.settled).is_(False)).order_by(col(table.merged_at), col(table.id))
        with self.reading() as session:
            return [_record(row) for row in session.exec(query.limit(limit))]

    def tied(self, ties: Collection[int]) -> list[Record]:
        """Return the settled records that have one of these ties, those of their issues included."""
        with self.reading() as session:
            return _tied(session, ties)

    def settle(self, records: Sequence[Record], now: datetime) -> None:
        """Write the records, their ties included, and mark them as settled, in one transaction."""
        with self.writing() as session:
            for record in records:
                kept = _replace(session, record, now, settled=True)
                session.exec(delete(tables.Ties).where(col(tables.Ties.record) == record.id))
                ties = {*kept.ties, *map(issue_tie, kept.split_keys)}
                add_missing(session, tables.Ties, [{"tie": tie, "record": record.id} for tie in sorted(ties)])

    def held_among(self, keys: Collection[str]) -> set[str]:
        """Return those of these split keys that were ever held out."""
        with self.reading() as session:
            return _held(session, keys)

    def hold(self, keys: Collection[str], now: datetime) -> list[Record]:
        """Hold issues out for ever and return their records, those that taught now held out and unsettled."""
        table = tables.Records
        with self.writing() as session:
            _note(session, keys, now)
            fresh = map(_record, session.exec(select(table).where(col(table.settled).is_(False))))
            known = {record.id: record for record in [*fresh, *_tied(session, [issue_tie(key) for key in keys])]}
            moved = []
            for record in known.values():
                if set(keys).isdisjoint(record.split_keys):
                    continue
                held = replace(record, state="held_out") if record.state == "train" else record
                _write(session, session.get_one(table, record.id), held, now, settled=False)
                if held.state == "held_out":
                    _note(session, held.split_keys, now)
                moved.append(held)
            return moved

    def freeze_held_out(self, now: datetime) -> int:
        """Let nothing join the held-out records any more, and return how many they are; a second time is ignored."""
        ids = select(tables.Records.id).where(tables.Records.state == "held_out").order_by(tables.Records.id)
        with self.writing() as session:
            first = session.exec(select(tables.Freezes)).first()
            if first is None:
                first = tables.Freezes(at=now, records=list(session.exec(ids)))
                session.add(first)
            return len(first.records)

    def held_out_frozen(self) -> datetime | None:
        """Return since when the held-out set is frozen; None where it is not."""
        with self.reading() as session:
            return session.exec(select(tables.Freezes.at)).first()


def _replace(session: Session, record: Record, now: datetime, *, settled: bool) -> Record:
    row = session.get(tables.Records, record.id)
    if row is None:
        raise _unknown([record.id])
    kept = _kept_apart(session, record, member=row.state == "held_out", now=now)
    _write(session, row, kept, now, settled=settled)
    return kept


def _write(session: Session, row: tables.Records, record: Record, now: datetime, *, settled: bool) -> None:
    row.sqlmodel_update({**_columns(record, now), "settled": settled})
    session.add(row)
    session.flush()


def _kept_apart(session: Session, record: Record, *, member: bool, now: datetime) -> Record:
    """Return the record as it may be written, and note the issues of one that is held out."""
    if record.state == "refused":
        return record
    frozen = session.exec(select(tables.Freezes.at)).first() is not None
    kept = filed(record, _held(session, record.split_keys), frozen=frozen, member=member)
    if kept.state == "held_out":
        _note(session, kept.split_keys, now)
    return kept


def _note(session: Session, keys: Collection[str], now: datetime) -> None:
    add_missing(session, tables.HeldOut, [{"key": key, "since": now} for key in sorted(set(keys))])


def _held(session: Session, keys: Collection[str]) -> set[str]:
    table, found = tables.HeldOut, set[str]()
    for some in _chunks(sorted(set(keys))):
        found.update(session.exec(select(table.key).where(col(table.key).in_(some))))
    return found


def _tied(session: Session, ties: Collection[int]) -> list[Record]:
    table, ids = tables.Ties, set[str]()
    for some in _chunks(sorted(set(ties))):
        ids.update(session.exec(select(table.record).where(col(table.tie).in_(some))))
    found: list[Record] = []
    for part in _chunks(sorted(ids)):
        query = select(tables.Records).where(col(tables.Records.id).in_(part), col(tables.Records.settled).is_(True))
        found += map(_record, session.exec(query))
    return found


def _chunks(values: Sequence[T]) -> Iterator[Sequence[T]]:
    return (values[start : start + _VARIABLES] for start in range(0, len(values), _VARIABLES))


def _columns(record: Record, now: datetime) -> dict[str, Any]:
    names = ("id", "instance", "repository_id", "pull", "repository", "state", "merged_at")
    columns = {name: getattr(record, name) for name in names}
    return {**columns, "payload": _RECORD.dump_python(record, mode="json"), "changed_at": now}


def _record(row: tables.Records) -> Record:
    record: Record = read_payload(_RECORD, row.payload, f"record {row.id}")
    return replace(record, merged_at=record.merged_at.astimezone(UTC))


def _unknown(ids: Sequence[str]) -> Corrupt:
    return Corrupt(f"no record {ids[0]} in the database ({len(ids)} missing)", hint="Was the database replaced?")
