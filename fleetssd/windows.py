"""Two checkpoints' calls side by side: rates and latencies with intervals, and when the candidate must go back.

An interval shrinks as evidence grows, and never leaves the one before; so more of the same evidence confirms a verdict.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from statistics import NormalDist
from typing import Literal, TypeAlias, get_args

from fleetssd.rollout import GoBack, Stay
from fleetssd.shares import wilson

Metric: TypeAlias = Literal["errors", "empty", "capped", "p50", "p95", "merged"]
QUANTILES: tuple[tuple[Metric, float], ...] = (("p50", 0.5), ("p95", 0.95))
METRICS = len(get_args(Metric))
"""Things looked at: each has its share of the chance of a false alarm."""


@dataclass(frozen=True, slots=True)
class Tally:
    """The calls that one checkpoint answered in a window.

    `errors` of `calls` failed; of the rest `empty` said nothing and `capped` were cut at their length. `seconds` are
    the times of the answers that ended well. `tasks` are old enough to be merged, `merged` of them were.
    """

    calls: int = 0
    errors: int = 0
    empty: int = 0
    capped: int = 0
    seconds: tuple[float, ...] = field(default=(), repr=False)
    tasks: int = 0
    merged: int = 0

    @property
    def answers(self) -> int:
        """The calls that were answered."""
        return self.calls - self.errors


@dataclass(frozen=True, slots=True)
class Margins:
    """What the candidate may be worse by: rates by a difference, latencies by a ratio; and what proves it.

    Fewer than `min_calls` calls (`min_tasks` tasks) on either side prove nothing. `false_alarm` is the chance, at most,
    that a candidate exactly at a margin goes back by bad luck, over all metrics and looks.
    """

    min_calls: int
    min_tasks: int
    error_rise: float
    empty_rise: float
    capped_rise: float
    slowdown: float
    merge_drop: float
    false_alarm: float


@dataclass(frozen=True, slots=True)
class Span:
    """A number with its interval; an end that the data do not fix is infinite."""

    point: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Compared:
    """One metric of both sides. `worse` is the rise (or the ratio of latencies) with its interval, up is worse.

    `open` says why nothing can be said of it; `margin` is what is allowed.
    """

    metric: Metric
    incumbent: float | None
    candidate: float | None
    worse: Span | None
    margin: float
    open: str = ""

    @property
    def fires(self) -> bool:
        """Whether the candidate is shown to be worse than it may be."""
        return not self.open and self.worse is not None and self.worse.low > self.margin

    @property
    def sentence(self) -> str:
        """Say what was seen."""
        if self.incumbent is None or self.candidate is None:
            return f"{_NAMES[self.metric]}: {self.open}"
        kind = _seconds if self.metric in ("p50", "p95") else _share
        seen = f"{_NAMES[self.metric]} {kind(self.candidate)} against {kind(self.incumbent)}"
        return f"{seen} ({self.open})" if self.open else seen


_NAMES: dict[Metric, str] = {
    "errors": "failed calls", "empty": "empty answers", "capped": "answers cut at their length",
    "p50": "median time", "p95": "95th percentile of time", "merged": "merged tasks",
}  # fmt: skip


def verdict(candidate: Tally, incumbent: Tally, margins: Margins) -> GoBack | Stay:
    """Judge a candidate by its calls beside the incumbent's; missing data never fires, and nothing ever promotes."""
    found = compare(candidate, incumbent, margins)
    bad = [each.sentence for each in found if each.fires]
    if bad:
        return GoBack("; ".join(bad))
    few = min(candidate.calls, incumbent.calls)
    if few < margins.min_calls:
        return Stay(f"{candidate.calls} calls by the candidate, {incumbent.calls} by the incumbent so far; "
                    f"{margins.min_calls} by each are needed")  # fmt: skip
    return Stay("nothing speaks against the candidate")


def compare(candidate: Tally, incumbent: Tally, margins: Margins) -> tuple[Compared, ...]:
    """Return every metric of both sides, the ones that too little is known of included."""
    c, i, m = candidate, incumbent, margins
    return (
        _rise("errors", (c.errors, c.calls), (i.errors, i.calls), m.error_rise, m, m.min_calls),
        _rise("empty", (c.empty, c.answers), (i.empty, i.answers), m.empty_rise, m, m.min_calls),
        _rise("capped", (c.capped, c.answers), (i.capped, i.answers), m.capped_rise, m, m.min_calls),
        *(_slower(metric, share, c.seconds, i.seconds, m) for metric, share in QUANTILES),
        _rise(
            "merged", (c.tasks - c.merged, c.tasks), (i.tasks - i.merged, i.tasks), m.merge_drop, m, m.min_tasks
        ),
    )  # fmt: skip


def critical(n: int, margins: Margins) -> float:
    """Return the standard normal quantile for a look at n of the rarer side's calls.

    Every doubling of the evidence is one more look: look k + 1 spends alpha / ((k + 1)(k + 2)) of each metric's share
    (the sum over all k is alpha), with k = log2(n / min_calls), not rounded.
    """
    k = math.log2(max(n / margins.min_calls, 1.0))
    return -NormalDist().inv_cdf(margins.false_alarm / METRICS / ((k + 1) * (k + 2)))


def newcombe(one: tuple[int, int], other: tuple[int, int], z: float) -> Span:
    """Return the difference of two shares (successes, trials) with Newcombe's interval (1998, method 10)."""
    p, q = one[0] / one[1], other[0] / other[1]
    (low, high), (under, over) = wilson(*one, z), wilson(*other, z)
    return Span(p - q, p - q - math.hypot(p - low, over - q), p - q + math.hypot(high - p, q - under))


def quantile(values: Sequence[float], share: float, z: float) -> Span:
    """Return a quantile with its distribution-free interval, `values` in order.

    The interval inverts the score test of P(X <= x) = share (Conover 1999, section 3.2, normal approximation); an end
    beyond the sample is infinite.
    """
    n = len(values)
    half = z * math.sqrt(share * (1 - share) / n)
    return Span(_at(values, share), _at(values, share - half), _at(values, share + half))


def _rise(
    metric: Metric, one: tuple[int, int], other: tuple[int, int], margin: float, margins: Margins, enough: int
) -> Compared:
    """Compare two counts of bad things."""
    bad = tuple(count / total if total else None for count, total in (other, one))
    few = min(one[1], other[1])
    if few < enough:
        return Compared(metric, *_shown(metric, bad), None, margin, f"{few} on one side, {enough} needed")
    return Compared(metric, *_shown(metric, bad), newcombe(one, other, critical(few, margins)), margin)


def _shown(metric: Metric, bad: Sequence[float | None]) -> tuple[float | None, float | None]:
    """Return both shares as a person reads them: tasks by what was merged of them."""
    first, second = (share if share is None or metric != "merged" else 1 - share for share in bad)
    return first, second


def _slower(metric: Metric, share: float, one: Sequence[float], other: Sequence[float], margins: Margins) -> Compared:
    """Compare a quantile of two samples, as a ratio of which 1 is the same."""
    limit, few = 1 + margins.slowdown, min(len(one), len(other))
    if few < margins.min_calls:
        return Compared(metric, None, None, None, limit, f"{few} timed on one side, {margins.min_calls} needed")
    z = critical(few, margins)
    mine, theirs = quantile(sorted(one), share, z), quantile(sorted(other), share, z)
    ratio = Span(*(_ratio(a, b) for a, b in _ends(mine, theirs)))
    return Compared(metric, theirs.point, mine.point, ratio, limit)


def _ends(mine: Span, theirs: Span) -> Iterable[tuple[float, float]]:
    return (mine.point, theirs.point), (mine.low, theirs.high), (mine.high, theirs.low)


def _ratio(a: float, b: float) -> float:
    """Divide where it says something: what is open on either side fires nothing."""
    if math.isinf(b) or math.isinf(a):
        return 0.0 if a == -math.inf or b == math.inf else math.inf
    return a / b if b > 0 else (math.inf if a > 0 else 1.0)


def _at(values: Sequence[float], share: float) -> float:
    """Return the smallest value that at least this share of the sample does not exceed."""
    place = math.ceil(share * len(values) - 1e-9)
    if place > len(values):
        return math.inf
    return values[place - 1] if place > 0 else -math.inf


def _share(value: float) -> str:
    return f"{100 * value:.1f} %"


def _seconds(value: float) -> str:
    return f"{value:.2f} s"
