"""Does the engine serve what was trained? What it says of some prompts, held against the trainer's own model."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Literal

from fleetssd.errors import Corrupt

TOP = 20
"""The likeliest first tokens that the trainer notes, and the most that Ollama lists."""
GREEDY_TOKENS = 6
"""Tokens of a greedy answer's start: longer ones part at the first near-tie, whatever is served."""
TOLERANCE = 0.05
"""Nats. The same adapter beside a file and merged into it, both in float32, differ by some 1e-3; in F16 by 2e-3."""
NOISE = 5.0
"""How many times the noise floor a difference may be off."""
STRENGTH = (0.6, 1.6)
"""Where a right adapter's strength lies. Half and double are outside."""
VISIBLE = 2.0
"""How many times the noise floor an adapter must do before its strength can be read."""
NO_EFFECT = 0.01
"""Nats: a change below it is none."""
GREEDY_TOLERANCE = 0.5
"""The share of greedy answers' text that may differ where nothing finer can be had."""
FEW = 8
OVERLAP = 0.4
"""Fewer tokens in common, or than this share of those in common for the base, are another model's."""
FLOOR = -50.0
"""Nats below which a probability is rounding: a baked temperature stretches the tail."""
_BEGINNING = re.compile(r"(<[^<>\s]+>|\[BOS\])?\s*")
"""Nothing, or the one token that begins a text: <s>, <bos>, <|begin_of_text|>, <|startoftext|>."""


@dataclass(frozen=True, slots=True)
class Said:
    """What a model says to a prompt: log-probabilities (nats) of first tokens by text, and how it goes on greedily."""

    first: Mapping[str, float]
    greedy: str


@dataclass(frozen=True, slots=True)
class Witness:
    """What the trainer's own model said to a training prompt, without the adapter and with it.

    `rendered` is the prompt as the tokenizer's chat template put it to the model, '' where a trainer noted none.
    """

    prompt: str
    base: Said
    adapted: Said
    rendered: str = ""


@dataclass(frozen=True, slots=True)
class Fidelity:
    """How far what is served is from what was trained, and the flaw, if that is one.

    By likelihoods all numbers are means over `compared` tokens, in nats of log-odds: `noise` is |engine's base -
    trainer's base|, `effect` what the adapter changed at the trainer's, `gap` how much the engine's change differs from
    that, and `strength` the engine's change in units of the trainer's (least squares; None where it cannot be read).
    By greedy answers they are shares of the text that differ, over `compared` prompts. `prompted` says whether the
    engine puts a prompt to the model as the trainer did, None where one of them does not tell.
    """

    by: Literal["likelihoods", "greedy"]
    compared: int
    noise: float
    effect: float
    gap: float
    bound: float
    strength: float | None
    flaw: str
    prompted: bool | None = None


def read_witnesses(table: Any) -> tuple[Witness, ...]:
    """Read what `write_witnesses` wrote, after a round trip through JSON. Raises Corrupt."""
    try:
        return tuple(
            Witness(str(row["prompt"]), _said(row["base"]), _said(row["adapted"]), str(row.get("rendered", "")))
            for row in table["prompts"]
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise Corrupt(f"not what a trainer leaves of its model: {error}", hint="Train the night again.") from None


def write_witnesses(witnesses: Sequence[Witness]) -> dict[str, Any]:
    """Return a plain mapping; `read_witnesses` is its inverse."""
    return {
        "prompts": [
            {
                "prompt": one.prompt,
                "base": {"first": dict(one.base.first), "greedy": one.base.greedy},
                "adapted": {"first": dict(one.adapted.first), "greedy": one.adapted.greedy},
                "rendered": one.rendered,
            }
            for one in witnesses
        ]
    }


def by_likelihoods(
    witnesses: Sequence[Witness], base: Sequence[Mapping[str, float]], served: Sequence[Mapping[str, float]], tau: float
) -> Fidelity:
    """Compare the change that the engine makes of the base with the change that was trained, first token by token.

    `base` and `served` are the engine's first-token log-probabilities by prompt; a served model with τ baked in has
    logits divided by `tau`. Log-odds between tokens of one prompt are compared, for a baked temperature changes the
    rest. An adapter can make tokens likely that the engine's list for the base has not: there the trainer's base
    stands in. Where the served lists are too sharp to read, only that their tokens are the trained ones is asked, and
    the effect stays 0.
    """
    heard = list(zip(witnesses, base, served, strict=True))
    floor = [pair for witness, plain, _ in heard for pair in _noise(witness, plain)]
    rows = [row for witness, plain, adapted in heard for row in _changes(witness, plain, adapted, tau)]
    noise = fmean(abs(one - other) for one, other in floor) if floor else 0.0
    bound = max(TOLERANCE, NOISE * noise)
    visible = sum(value > FLOOR for column in served for value in column.values())
    sharp = visible < OVERLAP * len(floor)  # a baked temperature leaves too little of a sure model's list to read
    if sharp and len(rows) >= max(1.0, OVERLAP * visible):
        return Fidelity("likelihoods", len(rows), noise, 0.0, 0.0, bound, None, "")
    if len(rows) < FEW or len(rows) < OVERLAP * len(floor):
        flaw = f"finds other tokens likely than what was trained: {len(rows)} in common, {len(floor)} with the base"
        return Fidelity("likelihoods", len(rows), noise, 0.0, 0.0, bound, None, flaw)
    effect = fmean(abs(trained) for trained, _ in rows)
    gap = fmean(abs(trained - made) for trained, made in rows)
    strength = _slope(rows) if effect > max(TOLERANCE, VISIBLE * noise) else None
    flaw = _flaw(max(abs(made) for _, made in rows), gap, bound, strength)
    return Fidelity("likelihoods", len(rows), noise, effect, gap, bound, strength, flaw)


def by_greedy(witnesses: Sequence[Witness], base: Sequence[str], served: Sequence[str]) -> Fidelity:
    """Compare the starts of greedy answers, for an engine without log-probabilities: coarse, but not blind."""
    noise = _parted([one.base.greedy for one in witnesses], base)
    effect = _parted([one.base.greedy for one in witnesses], [one.adapted.greedy for one in witnesses])
    gap = _parted([one.adapted.greedy for one in witnesses], served)
    bound = max(GREEDY_TOLERANCE, NOISE * noise)
    flaw = f"answers otherwise than what was trained: {gap:.0%} of the text differs" if gap > bound else ""
    return Fidelity("greedy", len(witnesses), noise, effect, gap, bound, None, flaw)


def same_prompt(trained: str, served: str | None) -> bool | None:
    """Tell whether two renderings of one prompt are the same; None where one is not told.

    A token that begins every text is the engine's to add and the template's to write: either spelling is the same.
    """
    if not trained or served is None:
        return None
    shorter, longer = sorted((trained.strip(), served.strip()), key=len)
    return longer.endswith(shorter) and _BEGINNING.fullmatch(longer[: len(longer) - len(shorter)]) is not None


def _said(table: Mapping[str, Any]) -> Said:
    return Said({str(token): float(value) for token, value in table["first"].items()}, str(table["greedy"]))


def _noise(witness: Witness, base: Mapping[str, float]) -> Iterator[tuple[float, float]]:
    """Yield (trainer's, engine's) log-odds of the base's tokens."""
    tokens = [token for token in base if min(base[token], witness.base.first.get(token, -math.inf)) > FLOOR]
    yield from zip(_odds(witness.base.first, tokens), _odds(base, tokens), strict=True)


def _changes(
    witness: Witness, base: Mapping[str, float], served: Mapping[str, float], tau: float
) -> Iterator[tuple[float, float]]:
    """Yield how the log-odds of each served token changed: (at the trainer's, in the engine)."""
    first = witness.adapted.first
    tokens = [t for t in served if min(served[t], first.get(t, -math.inf), witness.base.first.get(t, 0.0)) > FLOOR]
    plain, adapted = (_odds(column, tokens) for column in (witness.base.first, first))
    under = _odds({token: base.get(token, witness.base.first[token]) for token in tokens}, tokens)
    above = [value * tau for value in _odds(served, tokens)]
    for p, a, u, o in zip(plain, adapted, under, above, strict=True):
        yield a - p, o - u


def _odds(column: Mapping[str, float], tokens: Sequence[str]) -> list[float]:
    """Return log-probabilities less their mean: what a constant on all logits does not change."""
    middle = fmean(column[token] for token in tokens) if tokens else 0.0
    return [column[token] - middle for token in tokens]


def _slope(rows: Sequence[tuple[float, float]]) -> float:
    return sum(trained * made for trained, made in rows) / sum(trained * trained for trained, _ in rows)


def _flaw(largest: float, gap: float, bound: float, strength: float | None) -> str:
    if largest <= NO_EFFECT:
        return "is the base, token for token: the adapter has no effect"
    if strength is not None and not STRENGTH[0] <= strength <= STRENGTH[1]:
        return f"changes the base {strength:.2f} times as much as was trained"
    if gap > bound:
        return f"changes the base otherwise than was trained: {gap:.3f} nats off, {bound:.3f} are noise"
    return ""


def _parted(first: Sequence[str], second: Sequence[str]) -> float:
    """Return the share of text after the first character that differs, over all pairs."""
    return fmean(1.0 - _common(one, other) for one, other in zip(first, second, strict=True))


def _common(one: str, other: str) -> float:
    longest = max(len(one), len(other))
    same = next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    return same / longest if longest else 1.0
