"""Challengers: a candidate that was kept out, asked fresh issues on later nights until its e-value says enough.

Folded from the nights on file and from nothing else. Its capital begins at 1 after the night that chose it, so the
choice costs nothing; only issues that it was never judged on add to it. It is read at e-LOND's level (Xu and Ramdas
2023) of its half of the error budget: of useless challengers at most that share is promoted, whenever one looks.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

from fleetssd.budget import elond
from fleetssd.checkpoints import Night
from fleetssd.config import Gate as Policy
from fleetssd.shares import fell_beyond

Kind: TypeAlias = Literal["promote", "carry", "drop"]
HALF = 0.5
"""The part of alpha that challengers have where there are any; candidates have the other."""
_MOST = math.log(1e300)  # what JSON can hold


@dataclass(frozen=True, slots=True)
class Round:
    """What one night asked a challenger: fresh problems by id, and the log e-values of their answers.

    `gains` is the bet against "no gain" over each rival (the incumbent first), `against` that against the planned gain
    over the incumbent. Of `samples` answers `voids` were faults, already counted as failed.
    """

    problems: tuple[str, ...]
    gains: tuple[float, ...]
    against: float
    samples: int
    voids: int


@dataclass(frozen=True, slots=True)
class Challenger:
    """A candidate that is carried: the night that made it, the problems that it was judged on, and its rounds since.

    None of those `seen` is asked again. It is the `look`-th challenger ever and is promoted at an e-value of 1/`level`;
    `stake` was set before its first answer.
    """

    night: int
    digest: str
    look: int
    level: float
    stake: float
    seen: frozenset[str]
    terms: Mapping[str, Any]
    rounds: tuple[Round, ...] = ()

    @property
    def fresh(self) -> int:
        """How many fresh problems it was asked in all its rounds."""
        return sum(len(each.problems) for each in self.rounds)

    @property
    def log_e(self) -> float:
        """The log e-value carried over its rounds: they multiply; of several rivals the least."""
        return min(carried(each.gains[rival] for each in self.rounds) for rival in self._rivals)

    @property
    def e_value(self) -> float:
        """The e-value itself, at most 1e300."""
        return math.exp(min(self.log_e, _MOST))

    @property
    def needed(self) -> float:
        """The e-value that promotes it: 1/level."""
        return 1.0 / self.level

    @property
    def hopes(self) -> float:
        """The log e-value of the bet against the planned gain, carried over its rounds."""
        return carried(each.against for each in self.rounds)

    @property
    def _rivals(self) -> range:
        return range(len(self.rounds[0].gains) if self.rounds else 1)

    def after(self, asked: Round) -> Challenger:
        """Return it with one more round."""
        return replace(self, rounds=(*self.rounds, asked))


@dataclass(frozen=True, slots=True)
class Ruling:
    """What a night says of its challenger, and why."""

    kind: Kind
    reason: str


def carried(logs: Iterable[float]) -> float:
    """Return the log e-value over several nights: capital is carried on, so the e-values multiply.

    Each night's issues must be fresh; asked the same issues again, a night adds no evidence about new ones.
    """
    return math.fsum(logs)


def standing(nights: Sequence[Night]) -> Challenger | None:
    """Return the challenger that is carried after these nights (oldest first), None where there is none.

    A newer promotion, other terms (base, incumbent, decode, rule) and the end of its nights drop it; the next kept
    candidate follows it, not one that was kept meanwhile.
    """
    now: Challenger | None = None
    begun = won = 0
    judged: dict[str, set[str]] = {}  # by artefact: two nights may make the same one
    for night in nights:
        row = ruled(night)
        if row is not None and row["round"]:
            judged.setdefault(row["artefact"], set()).update(row["round"]["problems"])
        if now is not None and row is not None and row["artefact"] == now.digest:
            won += row["kind"] == "promote"
            now = now.after(_round(row["round"])) if row["round"] and row["kind"] == "carry" else None
        if night.verdict is None:
            continue
        judged.setdefault(night.verdict.artefact, set()).update(_asked(night))
        if now is not None and not _goes_on(now, night):
            now = None
        if now is None and stays(night):
            begun += 1
            now = _begin(night, begun, won)
    return None if now is None else replace(now, seen=frozenset(judged[now.digest]))


def stays(night: Night) -> bool:
    """Tell whether a night's candidate may be carried: kept out, ahead, and missing nothing but the proof of it."""
    if night.verdict is None or night.verdict.kind != "keep":
        return False
    told = night.verdict.evidence
    policy, lift_k = told.get("policy") or {}, told.get("lift_k") or {}
    design = _design(night)
    return bool(
        policy.get("challengers", 0) > 0
        and design
        and told["lift"]["point"] > 0.0
        and not fell_beyond(lift_k["point"], policy["pass_k_margin"])
        and not told.get("alarms")
        and all(guard["state"] not in ("drop", "open") for guard in told.get("guards") or ())
    )


def misfit(challenger: Challenger, plan: Mapping[str, Any], policy: Mapping[str, Any]) -> str:
    """Return which terms of its own night a plan and a policy (as JSON) do not share, empty where all are the same."""
    now = _terms(plan, policy)
    return ", ".join(name for name, value in challenger.terms.items() if now[name] != value)


def rule(challenger: Challenger, policy: Policy, *, night: int, lift_k: float, hopeless: float) -> Ruling:
    """Judge a challenger, tonight's round included; `lift_k` is its gain in pass@k over all fresh problems.

    Pure and monotone: a worse answer, or a void in its place, never turns another ruling into `promote`.
    """
    told = f"e-value {challenger.e_value:.3g} of {challenger.needed:.3g} needed on {challenger.fresh} fresh issues"
    samples = sum(each.samples for each in challenger.rounds)
    voids = sum(each.voids for each in challenger.rounds)
    missing = ""
    if challenger.fresh < policy.min_problems:
        missing = f"; {policy.min_problems} issues are needed"
    elif voids > policy.max_void_share * samples:
        missing = f"; {voids} of {samples} runs were sandbox faults"
    elif fell_beyond(lift_k, policy.pass_k_margin):
        missing = f"; pass@k moved by {100 * lift_k:+.1f} pp"
    if not missing and challenger.log_e >= math.log(challenger.needed):
        return Ruling("promote", told)
    if challenger.hopes >= hopeless:
        return Ruling("drop", f"futile: the planned gain is not to be hoped for any more; {told}")
    if night - challenger.night >= policy.challengers:
        return Ruling("drop", f"expired after {policy.challengers} nights; {told}{missing}")
    return Ruling("carry", told + missing)


def ruled(night: Night) -> Mapping[str, Any] | None:
    """Return what a night's row says of the challenger that it asked, None where it asked none."""
    return next((row.result for row in night.stages if row.stage == "challenge"), None)


def promotions(nights: Iterable[Night]) -> list[tuple[Night, str, str]]:
    """Return (night, artefact, reason) of all promotions, challengers' included, oldest first."""
    found = []
    for night in nights:
        row = ruled(night)
        if row is not None and row["kind"] == "promote" and night.verdict is not None:
            found.append((night, str(row["artefact"]), f"challenger of night {row['origin']}: {row['reason']}"))
        if night.verdict is not None and night.verdict.kind == "promote":
            found.append((night, night.verdict.artefact, night.verdict.reason))
    return found


def _begin(night: Night, look: int, won: int) -> Challenger:
    assert night.verdict is not None  # noqa: S101  the caller looked
    told = night.verdict.evidence
    policy = told["policy"]
    # "spending" promises that nothing useless is ever promoted: there a promotion gives nothing back.
    regained = 0 if policy["budget"] == "spending" else won
    return Challenger(
        night=night.number,
        digest=night.verdict.artefact,
        look=look,
        level=elond(look, regained, HALF * policy["alpha"]),
        stake=float(_design(night)["stake"]),
        seen=frozenset(),  # `standing` knows when all nights are read
        terms=_terms(night.plan, policy),
    )


def _asked(night: Night) -> Sequence[str]:
    """Return the problems that a night's own candidate was asked; an evaluation that stopped left the last ones out."""
    assert night.verdict is not None  # noqa: S101  the caller looked
    held_out = tuple(night.plan.get("held_out", ()))
    return held_out[: (night.verdict.evidence.get("stopped") or {}).get("problems", len(held_out))]


def _goes_on(now: Challenger, night: Night) -> bool:
    assert night.verdict is not None  # noqa: S101  the caller looked
    policy = night.verdict.evidence.get("policy") or {}
    over = night.number - now.night >= policy.get("challengers", 0)
    return night.verdict.kind != "promote" and not over and not misfit(now, night.plan, policy)


def _terms(plan: Mapping[str, Any], policy: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a challenger's evidence is bound to; how long it may be carried is not part of it."""
    named = {name: plan.get(name) for name in ("base", "incumbent", "manage", "samples", "k")}
    decode = plan.get("decode") or {}
    rules = {name: value for name, value in policy.items() if name != "challengers"}
    # A plan in hand has tuples where one from the database has lists.
    return {**named, "decode": {**decode, "order": list(decode.get("order", ()))}, "gate": rules}


def _design(night: Night) -> dict[str, Any]:
    return next((row.result.get("design") or {} for row in night.stages if row.stage == "sample"), {})


def _round(told: Mapping[str, Any]) -> Round:
    return Round(**{**told, "problems": tuple(told["problems"]), "gains": tuple(told["gains"])})
