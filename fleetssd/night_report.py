"""One night as a report: its verdict, its numbers and the curves behind them, as one value that JSON knows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any, TypeAlias

import numpy as np

from fleetssd.checkpoints import Answer, Night
from fleetssd.config import Prices
from fleetssd.ledger import ledger, ledger_lines
from fleetssd.night_notes import notes
from fleetssd.power import flattery
from fleetssd.probes import repetition
from fleetssd.scoring import deltas, estimate, tally
from fleetssd.status import night_table, to_json

Table: TypeAlias = list[dict[str, Any]]

_BINS = 24
_LEARNING = ("sample", "train")
_WORDS = {
    "promote": "is promoted",
    "keep": "changes nothing (the incumbent is kept)",
    "reject": "is rejected",
    "invalid": "is invalid",
}


@dataclass(frozen=True, slots=True)
class Answered:
    """A night's answers by the part that they play.

    `candidate` and `incumbent` answered at the production decode; `probed` is the candidate at the base's effective
    temperature; `tune` holds the base's answers at each temperature of the grid. `names` says of a problem which
    merged pull request it is.
    """

    base: Sequence[Answer] = ()
    incumbent: Sequence[Answer] = ()
    candidate: Sequence[Answer] = ()
    probed: Sequence[Answer] = ()
    tune: Mapping[float, Sequence[Answer]] = field(default_factory=dict)
    names: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class NightReport:
    """What a person reads of one night. Shares are 0 to 1, times in hours or seconds, null is not measured.

    An interval is {point, low, high} at confidence `level`; `gain` is over the incumbent, `over_tuned` over the base at
    its best T, `over_teacher` over the base at the decode of the training samples. `gain_tonight` is `gain` at
    tonight's share of the error budget, with a level of its own; `origin` names what the numbers are bound to.
    """

    number: int
    arm: str
    verdict: str | None
    sentence: str
    artefact: str | None
    started_at: str
    finished_at: str | None
    origin: dict[str, Any]
    k: int | None
    level: float | None
    gain: dict[str, float] | None
    gain_tonight: dict[str, float] | None
    gain_k: dict[str, float] | None
    over_tuned: dict[str, float] | None
    over_teacher: dict[str, float] | None
    tests: dict[str, Any]
    notes: tuple[str, ...]
    arms: Table
    slices: Table
    probes: Table
    guards: Table
    losses: list[float]
    by_temperature: Table
    flattered: float | None
    by_night: Table
    issues: Table
    lengths: dict[str, list[float]] | None
    repetition: dict[str, list[float]] | None
    cost: dict[str, Any]
    pareto: Table
    ledger: list[tuple[str, str]]


def compose(
    night: Night,
    nights: Sequence[Night],
    answered: Answered,
    prices: Prices = Prices(),  # noqa: B008  frozen
) -> NightReport:
    """Fold a night, the nights up to it and its answers into its report; a night without a verdict has few numbers."""
    line, evidence = night_table([night])[0], night.verdict.evidence if night.verdict else {}
    spent = ledger(night)
    before = [other for other in nights if other.number < night.number]
    level = (evidence.get("lift") or {}).get("level")
    return NightReport(
        number=night.number,
        arm=night.arm,
        verdict=line["verdict"],
        sentence=_sentence(line),
        artefact=line["artefact"],
        started_at=line["started_at"],
        finished_at=line["finished_at"],
        origin=_origin(evidence, night.plan),
        k=line["k"],
        level=level,
        gain=line["lift"],
        gain_tonight=_at_level(evidence.get("lift_tonight")),
        gain_k=line["lift_k"],
        over_tuned=line["over_tuned"],
        over_teacher=line["over_teacher"],
        tests={name: evidence.get(name) for name in _TESTS},
        notes=notes(evidence, night.plan, line["challenger"]),
        arms=_arms(line, evidence, night.plan),
        slices=_slices(line, evidence),
        probes=_probes(evidence),
        guards=line["guards"],
        losses=list(spent["losses"]) if spent else [],
        by_temperature=_by_temperature(answered.tune, evidence, level or 0.95),
        flattered=_flattered(answered.tune),
        by_night=nights_by_arm([*before, night]),
        issues=_issues(answered),
        lengths=_histogram(answered, len),
        repetition=_histogram(answered, repetition),
        cost=_cost(night, evidence, prices),
        pareto=_pareto([*before, night]),
        ledger=ledger_lines(spent) if spent else [],
    )


def nights_by_arm(nights: Sequence[Night]) -> Table:
    """Return pass@1 of every arm for each night that was decided, oldest first."""
    return [
        {name: line[name] for name in ("number", "arm", "verdict", "pass_1")}
        for line in night_table(nights)
        if line["verdict"]
    ]


_TESTS = ("alpha", "lift_bca", "p_value", "e_value", "detectable", "void_share", "overlap", "consulted", "tau")


def _sentence(line: dict[str, Any]) -> str:
    head = f"Night {line['number']}"
    if line["verdict"]:
        return f"{head} {_WORDS[line['verdict']]}: {line['reason']}."
    if line["state"] == "failed":
        return f"{head} failed: {line['reason']}."
    return f"{head} is not decided yet."


def _origin(evidence: Mapping[str, Any], plan: Mapping[str, Any]) -> dict[str, Any]:
    """Return the base, the hold-out, the seed and the engine that the numbers are bound to."""
    named = {"base": evidence.get("base_digest"), "held_out": evidence.get("held_out")}
    return {**named, "seed": plan.get("seed"), "engine": evidence.get("engine")}


def _at_level(estimated: Mapping[str, Any] | None) -> dict[str, float] | None:
    return None if estimated is None else {**_interval(estimated), "level": float(estimated["level"])}


def _arms(line: Mapping[str, Any], evidence: Mapping[str, Any], plan: Mapping[str, Any]) -> Table:
    own = {
        "tuned base": evidence.get("tuned_temperature"),
        "teacher decode": plan.get("sampling", {}).get("temperature"),
    }
    production = plan.get("decode", {}).get("temperature")
    return [
        {
            "arm": name,
            "temperature": own.get(name, production),
            "pass_1": line["pass_1"][name],
            "pass_k": line["pass_k"][name],
        }
        for name in line["pass_1"]
    ]


def _slices(line: Mapping[str, Any], evidence: Mapping[str, Any]) -> Table:
    """Return each slice's gains; over the incumbent, which p tests, only where the verdict has them."""
    tests = {"all": {"lift": evidence.get("lift")}, **evidence.get("slice_tests", {})}
    told = [(part, tests.get(part["slice"], {})) for part in line["splits"]]
    return [
        {**part, "gain": _interval(test["lift"]) if test.get("lift") else None, "holm": test.get("holm")}
        for part, test in told
    ]


def _probes(evidence: Mapping[str, Any]) -> Table:
    base, candidate = evidence.get("base_probes", {}), evidence.get("candidate_probes", {})
    alarms = {_key(alarm["probe"]): alarm for alarm in evidence.get("alarms", ())}
    return [
        {
            "probe": name.replace("_", " "),
            "base": value,
            "candidate": candidate.get(name),
            "low": alarms.get(_key(name), {}).get("low"),
            "high": alarms.get(_key(name), {}).get("high"),
            "alarm": _key(name) in alarms,
        }
        for name, value in base.items()
        if isinstance(value, int | float)
    ]


def _key(probe: str) -> str:
    """Return a probe's name as the readings and the alarms both spell it."""
    return "".join(letter for letter in probe if letter.isalnum())


def _by_temperature(tune: Mapping[float, Sequence[Answer]], evidence: Mapping[str, Any], level: float) -> Table:
    chosen = evidence.get("tuned_temperature")
    return [
        {
            "temperature": temperature,
            "pass_1": _interval(to_json(estimate(tally(_rows(answers), voids_pass=False), level=level))),
            "chosen": temperature == chosen,
        }
        for temperature, answers in sorted(tune.items())
        if answers
    ]


def _flattered(tune: Mapping[float, Sequence[Answer]]) -> float | None:
    """Return by how much the best of the grid would seem better if all were equal: the winner's curse, a share.

    What the temperatures share, easy issues and hard ones, flatters none: the noise is that of their differences.
    """
    arms = [tally(_rows(answers), voids_pass=False) for answers in tune.values() if answers]
    if len(arms) < 2 or any(arm.ids != arms[0].ids for arm in arms) or len(arms[0].ids) < 2:
        return None
    errors = [deltas(one, other).std(ddof=1) / math.sqrt(len(one.ids)) for one, other in combinations(arms, 2)]
    return float(flattery(len(arms)) * np.mean(errors) / math.sqrt(2.0))


def _issues(answered: Answered) -> Table:
    """Return the candidate's gain in pass@1 issue by issue, the worst first."""
    mine = {answer.problem for answer in answered.candidate}
    both = mine & {answer.problem for answer in answered.incumbent}
    if not both:
        return []
    candidate = tally(_rows(answered.candidate, both), voids_pass=False)
    other = tally(_rows(answered.incumbent, both), voids_pass=True)
    gains = zip(candidate.ids, deltas(candidate, other).tolist(), strict=True)
    ordered = sorted(gains, key=lambda gain: (gain[1], gain[0]))
    return [{"problem": p, "name": answered.names.get(p, p[:12]), "delta": delta} for p, delta in ordered]


def _histogram(answered: Answered, read: Any) -> dict[str, list[float]] | None:
    """Return how a reading is spread over the base's answers and over the candidate's, to the same issues."""
    asked = {(answer.problem, answer.index) for answer in answered.probed}
    base = [float(read(a.completion)) for a in answered.base if (a.problem, a.index) in asked]
    if not base:
        return None
    candidate = [float(read(answer.completion)) for answer in answered.probed]
    edges = np.histogram_bin_edges([*base, *candidate], bins=_BINS)
    spread = {"base": np.histogram(base, edges)[0] / len(base)}
    spread["candidate"] = np.histogram(candidate, edges)[0] / len(candidate)
    return {"edges": edges.tolist(), **{name: shares.tolist() for name, shares in spread.items()}}


def _cost(night: Night, evidence: Mapping[str, Any], prices: Prices) -> dict[str, Any]:
    """Return what the night took, and its gain over the base (percentage points) for each hour of learning."""
    spent = (ledger(night) or {"cost": {}})["cost"]
    stages = night_table([night])[0]["stages"]
    learning, gpu, joules = _hours(night), spent.get("gpu_seconds"), spent.get("energy_joules")
    splits = evidence.get("splits") or [{"total": None}]
    gain = None if splits[0]["total"] is None else 100.0 * splits[0]["total"]["point"]
    taken = {
        "hours": sum(stage["seconds"] for stage in stages) / 3600.0,
        "gpu_hours": gpu / 3600.0 if gpu else None,
        "energy_kwh": joules / 3.6e6 if joules else None,
    }
    price = _price(taken, prices)
    return {
        "stages": stages,
        **taken,
        "learning_hours": learning,
        "cpu_hours": spent["cpu_seconds"] / 3600.0 if spent.get("cpu_seconds") else None,
        "price": price,
        "currency": prices.currency,
        "pp_per_price": gain / price if gain is not None and price else None,
        "tokens": spent.get("tokens"),
        "steps": spent.get("steps"),
        "pp_per_learning_hour": gain / learning if gain is not None and learning else None,
        "pp_per_gpu_hour": gain / (gpu / 3600.0) if gain is not None and gpu else None,
    }


def _price(taken: Mapping[str, float | None], prices: Prices) -> float | None:
    """Return what the night cost; None where nothing has a price, or what has one was not measured."""
    paid = {"hours": prices.machine_hour, "gpu_hours": prices.gpu_hour, "energy_kwh": prices.kwh}
    amounts = [(taken[name], rate) for name, rate in paid.items() if rate]
    if not amounts or any(amount is None for amount, _ in amounts):
        return None
    return sum(amount * rate for amount, rate in amounts if amount is not None)


def _pareto(nights: Sequence[Night]) -> Table:
    """Return hours of learning against gain over the base: each night's own hold-out has its own base, so gains.

    Retuning the base costs no learning; of the tuned bases tonight's stands for all. `front` marks what nothing
    else beats in both.
    """
    points = [_point("base", 0.0, {"point": 0.0, "low": 0.0, "high": 0.0})]
    for night in nights:
        splits = night.verdict.evidence.get("splits") if night.verdict else None
        if splits:
            points.append(_point(f"night {night.number}, {night.arm}", _hours(night), splits[0]["total"]))
            if night is nights[-1]:
                points.append(_point("tuned base", 0.0, splits[0]["decoding"]))
    return [point | {"front": not any(_beats(other, point) for other in points)} for point in points]


def _point(name: str, hours: float, gain: Mapping[str, Any]) -> dict[str, Any]:
    return {"name": name, "hours": hours, "gain": _interval(gain)}


def _beats(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Say whether `one` is nowhere worse than `other` and somewhere better."""
    sooner, more = other["hours"] - one["hours"], one["gain"]["point"] - other["gain"]["point"]
    return bool(min(sooner, more) >= 0.0 < max(sooner, more))


def _hours(night: Night) -> float:
    took = [row.finished_at - row.started_at for row in night.stages if row.stage in _LEARNING]
    return sum(each.total_seconds() for each in took) / 3600.0


def _rows(answers: Sequence[Answer], only: set[str] | None = None) -> list[tuple[str, bool, bool]]:
    return [(a.problem, a.passed, a.fault) for a in answers if only is None or a.problem in only]


def _interval(estimated: Mapping[str, Any]) -> dict[str, float]:
    return {end: float(estimated[end]) for end in ("point", "low", "high")}
