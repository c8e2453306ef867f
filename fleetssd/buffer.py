"""The rolling window of training records: which are in, which leave, and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from fleetssd.records import Record


def window(records: Sequence[Record], size: int, per_repository: int) -> tuple[Record, ...]:
    """Return the newest training records, newest first: at most `size`, at most `per_repository` of each repository."""
    out = leaving(records, size, per_repository)
    return tuple(record for record in _newest(records) if record.id not in out)


def leaving(records: Sequence[Record], size: int, per_repository: int) -> dict[str, str]:
    """Return the id of each training record that is not in the window, with the reason in words."""
    count, by_repository, out = 0, Counter[int](), dict[str, str]()
    for record in _newest(records):
        if by_repository[record.repository_id] >= per_repository:
            out[record.id] = f"{record.repository} has {per_repository} newer records, its share of the window"
        elif count >= size:
            out[record.id] = f"the window holds the newest {size} records"
        else:
            count += 1
            by_repository[record.repository_id] += 1
    return out


def _newest(records: Sequence[Record]) -> list[Record]:
    taught = (record for record in records if record.state == "train")
    return sorted(taught, key=lambda record: (-record.merged_at.timestamp(), record.id))
