"""A candidate before a share of the fleet: started, promoted and aborted by people, aborted and expired by itself."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import structlog

from fleetssd.canary import Canary, Mode
from fleetssd.checkpoints import Checkpoint, Swap
from fleetssd.config import Settings
from fleetssd.errors import FleetError, Misconfigured, Rejected
from fleetssd.operations import swap
from fleetssd.operations.traffic import as_evidence, sides
from fleetssd.ports import Desk, Engine
from fleetssd.rollout import GoBack, Stay
from fleetssd.serving import served
from fleetssd.telemetry import Filter
from fleetssd.trials import Hand, Outcome, Trial, margins, open_trial, resting
from fleetssd.windows import Compared, Tally, compare, verdict

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Standing:
    """How a canary stands: both sides' calls so far, metric by metric, and what the watch makes of them."""

    trial: Trial
    candidate: Tally
    incumbent: Tally
    compared: tuple[Compared, ...]
    verdict: GoBack | Stay
    lag: float | None = None
    """Seconds from its end to the start of the last call that its candidate answered even so; None where it runs."""


def start(
    store: Desk,
    engine: Engine,
    settings: Settings,
    candidate: Checkpoint,
    now: datetime,
    *,
    mode: Mode = "split",
    share: float | None = None,
    minutes: float | None = None,
    again: bool = False,
    crowded: bool = False,
) -> Trial:
    """Put a candidate before a share of the fleet's tasks, loaded, and return its line.

    Raises Rejected where it serves already, another one runs, the engine has it not, the watch aborted it a short while
    ago and nobody says `again`, or both do not stay in memory and nobody says `crowded`; Misconfigured where nothing
    serves yet; Transient where a swap runs.
    """
    rules = settings.canary
    with swap.alone(store, "operator", now):
        if not again and resting(store.trials(), candidate.digest, now, timedelta(minutes=rules.cool_down_minutes)):
            raise Rejected(
                f"{candidate.model} was aborted a short while ago", hint="`fleetssd canary status` says why; --again."
            )
        current = _rival(store, engine, candidate)
        _load(engine, candidate, current, crowded=crowded)
        until = now + timedelta(minutes=rules.minutes if minutes is None else minutes)
        share = rules.share if share is None else share
        line = Trial(
            0, Canary(candidate.digest, candidate.model, mode, share, now, until), current.digest, "operator"
        )  # fmt: skip
        begun = store.begin_trial(line)
    if begun is None:
        raise Rejected("a canary runs already", hint="`fleetssd canary status` shows it; promote or abort it first.")
    log.info("canary_started", canary=begun.id, model=candidate.model, mode=mode, share=share, until=until.isoformat())
    return begun


def _rival(store: Desk, engine: Engine, candidate: Checkpoint) -> Checkpoint:
    """Return what serves beside a candidate. Raises Misconfigured, Rejected where the two cannot be compared."""
    current = served(store.swaps(), store.checkpoints())
    if current is None:
        raise Misconfigured("no checkpoint is on file yet", hint="The first night puts the base on file.")
    if current.digest == candidate.digest:
        raise Rejected(f"{candidate.model} serves everybody already", hint="`fleetssd status` shows what serves.")
    if engine.digest_of(candidate.model) != candidate.served_digest:
        raise Rejected(f"the engine does not have {candidate.model} as it was evaluated", hint="Train it anew.")
    return current


def _load(engine: Engine, candidate: Checkpoint, current: Checkpoint, *, crowded: bool) -> None:
    """Load a candidate beside what serves. Raises Rejected, with all as it was, where that leaves memory for it."""
    before = engine.loaded().values()
    engine.preload(candidate.model)
    if crowded or current.served_digest not in before or current.served_digest in engine.loaded().values():
        return
    engine.preload(current.model)
    raise Rejected(
        f"the engine cannot hold {candidate.model} and {current.model} at once: each change of side would load one",
        hint="Adapters on one file share a place in Ollama, merged files do not (engine.road); --crowded takes it.",
    )


def promote(store: Desk, engine: Engine, settings: Settings, now: datetime, reason: str) -> tuple[Trial, Swap]:
    """Flip the alias to the running candidate, prove it, and end the canary. Raises Rejected where none runs."""
    standing = look(store, settings, now, _running(store))
    trial, candidate = standing.trial, store.checkpoint(standing.trial.canary.digest)
    if candidate is None:
        raise Rejected(f"checkpoint {trial.canary.digest[:12]} is not on file", hint="Restore the database.")
    evidence = {"canary": trial.id, **_evidence(standing)}
    line = swap.flip(store, engine, settings, candidate, actor="operator", now=now, reason=reason, evidence=evidence)
    ended = _end(store, standing, "promoted", "operator", reason, now)
    return ended or trial, line


def abort(store: Desk, engine: Engine, settings: Settings, now: datetime, reason: str) -> Trial:
    """End the running canary: its tasks are the incumbent's again. Raises Rejected where none runs."""
    standing = look(store, settings, now, _running(store))
    ended = _end(store, standing, "aborted", "operator", reason, now)
    _release(engine, ended)
    return ended or standing.trial


def analyse(store: Desk, engine: Engine, settings: Settings, now: datetime) -> Trial | None:
    """Look once at the running canary; return its line where this look ended it.

    It ends a canary that is worse than it may be, that nobody decided in time, or that stands beside something which
    no longer serves. It never promotes.
    """
    trial = open_trial(store.trials())
    if trial is None:
        return None
    standing = look(store, settings, now, trial)
    outcome, reason = _due(store, standing, now)
    ended = _end(store, standing, outcome, "watch", reason, now) if outcome else None
    _release(engine, ended)
    return ended


def look(store: Desk, settings: Settings, now: datetime, trial: Trial) -> Standing:
    """Return how a canary stands, or how it stood when it ended."""
    until = min(now, trial.ended_at or now, trial.canary.expires_at)
    since, rules = trial.canary.started_at, margins(settings.canary)
    window = (since, until)
    found = sides(store, settings, (trial.canary.digest, window), (trial.incumbent, window), now)
    lag = _lag(store, trial, now) if trial.ended_at is not None else None
    return Standing(trial, *found, compare(*found, rules), verdict(*found, rules), lag)


def _running(store: Desk) -> Trial:
    trial = open_trial(store.trials())
    if trial is None:
        raise Rejected("no canary runs", hint="`fleetssd canary start MODEL` starts one.")
    return trial


def _due(store: Desk, standing: Standing, now: datetime) -> tuple[Outcome, str]:
    """Return how a canary is to end now, and why; an empty outcome where it goes on."""
    trial, current = standing.trial, served(store.swaps(), store.checkpoints())
    if current is not None and current.digest == trial.canary.digest:
        return "promoted", "it serves everybody"
    if current is not None and current.digest != trial.incumbent:
        return "superseded", f"{current.model} serves now"
    if isinstance(standing.verdict, GoBack):
        return "aborted", standing.verdict.reason
    if now >= trial.canary.expires_at:
        return "expired", f"nobody promoted it in its time; {standing.verdict.reason}"
    return "", ""


def _release(engine: Engine, ended: Trial | None) -> None:
    """Let a candidate leave memory after its last answer; that it cannot is no reason to fail the end of a canary."""
    if ended is not None and ended.outcome != "promoted":
        try:
            engine.release(ended.canary.model)
        except FleetError as error:
            log.warning("not_released", model=ended.canary.model, error=error.message)


def _evidence(standing: Standing) -> dict[str, Any]:
    return as_evidence(standing.candidate, standing.incumbent, standing.compared)


def _end(store: Desk, standing: Standing, outcome: Outcome, by: Hand, reason: str, now: datetime) -> Trial | None:
    ended = store.end_trial(standing.trial.id, outcome, by, reason, now, _evidence(standing))
    if ended is not None:
        log.info("canary_ended", canary=ended.id, model=ended.canary.model, outcome=outcome, by=by, reason=reason)
    return ended


def _lag(store: Desk, trial: Trial, now: datetime) -> float | None:
    """Say how long after its end the candidate still got calls, by the first two minutes."""
    assert trial.ended_at is not None  # noqa: S101  the caller looked
    over = min(now, trial.ended_at + timedelta(minutes=2))
    if trial.outcome == "promoted":
        return None
    last = store.calls(Filter(checkpoint=trial.canary.digest, since=trial.ended_at, until=over), 1)
    return (last[0].at - trial.ended_at).total_seconds() if last else 0.0
