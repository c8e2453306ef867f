"""Keep the forge's records over a restart: one SQLite table of JSON documents, written once for each request."""

from __future__ import annotations

import dataclasses
import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fleetssd.embedded.forge.model import Record


class Journal:
    """Documents by kind and key; nothing is written before `commit`."""

    def __init__(self, path: Path) -> None:
        self._connection = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self._connection.execute("PRAGMA journal_mode = WAL")
        # A demo's forge may forget its last second when the machine loses power, never when the process dies.
        self._connection.execute("PRAGMA synchronous = OFF")
        self._connection.execute(
            "CREATE TABLE IF NOT EXISTS documents (kind TEXT, id TEXT, body TEXT, PRIMARY KEY (kind, id))"
        )
        self._pending: dict[tuple[str, str], Any] = {}

    def put(self, record: Record) -> None:
        """Write the record's state as it is at the next `commit`."""
        self._pending[type(record).__name__, str(record.id)] = record

    def put_value(self, kind: str, key: str, value: object) -> None:
        """Write a plain JSON value at the next `commit`."""
        self._pending[kind, key] = value

    def drop(self, record: Record) -> None:
        """Forget the record at the next `commit`."""
        self._pending[type(record).__name__, str(record.id)] = None

    def commit(self) -> None:
        """Write everything pending in one transaction."""
        if not self._pending:
            return
        pending, self._pending = self._pending, {}
        with self._connection:
            self._connection.execute("BEGIN")
            self._connection.executemany("DELETE FROM documents WHERE kind = ? AND id = ?", list(pending))
            self._connection.executemany(
                "INSERT INTO documents VALUES (?, ?, ?)",
                [(*key, _text(value)) for key, value in pending.items() if value is not None],
            )

    def read(self, kind: str) -> Iterator[tuple[str, Any]]:
        """Yield key and value of every document of a kind, oldest first."""
        query = "SELECT id, body FROM documents WHERE kind = ? ORDER BY CAST(id AS INTEGER), id"
        for key, body in self._connection.execute(query, (kind,)):
            yield key, json.loads(body)

    def close(self) -> None:
        """Commit and close the file."""
        self.commit()
        self._connection.close()


def _text(value: Any) -> str:
    record = dataclasses.is_dataclass(value) and not isinstance(value, type)
    return json.dumps(dataclasses.asdict(value) if record else value, ensure_ascii=False)
