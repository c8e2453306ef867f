"""The database behind the store port: SQLModel tables, one module a noun, Alembic migrations."""

from __future__ import annotations

from fleetssd.adapters.store.admissions import Admissions
from fleetssd.adapters.store.calls import Calls
from fleetssd.adapters.store.facts import Facts
from fleetssd.adapters.store.filing import Filing
from fleetssd.adapters.store.ingestion import Ingestion
from fleetssd.adapters.store.leases import Leases
from fleetssd.adapters.store.nights import Nights
from fleetssd.adapters.store.origins import Origins
from fleetssd.adapters.store.schema import migrate
from fleetssd.adapters.store.serving import Serving
from fleetssd.adapters.store.trials import Trials

__all__ = ["SqlStore"]


class SqlStore(Ingestion, Filing, Facts, Admissions, Nights, Serving, Calls, Trials, Origins, Leases):
    """The `Store` port over any SQLAlchemy URL; SQLite is the one that is tested.

    `SqlStore(url)` expects the schema to be there; `SqlStore.open(url)` brings it up to date first.
    """

    @classmethod
    def open(cls, url: str) -> SqlStore:
        """Connect, migrate and return a store that is ready; safe when several processes do so at once.

        Raises Misconfigured where the file cannot be made or is of a newer version, Transient where it is locked,
        Corrupt where it is no database.
        """
        store = cls(url)
        migrate(store)
        return store
