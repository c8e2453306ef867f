"""Deliveries, cursors and pull requests."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any

from pydantic import TypeAdapter
from sqlmodel import col, select, update

from fleetssd.adapters.store import tables
from fleetssd.adapters.store.engine import (
    Database,
    add_all,
    by_repository,
    chunks,
    inserted,
    read_payload,
)
from fleetssd.gitea import UNREAD, Delivery, PullKey
from fleetssd.reverts import Claim

_DELIVERY = TypeAdapter(Delivery)


class Ingestion(Database):
    """What came from the forge."""

    def add_deliveries(self, deliveries: Sequence[Delivery], now: datetime) -> list[bool]:
        """Keep verified deliveries with one durable write; False, in their order, for bytes that were kept before."""
        rows = [_delivery(each, now) for each in deliveries]
        with self.inserting() as connection:
            new = inserted(connection, tables.Deliveries, "body_sha256", rows)
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
        """Return the time up to which everything is on file."""
        with self.reading() as session:
            row = session.get(tables.Cursors, instance)
            return row.cursor if row else None

    def set_cursors(self, names: Sequence[str], cursor: datetime) -> None:
        """Move cursors together, after everything up to then is on file."""
        with self.writing() as session:
            add_all(session, tables.Cursors, [{"instance": name, "cursor": cursor} for name in names], ["cursor"])

    def seen(self, pulls: Collection[PullKey]) -> dict[PullKey, str]:
        """Return those of these pull requests that are on file, with the `updated_at` text they were last read at."""
        table, found = tables.PullRequests, dict[PullKey, str]()
        with self.reading() as session:
            for (instance, repository), numbers in by_repository(pulls):
                for some in chunks(numbers):
                    query = select(table.number, table.updated_at).where(
                        table.instance == instance, table.repository_id == repository, col(table.number).in_(some)
                    )
                    found |= {PullKey(instance, repository, number): text for number, text in session.exec(query)}
        return found

    def unread(self, instance: str, limit: int) -> dict[PullKey, str]:
        """Return pull requests on file that could not be read when they last should have been."""
        table = tables.PullRequests
        # A range rather than LIKE: it is read from the index.
        said = (col(table.updated_at) >= UNREAD, col(table.updated_at) < UNREAD + "~", table.instance == instance)
        query = select(table.repository_id, table.number, table.updated_at).where(*said).limit(limit)
        with self.reading() as session:
            return {PullKey(instance, owner, number): text for owner, number, text in session.exec(query)}

    def note_claims(self, instance: str, claims: Sequence[Claim]) -> None:
        """Keep what merged pull requests say they take back; the same claim twice is one."""
        rows = [
            {"instance": instance, "repository_id": claim.repository_id, "says": says}
            for claim in claims
            for says in (*(f"#{number}" for number in claim.pulls), *claim.commits)
        ]
        if rows:
            with self.writing() as session:
                add_all(session, tables.Claims, rows)

    def claims(self, instance: str, repository_id: int) -> Claim:
        """Return everything that pull requests of a repository say they take back, as one claim."""
        table = tables.Claims
        query = select(table.says).where(table.instance == instance, table.repository_id == repository_id)
        with self.reading() as session:
            said = list(session.exec(query))
        pulls = frozenset(int(text[1:]) for text in said if text.startswith("#"))
        return Claim(repository_id, frozenset(text for text in said if not text.startswith("#")), pulls)


def _delivery(delivery: Delivery, now: datetime) -> dict[str, Any]:
    return {
        "id": delivery.id,
        "body_sha256": delivery.body_sha256,
        "payload": _DELIVERY.dump_python(delivery, mode="json"),
        "received_at": now,
        "outcome": "",
    }
