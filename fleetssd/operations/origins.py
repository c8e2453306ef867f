"""Find out whose work the records hold, and how much of each checkpoint's work was merged."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

from fleetssd.config import Settings
from fleetssd.origins import merge_rates, moved, names_issue, origin, rounds_of, task_names
from fleetssd.ports import Desk
from fleetssd.records import Record
from fleetssd.telemetry import Filter, MergeRate, Work

BATCH = 100
"""Records looked for between two writes."""


def find_origins(store: Desk, settings: Settings, staying: Callable[[], bool] = lambda: True) -> int:
    """Look for the origin of every record that has none on file yet; return how many that were.

    Calls come before the merge that they led to, so a record is looked for once; what is not known then stays unknown.
    """
    found = 0
    before = timedelta(hours=settings.telemetry.attribution_hours)
    while staying() and (records := store.without_origin(BATCH)):
        if not found:  # once: plans are long
            rounds, moves = rounds_of(store.checkpoints(), store.nights()), moved(store.swaps(), store.trials())
            told = bool(store.calls(Filter(), 1))  # where no gateway ever was, thousands of records need no look each
        works = {record.id: _works(store, record, settings) if told else [] for record in records}
        store.put_origins([origin(record, works[record.id], rounds, moves, before) for record in records])
        found += len(records)
    return found


def _works(store: Desk, record: Record, settings: Settings) -> list[Work]:
    """Return the calls that name what a record answers, and those of its author that name nothing."""
    until, hours = record.merged_at, timedelta(hours=settings.telemetry.attribution_hours)
    since = until - timedelta(days=settings.telemetry.keep_days)
    by_author = store.works(until - hours, until, agent=record.author)
    return [
        *store.works(since, until, tasks=task_names(record)),
        *(work for work in by_author if not names_issue(work)),
    ]


def merges(store: Desk, settings: Settings, since: datetime, now: datetime) -> dict[str, MergeRate]:
    """Return, by checkpoint, how many tasks that were begun since then are old enough, and how many were merged."""
    ripe = now - timedelta(hours=settings.canary.merge_hours)
    if since >= ripe:
        return {}
    return merge_rates(store.works(since, now), store.merged_since(since), ripe)
