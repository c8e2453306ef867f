"""What the fleet's own calls say of checkpoints: two of them side by side, or each by itself."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime, timedelta
from typing import Any, TypeAlias

from fleetssd.config import Settings
from fleetssd.operations.origins import merges
from fleetssd.ports import Desk
from fleetssd.telemetry import tally
from fleetssd.windows import Compared, Tally

Window: TypeAlias = tuple[datetime, datetime]
"""From a moment, which is in it, to one that is not."""

PRUNED = 5_000
"""Calls removed at once: the write lock is held for moments only."""


def sides(
    store: Desk, settings: Settings, candidate: tuple[str, Window], incumbent: tuple[str, Window], now: datetime
) -> tuple[Tally, Tally]:
    """Return what a candidate and an incumbent (digests) answered, each in its window."""
    merged = merges(store, settings, min(candidate[1][0], incumbent[1][0]), now)
    one, other = (tally(store.call_ends(digest, *when), merged.get(digest)) for digest, when in (candidate, incumbent))
    return one, other


def by_checkpoint(store: Desk, settings: Settings, since: datetime, now: datetime) -> dict[str, Tally]:
    """Return what every checkpoint answered since a moment, by digest."""
    merged = merges(store, settings, since, now)
    found = store.answering(since, now)
    return {digest: tally(store.call_ends(digest, since, now), merged.get(digest)) for digest in found}


def as_evidence(candidate: Tally, incumbent: Tally, compared: tuple[Compared, ...]) -> dict[str, Any]:
    """Return the numbers for a row of a log, as JSON has them."""
    return {
        "candidate": counts(candidate),
        "incumbent": counts(incumbent),
        "metrics": [_finite(asdict(each) | {"fires": each.fires}) for each in compared],
    }


def counts(side: Tally) -> dict[str, int]:
    """Return a window's counts by name."""
    return {name: getattr(side, name) for name in ("calls", "errors", "empty", "capped", "tasks", "merged")}


def prune(store: Desk, settings: Settings, now: datetime) -> int:
    """Remove the calls that are older than the settings keep them, and return how many that were."""
    before, gone = now - timedelta(days=settings.telemetry.keep_days), 0
    while some := store.prune_calls(before, PRUNED):
        gone += some
    return gone


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return None if isinstance(value, float) and abs(value) == float("inf") else value
