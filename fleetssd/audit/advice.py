"""What a comparison of temperatures is worth, and who should set the winner."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias

from fleetssd.budget import holm
from fleetssd.scoring import Estimate, Scores, difference, estimate, paired_p

Manage: TypeAlias = Literal["leave", "gateway", "bake"]


@dataclass(frozen=True, slots=True)
class Compared:
    """One temperature: its pass@1, and how far that is from the current one's.

    `delta` is a paired interval at a level that holds for all of them together, `p` a paired p-value adjusted by
    Holm; both are None for the current temperature itself.
    """

    temperature: float
    score: Estimate
    delta: Estimate | None = None
    p: float | None = None


@dataclass(frozen=True, slots=True)
class Advice:
    """Who should set which temperature (`leave`: nobody anything new), and why, in a sentence."""

    manage: Manage
    temperature: float
    reason: str


@dataclass(frozen=True, slots=True)
class Comparison:
    """A comparison's lines, the current temperature first; `judged` of its issues also judge nights."""

    lines: tuple[Compared, ...]
    issues: int
    judged: int
    samples: int

    def to_json(self) -> dict[str, Any]:
        """Return the comparison as plain values."""
        return asdict(self)


def weigh(scores: Mapping[float, Scores], current: float, *, alpha: float = 0.05) -> tuple[Compared, ...]:
    """Compare every temperature with the current one over the same issues; intervals at 1 - alpha / comparisons."""
    others = [temperature for temperature in scores if temperature != current]
    level = 1.0 - alpha / max(len(others), 1)
    raw = {f"{t:g}": paired_p(scores[t], scores[current]) for t in others}
    adjusted = holm(raw)
    lines = [Compared(current, estimate(scores[current]))]
    for t in others:
        delta = difference(scores[t], scores[current], level=level)
        lines.append(Compared(t, estimate(scores[t]), delta, adjusted[f"{t:g}"]))
    return tuple(lines)


def advise(lines: Sequence[Compared], *, callers: int | None, through_gateway: bool, alpha: float = 0.05) -> Advice:
    """Advise to change only what is shown to be better: by the interval and by the test, both for all comparisons.

    A gateway that is in place costs nothing and is undone by a setting. A bake reaches callers that nothing stands
    before, but not those with a temperature of their own: they would get T·τ. `callers` counts those; None where
    nobody has looked, and then no bake is advised.
    """
    current, *others = lines
    better = [line for line in others if line.delta and line.p is not None and line.delta.low > 0 and line.p <= alpha]
    if not better:
        return Advice("leave", current.temperature, _nothing_shown(current, others))
    best = max(better, key=lambda line: line.score.point)
    gain = f"T = {best.temperature:g} gains {_points(best)} over T = {current.temperature:g}"
    if callers:
        plural = "callers set temperatures" if callers > 1 else "caller sets a temperature"
        return Advice(
            "gateway",
            best.temperature,
            f"{gain}; {callers} {plural} of their own: take them out there, or clamp them (decode.clamp)",
        )
    if through_gateway:
        return Advice("gateway", best.temperature, f"{gain}; the agents talk to the gateway, which can fill it in")
    if callers is None:
        return Advice("gateway", best.temperature, f"{gain}; a bake would need an audit of the folders of the callers")
    return Advice(
        "bake", best.temperature, f"{gain}; no caller sets a temperature, so one in the weights reaches them all"
    )


def _nothing_shown(current: Compared, others: Sequence[Compared]) -> str:
    if not others:
        return "nothing was compared with the current temperature"
    best = max(others, key=lambda line: line.score.point)
    return (
        f"no temperature is shown to be better than T = {current.temperature:g}; the best of the others, "
        f"T = {best.temperature:g}, differs by {_points(best)} over {best.score.problems} issues"
    )


def _points(line: Compared) -> str:
    delta = line.delta
    assert delta is not None  # noqa: S101  only the current temperature has none
    return f"{100 * delta.point:+.1f} pp [{100 * delta.low:+.1f}, {100 * delta.high:+.1f}]"
