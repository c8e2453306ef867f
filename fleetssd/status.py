"""The one read-model that command line, dashboard and metrics show."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, fields, is_dataclass
from datetime import datetime
from typing import Any

from fleetssd.canary import Canary, running
from fleetssd.cautions import of_install, of_plan
from fleetssd.challengers import ruled, standing
from fleetssd.checkpoints import Checkpoint, Night, StageRow, Swap
from fleetssd.origins import trained_round
from fleetssd.records import State
from fleetssd.schedule import NextTimes
from fleetssd.serving import WatchWindow, last_move, pending, rollback_target, served, unproven, watch_window
from fleetssd.surroundings import UNWALLED

__all__ = [
    "RecordCounts",
    "Report",
    "Served",
    "Status",
    "build_status",
    "count_records",
    "night_table",
    "pending",
    "rollback_target",
    "served",
    "swap_table",
    "to_json",
    "unproven",
    "watch_window",
]


@dataclass(frozen=True, slots=True)
class Served:
    """A checkpoint as the fleet knows it. `since` is when its swap began; None for a base that never left."""

    digest: str
    model: str
    served_digest: str
    kind: str
    night: int | None
    tau: float
    since: datetime | None


@dataclass(frozen=True, slots=True)
class RecordCounts:
    """How many records there are by state, and how many were refused for which reason."""

    total: int
    train: int
    held_out: int
    refused: int
    reasons: dict[str, int]


@dataclass(frozen=True, slots=True)
class Status:
    """Everything an operator asks first."""

    now: datetime
    served: Served | None
    previous: Served | None
    pending: Served | None
    unproven: Swap | None
    records: RecordCounts
    last_night: dict[str, Any] | None
    last_swap: dict[str, Any] | None
    cursor: datetime | None
    watch: WatchWindow
    next: NextTimes
    warnings: tuple[str, ...] = ()
    canary: Canary | None = None
    challenger: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Report:
    """A status with every night and every swap, as lines that JSON knows."""

    status: Status
    nights: list[dict[str, Any]]
    swaps: list[dict[str, Any]]


def build_status(
    *,
    now: datetime,
    nights: Sequence[Night],
    swaps: Sequence[Swap],
    checkpoints: Sequence[Checkpoint],
    records: Sequence[tuple[State, tuple[str, ...], int]],
    cursor: datetime | None,
    watch_minutes: float,
    upcoming: NextTimes,
    sandbox: str = "bubblewrap",
    canary: Canary | None = None,
) -> Status:
    """Fold what the store holds into a status. Raises Corrupt where a served checkpoint is not on file."""
    move = last_move(swaps)
    lines, log = night_table(nights), swap_table(swaps)
    return Status(
        now=now,
        served=_served(served(swaps, checkpoints), move.at if move else None),
        previous=_served(rollback_target(swaps, checkpoints), None),
        pending=_served(pending(nights, swaps, checkpoints), None),
        unproven=unproven(swaps),
        records=count_records(records),
        last_night=lines[-1] if lines else None,
        last_swap=log[-1] if log else None,
        cursor=cursor,
        watch=watch_window(swaps, watch_minutes),
        next=upcoming,
        warnings=(UNWALLED,) if sandbox == "none" else (),
        canary=running(canary, now),
        challenger=_challenger(nights),
    )


def count_records(groups: Sequence[tuple[State, tuple[str, ...], int]]) -> RecordCounts:
    """Count records by state and refused ones by reason, the most frequent reason first.

    A group is a state, reasons, and how many records have just these.
    """
    states, reasons = Counter[str](), Counter[str]()
    for state, why, count in groups:
        states[state] += count
        if state == "refused":
            reasons.update(dict.fromkeys(why, count))
    return RecordCounts(
        states.total(), states["train"], states["held_out"], states["refused"], dict(reasons.most_common())
    )


def night_table(nights: Sequence[Night]) -> list[dict[str, Any]]:
    """Return one JSON-able line a night, oldest first.

    `pass_1` and `pass_k` map an arm's name to {point, low, high}; they are empty before the verdict.
    """
    return [_night_line(night) for night in nights]


def swap_table(swaps: Sequence[Swap]) -> list[dict[str, Any]]:
    """Return one JSON-able line a swap, oldest first."""
    return [
        {
            "id": swap.id,
            "at": to_json(swap.at),
            "kind": swap.kind,
            "actor": swap.actor,
            "from": swap.from_digest,
            "to": swap.to_digest,
            "model": swap.to_model,
            "night": swap.night,
            "reason": swap.reason,
            "evidence": swap.evidence,
            "done": swap.done,
        }
        for swap in swaps
    ]


def to_json(value: Any) -> Any:
    """Return a value of this module as JSON knows it: dataclasses as objects, moments as ISO 8601."""
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_json(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, dict):
        return {key: to_json(item) for key, item in value.items()}
    return [to_json(item) for item in value] if isinstance(value, list | tuple) else value


def _served(checkpoint: Checkpoint | None, since: datetime | None) -> Served | None:
    if checkpoint is None:
        return None
    c = checkpoint
    return Served(c.digest, c.model, c.served_digest, c.kind, c.night, c.tau, since)


def _night_line(night: Night) -> dict[str, Any]:
    verdict = night.verdict
    evidence = verdict.evidence if verdict else {}
    return {
        "number": night.number,
        "arm": night.arm,
        "state": night.state,
        "verdict": verdict.kind if verdict else None,
        "reason": verdict.reason if verdict else night.failure,
        "cautions": [*of_plan(night.plan), *(said for row in night.stages for said in of_install(row.result))],
        "artefact": verdict.artefact if verdict else None,
        **_scores(evidence),
        "stages": [_stage_line(row) for row in night.stages],
        "challenger": _challenge_line(night),
        "records": len(night.plan.get("train", ())),
        "held_out": len(night.plan.get("held_out", ())),
        "rounds": dict(night.plan.get("rounds") or {}),
        "round": trained_round(night.arm, night.plan.get("rounds") or {}),
        "started_at": to_json(night.started_at),
        "finished_at": to_json(night.finished_at),
    }


def _challenger(nights: Sequence[Night]) -> dict[str, Any] | None:
    """Return the candidate that is carried and its e-value so far; None where none is."""
    found = standing(nights)
    if found is None:
        return None
    names = ("digest", "night", "e_value", "needed", "fresh")
    return {"nights": len(found.rounds), **{name: getattr(found, name) for name in names}}


def _challenge_line(night: Night) -> dict[str, Any] | None:
    """Return what a night says of the challenger that it asked; None where it asked none."""
    row = ruled(night)
    if row is None:
        return None
    return {name: row[name] for name in ("kind", "reason", "artefact", "origin", "e_value", "needed", "issues")}


def _stage_line(row: StageRow) -> dict[str, Any]:
    return {"stage": row.stage, "seconds": round((row.finished_at - row.started_at).total_seconds(), 3)}


def _scores(evidence: dict[str, Any]) -> dict[str, Any]:
    """Pick the numbers that a table shows from a verdict's evidence; what a night did not measure is null."""
    arms = evidence.get("arms") or []
    return {
        "k": evidence.get("k"),
        "pass_1": {arm["name"]: _interval(arm["pass_1"]) for arm in arms},
        "pass_k": {arm["name"]: _interval(arm["pass_k"]) for arm in arms},
        "lift": _interval(evidence.get("lift")),
        "lift_k": _interval(evidence.get("lift_k")),
        "over_tuned": _interval(evidence.get("over_tuned")),
        "over_teacher": _interval(evidence.get("over_teacher")),
        "splits": [_split(part) for part in evidence.get("splits") or ()],
        "detectable": evidence.get("detectable"),
        "guards": [_guard(each) for each in evidence.get("guards") or ()],
    }


def _split(part: dict[str, Any]) -> dict[str, Any]:
    names = ("total", "decoding", "skill", "teacher")
    gains = {name: _interval(part.get(name)) for name in names}
    return {"slice": part["slice"] or "all", "problems": part["total"]["problems"], **gains}


def _guard(reading: dict[str, Any]) -> dict[str, Any]:
    plain = {name: reading[name] for name in ("name", "state", "margin", "sees", "sentence")}
    arms = {name: _interval(reading[name]) for name in ("base", "candidate", "change")}
    return {**plain, "items": reading["change"]["problems"], "level": reading["change"]["level"], **arms}


def _interval(estimate: dict[str, Any] | None) -> dict[str, float] | None:
    return {name: estimate[name] for name in ("point", "low", "high")} if estimate else None
