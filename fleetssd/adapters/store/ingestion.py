"""Deliveries, cursors and pull requests."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from pydantic import TypeAdapter
from sqlmodel import col, select, update

from fleetssd.adapters.store import tables
from fleetssd.adapters.store.engine import Database, add_missing, inserted, read_payload
from fleetssd.gitea import Delivery, PullKey

_DELIVERY = TypeAdapter(Delivery)


class Ingestion(Database):
    """What came from the forge."""

    def add_delivery(self, delivery: Delivery, now: datetime) -> bool:
        """Keep a verified delivery durably; False where these very bytes were kept before."""
        return self.add_deliveries([delivery], now)[0]

    def add_deliveries(self, deliveries: Sequence[Delivery], now: datetime) -> list[bool]:
        """Keep many deliveries with one durable write; the answers are those of `add_delivery`, in order."""
        with self.writing() as session:
            rows = [_delivery(each, now) for each in deliveries]
            if len(rows) == 1:
                return [add_missing(session, tables.Deliveries, rows) == 1]
            new = inserted(session, tables.Deliveries, "body_sha256", rows)
        first = {each.body_sha256: number for number, each in reversed(list(enumerate(deliveries)))}
        return [each.body_sha256 in new and first[each.body_sha256] == number for number, each in enumerate(deliveries)]

    def open_deliveries(self) -> list[Delivery]:
        """Return the deliveries not handled yet, oldest first."""
        table = tables.Deliveries
        query = select(table).where(col(table.closed_at).is_(None)).order_by(col(table.sequence))
        with self.reading() as session:
            return [read_payload(_DELIVERY, row.payload, f"delivery {row.id}") for row in session.exec(query)]

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


def _delivery(delivery: Delivery, now: datetime) -> dict[str, Any]:
    return {
        "id": delivery.id,
        "body_sha256": delivery.body_sha256,
        "payload": _DELIVERY.dump_python(delivery, mode="json"),
        "received_at": now,
        "outcome": "",
    }
