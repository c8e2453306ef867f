"""Deliveries, cursors, pull requests and records."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from typing import Any

from pydantic import TypeAdapter, ValidationError
from sqlmodel import col, select, update

from fleetssd.adapters.store import tables
from fleetssd.adapters.store.engine import Database, add_missing
from fleetssd.errors import Corrupt
from fleetssd.gitea import Delivery, PullKey
from fleetssd.records import Record

_RECORD = TypeAdapter(Record)
_DELIVERY = TypeAdapter(Delivery)


class Ingestion(Database):
    """What came from the forge."""

    def add_delivery(self, delivery: Delivery, now: datetime) -> bool:
        """Keep a verified delivery durably; False where these very bytes were kept before."""
        return self.add_deliveries([delivery], now)[0]

    def add_deliveries(self, deliveries: Sequence[Delivery], now: datetime) -> list[bool]:
        """Keep many deliveries with one durable write; the answers are those of `add_delivery`, in order."""
        with self.writing() as session:
            return [add_missing(session, tables.Deliveries, [_delivery(each, now)]) == 1 for each in deliveries]

    def open_deliveries(self) -> list[Delivery]:
        """Return the deliveries not handled yet, oldest first."""
        table = tables.Deliveries
        query = select(table).where(col(table.closed_at).is_(None)).order_by(col(table.sequence))
        with self.reading() as session:
            return [_read(_DELIVERY, row.payload, f"delivery {row.id}") for row in session.exec(query)]

    def close_delivery(self, delivery_id: str, now: datetime, outcome: str) -> None:
        """Mark a delivery as handled; the first outcome stays."""
        table = tables.Deliveries
        which = (col(table.id) == delivery_id, col(table.closed_at).is_(None))
        with self.writing() as session:
            session.exec(update(table).where(*which).values(closed_at=now, outcome=outcome))

    def cursor(self, instance: str) -> datetime | None:
        """Return the time up to which the last completed sweep saw everything."""
        with self.reading() as session:
            row = session.get(tables.Cursors, instance)
            return row.cursor if row else None

    def set_cursor(self, instance: str, cursor: datetime) -> None:
        """Move the cursor after a completed sweep."""
        with self.writing() as session:
            session.merge(tables.Cursors(instance=instance, cursor=cursor))

    def seen(self, instance: str) -> dict[PullKey, str]:
        """Return every pull request on file with the `updated_at` text it was last read at."""
        table = tables.PullRequests
        query = select(table.repository_id, table.number, table.updated_at).where(table.instance == instance)
        with self.reading() as session:
            return {PullKey(instance, owner, number): text for owner, number, text in session.exec(query)}

    def put_pull(self, pull: PullKey, updated_at: str, record: Record | None, now: datetime) -> None:
        """File a pull request and its record in one transaction; a record that is on file stays as it is."""
        with self.writing() as session:
            session.merge(tables.PullRequests(**asdict(pull), updated_at=updated_at, read_at=now))
            session.flush()
            if record is not None:
                add_missing(session, tables.Records, [{**_columns(record, now), "filed_at": now}])

    def replace_record(self, record: Record, now: datetime) -> None:
        """Change what is known of a record, keeping its id; an unknown id raises Corrupt."""
        with self.writing() as session:
            row = session.get(tables.Records, record.id)
            if row is None:
                raise _unknown([record.id])
            row.sqlmodel_update(_columns(record, now))
            session.add(row)

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
            for start in range(0, len(ids), 500):  # under SQLite's limit on bound variables
                query = select(tables.Records).where(col(tables.Records.id).in_(ids[start : start + 500]))
                found.update((row.id, _record(row)) for row in session.exec(query))
        missing = [wanted for wanted in ids if wanted not in found]
        if missing:
            raise _unknown(missing)
        return [found[wanted] for wanted in ids]


def _delivery(delivery: Delivery, now: datetime) -> dict[str, Any]:
    return {
        "id": delivery.id,
        "body_sha256": delivery.body_sha256,
        "payload": _DELIVERY.dump_python(delivery, mode="json"),
        "received_at": now,
        "outcome": "",
    }


def _columns(record: Record, now: datetime) -> dict[str, Any]:
    names = ("id", "instance", "repository_id", "pull", "repository", "state", "merged_at")
    columns = {name: getattr(record, name) for name in names}
    return {**columns, "payload": _RECORD.dump_python(record, mode="json"), "changed_at": now}


def _record(row: tables.Records) -> Record:
    record: Record = _read(_RECORD, row.payload, f"record {row.id}")
    return replace(record, merged_at=record.merged_at.astimezone(UTC))


def _read(adapter: TypeAdapter[Any], payload: dict[str, Any], what: str) -> Any:
    try:
        return adapter.validate_python(payload)
    except ValidationError as error:
        fields = ", ".join(".".join(map(str, problem["loc"])) for problem in error.errors())
        raise Corrupt(f"{what} does not hold in the database: {fields}", hint="Was it edited by hand?") from None


def _unknown(ids: Sequence[str]) -> Corrupt:
    return Corrupt(f"no record {ids[0]} in the database ({len(ids)} missing)", hint="Was the database replaced?")
