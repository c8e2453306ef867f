"""Ask the challenger that is carried fresh held-out issues beside tonight's candidate, and judge it by itself."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, replace
from datetime import datetime
from typing import Any

import structlog

from fleetssd import sequential
from fleetssd.admission import NotAdmittedError
from fleetssd.challengers import Challenger, Round, Ruling, misfit, rule, standing
from fleetssd.checkpoints import Checkpoint, Night, StageRow
from fleetssd.config import Settings
from fleetssd.errors import Corrupt
from fleetssd.operations.evaluate import Arm, Examiner, pinned
from fleetssd.operations.judge import overlap
from fleetssd.ports import Engine, Store
from fleetssd.problems import Problem
from fleetssd.recipe import NightPlan
from fleetssd.scoring import Scores, deltas, tally

log = structlog.get_logger()

CHALLENGER, RIVAL, TUNED_RIVAL = "challenger", "challenger's incumbent", "challenger's tuned base"
"""Arms of their own: what the night's candidate is judged by is not touched."""


def challenged(plan: NightPlan, settings: Settings, store: Store, engine: Engine, judging: Sequence[str]) -> NightPlan:
    """Return tonight's plan with the challenger that is carried and the fresh issues of `judging` that it is asked.

    An issue that the challenger's own night taught, by name or near-duplicate, is not fresh to it. Where there is
    nobody to ask, or nothing, the plan is returned as it is.
    """
    found = standing(store.nights())
    if found is None:
        return plan
    why = misfit(found, plan.to_json(), settings.gate.model_dump(mode="json")) or _gone(found, store, engine)
    fresh = () if why else _fresh(found, settings, store, judging)
    if not fresh:
        log.info("challenger_not_asked", artefact=found.digest, reason=why or "no held-out issue is fresh to it")
        return plan
    return replace(plan, challenger=found.digest, fresh=fresh)


def _gone(found: Challenger, store: Store, engine: Engine) -> str:
    point = store.checkpoint(found.digest)
    served = point is not None and engine.digest_of(point.model) == point.served_digest
    return "" if served else "the engine does not have it as it was evaluated"


def _fresh(found: Challenger, settings: Settings, store: Store, judging: Sequence[str]) -> tuple[str, ...]:
    unseen = [one for one in judging if one not in found.seen]
    taught = _leaks(store, settings, found, unseen)
    return tuple(one for one in unseen if one not in taught)[: settings.evaluation.max_problems]


def challenge(
    plan: NightPlan, examiner: Examiner, settings: Settings, pose: Callable[[Sequence[str]], list[Problem]],
    *, promoted: bool, started: datetime, now: Callable[[], datetime],
) -> Ruling:  # fmt: skip
    """Ask the challenger of tonight's plan and write what came of it: a row bound to its digest, with all numbers.

    Where tonight's own candidate is `promoted`, the challenger is not asked any more.
    """
    store = examiner.store
    found, point = _on_file(plan, store)
    why = "tonight's candidate was promoted" if promoted else _obstacle(plan, examiner, settings, found)
    if why:
        after, ruling = found, Ruling("drop", why)
    else:
        after, ruling = _heard(plan, examiner, settings, found, point, pose)
    result = _row(plan, settings, found, after, ruling)
    result |= {"model": point.model, "engine": f"{settings.engine.kind} {examiner.engine.version()}"}
    if after.rounds != found.rounds:
        result |= {"lift_k": _lift_k(plan, store, after), "overlap": 0}
    store.finish_stage(StageRow(plan.night, "challenge", result, started, now()))
    log.info("challenger_ruled", night=plan.night, artefact=found.digest, ruling=ruling.kind, reason=ruling.reason)
    return ruling


def _obstacle(plan: NightPlan, examiner: Examiner, settings: Settings, found: Challenger) -> str:
    """Say why the challenger may not be asked, by what holds now: an interrupted night may meet other settings."""
    if not settings.gate.challengers:
        return "challengers were switched off"
    if changed := misfit(found, plan.to_json(), settings.gate.model_dump(mode="json")):
        return f"changed since its own night: {changed}"
    if leaks := _leaks(examiner.store, settings, found, plan.fresh):
        return f"{len(leaks)} fresh issues overlap with what it was trained on"
    return _gone(found, examiner.store, examiner.engine)


def _heard(
    plan: NightPlan, examiner: Examiner, settings: Settings, found: Challenger, point: Checkpoint,
    pose: Callable[[Sequence[str]], list[Problem]],
) -> tuple[Challenger, Ruling]:  # fmt: skip
    """Ask the challenger and its rivals; return it with tonight's round, and the ruling on it."""
    store, arms = examiner.store, _arms(plan, settings, point, _night(examiner.store, found.night))
    try:
        examiner.examine(arms, pose(plan.fresh))
    except NotAdmittedError as error:  # no reason to fail a night that has its verdict
        return found, Ruling("drop", f"it could not be asked: {error.message}")
    after = found.after(_round(plan, store, settings, found, arms))
    if gone := _gone(found, store, examiner.engine):
        return after, Ruling("drop", gone)
    lift_k, hopeless = _lift_k(plan, store, after), _bet(settings, found).hopeless
    return after, rule(after, settings.gate, night=plan.night, lift_k=lift_k, hopeless=hopeless)


def _row(plan: NightPlan, settings: Settings, found: Challenger, after: Challenger, ruling: Ruling) -> dict[str, Any]:
    asked = after.rounds[len(found.rounds) :]
    return {
        **asdict(ruling),
        "artefact": found.digest,
        "origin": found.night,
        "base": plan.base,
        "incumbent": plan.incumbent,
        "look": found.look,
        "level": found.level,
        "stake": found.stake,
        "e_value": after.e_value,
        "needed": found.needed,
        "issues": after.fresh,
        "seed": plan.seed,
        "policy": settings.gate.model_dump(mode="json"),
        "round": asdict(asked[0]) if asked else None,
    }


def _arms(plan: NightPlan, settings: Settings, point: Checkpoint, origin: Night) -> list[Arm]:
    """Return the challenger and its rivals; where the decode is managed, retuning the base is one."""
    base = settings.engine.base_model
    rival = base if plan.incumbent == plan.base else plan.incumbent_model
    arms = [Arm(CHALLENGER, point.model, plan.decode, plan.samples), Arm(RIVAL, rival, plan.decode, plan.samples)]
    if plan.manage != "none":
        built = next(row.result for row in origin.stages if row.stage == "build")
        arms.append(Arm(TUNED_RIVAL, base, pinned(plan.decode, built["tuned_temperature"]), plan.samples))
    return arms


def _round(plan: NightPlan, store: Store, settings: Settings, found: Challenger, arms: Sequence[Arm]) -> Round:
    """Fold tonight's answers into e-values, at the stake that was set before the challenger's first answer."""
    rows = store.answers(plan.night, CHALLENGER)
    mine, bet = _scores(store, [plan.night], CHALLENGER), _bet(settings, found)
    gains = [deltas(mine, _scores(store, [plan.night], arm.name)) for arm in arms[1:]]
    return Round(
        problems=plan.fresh,
        gains=tuple(float(sequential.log_e(gain, bet.stake)) for gain in gains),
        against=float(sequential.log_e(bet.effect - gains[0], bet.stake)),
        samples=len(rows),
        voids=sum(row.fault for row in rows),
    )


def _bet(settings: Settings, found: Challenger) -> sequential.Design:
    return sequential.Design(settings.gate.effect, found.stake, found.level)


def _lift_k(plan: NightPlan, store: Store, found: Challenger) -> float:
    nights = range(found.night + 1, plan.night + 1)
    asked = set().union(*(each.problems for each in found.rounds))
    mine, rival = (_scores(store, nights, arm, asked) for arm in (CHALLENGER, RIVAL))
    return float(deltas(mine, rival, plan.k).mean())


def _scores(store: Store, nights: Sequence[int], arm: str, asked: Collection[str] | None = None) -> Scores:
    rows = [row for night in nights for row in store.answers(night, arm) if asked is None or row.problem in asked]
    # A void counts against the challenger, whichever arm it befell.
    return tally([(row.problem, row.passed, row.fault) for row in rows], voids_pass=arm != CHALLENGER)


def _leaks(store: Store, settings: Settings, found: Challenger, ids: Sequence[str]) -> dict[str, str]:
    taught = store.records_by_id(_night(store, found.night).plan["train"])
    return overlap(taught, store.records_by_id(ids), settings.records.near_duplicate)


def _on_file(plan: NightPlan, store: Store) -> tuple[Challenger, Checkpoint]:
    found = standing([night for night in store.nights() if night.number < plan.night])
    point = store.checkpoint(plan.challenger)
    if found is None or point is None or found.digest != plan.challenger:
        raise Corrupt(f"challenger {plan.challenger[:12]} is not on file", hint="Restore the database from a backup.")
    return found, point


def _night(store: Store, number: int) -> Night:
    night = store.night(number)
    if night is None:
        raise Corrupt(f"night {number} is not on file", hint="Restore the database from a backup.")
    return night
