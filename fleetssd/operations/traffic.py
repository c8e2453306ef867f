"""What the fleet's own calls say of checkpoints: two of them side by side, or each by itself."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from typing import Any, TypeAlias

from fleetssd.calls import Call, Gap
from fleetssd.checkpoints import Checkpoint, Swap
from fleetssd.config import Settings
from fleetssd.operations.origins import merges
from fleetssd.ports import Desk
from fleetssd.telemetry import Filter, served_at, tally
from fleetssd.trials import Trial
from fleetssd.windows import Compared, Tally

Window: TypeAlias = tuple[datetime, datetime]
"""From a moment, which is in it, to one that is not."""

NEAR = timedelta(minutes=10)
"""How far from a moment calls and gaps are still told of."""
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


@dataclass(frozen=True, slots=True)
class Answered:
    """What served at a moment: by the swap log, by a canary beside it, and by the calls that were under way.

    `near` are the last calls before and the first after it, `gaps` tell of calls that are not on file.
    """

    at: datetime
    served: Checkpoint | None
    move: Swap | None
    canary: Trial | None
    calls: list[Call]
    near: list[Call]
    gaps: list[Gap]


def answered_at(store: Desk, wanted: Filter, limit: int) -> Answered:
    """Say what served at `wanted.at`. Raises Corrupt where the swap log names what is not on file."""
    at = wanted.at
    assert at is not None  # noqa: S101  the caller asks for a moment
    served, move = served_at(store.swaps(), store.checkpoints(), at)
    tried = [trial for trial in store.trials() if trial.canary.started_at <= at < _ended(trial)]
    around = replace(wanted, at=None, since=at - NEAR, until=at + NEAR)
    near = store.calls(around, 1000)
    return Answered(
        at=at,
        served=served,
        move=move,
        canary=tried[-1] if tried else None,
        calls=store.calls(wanted, limit),
        near=[*[call for call in near if call.at > at][-2:], *[call for call in near if call.at <= at][:3]],
        gaps=[gap for gap in store.gaps(at - NEAR) if gap.since < at + NEAR],
    )


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


def _ended(trial: Trial) -> datetime:
    return min(trial.ended_at or trial.canary.expires_at, trial.canary.expires_at)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return None if isinstance(value, float) and abs(value) == float("inf") else value
