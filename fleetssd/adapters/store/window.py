"""Tonight's window, read from two indexes: as many rows as it takes, whatever the number of records."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import Connection, select, text, true

from fleetssd.adapters.store import tables

READ_AHEAD = 4_000
"""Rows walked, newest first, before the repositories are asked one by one: by then a few of them fill the past."""
_DEPTH, _DEEPER, _TERMS = 4, 4, 100

_R = tables.Records.__table__.c  # type: ignore[attr-defined]
_NEWEST = (
    select(_R.id, _R.repository_id)
    .where(_R.state == "train", _R.settled == true())
    .order_by(_R.merged_at.desc(), _R.id)
    .limit(READ_AHEAD)
)
# Jumps from one repository to the next in the index, where DISTINCT would read every record.
_REPOSITORIES = text("""
    WITH RECURSIVE found(id) AS (
        SELECT min(repository_id) FROM records WHERE state = 'train' AND settled = true
        UNION ALL
        SELECT (SELECT min(repository_id) FROM records
            WHERE state = 'train' AND settled = true AND repository_id > found.id)
        FROM found WHERE found.id IS NOT NULL)
    SELECT id FROM found WHERE id IS NOT NULL
""")
_OF_ONE = """
    SELECT * FROM (SELECT merged_at, id, repository_id FROM records
        WHERE state = 'train' AND settled = true AND repository_id = {repository}
        ORDER BY merged_at DESC, id LIMIT {limit}) AS t{n}
"""


def newest(connection: Connection, size: int, per_repository: int) -> list[str]:
    """Return the ids of the newest settled training records, at most `per_repository` of each, newest first."""
    taken: list[str] = []
    counts, rows = Counter[int](), 0
    with connection.execute(_NEWEST) as result:
        for part in result.partitions(min(size, 1000)):
            for record, repository in part:
                rows += 1
                if counts[repository] < per_repository:
                    counts[repository] += 1
                    taken.append(record)
                if len(taken) == size:
                    return taken
    return taken if rows < READ_AHEAD else _by_repository(connection, size, per_repository)


def _by_repository(connection: Connection, size: int, per_repository: int) -> list[str]:
    """Ask every repository for its newest few, and again for more those of which all were taken."""
    depth = dict.fromkeys(connection.execute(_REPOSITORIES).scalars(), min(_DEPTH, per_repository))
    found: dict[int, list[Sequence[Any]]] = {}
    deeper = list(depth)
    while deeper:
        found |= _of_each(connection, {repository: depth[repository] for repository in deeper})
        # Two stable sorts, because one order is descending and moments are texts in SQLite.
        rows = sorted((row for some in found.values() for row in some), key=lambda row: str(row[1]))
        rows = sorted(rows, key=lambda row: row[0], reverse=True)[:size]
        taken = Counter(row[2] for row in rows)
        deeper = [repository for repository in taken if taken[repository] == depth[repository] < per_repository]
        depth |= {repository: min(depth[repository] * _DEEPER, per_repository) for repository in deeper}
    return [row[1] for row in rows] if depth else []


def _of_each(connection: Connection, depth: dict[int, int]) -> dict[int, list[Sequence[Any]]]:
    found: dict[int, list[Sequence[Any]]] = {repository: [] for repository in depth}
    wanted = list(depth.items())
    for start in range(0, len(wanted), _TERMS):
        for row in _union(connection, wanted[start : start + _TERMS]):
            found[row[2]].append(row)
    return found


def _union(connection: Connection, wanted: Sequence[tuple[int, int]]) -> Iterable[Sequence[Any]]:
    # Only whole numbers go in; as parameters they would cost more than the query.
    parts = (_OF_ONE.format(n=n, repository=int(id_), limit=int(limit)) for n, (id_, limit) in enumerate(wanted))
    return connection.exec_driver_sql(" UNION ALL ".join(parts))
