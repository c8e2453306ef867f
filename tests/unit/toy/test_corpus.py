"""The two streams of problems: what the base has seen, and what the fleet works on."""

from __future__ import annotations

from itertools import islice

import pytest

from fleetssd.toy.corpus import Pair, digest, fleet, pretraining
from fleetssd.toy.dialect import HOUSE_MAPPINGS, HOUSE_PREDICATES
from fleetssd.toy.phrases import SUFFIXES, VERBS

HOUSE_WORDS = frozenset(phrase.split()[0] for phrase in (*HOUSE_PREDICATES.values(), *HOUSE_MAPPINGS.values()))
"""The words that mark an issue as spoken in the dialect."""
NAMES = {verb + suffix for verb in VERBS for suffix in SUFFIXES}


@pytest.fixture(scope="module")
def corpus() -> list[Pair]:
    """Draw the whole pretraining corpus of seed 0."""
    return pretraining(0)


def nameless(prompt: str) -> str:
    """Strip the name from the signature that a prompt quotes."""
    start = prompt.index("`") + 1
    return prompt[:start] + prompt[prompt.index("(") :]


def test_pretraining_is_deterministic(corpus: list[Pair]) -> None:
    """The corpus of a seed is one sequence of pairs; another seed gives another."""
    assert len(corpus) == 12_800
    assert digest(pretraining(0)) == digest(corpus)
    assert digest(pretraining(1, 100)) != digest(pretraining(0, 100))


def test_the_fleet_never_repeats_the_corpus(corpus: list[Pair]) -> None:
    """Not one of a thousand fleet problems is in pretraining, not even under another function name."""
    known = {nameless(pair.prompt) for pair in corpus}
    assert not known & {nameless(problem.prompt) for problem in islice(fleet(0), 1000)}


def test_the_fleet_never_repeats_itself() -> None:
    """A thousand problems of the stream are a thousand different ones, names aside."""
    assert len({nameless(problem.prompt) for problem in islice(fleet(0), 1000)}) == 1000


def test_the_dialect_is_new_to_the_base(corpus: list[Pair]) -> None:
    """No pretraining prompt holds a word of the house dialect, and every house prompt of the fleet does."""
    said = {word.strip(".,`") for pair in corpus for word in pair.prompt.split()}
    assert not said & HOUSE_WORDS
    house = [problem for problem in islice(fleet(0), 300) if problem.house]
    assert all(set(problem.prompt.replace(",", "").replace(".", "").split()) & HOUSE_WORDS for problem in house)


def test_the_fleet_is_half_house_and_equal_in_tiers() -> None:
    """Of nine hundred problems a third is of each tier, and half of each tier speak the dialect."""
    problems = list(islice(fleet(7), 900))
    assert [sum(problem.tier == tier for problem in problems) for tier in ("easy", "medium", "hard")] == [300] * 3
    house = [problem.tier for problem in problems if problem.house]
    assert [house.count(tier) for tier in ("easy", "medium", "hard")] == [150] * 3


def test_plain_work_only_on_request() -> None:
    """A share of nought or one gives plain or house issues alone."""
    assert not any(problem.house for problem in islice(fleet(0, house_share=0.0), 60))
    assert all(problem.house for problem in islice(fleet(0, house_share=1.0), 60))


def test_function_names_are_the_base_s_own() -> None:
    """The fleet's functions bear names that the base has learned to copy."""
    assert {problem.function for problem in islice(fleet(0), 200)} <= NAMES
