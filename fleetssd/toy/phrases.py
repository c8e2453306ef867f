"""The words of the toy issues: what may be asked for, how people say it, and the code that does it.

Phrasings are ordered from common to rare (`skewed` draws them so), which gives the corpus a long tail.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random

Scalar = int | bool
"""What a toy function computes on; `bool` is what a predicate answers."""


@dataclass(frozen=True, slots=True)
class Operation:
    """One thing done to a value `v`, with a constant `k` or without: its phrasings, its code, its meaning."""

    phrases: tuple[str, ...]
    code: str
    apply: Callable[[int, int], Scalar]

    @property
    def takes_constant(self) -> bool:
        """Tell whether the operation needs a constant."""
        return "{k}" in self.code


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


VERBS = _words(
    "keep pick total score tally scan merge fold apply adjust update compute check limit bound shift scale "
    "select reduce gather measure resolve derive assess convert handle process trim rank weigh"
)
SUFFIXES = ("", *_words("_all _one _items _values _fast _safe _rows _points _units _data _step"))
LIST_NAMES = _words("xs nums items values data arr seq rows")
SCALAR_NAMES = _words("x n a val num q t m")
CONSTANT_NAMES = _words("k limit bound step base cut")
RANGE_NAMES = (("lo", "hi"), ("low", "high"), ("left", "right"), ("mn", "mx"))
LOOP_NAMES = _words("v e i it el")
RESULT_NAMES = _words("out res acc total")
ELEMENTS = ("values", "entries", "elements")

PREDICATES: Mapping[str, Operation] = {
    "gt": Operation(
        ("greater than {k}", "above {k}", "more than {k}", "strictly over {k}"),
        "{v} > {k}",
        lambda v, k: v > k,
    ),
    "lt": Operation(
        ("less than {k}", "below {k}", "smaller than {k}", "strictly under {k}"),
        "{v} < {k}",
        lambda v, k: v < k,
    ),
    "ge": Operation(
        ("at least {k}", "no less than {k}", "{k} or more", "not below {k}"),
        "{v} >= {k}",
        lambda v, k: v >= k,
    ),
    "le": Operation(
        ("at most {k}", "no more than {k}", "{k} or less", "not above {k}"), "{v} <= {k}", lambda v, k: v <= k
    ),
    "eq": Operation(("equal to {k}", "exactly {k}", "the same as {k}"), "{v} == {k}", lambda v, k: v == k),
    "ne": Operation(("different from {k}", "not equal to {k}", "other than {k}"), "{v} != {k}", lambda v, k: v != k),
    "div": Operation(
        ("divisible by {k}", "a multiple of {k}", "a whole number of {k}s"),
        "{v} % {k} == 0",
        lambda v, k: v % k == 0,
    ),
    "ndiv": Operation(("not divisible by {k}", "not a multiple of {k}"), "{v} % {k} != 0", lambda v, k: v % k != 0),
    "even": Operation(("even", "an even number"), "{v} % 2 == 0", lambda v, _: v % 2 == 0),
    "odd": Operation(("odd", "an odd number"), "{v} % 2 == 1", lambda v, _: v % 2 == 1),
    "pos": Operation(("positive", "above zero"), "{v} > 0", lambda v, _: v > 0),
    "neg": Operation(("negative", "below zero"), "{v} < 0", lambda v, _: v < 0),
}

MAPPINGS: Mapping[str, Operation] = {
    "add": Operation(("plus {k}", "increased by {k}", "with {k} added"), "{v} + {k}", lambda v, k: v + k),
    "sub": Operation(("minus {k}", "decreased by {k}", "with {k} taken off"), "{v} - {k}", lambda v, k: v - k),
    "mul": Operation(("times {k}", "multiplied by {k}", "scaled by {k}"), "{v} * {k}", lambda v, k: v * k),
    "fdiv": Operation(("divided by {k} rounded down", "floor divided by {k}"), "{v} // {k}", lambda v, k: v // k),
    "mod": Operation(("modulo {k}", "reduced mod {k}"), "{v} % {k}", lambda v, k: v % k),
    "sq": Operation(("squared", "raised to the power 2"), "{v} * {v}", lambda v, _: v * v),
    "negate": Operation(("negated", "with the sign flipped"), "-{v}", lambda v, _: -v),
    "abs": Operation(("as an absolute value", "without the sign"), "abs({v})", lambda v, _: abs(v)),
}

FINISHES: Mapping[str, Operation] = {
    "plus": Operation(("then add {k}", "and add {k} to the result"), "{v} + {k}", lambda v, k: v + k),
    "less": Operation(("then subtract {k}", "and take {k} off the result"), "{v} - {k}", lambda v, k: v - k),
    "cap": Operation(("then cap the result at {k}", "but never more than {k}"), "min({v}, {k})", min),
    "floor": Operation(
        ("then raise the result to {k} if lower", "but never less than {k}"),
        "max({v}, {k})",
        max,
    ),
}

REDUCTIONS: Mapping[str, tuple[str, ...]] = {
    "list": ("a list of", "the list of"),
    "sum": ("the sum of", "the total of"),
    "count": ("the number of", "how many there are of"),
    "max": ("the largest of", "the maximum of"),
    "min": ("the smallest of", "the minimum of"),
}

PAIR_PHRASES: Mapping[str, tuple[str, ...]] = {
    "clamp": ("keep `{a}` between `{b}` and `{c}`", "clamp `{a}` into the range `{b}` to `{c}`"),
    "larger": ("return the larger of `{a}` and `{b}`", "return the maximum of `{a}` and `{b}`"),
    "smaller": ("return the smaller of `{a}` and `{b}`", "return the minimum of `{a}` and `{b}`"),
    "distance": ("return the distance between `{a}` and `{b}`", "return how far `{a}` is from `{b}`"),
    "cap": ("return `{a}` but never more than {k}", "cap `{a}` at {k}"),
    "floor": ("return `{a}` but never less than {k}", "raise `{a}` to {k} when it is lower"),
}

_RARITY = (1.0, 0.7, 0.45, 0.2)


def skewed(rng: Random, phrases: Sequence[str]) -> str:
    """Draw a phrasing, the earlier ones more often."""
    return rng.choices(phrases, _RARITY[: len(phrases)])[0]
