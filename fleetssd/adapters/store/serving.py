"""Checkpoints and the swap log."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields
from datetime import datetime
from typing import Any

import sqlalchemy
from sqlmodel import col, delete, select

from fleetssd.adapters.store import tables
from fleetssd.adapters.store.engine import Database, add_missing
from fleetssd.artefact import Probe
from fleetssd.checkpoints import Checkpoint, Swap
from fleetssd.errors import Corrupt


class Serving(Database):
    """What can be served, and what was."""

    def put_checkpoint(self, checkpoint: Checkpoint) -> None:
        """Keep a checkpoint; the same digest twice is one row, and the first one stays."""
        with self.writing() as session:
            add_missing(session, tables.Artefacts, [asdict(checkpoint)])

    def checkpoint(self, digest: str) -> Checkpoint | None:
        """Return a checkpoint by its artefact digest."""
        with self.reading() as session:
            row = session.get(tables.Artefacts, digest)
            return Checkpoint(**row.model_dump()) if row else None

    def checkpoints(self) -> list[Checkpoint]:
        """Return all checkpoints, oldest first."""
        table = tables.Artefacts
        with self.reading() as session:
            rows = session.exec(select(table).order_by(col(table.created_at), col(table.digest)))
            return [Checkpoint(**row.model_dump()) for row in rows]

    def capability(self, host: str, version: str, base: str) -> Probe | None:
        """Return what an engine of this version was seen to do with this base (digest); None where nobody looked."""
        with self.reading() as session:
            row = session.get(tables.Capabilities, (host, version, base))
            return Probe(version, **row.found) if row else None

    def keep_capability(self, host: str, base: str, found: Probe, now: datetime) -> None:
        """Keep what a trial found; a later one replaces it."""
        seen = asdict(found)
        version = seen.pop("version")
        with self.writing() as session:
            session.merge(tables.Capabilities(host=host, version=version, base=base, found=seen, at=now))

    def forget_capabilities(self, host: str) -> None:
        """Drop what an engine was seen to do: it did otherwise."""
        with self.writing() as session:
            session.exec(delete(tables.Capabilities).where(col(tables.Capabilities.host) == host))

    def begin_swap(self, swap: Swap, now: datetime) -> Swap:
        """Write the intent of a swap and return it with its id.

        Where the log ends with the very same intent, unproven, that line is returned: a restart adds no second one.
        """
        table = tables.Swaps
        with self.writing() as session:
            last = session.exec(select(table).order_by(col(table.id).desc()).limit(1)).first()
            if last is not None and not last.done and _intent(_swap(last)) == _intent(swap):
                return _swap(last)
            row = table(**{**asdict(swap), "id": None, "at": now, "done": False})
            session.add(row)
            session.flush()
            return _swap(row)

    def finish_swap(self, swap_id: int, now: datetime, evidence: Mapping[str, Any]) -> None:
        """Mark a swap as proven, adding to its evidence; a second proof is ignored."""
        with self.writing() as session:
            row = session.get(tables.Swaps, swap_id)
            if row is None:
                raise Corrupt(f"swap {swap_id} is not in the database", hint="Was the database replaced?")
            if not row.done:
                row.done, row.proven_at, row.evidence = True, now, {**row.evidence, **evidence}

    def swaps(self) -> list[Swap]:
        """Return the swap log, oldest first."""
        # The gateway reads it more than twice a second: rows of columns cost half of rows that are objects.
        columns = [getattr(tables.Swaps, field.name) for field in fields(Swap)]
        with self.reading() as session:
            rows = session.connection().execute(sqlalchemy.select(*columns).order_by(col(tables.Swaps.id)))
            return [Swap(*row) for row in rows]


def _swap(row: tables.Swaps) -> Swap:
    return Swap(**row.model_dump(exclude={"proven_at"}))


def _intent(swap: Swap) -> tuple[object, ...]:
    return (swap.kind, swap.actor, swap.from_digest, swap.to_digest, swap.to_model, swap.night)
