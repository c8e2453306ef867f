"""The watch over a new checkpoint: ask the alias some held-out issues, compare, go back once or settle."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any

from fleetssd.admission import NotAdmittedError
from fleetssd.checkpoints import Answer, Night, Swap
from fleetssd.config import Settings
from fleetssd.operations.evaluate import CANDIDATE, grade
from fleetssd.operations.learn import seed_of
from fleetssd.operations.posing import pose
from fleetssd.operations.swap import rollback, settle
from fleetssd.operations.traffic import as_evidence, sides
from fleetssd.ports import Desk, Engine, Grounds, Prompt, Sandbox, Store
from fleetssd.problems import Problem
from fleetssd.recipe import NightPlan
from fleetssd.rollout import GoBack, Limits, Reading, Stay, cooling, watch_verdict, watched
from fleetssd.trials import margins
from fleetssd.windows import compare, verdict

DAY = timedelta(days=1)


def watch_once(
    store: Desk, engine: Engine, sandbox: Sandbox, grounds: Grounds, settings: Settings, now: datetime
) -> Swap | None:
    """Look once at the checkpoint under watch; return the line this wrote to the swap log, if any.

    It goes back where its probes fail, or where the fleet's own calls go worse than they went with the checkpoint
    before it in the same hours of the day before: the hours before dawn are quiet ones. Probes are kept as answers of
    arm `watch <swap>`, so a restart forgets nothing. An engine that is away raises Transient: nothing was seen.
    """
    flipped = watched(store.swaps())
    night = store.night(flipped.night) if flipped is not None and flipped.night is not None else None
    if flipped is None or flipped.at is None or night is None:
        return None
    span, arm = timedelta(minutes=settings.watch.minutes), f"watch {flipped.id}"
    over = now - flipped.at >= span
    if not over:
        _Probe(store, engine, sandbox, grounds, settings, night, arm).ask()
    expected = pass_rates(store.answers(night.number, CANDIDATE))
    readings = as_readings(store.answers(night.number, arm), expected)
    judged: GoBack | Stay = watch_verdict(readings, _limits(settings))
    evidence: dict[str, Any] = {"arm": arm, "readings": [asdict(reading) for reading in readings[-5:]]}
    fleet, evidence["traffic"] = _traffic(store, settings, flipped, now)
    if isinstance(fleet, GoBack) and not isinstance(judged, GoBack):
        judged = fleet
    if isinstance(judged, GoBack) and not cooling(store.swaps(), now, span):
        only = flipped.to_digest
        return rollback(
            store, engine, settings, actor="watch", reason=judged.reason, now=now, evidence=evidence, only_from=only
        )
    return settle(store, engine, flipped, reason=judged.reason, now=now, evidence=evidence) if over else None


def as_readings(answers: Sequence[Answer], expected: Mapping[str, float]) -> list[Reading]:
    """Fold watch answers into readings, oldest first; the answers of one look share their index."""
    looks: dict[int, list[Answer]] = defaultdict(list)
    for answer in answers:
        looks[answer.index].append(answer)
    return [_reading(looks[index], expected) for index in sorted(looks)]


def pass_rates(answers: Sequence[Answer]) -> dict[str, float]:
    """Return each problem's share of right answers among those that were graded."""
    graded: dict[str, list[bool]] = defaultdict(list)
    for answer in answers:
        if not answer.fault:
            graded[answer.problem].append(answer.passed)
    return {problem: sum(passed) / len(passed) for problem, passed in graded.items()}


def _reading(look: Sequence[Answer], expected: Mapping[str, float]) -> Reading:
    graded = [answer for answer in look if not answer.fault and answer.problem in expected]
    rate = sum(expected[answer.problem] for answer in graded) / len(graded) if graded else None
    errors = sum(answer.finish == "error" for answer in look)
    return Reading(len(look), errors, len(graded), sum(answer.passed for answer in graded), rate)


def _traffic(store: Desk, settings: Settings, flipped: Swap, now: datetime) -> tuple[GoBack | Stay, dict[str, Any]]:
    """Judge the fleet's own calls since a flip; without the gateway there are none, and nothing fires."""
    since = flipped.at or now
    window, before = (since, now), (since - DAY, now - DAY)
    both = sides(store, settings, (flipped.to_digest, window), (flipped.from_digest, before), now)
    rules = margins(settings.canary)
    return verdict(*both, rules), as_evidence(*both, compare(*both, rules))


@dataclass(frozen=True, slots=True)
class _Probe:
    """Asks the alias itself, at the decode of production, with seeds and issues that no earlier look used."""

    store: Store
    engine: Engine
    sandbox: Sandbox
    grounds: Grounds
    settings: Settings
    night: Night
    arm: str

    def ask(self) -> None:
        plan, number = NightPlan.from_json(self.night.plan), self.night.number
        look = max((answer.index for answer in self.store.answers(number, self.arm)), default=-1) + 1
        problems = self._sample(plan.held_out, f"{self.arm}:{look}")
        seeds = [seed_of(self.settings.evaluation.seed, self.arm, look, problem.id) for problem in problems]
        prompts = [Prompt(problem.prompt, seed) for problem, seed in zip(problems, seeds, strict=True)]
        answers = self.engine.complete(self.settings.engine.alias, prompts, plan.decode, lambda *_: None)
        outcomes = grade(problems, answers, self.sandbox)
        self.store.add_answers(
            Answer(number, self.arm, p.id, look, s, a.text, a.finish, o.passed, o.fault, o.detail[:200])
            for p, s, a, o in zip(problems, seeds, answers, outcomes, strict=True)
        )

    def _sample(self, held_out: Sequence[str], salt: str) -> list[Problem]:
        drawn = sorted(held_out, key=lambda id_: hashlib.sha256(f"{salt}:{id_}".encode()).digest())
        records = self.store.records_by_id(drawn[: self.settings.watch.probes])
        problems = []
        for record in records:
            with suppress(NotAdmittedError):  # its ground was lost since the night: what is not asked never fires
                problems.append(pose(record, self.settings, self.grounds))
        return problems


def _limits(settings: Settings) -> Limits:
    watch = settings.watch
    return Limits(watch.min_calls, watch.max_drop, watch.max_error_rate)
