"""Tonight's window, read from an index: as many rows as it takes, whatever the number of records."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from heapq import merge
from itertools import islice
from typing import Any

from sqlalchemy import Connection, bindparam, select, text

from fleetssd.adapters.store import tables

READ_AHEAD = 10_000
"""Rows walked, newest first, before the repositories are asked one by one: by then a few of them fill the past."""
_CHUNK = 16

_R = tables.Records.__table__.c  # type: ignore[attr-defined]
_NEWEST = (
    select(_R.merged_at, _R.id, _R.repository_id)
    .where(_R.state == "train")
    .order_by(_R.merged_at.desc(), _R.id)
    .limit(READ_AHEAD)
)
_OF_ONE = (
    select(_R.merged_at, _R.id)
    .where(_R.state == "train", _R.repository_id == bindparam("repository"))
    .order_by(_R.merged_at.desc(), _R.id)
    .limit(_CHUNK)
    .offset(bindparam("start"))
)
# Jumps from one repository to the next in the index, where DISTINCT would read every record.
_REPOSITORIES = text("""
    WITH RECURSIVE found(id) AS (
        SELECT min(repository_id) FROM records WHERE state = 'train'
        UNION ALL
        SELECT (SELECT min(repository_id) FROM records WHERE state = 'train' AND repository_id > found.id)
        FROM found WHERE found.id IS NOT NULL)
    SELECT id FROM found WHERE id IS NOT NULL
""")


def newest(connection: Connection, size: int, per_repository: int) -> list[str]:
    """Return the ids of the newest training records, at most `per_repository` of each, newest first."""
    taken: list[str] = []
    counts, rows = Counter[int](), 0
    with connection.execute(_NEWEST) as result:
        for part in result.partitions(min(size, 1000)):
            for _, record, repository in part:
                rows += 1
                if counts[repository] < per_repository:
                    counts[repository] += 1
                    taken.append(record)
                if len(taken) == size:
                    return taken
    if rows < READ_AHEAD:
        return taken
    repositories = connection.execute(_REPOSITORIES).scalars().all()
    lists = [islice(_of_one(connection, repository), per_repository) for repository in repositories]
    return [row[1] for row in islice(merge(*lists, key=_age), size)]


def _of_one(connection: Connection, repository: int) -> Iterator[Sequence[Any]]:
    start = 0
    while True:
        rows = connection.execute(_OF_ONE, {"repository": repository, "start": start}).all()
        yield from rows
        if len(rows) < _CHUNK:
            return
        start += _CHUNK


def _age(row: Sequence[Any]) -> tuple[float, str]:
    merged_at, record = row
    return -merged_at.timestamp(), record
