"""keep_alive."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleetssd.embedded.ollama.durations import FOREVER, parse_go_duration, parse_keep_alive


@pytest.mark.parametrize(
    ("value", "seconds"),
    [(None, None), (0, 0.0), (300, 300.0), ("10m", 600.0), ("1h30m", 5400.0), ("500ms", 0.5), ("0", 0.0)],
)
def test_numbers_are_seconds_and_texts_are_go_durations(value: object, seconds: float | None) -> None:
    """Both ways to write a keep_alive are read; absent stays absent."""
    assert parse_keep_alive(value) == seconds


@pytest.mark.parametrize("value", [-1, -0.5, "-1s", "-1m"])
def test_below_zero_is_for_ever(value: object) -> None:
    """A negative keep_alive never runs out."""
    assert parse_keep_alive(value) == FOREVER


def test_a_text_without_a_unit_is_refused_in_gos_words() -> None:
    """The error is the one that a real server answers."""
    with pytest.raises(ValueError, match='time: missing unit in duration "300"'):
        parse_keep_alive("300")


@given(st.text(max_size=8))
def test_any_text_is_read_or_refused(text: str) -> None:
    """Nothing but a ValueError comes out of a text that is no duration."""
    with contextlib.suppress(ValueError):
        assert isinstance(parse_go_duration(text), float)


@given(st.integers(0, 99), st.integers(0, 59), st.integers(0, 59))
def test_terms_add_up(hours: int, minutes: int, seconds: int) -> None:
    """1h2m3s is the sum of its terms."""
    assert parse_go_duration(f"{hours}h{minutes}m{seconds}s") == 3600 * hours + 60 * minutes + seconds
