"""What collapse looks like: repetition, lost or runaway diversity, drifting length and style, broken code, refusals."""

from __future__ import annotations

import ast
import re
import statistics
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fleetssd.config import Gate as Tolerances
from fleetssd.guards.texts import declines
from fleetssd.problems import Extracted, Format, extract

_TOKEN = re.compile(r"\w+|[^\w\s]")
_GRAM = 4
_COMPARED = 60  # problems whose answers are compared with each other: each pair costs
_ALIKE_FLOOR = 0.05
_REPETITION_FLOOR = 0.02  # a rise from 0.001 to 0.002 is +100 % and means nothing


@dataclass(frozen=True, slots=True)
class ProbeReadings:
    """What one arm's answers look like.

    `repetition`: share of 4-grams that repeat within an answer, mean over answers. `distinct4`: distinct 4-grams over
    all 4-grams of the whole pool. `unique_of_k`: distinct solutions over samples, mean over problems. Lengths are in
    characters. `parse_rate`: share of answers that are Python. `self_bleu`: BLEU of an answer against the others to
    its problem, mean over the answers to the first problems by id; 0 where there is one answer each. `fenced`: share
    of answers in a Markdown fence. `docstrings`: share of functions that have one. `refusals`: share of answers that
    refuse. `entropy`: nats a token, None where the engine tells no log-probabilities.
    """

    completions: int
    repetition: float
    distinct4: float
    unique_of_k: float
    length_median: float
    length_p95: float
    parse_rate: float
    self_bleu: float = 0.0
    fenced: float = 0.0
    docstrings: float = 0.0
    refusals: float = 0.0
    entropy: float | None = None


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


@dataclass(frozen=True, slots=True)
class _Shape:
    """What an answer is but for layout and comments: `form` is its syntax where it is Python, else its words."""

    parsed: bool
    form: str
    functions: int = 0
    documented: int = 0


def measure(
    completions: Mapping[str, Sequence[str]],
    entropy: float | None = None,
    formats: Mapping[str, Format] | None = None,
) -> ProbeReadings:
    """Read the probes off one arm's completions, grouped by problem.

    `formats` are those of the problems, "code" where it does not say. The pool's size moves distinct-4 and
    unique-of-k, so compare only arms with equal problems and samples. No completion at all raises ValueError.
    """
    kept = [(problem, list(group)) for problem, group in sorted(completions.items()) if group]
    groups = [group for _, group in kept]
    pool = [text for group in groups for text in group]
    if not pool:
        raise ValueError("no completions, no probe readings")
    grams = [_grams(text) for text in pool]
    known = formats or {}
    shapes = [[_shape(text, known.get(problem, "code")) for text in group] for problem, group in kept]
    lengths = [len(text) for text in pool]
    return ProbeReadings(
        completions=len(pool),
        repetition=statistics.fmean(_repeated(each) for each in grams),
        distinct4=len({gram for each in grams for gram in each}) / max(1, sum(map(len, grams))),
        unique_of_k=statistics.fmean(len({shape.form for shape in group}) / len(group) for group in shapes),
        length_median=float(np.median(lengths)),
        length_p95=float(np.quantile(lengths, 0.95)),
        parse_rate=statistics.fmean(shape.parsed for group in shapes for shape in group),
        self_bleu=_self_bleu(groups[:_COMPARED]),
        fenced=statistics.fmean("```" in text for text in pool),
        docstrings=_documented([shape for group in shapes for shape in group]),
        refusals=statistics.fmean(declines(text) for text in pool),
        entropy=entropy,
    )


def entropy(answers: Sequence[Sequence[Sequence[float]]], power: float = 1.0) -> float | None:
    """Return the mean entropy of a token in nats, from the log-probabilities of the likeliest tokens at each place.

    `answers` holds answers of places of log-probabilities; each place is renormalised over what is listed, so the tail
    is left out. `power` undoes a temperature that is baked into the weights: with τ baked in, p^τ is the distribution
    before. None where no place is listed.
    """
    places = [np.asarray(place, dtype=np.float64) * power for answer in answers for place in answer if len(place) > 1]
    if not places:
        return None
    return float(np.mean([_entropy_of(place) for place in places]))


def _entropy_of(logs: NDArray[np.float64]) -> float:
    shifted = np.exp(logs - logs.max())
    p = shifted / shifted.sum()
    return float(-(p * np.log(np.maximum(p, 1e-300))).sum())


def repetition(text: str) -> float:
    """Return the share of 4-grams of one answer that repeat; 0 where it is shorter than one."""
    return _repeated(_grams(text))


def compare(
    base: ProbeReadings, candidate: ProbeReadings, tolerances: Tolerances, *, style: bool = True
) -> tuple[Alarm, ...]:
    """Return every alarm of the candidate's readings against the base's.

    Both must have been sampled at the same effective temperature (sampling temperature times what is baked into the
    weights): a sharper decode alone looks like collapse. Arranging that is the caller's part. Without `style` fences
    and docstrings may move: where merged work teaches, its style is meant to be learned.
    """
    t = tolerances
    rise = max(base.repetition * t.repetition_rise, _REPETITION_FLOOR)
    alike = max(base.self_bleu * t.self_bleu_rise, _ALIKE_FLOOR)
    alike = min(alike, (1.0 - base.self_bleu) / 2.0)  # a bound above 1 would bind nobody
    bounds = [
        ("repetition", base.repetition, candidate.repetition, None, base.repetition + rise),
        ("distinct-4", base.distinct4, candidate.distinct4, base.distinct4 * t.distinct_low,
         base.distinct4 * t.distinct_high),
        ("unique-of-k", base.unique_of_k, candidate.unique_of_k, base.unique_of_k * t.unique_ratio, None),
        ("length median", base.length_median, candidate.length_median,
         base.length_median * (1.0 - t.length_drift), base.length_median * (1.0 + t.length_drift)),
        ("length p95", base.length_p95, candidate.length_p95, None, base.length_p95 * (1.0 + t.length_tail)),
        ("parse rate", base.parse_rate, candidate.parse_rate, base.parse_rate - t.parse_drop, None),
        ("self-bleu", base.self_bleu, candidate.self_bleu, None, base.self_bleu + alike),
        ("refusals", base.refusals, candidate.refusals, None, base.refusals + t.refusal_rise),
    ]  # fmt: skip
    if style:
        bounds += [
            ("fenced", base.fenced, candidate.fenced, base.fenced - t.style_drift, base.fenced + t.style_drift),
            ("docstrings", base.docstrings, candidate.docstrings,
             base.docstrings - t.style_drift, base.docstrings + t.style_drift),
        ]  # fmt: skip
    if base.entropy is not None and candidate.entropy is not None:
        ends = base.entropy * t.entropy_low, base.entropy * t.entropy_high
        bounds.append(("entropy", base.entropy, candidate.entropy, *ends))
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


def _self_bleu(groups: Sequence[Sequence[str]]) -> float:
    """Return the mean BLEU (0 to 1) of every answer against the others to its problem (Zhu et al. 2018)."""
    from sacrebleu.metrics import BLEU  # noqa: PLC0415  slow to import, and only a night reads probes

    bleu = BLEU(effective_order=True, tokenize="none")
    scores = []
    for group in groups:
        words = [" ".join(_TOKEN.findall(text)) for text in group]
        for place, answer in enumerate(words if len(words) > 1 else ()):
            others = [*words[:place], *words[place + 1 :]]
            scores.append(min(1.0, bleu.sentence_score(answer, others).score / 100.0))
    return statistics.fmean(scores) if scores else 0.0


def _documented(shapes: Sequence[_Shape]) -> float:
    functions = sum(shape.functions for shape in shapes)
    return sum(shape.documented for shape in shapes) / functions if functions else 0.0


def _shape(text: str, solution_format: Format) -> _Shape:
    found = extract(text, solution_format)
    words = " ".join(text.split())
    if not isinstance(found, Extracted):
        return _Shape(parsed=False, form=words)
    if solution_format != "code":  # well-formed by its own grammar; what it makes of the files is for the tests
        return _Shape(parsed=True, form=found.content)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a model's odd escapes are no warning of ours
            tree = ast.parse(found.content)
            form = ast.dump(tree)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return _Shape(parsed=False, form=words)
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    documented = sum(ast.get_docstring(node) is not None for node in functions)
    return _Shape(parsed=True, form=form, functions=len(functions), documented=documented)
