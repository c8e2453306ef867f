"""Leases: what only one process may do at a time."""

from __future__ import annotations

from datetime import datetime

from sqlmodel import col, delete

from fleetssd.adapters.store import tables
from fleetssd.adapters.store.engine import Database


class Leases(Database):
    """Who may do what, until when."""

    def claim(self, name: str, owner: str, until: datetime, now: datetime) -> bool:
        """Take a lease (`BEGIN IMMEDIATE`); True where it was free, expired or already ours."""
        with self.writing() as session:
            row = session.get(tables.Leases, name)
            if row is not None and row.owner != owner and row.until > now:
                return False
            session.merge(tables.Leases(name=name, owner=owner, until=until))
            return True

    def release(self, name: str, owner: str) -> None:
        """Give a lease back; a lease of another owner is left alone."""
        table = tables.Leases
        with self.writing() as session:
            session.exec(delete(table).where(col(table.name) == name, col(table.owner) == owner))
