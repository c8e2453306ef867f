"""Collapse, read off completions."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fleetssd.config import Gate
from fleetssd.probes import ProbeReadings, compare, measure

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


@pytest.mark.parametrize("field", ["length_p95", "completions"])
def test_readings_without_a_tolerance_are_only_shown(field: str) -> None:
    """The 95th percentile of the length and the count are context, not alarms."""
    assert compare(CALM, replace(CALM, **{field: 9999}), Gate()) == ()


def test_better_is_no_alarm() -> None:
    """More solutions that parse and differ, and less repetition, raise nothing."""
    assert compare(CALM, replace(CALM, parse_rate=1.0, unique_of_k=1.0, repetition=0.0), Gate()) == ()
