"""Laws of the comparison with the trainer's own model: what passes, what is refused, and what must not matter."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleetssd.errors import Corrupt
from fleetssd.fidelity import Said, Witness, by_greedy, by_likelihoods, read_witnesses, same_prompt, write_witnesses

TOKENS = [f"t{number}" for number in range(40)]


def normalised(logits: Mapping[str, float]) -> dict[str, float]:
    """Return the log-probabilities of logits."""
    total = math.log(sum(math.exp(value) for value in logits.values()))
    return {token: value - total for token, value in logits.items()}


def top(column: Mapping[str, float], count: int = 20) -> dict[str, float]:
    """Return the likeliest, as an engine lists them."""
    return dict(sorted(column.items(), key=lambda pair: -pair[1])[:count])


class World:
    """A model and an adapter as logits for a few prompts, drawn from a seed."""

    def __init__(self, seed: int, effect: float, prompts: int = 4) -> None:
        random = Random(seed)
        self.base = [{token: random.gauss(0, 2) for token in TOKENS} for _ in range(prompts)]
        self.change = [{token: random.gauss(0, effect) for token in TOKENS} for _ in range(prompts)]

    def at(self, strength: float, tau: float = 1.0) -> list[dict[str, float]]:
        """Return log-probabilities with the adapter at a strength and a temperature baked in."""
        return [
            normalised({token: (one[token] + strength * by[token]) / tau for token in TOKENS})
            for one, by in zip(self.base, self.change, strict=True)
        ]

    @property
    def witnesses(self) -> list[Witness]:
        """What the trainer notes of it."""
        return [
            Witness(f"p{at}", Said(plain, ""), Said(adapted, ""))
            for at, (plain, adapted) in enumerate(zip(self.at(0.0), self.at(1.0), strict=True))
        ]

    def heard(self, strength: float, tau: float = 1.0) -> list[dict[str, float]]:
        """Return what an engine lists."""
        return [top(column) for column in self.at(strength, tau)]


seeds = st.integers(0, 10_000)


@given(seeds, st.floats(0.2, 4.0), st.floats(0.2, 2.0))
def test_what_was_trained_passes_at_any_baked_temperature(seed: int, effect: float, tau: float) -> None:
    """The same adapter has strength 1 and no gap, whatever temperature is baked in and told."""
    world = World(seed, effect)
    found = by_likelihoods(world.witnesses, world.heard(0.0), world.heard(1.0, tau), tau)
    assert found.flaw == ""
    assert found.strength == pytest.approx(1.0)
    assert found.gap < 1e-9


@given(seeds, st.floats(0.2, 1.0), st.sampled_from([0.0, 0.25, 0.5, 2.0, 4.0]))
def test_another_strength_is_refused(seed: int, effect: float, strength: float) -> None:
    """Half or double of what was trained is refused, and so is nothing at all."""
    world = World(seed, effect)
    assert by_likelihoods(world.witnesses, world.heard(0.0), world.heard(strength), 1.0).flaw


@given(seeds, st.floats(0.2, 1.0))
def test_another_adapter_is_refused(seed: int, effect: float) -> None:
    """An adapter of the same size on the same base is not taken for this one."""
    world, other = World(seed, effect), World(seed, effect)
    other.change = list(reversed(other.change))
    assert by_likelihoods(world.witnesses, world.heard(0.0), other.heard(1.0), 1.0).flaw


@given(seeds)
def test_a_baked_temperature_that_nobody_told_is_refused(seed: int) -> None:
    """Logits that are scaled behind the night's back are another model."""
    world = World(seed, 1.0)
    assert by_likelihoods(world.witnesses, world.heard(0.0), world.heard(1.0, 0.2), 1.0).flaw


@given(seeds, st.floats(0.0, 0.3))
def test_rounding_that_base_and_candidate_share_is_no_flaw(seed: int, size: float) -> None:
    """An engine whose base is off by quantisation is judged by what the adapter changes there."""
    world, coarse, random = World(seed, 1.0), World(seed, 1.0), Random(seed)
    coarse.base = [{token: value + random.gauss(0, size) for token, value in one.items()} for one in coarse.base]
    assert by_likelihoods(world.witnesses, coarse.heard(0.0), coarse.heard(1.0), 1.0).flaw == ""


def test_other_tokens_are_another_model() -> None:
    """A candidate that lists tokens which the trainer's model never found likely is refused."""
    world = World(1, 1.0)
    found = by_likelihoods(world.witnesses, world.heard(0.0), [{"x": -0.1, "y": -3.0}] * 4, 1.0)
    assert "other tokens" in found.flaw


@pytest.mark.parametrize(("likeliest", "refused"), [("t1", False), ("other", True)])
def test_a_list_too_sharp_to_read_only_names_its_tokens(likeliest: str, refused: bool) -> None:
    """A sure model with a low temperature baked in shows one token a prompt: it must be the trained one."""
    world = World(0, 1.0)
    sure = [Witness(one.prompt, one.base, Said({"t1": -0.001, "t2": -16.0}, "")) for one in world.witnesses]
    served = [{likeliest: -1e-9, "t2": -80.0} for _ in sure]
    found = by_likelihoods(sure, world.heard(0.0), served, 0.2)
    assert (bool(found.flaw), found.strength, found.effect) == (refused, None, 0.0)


def test_infinite_and_vanishing_probabilities_are_left_out() -> None:
    """A tail that underflowed says nothing and breaks nothing."""
    world = World(1, 1.0)
    served = [column | {"t0": -math.inf, "t1": -3.4e38} for column in world.heard(1.0)]
    assert by_likelihoods(world.witnesses, world.heard(0.0), served, 1.0).flaw == ""


def test_greedy_answers_may_part_late_and_not_at_once() -> None:
    """A near-tie at the end is numerics; another answer from the first character on is another model."""
    witnesses = [Witness("p", Said({}, "base says"), Said({}, "def add(a, b)"))] * 3
    assert by_greedy(witnesses, ["base says"] * 3, ["def add(a, c)"] * 3).flaw == ""
    assert by_greedy(witnesses, ["base says"] * 3, ["base says"] * 3).flaw
    assert by_greedy(witnesses, ["other"] * 3, ["base says"] * 3).flaw == ""  # this engine's base differs as much


@given(st.lists(st.tuples(st.text(), st.dictionaries(st.text(), st.floats(-60, 0)), st.text())))
def test_witnesses_survive_json(rows: list[tuple[str, dict[str, float], str]]) -> None:
    """What the trainer writes is what the install reads."""
    witnesses = tuple(Witness(prompt, Said(first, greedy), Said(first, prompt)) for prompt, first, greedy in rows)
    assert read_witnesses(json.loads(json.dumps(write_witnesses(witnesses)))) == witnesses


@pytest.mark.parametrize("table", [{}, [], {"prompts": [{}]}, {"prompts": [{"prompt": "p", "base": 1, "adapted": 2}]}])
def test_anything_else_is_corrupt(table: object) -> None:
    """A file that is no trainer's is named so."""
    with pytest.raises(Corrupt):
        read_witnesses(table)


CHAT = "<|im_start|>user\nSay a.<|im_end|>\n<|im_start|>assistant\n"
SYSTEM = "<|im_start|>system\nYou are kind.<|im_end|>\n"


@pytest.mark.parametrize(
    ("trained", "served", "same"),
    [
        (CHAT, CHAT, True),
        (f"<s>{CHAT}", CHAT, True),
        (CHAT, f"<|begin_of_text|>{CHAT}", True),
        (CHAT, f"{SYSTEM}{CHAT}", False),
        (CHAT, f"{CHAT}<think>\n\n</think>\n\n", False),
        (CHAT, "User: Say a.\nAssistant:", False),
        (CHAT, None, None),
        ("", CHAT, None),
    ],
    ids=["equal", "trainer's bos", "engine's bos", "a system prompt", "no thinking", "another", "untold", "unnoted"],
)
def test_a_prompt_is_the_same_but_for_the_token_that_begins_every_text(
    trained: str, served: str | None, same: bool | None
) -> None:
    """Another template, another end or a system prompt is another prompt; a beginning-of-text token is none."""
    assert same_prompt(trained, served) is same
