"""The issue family: seeded, exact, and answered by its own reference solutions."""

from __future__ import annotations

from itertools import islice
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleetssd.toy.corpus import fleet
from fleetssd.toy.dialect import HOUSE_MAPPINGS, HOUSE_PREDICATES
from fleetssd.toy.phrases import MAPPINGS, PREDICATES
from fleetssd.toy.problems import CASES, TIERS, Pipeline, Problem, Rule, Term, Tier, answer, cases, draw
from fleetssd.toy.solutions import before, flawed, solution

SEEDS = st.integers(0, 2**32)
TIER = st.sampled_from(TIERS)


def passes(problem: Problem, code: str) -> bool:
    """Run `code` on the problem's cases, as strictly as the fleet's test scripts do."""
    scope: dict[str, object] = {}
    exec(code, scope)  # noqa: S102  our own generator's output
    function = scope[problem.function]
    assert callable(function)
    return all(
        repr(function(*(list(value) if isinstance(value, list) else value for value in case.arguments)))
        == repr(case.answer)
        for case in cases(problem)
    )


@given(SEEDS, TIER, st.booleans())
def test_a_seed_draws_one_problem(seed: int, tier: Tier, house: bool) -> None:
    """The same seed draws the same problem, cases and solution."""
    first, second = (draw(Random(seed), tier, house=house) for _ in range(2))
    assert first == second
    assert cases(first) == cases(second)
    assert solution(first, Random(seed)) == solution(second, Random(seed))


@settings(max_examples=300)
@given(SEEDS, TIER, st.booleans(), SEEDS)
def test_every_style_of_a_solution_is_right(seed: int, tier: Tier, house: bool, style: int) -> None:
    """A reference solution passes every hidden case, whatever its shape."""
    problem = draw(Random(seed), tier, house=house)
    assert passes(problem, solution(problem, Random(style)))


@given(SEEDS, TIER, st.booleans())
def test_a_prompt_names_the_signature(seed: int, tier: Tier, house: bool) -> None:
    """The sentence quotes the function with its arguments, which the solution defines."""
    problem = draw(Random(seed), tier, house=house)
    signature = f"{problem.function}({', '.join(problem.arguments)})"
    assert f"`{signature}`" in problem.prompt
    assert solution(problem, Random(seed)).startswith(f"def {signature}:\n")


@given(SEEDS, TIER)
def test_a_problem_has_ten_cases(seed: int, tier: Tier) -> None:
    """There are ten cases, and a list problem is asked about the empty list first."""
    problem = draw(Random(seed), tier)
    found = cases(problem)
    assert len(found) == CASES
    if isinstance(problem.task, Pipeline):
        assert found[0].arguments[0] == []


def test_most_slips_are_caught() -> None:
    """At least seven in eight flawed solutions fail: the cases sit at the edges of the constants."""
    rng = Random(3)
    caught = 0
    for problem in islice(fleet(3), 200):
        try:
            caught += not passes(problem, flawed(problem, rng))
        except Exception:  # noqa: BLE001  broken syntax and unknown names are slips that were caught
            caught += 1
    assert caught >= 175


@pytest.mark.parametrize(
    ("task", "arguments", "wanted"),
    [
        (Rule("clamp"), (7, 1, 5), 5),
        (Rule("distance"), (2, -3), 5),
        (Rule("floor", Term("floor", 4)), (1,), 4),
        (Rule("predicate", Term("ndiv", "b")), (9, 4), True),
        (Rule("arithmetic", Term("fdiv", 4)), (-1,), -1),
        (Pipeline("count", (Term("odd"),)), ([1, 2, 3],), 2),
        (Pipeline("max", (Term("neg"),)), ([1, 2],), 0),
        (Pipeline("list", (Term("gt", 2), Term("even")), Term("negate")), ([1, 2, 3, 4],), [-4]),
        (Pipeline("sum", (Term("le", "b"),), Term("sq"), Term("cap", 9)), ([1, 2, 3], 2), 5),
    ],
)
def test_the_meaning_is_exact(task: Rule | Pipeline, arguments: tuple[int | list[int], ...], wanted: object) -> None:
    """Answers equal those worked out by hand, in value and in type."""
    names = ("a", "b", "c")[: len(arguments)]
    found = answer(Problem("f", names, "hard", task, "", house=False), arguments)
    assert (found, type(found)) == (wanted, type(wanted))


def test_the_dialect_names_everything() -> None:
    """Every predicate and every mapping has one phrase in the house dialect, with a constant where it needs one."""
    for table, dialect in ((PREDICATES, HOUSE_PREDICATES), (MAPPINGS, HOUSE_MAPPINGS)):
        assert table.keys() == dialect.keys()
        assert all(table[key].takes_constant == ("{k}" in phrase) for key, phrase in dialect.items())
    assert (len(HOUSE_PREDICATES), len(HOUSE_MAPPINGS)) == (12, 8)


def test_what_is_mended_was_wrong() -> None:
    """The code on main that an issue calls wrong fails at least one case, and differs from the solution."""
    mended = [(problem, code) for problem in islice(fleet(4), 300) if (code := before(problem, Random(1))) is not None]
    assert len(mended) >= 20
    assert not any(passes(problem, code) for problem, code in mended)
