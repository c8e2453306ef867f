"""The log of canaries: who met a share of the traffic beside whom, and how it ended."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Literal, TypeAlias

from fleetssd.canary import Canary
from fleetssd.config import Canary as Rules
from fleetssd.windows import Margins

Outcome: TypeAlias = Literal["", "promoted", "aborted", "expired", "superseded"]
"""How a canary ended; empty while it runs. `superseded`: something else serves than what it stood beside."""

Hand: TypeAlias = Literal["", "operator", "watch"]


@dataclass(frozen=True, slots=True)
class Trial:
    """One line of the log. `incumbent` is the digest that the candidate is compared with."""

    id: int
    canary: Canary
    incumbent: str
    started_by: Hand
    outcome: Outcome = ""
    ended_at: datetime | None = None
    ended_by: Hand = ""
    reason: str = ""
    evidence: dict[str, Any] = field(default_factory=dict)


def open_trial(trials: Sequence[Trial]) -> Trial | None:
    """Return the canary that was started last, where nobody ended it; it may have expired."""
    return trials[-1] if trials and not trials[-1].outcome else None


def resting(trials: Sequence[Trial], digest: str, now: datetime, cool_down: timedelta) -> bool:
    """Say whether the watch aborted this candidate less than `cool_down` ago."""
    return any(trial.ended_at is not None and now - trial.ended_at < cool_down for trial in _stopped(trials, digest))


def held_back(trials: Sequence[Trial], digest: str) -> bool:
    """Say whether only an operator may put this candidate before the fleet: it is on trial, or its last one failed."""
    mine = [trial for trial in trials if trial.canary.digest == digest]
    return bool(mine) and mine[-1].outcome in ("", "aborted")


def margins(rules: Rules) -> Margins:
    """Return what the settings allow a candidate to be worse by."""
    return Margins(
        min_calls=rules.min_calls,
        min_tasks=rules.min_tasks,
        error_rise=rules.max_error_rise,
        empty_rise=rules.max_empty_rise,
        capped_rise=rules.max_capped_rise,
        slowdown=rules.max_slowdown,
        merge_drop=rules.max_merge_drop,
        false_alarm=rules.false_alarm,
    )


def _stopped(trials: Sequence[Trial], digest: str) -> list[Trial]:
    return [
        trial
        for trial in trials
        if trial.canary.digest == digest and trial.outcome == "aborted" and trial.ended_by == "watch"
    ]
