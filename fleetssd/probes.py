"""What collapse looks like: repetition, lost or runaway diversity, drifting length, code that no longer parses."""

from __future__ import annotations

import ast
import re
import statistics
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from fleetssd.config import Gate as Tolerances
from fleetssd.problems import Extracted, Format, extract

_TOKEN = re.compile(r"\w+|[^\w\s]")
_GRAM = 4
_REPETITION_FLOOR = 0.02  # a rise from 0.001 to 0.002 is +100 % and means nothing


@dataclass(frozen=True, slots=True)
class ProbeReadings:
    """What one arm's answers look like.

    `repetition`: share of 4-grams that repeat within an answer, mean over answers. `distinct4`: distinct 4-grams over
    all 4-grams of the whole pool. `unique_of_k`: distinct solutions over samples, mean over problems. Lengths are in
    characters. `parse_rate`: share of answers that are Python.
    """

    completions: int
    repetition: float
    distinct4: float
    unique_of_k: float
    length_median: float
    length_p95: float
    parse_rate: float


@dataclass(frozen=True, slots=True)
class Alarm:
    """A reading of the candidate outside of what the base's reading allows; None is no bound on that side."""

    probe: str
    base: float
    candidate: float
    low: float | None
    high: float | None

    def __str__(self) -> str:
        low = self.low is not None and self.candidate < self.low
        side = f"below {self.low:.3g}" if low else f"above {self.high:.3g}"
        return f"{self.probe} {self.candidate:.3g} is {side} (base {self.base:.3g})"


def measure(completions: Mapping[str, Sequence[str]], solution_format: Format = "code") -> ProbeReadings:
    """Read the probes off one arm's completions, grouped by problem.

    The pool's size moves distinct-4 and unique-of-k, so compare only arms with equal problems and samples. No
    completion at all raises ValueError.
    """
    groups = [list(group) for group in completions.values() if group]
    pool = [text for group in groups for text in group]
    if not pool:
        raise ValueError("no completions, no probe readings")
    grams = [_grams(text) for text in pool]
    shapes = [[_shape(text, solution_format) for text in group] for group in groups]
    lengths = [len(text) for text in pool]
    return ProbeReadings(
        completions=len(pool),
        repetition=statistics.fmean(_repeated(each) for each in grams),
        distinct4=len({gram for each in grams for gram in each}) / max(1, sum(map(len, grams))),
        unique_of_k=statistics.fmean(len(set(group)) / len(group) for group in shapes),
        length_median=float(np.median(lengths)),
        length_p95=float(np.quantile(lengths, 0.95)),
        parse_rate=statistics.fmean(parsed for group in shapes for parsed, _ in group),
    )


def repetition(text: str) -> float:
    """Return the share of 4-grams of one answer that repeat; 0 where it is shorter than one."""
    return _repeated(_grams(text))


def compare(base: ProbeReadings, candidate: ProbeReadings, tolerances: Tolerances) -> tuple[Alarm, ...]:
    """Return every alarm of the candidate's readings against the base's.

    Both must have been sampled at the same effective temperature (sampling temperature times what is baked into the
    weights): a sharper decode alone looks like collapse. Arranging that is the caller's part.
    """
    t = tolerances
    rise = max(base.repetition * t.repetition_rise, _REPETITION_FLOOR)
    bounds = (
        ("repetition", base.repetition, candidate.repetition, None, base.repetition + rise),
        ("distinct-4", base.distinct4, candidate.distinct4, base.distinct4 * t.distinct_low,
         base.distinct4 * t.distinct_high),
        ("unique-of-k", base.unique_of_k, candidate.unique_of_k, base.unique_of_k * t.unique_ratio, None),
        ("length median", base.length_median, candidate.length_median,
         base.length_median * (1.0 - t.length_drift), base.length_median * (1.0 + t.length_drift)),
        ("parse rate", base.parse_rate, candidate.parse_rate, base.parse_rate - t.parse_drop, None),
    )  # fmt: skip
    alarms = (Alarm(*bound) for bound in bounds)
    return tuple(alarm for alarm in alarms if not _within(alarm))


def _within(alarm: Alarm) -> bool:
    slack = 1e-9  # a reading that sits on its bound is allowed, whatever the rounding
    above = alarm.low is None or alarm.candidate >= alarm.low - slack
    return above and (alarm.high is None or alarm.candidate <= alarm.high + slack)


def _repeated(grams: Sequence[tuple[str, ...]]) -> float:
    return 1.0 - len(set(grams)) / len(grams) if grams else 0.0


def _grams(text: str) -> list[tuple[str, ...]]:
    tokens = _TOKEN.findall(text)
    return [tuple(tokens[start : start + _GRAM]) for start in range(len(tokens) - _GRAM + 1)]


def _shape(text: str, solution_format: Format) -> tuple[bool, str]:
    """Return whether a completion is Python, and its form without layout and comments (else its words)."""
    found = extract(text, solution_format)
    words = " ".join(text.split())
    if not isinstance(found, Extracted):
        return False, words
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a model's odd escapes are no warning of ours
            return True, ast.dump(ast.parse(found.content))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False, words
