"""What is said of a night that the evidence does not cover."""

from __future__ import annotations

from typing import Any

import pytest

from fleetssd.cautions import cautions, of_install, of_plan, served_at
from fleetssd.config import Decode, Recipe

PLAN: dict[str, Any] = {
    "arm": "ssd", "train": ["r"] * 3_000, "manage": "none", "tau_grid": [0.2, 0.7],
    "sampling": {"temperature": 1.6}, "decode": {"temperature": 0.7},
}  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, []),
        ({"train": ["r"] * 300}, ["300 prompts are below the evidence"]),
        ({"decode": {"temperature": 0.3}}, ["is 0.48, outside 0.8 to 1.8 where the evidence lies: one that small"]),
        ({"decode": {"temperature": 1.5}}, ["is 2.4, outside 0.8 to 1.8 where the evidence lies: one that large"]),
        ({"manage": "bake", "decode": {"temperature": 1.0}}, []),
        ({"manage": "bake", "decode": {"temperature": 0.5}}, ["is 0.16 to 0.56, outside"]),
        ({"arm": "merged", "train": ["r"], "decode": {"temperature": 0.1}}, []),
    ],
    ids=["inside", "few", "cold", "hot", "a tau inside", "no tau inside", "merged"],
)
def test_what_is_outside_is_said(changes: dict[str, Any], words: list[str]) -> None:
    """Few prompts and a product of temperatures outside the paper's are sentences; the merged arm is another method."""
    said = of_plan(PLAN | changes)
    assert len(said) == len(words)
    assert all(part in sentence for part, sentence in zip(words, said, strict=True))


def test_a_plan_that_says_too_little_gets_no_caution() -> None:
    """A plan of another version is shown without."""
    assert of_plan({"arm": "ssd"}) == ()


def test_the_defaults_temperatures_are_inside() -> None:
    """What the settings say by themselves is within the evidence but for the number of prompts."""
    recipe, decode = Recipe(), Decode()
    served = served_at(decode.manage, decode.temperature, decode.tau_grid)
    assert cautions(recipe.arm, 2_000, recipe.t_train, served) == ()


@pytest.mark.parametrize(
    ("result", "said"),
    [
        ({"fidelity": {"prompted": False}}, 1),
        ({"fidelity": {"prompted": True}}, 0),
        ({"fidelity": {"prompted": None}}, 0),
        ({"fidelity": {"by": "greedy"}}, 0),
        ({"fidelity": None}, 0),
        ({}, 0),
    ],
    ids=["another", "the same", "untold", "of an older night", "not compared", "another stage"],
)
def test_a_prompt_that_is_put_otherwise_than_it_was_trained_is_said(result: dict[str, Any], said: int) -> None:
    """Only where both are known and differ."""
    assert len(of_install(result)) == said
