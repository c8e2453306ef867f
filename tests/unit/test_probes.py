"""Collapse, read off completions."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleetssd.config import Gate
from fleetssd.probes import ProbeReadings, compare, entropy, measure

CALM = ProbeReadings(
    completions=80,
    repetition=0.30,
    distinct4=0.2,
    unique_of_k=0.9,
    length_median=100.0,
    length_p95=140.0,
    parse_rate=0.83,
)


def test_repetition_is_the_share_of_repeated_four_grams() -> None:
    """'a b a b a b' has three 4-grams of two kinds; an answer shorter than four words repeats nothing."""
    assert measure({"p": ["a b a b a b"]}).repetition == pytest.approx(1 / 3)
    assert measure({"p": ["a b"]}).repetition == 0.0


def test_distinct4_pools_all_answers() -> None:
    """The same answer twice halves distinct-4; no 4-gram at all gives 0."""
    assert measure({"p": ["a b c d"], "q": ["a b c d"]}).distinct4 == 0.5
    assert measure({"p": ["a"]}).distinct4 == 0.0


def test_unique_of_k_sees_through_layout_and_comments() -> None:
    """Two spellings of one program are one solution; what does not parse is compared as words."""
    same = ["def f(x):\n    return x+1", "def f( x ):  # add\n  return (x + 1)"]
    assert measure({"p": same}).unique_of_k == 0.5
    assert measure({"p": ["not python", "not  python", "not python!", ""]}).unique_of_k == 0.75
    assert measure({"p": same, "q": ["a = 1", "a = 2"]}).unique_of_k == 0.75


def test_lengths_are_in_characters() -> None:
    """Median and 95th percentile over all answers."""
    found = measure({"p": ["x" * 10, "x" * 20, "x" * 30]})
    assert (found.completions, found.length_median) == (3, 20.0)
    assert found.length_p95 == pytest.approx(29.0)


def test_parse_rate_counts_python() -> None:
    """Fenced code parses, prose and empty answers do not; odd escapes and deep nesting are survived."""
    answers = ["```python\nx = 1\n```", "Sure, here it is", "", "x = '\\d'", "(" * 5000]
    assert measure({"p": answers}).parse_rate == pytest.approx(2 / 5)


def test_a_diff_is_read_by_its_own_grammar() -> None:
    """An answer that is a diff parses as one, is no Python, and equals another with the same diff in it."""
    diff = "--- a/x\n+++ b/x\n@@ -1 +1 @@\n-y\n+z\n"
    answers = [diff, f"Here:\n```diff\n{diff}```\n", diff.replace("@@ -1 +1 @@", "@@ -1,3 +1 @@"), "No."]
    found = measure({"p": answers}, formats={"p": "diff"})
    assert (found.parse_rate, found.unique_of_k) == (0.5, 0.75)


def test_nothing_cannot_be_measured() -> None:
    """No completions, no readings."""
    with pytest.raises(ValueError, match="no completions"):
        measure({"p": []})


def test_equal_readings_raise_no_alarm() -> None:
    """An arm compared with itself is calm."""
    assert compare(CALM, CALM, Gate()) == ()


@pytest.mark.parametrize(
    ("probe", "field", "allowed", "alarming"),
    [
        ("repetition", "repetition", 0.33, 0.331),
        ("distinct-4", "distinct4", 0.12, 0.119),
        ("distinct-4", "distinct4", 0.30, 0.301),
        ("unique-of-k", "unique_of_k", 0.54, 0.539),
        ("length median", "length_median", 75.0, 74.0),
        ("length median", "length_median", 125.0, 126.0),
        ("length p95", "length_p95", 280.0, 281.0),
        ("parse rate", "parse_rate", 0.78, 0.779),
    ],
)
def test_each_probe_alarms_beyond_its_tolerance(probe: str, field: str, allowed: float, alarming: float) -> None:
    """The limit itself is allowed, a step beyond it is named."""
    assert compare(CALM, replace(CALM, **{field: allowed}), Gate()) == ()
    (alarm,) = compare(CALM, replace(CALM, **{field: alarming}), Gate())
    assert alarm.probe == probe
    assert str(alarm).startswith(probe)


def test_an_alarm_says_which_side() -> None:
    """Too hot and too narrow point in opposite directions, and the text says which."""
    (hot,) = compare(CALM, replace(CALM, distinct4=0.49), Gate())
    (narrow,) = compare(CALM, replace(CALM, distinct4=0.1), Gate())
    assert "above 0.3" in str(hot)
    assert "below 0.12" in str(narrow)


def test_tiny_repetition_does_not_alarm() -> None:
    """A doubling of almost nothing is nothing."""
    assert compare(replace(CALM, repetition=0.002), replace(CALM, repetition=0.004), Gate()) == ()


def test_the_count_is_only_shown() -> None:
    """How many answers there are is context, not an alarm."""
    assert compare(CALM, replace(CALM, completions=9999), Gate()) == ()


def test_self_bleu_tells_how_alike_answers_are() -> None:
    """Equal answers score 1, answers without a common word 0, and one answer a problem cannot be compared."""
    same, other = "a b c d e f", "g h i j k l"
    assert measure({"p": [same, same]}).self_bleu == pytest.approx(1.0)
    assert measure({"p": [same, other]}).self_bleu == pytest.approx(0.0, abs=0.01)
    assert measure({"p": [same, same], "q": [same, other]}).self_bleu == pytest.approx(0.5, abs=0.01)
    assert measure({"p": [same], "q": [same]}).self_bleu == 0.0


def test_self_bleu_is_read_off_the_first_problems_by_id() -> None:
    """The cost is bounded, and the same problems are read in either arm, whatever the order of the rows."""
    many = {f"p{number:03}": ["a b c d e", "a b c d e"] for number in range(60)} | {"z": ["q r s t", "u v w x"]}
    assert measure(many).self_bleu == pytest.approx(1.0)
    assert measure(dict(reversed(many.items()))) == measure(many)


def test_the_bound_of_self_bleu_can_always_be_crossed() -> None:
    """Where the base's answers are alike already, half of the way to 1 is the bound; near 0 a little is nothing."""
    for base, allowed, alarming in ((0.6, 0.69, 0.70), (0.9, 0.95, 0.96), (0.01, 0.06, 0.07)):
        calm = replace(CALM, self_bleu=base)
        assert compare(calm, replace(calm, self_bleu=allowed), Gate()) == ()
        assert [a.probe for a in compare(calm, replace(calm, self_bleu=alarming), Gate())] == ["self-bleu"]


def test_style_is_read_off_fences_and_docstrings() -> None:
    """Half of the answers are fenced; of three functions one has a docstring; prose and classes count as none."""
    fenced = '```python\ndef f():\n    """Do."""\n\n\nasync def g():\n    pass\n```'
    found = measure({"p": [fenced, "class C:\n    def h(self):\n        pass"]})
    assert (found.fenced, found.docstrings) == (0.5, pytest.approx(1 / 3))
    assert measure({"p": ["x = 1", "prose here"]}).docstrings == 0.0


@pytest.mark.parametrize("field", ["fenced", "docstrings"])
def test_style_alarms_to_either_side_unless_it_may_move(field: str) -> None:
    """More than half of the answers in another style is drift, but where merged work teaches."""
    calm = replace(CALM, **{field: 0.6})
    for moved in (0.05, 1.15):
        drifted = replace(CALM, **{field: moved})
        assert [alarm.probe for alarm in compare(calm, drifted, Gate())] == [field]
        assert compare(calm, drifted, Gate(), style=False) == ()


def test_refusals_of_the_fleets_own_work_are_counted() -> None:
    """An answer that refuses an issue counts; a rise beyond the tolerance alarms."""
    found = measure({"p": ["x = 1", "I'm sorry, but I can't help with that."]})
    assert found.refusals == 0.5
    assert [alarm.probe for alarm in compare(CALM, replace(CALM, refusals=0.06), Gate())] == ["refusals"]


def test_entropy_is_that_of_the_listed_tokens() -> None:
    """A fair coin has log 2 nats, a sure token none; a place with one token, or none at all, says nothing."""
    half, sure = [math.log(0.5)] * 2, [0.0, -1e9]
    assert entropy([[half]]) == pytest.approx(math.log(2))
    assert entropy([[half, sure], [half, sure]]) == pytest.approx(math.log(2) / 2)
    assert entropy([[[0.0]], []]) is None
    assert entropy([]) is None


@given(st.lists(st.floats(-12, 0), min_size=2, max_size=20), st.floats(0.1, 1.0))
def test_a_baked_temperature_is_undone_by_its_power(logs: list[float], tau: float) -> None:
    """What a model with τ baked in lists has, to the power of τ, the entropy of the model before."""
    baked = [log / tau for log in logs]
    assert entropy([[baked]], power=tau) == pytest.approx(entropy([[logs]]), abs=1e-9)


def test_entropy_alarms_where_both_arms_have_one() -> None:
    """From 0.4 to twice the base's entropy is allowed, less or more alarms; unknown is held against nobody."""
    calm = replace(CALM, entropy=1.0)
    for allowed in (0.4, 2.0, None):
        assert compare(calm, replace(calm, entropy=allowed), Gate()) == ()
    for alarming in (0.39, 2.01):
        assert [alarm.probe for alarm in compare(calm, replace(calm, entropy=alarming), Gate())] == ["entropy"]
    assert compare(CALM, replace(calm, entropy=0.1), Gate()) == ()


def test_better_is_no_alarm() -> None:
    """More solutions that parse and differ, and less repetition, raise nothing."""
    assert compare(CALM, replace(CALM, parse_rate=1.0, unique_of_k=1.0, repetition=0.0), Gate()) == ()
